"""The images that pictures show: a seeded choice from the test set, with their features by encoder and by pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kinfolk.data import Source
from kinfolk.data.sources.table import is_table
from kinfolk.evals import RawPixels, extract
from kinfolk.report.neighbours import nearest, same_class

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Int64, Num
    from torch import Tensor

TRAINED, PIXELS, FEATURES = "trained encoder", "raw pixels", "raw features"


@dataclass(frozen=True)
class Sample:
    """Images in ascending order of id, and everything pictures need to know about them.

    Args:
        images: uint8 `[n, C, H, W]`; the rows of a table float32 `[n, F, 1, 1]`.
        ids: int64 `[n]`.
        features: who made them -> float `[n, d]`.
        labels: int64 `[n]`, -1 = unlabelled; None where no image has a label.
        class_names: one name per class, or None.
        text_embedding: `[n, e]` where the source has one.
    """

    images: Num[Tensor, "n c h w"]
    ids: Int64[Tensor, " n"]
    features: dict[str, Float[Tensor, "n d"]] = field(default_factory=dict)
    labels: Int[np.ndarray, " n"] | None = None
    class_names: tuple[str, ...] | None = None
    text_embedding: Float[Tensor, "n e"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def raw(self) -> str:
        """What the baseline without an encoder is called: raw pixels, or a table's raw features."""
        return FEATURES if FEATURES in self.features else PIXELS

    @property
    def is_table(self) -> bool:
        """Whether the samples are rows of a table, which no picture shows."""
        return self.images.is_floating_point()


def take_sample(source: Source, encoder: nn.Module | None, *, count: int, seed: int) -> Sample:
    """Draw up to `count` images of a source by seed and encode them.

    Args:
        source: the test set.
        encoder: the trained encoder; None leaves raw pixels alone.
        count: images, or all where there are fewer.
        seed: of the draw, which looks at neither images nor labels.
    """
    chosen = choose(len(source), count, seed=seed)
    chosen = chosen[source.ids[chosen].argsort()]  # `extract` returns rows in the order of ids
    batch = source.fetch(chosen)
    pixels = RawPixels(channels=source.channels, image_size=source.image_size)
    raw = FEATURES if is_table(source) else PIXELS
    encoders = {raw: pixels} if encoder is None else {TRAINED: encoder, raw: pixels}
    features = {name: extract(module, source, indices=chosen).rows for name, module in encoders.items()}
    labels = batch.get("labels")
    if labels is not None and not bool((labels >= 0).any()):
        labels = None
    return Sample(
        batch["images"],
        batch["ids"],
        features,
        labels=None if labels is None else labels.numpy(),
        class_names=source.class_names,
        text_embedding=batch.get("text_embedding"),
    )


def choose(n: int, count: int, *, seed: int) -> Int64[Tensor, " k"]:
    """Return `min(n, count)` of the places 0 to n - 1, drawn by seed, in ascending order.

    Example:
        >>> len(choose(10, 4, seed=0)), choose(3, 4, seed=0).tolist()
        (4, [0, 1, 2])
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def by_class(places: Int64[Tensor, " k"], labels: Int[np.ndarray, " n"] | None) -> Int[np.ndarray, " k"]:
    """Return places sorted by their class, or as they are without labels.

    Example:
        >>> by_class(torch.tensor([0, 2]), np.array([1, 9, 0])).tolist()
        [2, 0]
    """
    chosen = places.numpy()
    return chosen if labels is None else chosen[np.argsort(labels[chosen], kind="stable")]


def neighbour_agreement(sample: Sample, name: str) -> float | None:
    """Return how often an image's nearest other image has its class; None without labels or without pairs."""
    if sample.labels is None or len(sample) < 2:
        return None
    everyone = np.arange(len(sample))
    right = same_class(nearest(sample.features[name], everyone, k=1), everyone, sample.labels)
    return float(np.nanmean(right)) if np.isfinite(right).any() else None
