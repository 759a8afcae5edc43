"""Samples relate as what is known about them does: captions, attributes, any vector beside the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.relations.base import Relation, check_perplexity, check_temperature
from kinfolk.data.relations.known import check_source
from kinfolk.data.sources.base import Source
from kinfolk.graphs import KernelGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class SideEmbeddings(Relation):
    """Two samples relate by the cosine of their side embeddings, ``exp(cosine / temperature)``.

    Args:
        ids: int64 ``[N]``, unique.
        embeddings: float ``[N, e]``, for example a frozen sentence encoder's output for the captions; any length of
            rows. Half precision stays so in memory; a batch's rows become float32.
        temperature: above 0.
        labels: classes, for the summary's own-class mass only.
        places: int64 ``[N]``, the row of `embeddings` that each sample has, where samples share rows; by default
            sample i has row i.

    Raises:
        ValueError: for embeddings that are not finite, or not one row per id.

    Example:
        >>> relation = SideEmbeddings(torch.tensor([4, 2]), torch.eye(2), temperature=0.1)
        >>> relation.for_batch(torch.tensor([2]), 2).to_dense().shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        ids: Int[Tensor, " N"],
        embeddings: Float[Tensor, "r e"],
        temperature: float,
        *,
        labels: Int[Tensor, " N"] | None = None,
        places: Int[Tensor, " N"] | None = None,
    ) -> None:
        if embeddings.ndim != 2 or (places is None and len(embeddings) != len(ids)):
            raise ValueError(
                f"embeddings must have one row per id: {len(ids)} ids, embeddings {tuple(embeddings.shape)}"
            )
        if places is not None and (
            places.shape != ids.shape or (len(places) and not 0 <= int(places.min()) <= places.max() < len(embeddings))
        ):
            raise ValueError(
                f"places must name one of the {len(embeddings)} rows for each of {len(ids)} ids;"
                f" found {tuple(places.shape)}"
            )
        if not bool(embeddings.isfinite().all()):
            bad = (~embeddings.isfinite().all(dim=1)).nonzero().flatten()
            raise ValueError(f"embeddings must be finite; rows {bad[:5].tolist()} are not")
        super().__init__(ids, temperature=temperature, labels=labels)
        self.embeddings, self.places = embeddings, places

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> KernelGraph:
        """Return the batch's `KernelGraph`; see `Relation.for_batch`."""
        return KernelGraph(self._rows(ids).repeat(views, 1), temperature=self.temperature)

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> KernelGraph:
        """Return the `KernelGraph` of some samples over others; see `Relation.between`."""
        return KernelGraph(self._rows(ids), self._rows(key_ids), temperature=self.temperature)

    def _rows(self, ids: Tensor) -> Tensor:
        self.embeddings = self.embeddings.to(ids.device)
        places = self._positions(ids)
        if self.places is not None:
            self.places = self.places.to(ids.device)
            places = self.places[places]
        rows = self.embeddings[places]
        return rows if rows.dtype == torch.float64 else rows.float()


@dataclass(frozen=True)
class SideEmbeddingsConfig:
    """Where the side embeddings come from: a file, or the source's own text embeddings.

    Args:
        path: a ``.npy`` file whose row i belongs to the sample with id i (ids count a data set's samples in order,
            held-out ones included), or an ``.npz`` file with ``embeddings`` and, for ids of your own, ``ids``. None
            takes the source's ``text_embedding``.
        temperature: of the target, above 0. Choose it by the perplexity that the run logs (5 to 30), never by value:
            `perplexity` does.
        perplexity: the wanted perplexity at the batch size of training, instead of a temperature.

    Example:
        >>> SideEmbeddingsConfig("captions.npy", perplexity=15).path
        'captions.npy'
    """

    kind: ClassVar[str] = "side-embeddings"
    labels_used: ClassVar[str] = "none"
    path: str | None = None
    temperature: float = 0.1
    perplexity: float | None = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_perplexity(self.perplexity)

    def build(self, source: Source) -> SideEmbeddings:
        """Build the relation over a source's samples.

        Raises:
            ValueError: when the source has no text embeddings and no path is given, or the file does not cover its ids.
            FileNotFoundError: when there is no such file.
        """
        check_source(source, needed_for="side embeddings")
        embeddings = _of_source(source) if self.path is None else rows_of_file(Path(self.path), source.ids)
        relation = SideEmbeddings(source.ids, embeddings, self.temperature, labels=source.labels)
        relation.about = "text_embedding of the data" if self.path is None else Path(self.path).name
        return relation.with_perplexity(self.perplexity)


def _of_source(source: Source) -> Tensor:
    if source.text_embedding is None:
        raise ValueError(
            f"{source.name!r} has no text_embedding; where it has captions, the captions relation encodes them,"
            " or save one row per sample of any frozen encoder as .npy, and give the file as path"
        )
    return source.text_embedding.to(torch.float32)


def rows_of_file(path: Path, ids: Int[Tensor, " N"]) -> Float[Tensor, "N e"]:
    """Read one row per sample from a ``.npy`` file in the order of ids, or an ``.npz`` with ``embeddings`` and ``ids``.

    Raises:
        ValueError: when the file is no such file, or does not cover the ids.
        FileNotFoundError: when there is no such file.
    """
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
