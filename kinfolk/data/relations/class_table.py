"""Classes relate to classes: a table of similarities between them."""

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
from kinfolk.data.sources.columns import check_labels
from kinfolk.graphs import ClassGraph

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_CHUNK = 1024


class ClassTable(Relation):
    """Two samples relate as their classes do, ``exp(similarity / temperature)``.

    Args:
        ids: int64 ``[N]``, unique.
        labels: integers ``[N]``; an unlabelled sample (-1) relates to nothing.
        similarities: ``[C, C]``, any finite values; only differences matter.
        temperature: above 0.

    Raises:
        ValueError: for a table that is not square or not finite, and labels outside of it.

    Example:
        >>> table = ClassTable(torch.tensor([7, 9]), torch.tensor([0, 1]), torch.eye(2), temperature=0.5)
        >>> table.for_batch(torch.tensor([9, 7]), 1).shape
        (2, 2)
    """

    def __init__(
        self,
        ids: Int[Tensor, " N"],
        labels: Int[Tensor, " N"],
        similarities: Float[Tensor, "C C"],
        temperature: float,
    ) -> None:
        if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1]:
            raise ValueError(f"similarities must be a square table [C, C]; found {tuple(similarities.shape)}")
        if not bool(similarities.isfinite().all()):
            raise ValueError("similarities must be finite; found NaN or infinity in the table")
        labels = check_labels(labels, count=len(ids))
        if len(labels) and int(labels.max()) >= len(similarities):
            raise ValueError(
                f"labels go up to {int(labels.max())}, but the table has {len(similarities)} classes;"
                " give one row per class"
            )
        super().__init__(ids, temperature=temperature, labels=labels)
        self.similarities = similarities

    def for_batch(self, ids: Int[Tensor, " b"], views: int) -> ClassGraph:
        """Return the batch's `ClassGraph`; see `Relation.for_batch`."""
        self.similarities = self.similarities.to(ids.device)
        return ClassGraph.from_similarities(self._labels_of(ids).repeat(views), self.similarities, self.temperature)

    def between(self, ids: Int[Tensor, " n"], key_ids: Int[Tensor, " m"]) -> ClassGraph:
        """Return the `ClassGraph` of some samples over others; see `Relation.between`."""
        self.similarities = self.similarities.to(ids.device)
        labels, key_labels = self._labels_of(ids), self._labels_of(key_ids)
        return ClassGraph.from_similarities(labels, self.similarities, self.temperature, key_labels=key_labels)


@dataclass(frozen=True)
class ClassTableConfig:
    """Where the similarities of classes come from: groups of names, a file, or the training images themselves.

    Args:
        groups: class names that belong together, ``(("Sandal", "Sneaker"), ("Coat", "Pullover"))``: similarity 1 to
            the own class, `within` to others of a group, 0 otherwise. A class may be in several groups or in none.
        path: a ``.npy`` or ``.csv`` file with the table ``[C, C]``, rows and columns in the order of the labels.
        within: similarity inside a group.
        temperature: of the target, above 0. Choose it by the perplexity that the run logs.
        perplexity: the wanted perplexity at the batch size of training, instead of a temperature.

    With neither groups nor a path the table is the correlation between the classes' mean training images.

    Raises:
        ValueError: when both groups and a path are given.

    Example:
        >>> ClassTableConfig(groups=(("Sandal", "Sneaker"),)).within
        0.5
    """

    kind: ClassVar[str] = "class-table"
    labels_used: ClassVar[str] = "all"
    groups: tuple[tuple[str, ...], ...] = ()
    path: str | None = None
    within: float = 0.5
    temperature: float = 0.1
    perplexity: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))  # YAML reads lists
        if self.groups and self.path is not None:
            raise ValueError(f"give groups or a path, not both; found groups={self.groups} and path={self.path!r}")
        check_temperature(self.temperature)
        check_perplexity(self.perplexity)

    def build(self, source: Source) -> ClassTable:
        """Build the relation over a source's samples.

        Raises:
            ValueError: when the source has no labels, a group names no class of it, or the table has another size.
            FileNotFoundError: when there is no such file.
        """
        check_source(source, needed_for="a class table")
        if source.labels is None:
            raise ValueError(f"a class table needs labels, and {source.name!r} has none; use side embeddings instead")
        if not bool((source.labels >= 0).any()):
            raise ValueError(f"a class table needs labels, and no sample of {source.name!r} has one")
        classes = int(source.labels.max()) + 1 if source.class_names is None else len(source.class_names)
        if self.groups:
            table = group_similarities(source.class_names, self.groups, within=self.within)
        elif self.path is not None:
            table = _read_table(Path(self.path), classes)
        else:
            table = image_similarities(source, classes)
        return ClassTable(source.ids, source.labels, table, self.temperature).with_perplexity(self.perplexity)


def group_similarities(
    class_names: tuple[str, ...] | None, groups: tuple[tuple[str, ...], ...], *, within: float
) -> Float[Tensor, "C C"]:
    """Make a table from groups of names: 1 on the diagonal, `within` inside a group, 0 between groups.

    Raises:
        ValueError: when there are no class names, or a group holds an unknown one.

    Example:
        >>> group_similarities(("a", "b", "c"), (("a", "c"),), within=0.5).tolist()
        [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]]
    """
    if class_names is None:
        raise ValueError("groups are made of class names, and the source has none; give a table by path instead")
    unknown = sorted({name for group in groups for name in group} - set(class_names))
    if unknown:
        raise ValueError(f"groups name classes that do not exist: {unknown}; the classes are {list(class_names)}")
    table = torch.zeros(len(class_names), len(class_names))
    for group in groups:
        members = torch.tensor([class_names.index(name) for name in group])
        table[members[:, None], members] = within
    return table.fill_diagonal_(1.0)


def image_similarities(source: Source, classes: int) -> Float[Tensor, "C C"]:
    """Make a table from the correlations between the classes' mean images; a class without samples correlates with
    none.

    The mean over classes is taken away first, so that what all images share does not count.

    Example:
        >>> from kinfolk.data.sources import DigitsConfig
        >>> table = image_similarities(DigitsConfig().load().train, 10)
        >>> bool(table[3, 9] > table[3, 4])
        True
    """
    assert source.labels is not None
    pixels = source.channels * source.image_size[0] * source.image_size[1]
    sums = torch.zeros(classes, pixels, dtype=torch.float64)
    labelled = (source.labels >= 0).nonzero().flatten()
    for indices in labelled.split(_CHUNK):
        images = source.fetch(indices)["images"].flatten(1).to(torch.float64)
        sums.index_add_(0, source.labels[indices], images)
    counts = torch.bincount(source.labels[labelled], minlength=classes)[:, None]
    means = sums / counts.clamp(min=1)
    centred = torch.where(counts > 0, means - means[counts.flatten() > 0].mean(dim=0), 0.0)
    centred = torch.nn.functional.normalize(centred - centred.mean(dim=1, keepdim=True), dim=1)
    return (centred @ centred.T).fill_diagonal_(1.0).to(torch.float32)


def _read_table(path: Path, classes: int) -> Tensor:
    if path.suffix not in (".npy", ".csv"):
        raise ValueError(f"a class table is a .npy or .csv file; found {path}")
    try:
        table = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers only, one row per class: {error}") from error
    if table.shape != (classes, classes):
        raise ValueError(f"{path} must hold one row and column per class, {(classes, classes)}; found {table.shape}")
    return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32))
