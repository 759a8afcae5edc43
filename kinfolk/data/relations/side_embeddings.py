"""Samples relate as what is known about them does: captions, attributes, any vector beside the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.relations.base import Relation
from kinfolk.data.sources.base import Source
from kinfolk.graphs import KernelGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_CHUNK = 1024


class SideEmbeddings(Relation):
    """Two samples relate by the cosine of their side embeddings, ``exp(cosine / temperature)``.

    Args:
        ids: int64 ``[N]``, unique.
        embeddings: float ``[N, e]``, for example a frozen sentence encoder's output for the captions; any length of
            rows.
        temperature: above 0.
        labels: classes, for the summary's own-class mass only.

    Raises:
        ValueError: for embeddings that are not one finite row per id.

    Example:
        >>> relation = SideEmbeddings(torch.tensor([4, 2]), torch.eye(2), temperature=0.1)
        >>> relation.for_batch(torch.tensor([2]), 2).to_dense().shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        ids: Int[Tensor, " N"],
        embeddings: Float[Tensor, "N e"],
        temperature: float,
        *,
        labels: Int[Tensor, " N"] | None = None,
    ) -> None:
        if embeddings.ndim != 2 or len(embeddings) != len(ids):
            raise ValueError(
                f"embeddings must have one row per id: {len(ids)} ids, embeddings {tuple(embeddings.shape)}"
            )
        if not bool(embeddings.isfinite().all()):
            bad = (~embeddings.isfinite().all(dim=1)).nonzero().flatten()
            raise ValueError(f"embeddings must be finite; rows {bad[:5].tolist()} are not")
        super().__init__(ids, temperature=temperature, labels=labels)
        self.embeddings = embeddings

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> KernelGraph:
        """Return the batch's `KernelGraph`; see `Relation.for_batch`."""
        self.embeddings = self.embeddings.to(ids.device)
        rows = self.embeddings[self._positions(ids)].repeat(views, 1)
        return KernelGraph(rows, temperature=self.temperature)


@dataclass(frozen=True)
class SideEmbeddingsConfig:
    """Where the side embeddings come from: a file, or the source's own text embeddings.

    Args:
        path: a ``.npy`` file whose row i belongs to the sample with id i (ids count a data set's samples in order,
            held-out ones included), or an ``.npz`` file with ``embeddings`` and, for ids of your own, ``ids``. None
            takes the source's ``text_embedding``.
        temperature: of the target, above 0. Choose it by the perplexity that the run logs (5 to 30), never by value:
            `temperature_for_perplexity` does.

    Example:
        >>> SideEmbeddingsConfig("captions.npy", temperature=0.12).path
        'captions.npy'
    """

    kind: ClassVar[str] = "side-embeddings"
    path: str | None = None
    temperature: float = 0.1

    def build(self, source: Source) -> SideEmbeddings:
        """Build the relation over a source's samples.

        Raises:
            ValueError: when the source has no text embeddings and no path is given, or the file does not cover its ids.
            FileNotFoundError: when there is no such file.
        """
        embeddings = _of_source(source) if self.path is None else _of_file(Path(self.path), source.ids)
        return SideEmbeddings(source.ids, embeddings, self.temperature, labels=source.labels)


def _of_source(source: Source) -> Tensor:
    parts = []
    for indices in torch.arange(len(source)).split(_CHUNK):
        batch = source.fetch(indices)
        if "text_embedding" not in batch:
            raise ValueError(
                f"{source.name!r} has no text_embedding; encode its captions with any frozen text encoder,"
                " save one row per sample as .npy, and give the file as path"
            )
        parts.append(batch["text_embedding"])
    return torch.cat(parts).to(torch.float32)


def _of_file(path: Path, ids: Tensor) -> Tensor:
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npy or .npz file: {error}") from error
    if isinstance(stored, np.ndarray):
        table, names = stored, np.arange(len(stored))
    else:
        with stored:
            if "embeddings" not in stored.files:
                raise ValueError(f"{path} must hold `embeddings` and may hold `ids`; found {stored.files}")
            table = stored["embeddings"]
            names = stored["ids"] if "ids" in stored.files else np.arange(len(table))
    if table.ndim != 2 or names.shape != (len(table),):
        raise ValueError(
            f"{path} must hold one row per sample [N, e]; found embeddings {table.shape}, ids {names.shape}"
        )
    order = np.argsort(names)
    places = order[np.searchsorted(names[order], ids.numpy()).clip(max=max(len(table) - 1, 0))] if len(table) else order
    if len(table) == 0 or not (names[places] == ids.numpy()).all():
        missing = sorted(set(ids.tolist()) - set(names.tolist()))
        raise ValueError(f"{path} has {len(table)} rows and none for {len(missing)} samples, such as ids {missing[:5]}")
    return torch.from_numpy(np.ascontiguousarray(table[places], dtype=np.float32))
