"""The same thing by another hand: a source whose batches carry further pictures of what each sample shows."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source
from kinfolk.data.sources.columns import take_columns

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8


def with_renderings(source: Source, *, alike: Int[Tensor, " n"] | None = None, most: int = 4) -> Source:
    """Add to every batch the pictures that other hands made of the same things.

    A batch has ``"renderings"`` uint8 ``[b, S, C, H, W]`` and ``"rendering_count"`` int64 ``[b]``. Rendering 0 is the
    sample's own image; those after it show other samples of its group, one per other bias label, in the order of the
    bias labels from the sample's own onwards and around, so that no hand comes first for all. Where fewer than S are
    known they repeat from the start; a sample without a group has itself alone. S is the most that any sample has, at
    most `most`.

    Args:
        source: with `groups` and `bias_labels`.
        alike: int64 ``[N]``; of several samples by one hand the first with the sample's own value is taken, such as
            its skin tone, and without one the first.
        most: largest number of renderings, the own image counted, at least 1.

    Returns:
        A source over the same samples; its subsets look for renderings among their own samples only.

    Raises:
        ValueError: for a source without groups or bias labels, an `alike` of another length, or `most` below 1.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> images = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1)
        >>> hands, concepts = torch.tensor([0, 1, 0]), torch.tensor([5, 5, 6])
        >>> source = with_renderings(ArraySource(images, bias_labels=hands, columns={"groups": concepts}))
        >>> batch = source.fetch(torch.tensor([1, 2]))
        >>> batch["renderings"].flatten(1).tolist(), batch["rendering_count"].tolist()
        ([[1, 0], [2, 2]], [2, 1])
    """
    groups, hands = source.columns.get("groups"), source.bias_labels
    if not isinstance(groups, Tensor) or hands is None:
        raise ValueError(
            f"renderings need groups (what a sample shows) and bias_labels (by which hand); {source.name!r} has"
            f" {', '.join(sorted(source.columns)) or 'neither'}"
        )
    if alike is not None and alike.shape != (len(source),):
        raise ValueError(f"alike must have one entry per sample: {len(source)} samples, alike {tuple(alike.shape)}")
    if most < 1:
        raise ValueError(f"most must be at least 1, the own image; found {most}")
    return RenderingSource(source, alike=torch.zeros_like(groups) if alike is None else alike, most=most)


class RenderingSource(Source):
    """What `with_renderings` returns.

    Args:
        source: with `groups` and `bias_labels`.
        alike: int64 ``[N]``, see `with_renderings`.
        most: likewise.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> columns = {"groups": torch.zeros(2, dtype=torch.int64), "bias_labels": torch.arange(2)}
        >>> source = ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), columns=columns)
        >>> RenderingSource(source, alike=torch.zeros(2), most=4).counts
        tensor([2, 2])
    """

    def __init__(self, source: Source, *, alike: Tensor, most: int) -> None:
        self.source, self.alike, self.most = source, alike, most
        self.name, self.ids, self.columns = source.name, source.ids, source.columns
        self.class_names, self.in_memory = source.class_names, source.in_memory
        self.channels, self.image_size = source.channels, source.image_size
        self.positions, self.counts = _table(source, alike, most)

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Let the source read its own images; see `Source.read`."""
        return self.source.read(indices)

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Fetch samples and their renderings; see `with_renderings`."""
        positions, counts = self.positions[indices], self.counts[indices]
        needed, places = positions.unique(return_inverse=True)  # none is decoded twice
        batch = self.source.fetch(needed)
        # a source that skips what it cannot read puts another sample there, which shows something else
        wrong = (batch["ids"] != self.source.ids[needed])[places]
        places = torch.where(wrong | wrong[:, :1], places[:, :1], places)
        own = take_columns({name: values for name, values in batch.items() if name != "skipped"}, places[:, 0])
        return {
            **own,
            **{name: values for name, values in batch.items() if name == "skipped"},
            "renderings": batch["images"][places],
            "rendering_count": torch.where(wrong[:, 0], 1, counts),
        }

    def describe(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Let the source say what it knows; see `Source.describe`."""
        return self.source.describe(indices)

    def subset(self, indices: Int[Tensor, " k"], *, name: str | None = None) -> Source:
        """Return these samples with renderings among themselves, so that none comes from outside."""
        part = self.source.subset(indices, name=name)
        return RenderingSource(part, alike=self.alike[indices], most=self.most)


def _table(source: Source, alike: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The positions of every sample's renderings ``[N, S]``, and how many of them differ."""
    groups, hands = source.columns["groups"], source.bias_labels
    assert isinstance(groups, Tensor)
    assert hands is not None
    members: dict[int, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    samples = list(zip(groups.tolist(), hands.tolist(), alike.tolist(), strict=True))
    for i, (group, hand, kind) in enumerate(samples):
        if group >= 0 and hand >= 0:
            members[group][hand].setdefault(kind, i)
    rows = []
    for i, (group, hand, kind) in enumerate(samples):
        drawn = members[group] if group >= 0 and hand >= 0 else {}
        others = sorted((other for other in drawn if other != hand), key=lambda other: (other < hand, other))
        rows.append([i, *(drawn[other].get(kind, next(iter(drawn[other].values()))) for other in others[: most - 1])])
    width = max(map(len, rows), default=1)
    positions = torch.tensor([(row * width)[:width] for row in rows], dtype=torch.int64).reshape(len(rows), width)
    return positions, torch.tensor([len(row) for row in rows], dtype=torch.int64)
