"""A hierarchy relates: two samples as their places in a tree of concepts, or in WordNet, are near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.relations.base import check_perplexity, check_temperature
from kinfolk.data.relations.class_table import ClassTable
from kinfolk.data.relations.known import known_column
from kinfolk.data.relations.taxonomy import Taxonomy
from kinfolk.data.relations.wordnet import WordNet
from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class HierarchyConfig:
    """Two samples relate as the concepts they show are near in a hierarchy, ``exp(similarity / temperature)``.

    The hierarchy is the source's column of paths from the root (``"animal/dog/poodle"``), or WordNet's nouns, where the
    source's class names are looked up.

    Args:
        similarity: ``"path"``, 1 / (1 + steps between two concepts), or ``"lin"``, what their shared concept says
            relative to what they say themselves, by the counts of the data.
        wordnet: folder of WordNet's files; None takes the column ``hierarchy``.
        synsets: for class names that WordNet does not know, or means otherwise: pairs of class name and synset,
            ``(("Ankle boot", "boot.n.01"), ("crane", "n02012849"))``.
        temperature: of the target; choose it by `perplexity`.
        perplexity: the wanted perplexity at the batch size of training, instead of a temperature.

    Raises:
        ValueError: for an unknown similarity, synsets without WordNet, or a temperature or perplexity out of range.

    Reference: Resnik (1995), Using information content to evaluate semantic similarity in a taxonomy; Lin (1998), An
    information-theoretic definition of similarity.

    Example:
        >>> from kinfolk.data.sources import ArraySource
        >>> paths = ["animal/dog", "animal/cat", "car"]
        >>> source = ArraySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), columns={"hierarchy": paths})
        >>> HierarchyConfig().build(source).similarities.shape
        torch.Size([3, 3])
    """

    kind: ClassVar[str] = "hierarchy"
    labels_used: ClassVar[str] = "all"
    similarity: Literal["path", "lin"] = "path"
    wordnet: str | None = None
    synsets: tuple[tuple[str, str], ...] = ()
    temperature: float = 0.1
    perplexity: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "synsets", tuple((name, synset) for name, synset in self.synsets))
        if self.similarity not in ("path", "lin"):
            raise ValueError(f"similarity must be path or lin; found {self.similarity!r}")
        if self.synsets and self.wordnet is None:
            raise ValueError("synsets are WordNet's; name its folder as wordnet")
        check_temperature(self.temperature)
        check_perplexity(self.perplexity)

    def build(self, source: Source) -> ClassTable:
        """Build the relation over a source's samples; no image is read.

        Raises:
            TypeError: for a stream.
            ValueError: when the source has no paths, or no class names to look up; for a path with an empty part and
                for names that WordNet does not know.
            FileNotFoundError: when WordNet is not where `wordnet` says.
        """
        if self.wordnet is None:
            labels, concepts = self._of_paths(source)
            taxonomy = Taxonomy.of_paths(concepts)
        else:
            labels, concepts, taxonomy = self._of_wordnet(source, WordNet(self.wordnet))
        relation = ClassTable(source.ids, labels, self._table(taxonomy, concepts, labels), self.temperature)
        relation.about = f"{self.similarity} similarity in {'the data' if self.wordnet is None else 'WordNet'}"
        return relation.with_perplexity(self.perplexity)

    def _table(self, taxonomy: Taxonomy, concepts: list[str], labels: Tensor) -> Float[Tensor, "C C"]:
        if self.similarity == "path":
            return taxonomy.path_similarities(concepts)
        return taxonomy.lin_similarities(concepts, torch.bincount(labels[labels >= 0], minlength=len(concepts)))

    def _of_paths(self, source: Source) -> tuple[Int[Tensor, " N"], list[str]]:
        """Distinct paths are classes of their own, whatever the labels are."""
        paths = known_column(
            source, "hierarchy", needed_for="a hierarchy graph", instead="with class names, name WordNet's folder"
        )
        cleaned = [path.strip("/ ") for path in paths]
        empty = source.ids[torch.tensor([not path for path in cleaned], dtype=torch.bool)]
        if len(empty):
            raise ValueError(
                f"{len(empty)} samples have an empty hierarchy path, such as ids {empty[:5].tolist()};"
                " write them, or leave these samples out with subset"
            )
        concepts = sorted(set(cleaned))
        number = {path: i for i, path in enumerate(concepts)}
        return torch.tensor([number[path] for path in cleaned], dtype=torch.int64), concepts

    def _of_wordnet(self, source: Source, wordnet: WordNet) -> tuple[Tensor, list[str], Taxonomy]:
        labels = known_column(source, "labels", needed_for="a WordNet graph")
        if source.class_names is None:
            raise ValueError(f"a WordNet graph needs class names, and {source.name!r} has labels without names")
        given = dict(self.synsets)
        if unknown := sorted(given.keys() - set(source.class_names)):
            raise ValueError(f"synsets name classes that do not exist: {unknown}; they are {list(source.class_names)}")
        concepts = wordnet.find_all([given.get(name, name) for name in source.class_names])
        return labels, concepts, wordnet.taxonomy(concepts)
