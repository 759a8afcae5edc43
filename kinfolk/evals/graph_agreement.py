"""Whether features rank pairs of test samples as a target graph does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeGuard

import numpy as np
import torch
from scipy.stats import rankdata

from kinfolk.data.relations import ClassTable, ClassTableConfig, MixedConfig, Relation, RelationConfig
from kinfolk.evals.geometry import subset
from kinfolk.evals.neighbours import cosine_tiles, normalised
from kinfolk.evals.protocol import Measurement, SubjectEvaluator
from kinfolk.graphs import ClassGraph, LabelGraph, MixtureGraph, SimilarityGraph
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64
    from torch import Tensor

    from kinfolk.data.sources import Source
    from kinfolk.evals.subject import Subject


class Target(NamedTuple):
    """Similarities that features are compared with.

    Args:
        name: what they are, in words.
        ids: int64 `[n]` of the test samples, ascending.
        similarities: float64 `[n, n - 1]`, of every sample to all others in ascending order; -inf where nothing
            relates. Only their order counts.
        left_out: samples that the target says nothing about.
    """

    name: str
    ids: Int64[Tensor, " n"]
    similarities: Float64[np.ndarray, "n k"]
    left_out: int


@dataclass(frozen=True)
class GraphAgreement(SubjectEvaluator):
    """Spearman's rank correlation between the cosines of test features and the similarities of a target graph.

    Over `all pairs` of different samples at once, and `per anchor`: within each sample's similarities to the others,
    averaged over samples. The second does not ask whether similarities of different anchors compare. Ties take their
    average rank. A target of few values, such as equal labels, ties most pairs, and features that tie none cannot reach
    1 then: the record has the `maximum_untied`.

    The relation is built over the rows compared, so that "nearest neighbours" means nearest among these; a class table
    made of images is that of the pretraining images, in a mixture too. A temperature does not matter, since it changes
    no order, except in a mixture, where a part that asks for a perplexity has it over these rows. Samples without a
    class where the target goes by class are left out. Features or targets that are the same for all pairs have no rank
    correlation, and nothing is yielded.

    Args:
        relation: what the target is, such as the relation of the run; None takes equal labels.
        rows: test samples that are compared, at most, a seeded subset; at least 3. Memory and time grow with its
            square: 2,000 rows take about three seconds.
        seed: of the subset.

    Reference:
        Spearman (1904), The proof and measurement of association between two things.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> images = (torch.tensor([[9, 0], [9, 1], [0, 9], [1, 9]]) * 20).byte().reshape(4, 1, 1, 2)
        >>> source = ArraySource(images, torch.tensor([0, 0, 1, 1]))
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(1, 2)), train=source, test=source)
        >>> [(m.name, round(m.value, 3)) for m in GraphAgreement().run(subject)]
        [('Spearman, all pairs', 0.853), ('Spearman, per anchor', 0.866)]
    """

    relation: RelationConfig | None = None
    rows: int = 2_000
    seed: int = 0

    protocol: ClassVar[str] = "graph agreement"
    needs_labels: ClassVar[bool] = False
    sees_pretraining: ClassVar[bool] = True
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        if self.rows < 3:
            raise ValueError(f"rows must be at least 3, so that an anchor has two others to rank, got {self.rows}.")

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield both rank correlations."""
        target = self.target(subject)
        if isinstance(target, str):
            return
        test = subject.features.test
        cosines = _without_self(_cosines(normalised(test.rows[test.positions(target.ids)])))
        details = {"target": target.name, "rows": len(target.ids), "left_out": target.left_out}
        for name, shape in (("all pairs", (1, -1)), ("per anchor", cosines.shape)):
            yield from _agreement(name, cosines.reshape(shape), target.similarities.reshape(shape), details)

    def missing(self, subject: Subject) -> str | None:
        """Say why these data have no target: no labels, no such column, one class."""
        target = self.target(subject)
        return target if isinstance(target, str) else None

    def target(self, subject: Subject) -> Target | str:
        """Return the target over a seeded subset of the test samples, or in words why there is none.

        Raises:
            FileNotFoundError: when a file that the relation names is not there.
        """
        test = subject.features.test
        if self.relation is None:
            if not test.has_labels:
                return "no labels"
            known = test.labelled()
            chosen = subset(len(known), self.rows, seed=self.seed)
            assert known.labels is not None
            graph = LabelGraph(known.labels[chosen])
            return _target("equal labels", known.ids[chosen], graph, left_out=len(test) - len(known))
        ids = test.ids[subset(len(test), self.rows, seed=self.seed)]
        try:
            relation = self._relation(_samples(subject.test, ids), subject.pretraining)
        except ValueError as error:  # the data lack what it is made from; the message says what
            return str(error)
        name = f"{self.relation.kind}: {relation.about}" if relation.about else self.relation.kind
        return _target(name, ids, relation.for_batch(ids, 1).resolve(ids))

    def _relation(self, source: Source, pretraining: Source) -> Relation:
        assert self.relation is not None
        built = _built(self.relation, source, pretraining)
        if built.has_temperature:
            return built.with_temperature(1.0)
        return built.settled(batch_size=len(source), views=1)


def rank_correlations(a: Float64[np.ndarray, "r k"], b: Float64[np.ndarray, "r k"]) -> Float64[np.ndarray, " r"]:
    """Spearman's rank correlation of every row of one matrix with the same row of another, ties at average ranks.

    Args:
        a: numbers, or infinities, which rank as such.
        b: likewise.

    Returns:
        In [-1, 1]; NaN where one of the two rows has a single value, or fewer than two entries.

    Example:
        >>> rank_correlations(np.array([[1.0, 2.0, 9.0], [1, 1, 1]]), np.array([[0.0, 0.1, 0.2], [0, 1, 2]]))
        array([ 1., nan])
    """
    return _correlations(_centred_ranks(a), _centred_ranks(b))


def maximum_untied(target: Float64[np.ndarray, "r k"]) -> Float64[np.ndarray, " r"]:
    """Return the largest rank correlation with each row of a target that numbers without ties can have.

    It is 1 where the target has no ties: `sqrt(1 - sum_t (t^3 - t) / (k^3 - k))` over its groups of t equal values.

    Args:
        target: at least two columns.

    Example:
        >>> maximum_untied(np.array([[0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])).round(3).tolist()
        [0.894, 1.0]
    """
    return _untied(_centred_ranks(target))


def _centred_ranks(values: np.ndarray) -> Float64[np.ndarray, "r k"]:
    return rankdata(values, axis=1) - (values.shape[1] + 1) / 2


def _correlations(a: np.ndarray, b: np.ndarray) -> Float64[np.ndarray, " r"]:
    """Of centred ranks; their mean is 0."""
    length = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), length, out=np.full(len(a), np.nan), where=length > 0).clip(-1, 1)


def _untied(ranks: np.ndarray) -> Float64[np.ndarray, " r"]:
    """Ranks 1 to k have the sum of squares (k^3 - k) / 12 about their mean; ties have less."""
    k = ranks.shape[1]
    return np.sqrt(np.square(ranks).sum(axis=1) / (k * (k * k - 1) / 12))


def _agreement(name: str, cosines: np.ndarray, target: np.ndarray, details: dict[str, Any]) -> Iterator[Measurement]:
    wanted = _centred_ranks(target)
    found = _correlations(_centred_ranks(cosines), wanted)
    defined = np.isfinite(found)
    if not defined.any():
        return
    yield Measurement(
        f"Spearman, {name}",
        math.fsum(found[defined]) / int(defined.sum()),
        better="higher",
        details={
            **details,
            "maximum_untied": float(_untied(wanted[defined]).mean()),
            **({"anchors": int(defined.sum())} if name == "per anchor" else {"pairs": target.size}),
        },
    )


def _target(name: str, ids: Tensor, graph: SimilarityGraph, *, left_out: int = 0) -> Target | str:
    n = len(ids)
    if isinstance(graph, MixtureGraph):  # its parts are normalised over the other samples before they are added
        graph = graph.row_normalised(PairMask.exclude_self(n))
    known = _known(graph, n)
    if int(known.sum()) < 3:
        return "fewer than three samples with a target"
    logs = graph.log_weights((0, n), (0, n)).double()[known][:, known]
    similarities = _without_self(logs.numpy())
    if (similarities == similarities[0, 0]).all():
        return f"the same target for all pairs ({name})"
    return Target(name, ids[known], similarities, left_out + n - int(known.sum()))


def _known(graph: SimilarityGraph, n: int) -> Bool[Tensor, " n"]:
    """Which samples the target knows: one without a class is not unlike all others, it is unknown."""
    if isinstance(graph, LabelGraph | ClassGraph):
        return graph.labels.rows >= 0
    return torch.ones(n, dtype=torch.bool)


def _cosines(rows: Tensor) -> Float64[np.ndarray, "n n"]:
    """On the grid of `neighbours`, so that the noise of a collapsed encoder has no order."""
    return torch.cat([tile for _, tile in cosine_tiles(rows, rows)]).numpy()


def _without_self(matrix: np.ndarray) -> Float64[np.ndarray, "n k"]:
    """The matrix without its diagonal, `[n, n - 1]`."""
    n = len(matrix)
    return matrix[~np.eye(n, dtype=bool)].reshape(n, n - 1)


def _samples(source: Source, ids: Tensor) -> Source:
    """The samples with these ids, in their order."""
    order = source.ids.argsort()
    return source.subset(order[torch.searchsorted(source.ids[order], ids)])


def _built(config: RelationConfig, source: Source, pretraining: Source) -> Relation:
    """A relation over the rows compared; a class table made of images is that of the pretraining images."""
    if isinstance(config, MixedConfig):
        return config.of([_built(part, source, pretraining) for part in config.parts])
    if not _made_of_images(config) or source.labels is None:
        return config.build(source)
    table = config.build(pretraining)
    assert isinstance(table, ClassTable)
    known = ClassTable(source.ids, source.labels, table.similarities, config.temperature)
    return known.with_perplexity(config.perplexity)


def _made_of_images(relation: RelationConfig) -> TypeGuard[ClassTableConfig]:
    return isinstance(relation, ClassTableConfig) and not relation.groups and relation.path is None
