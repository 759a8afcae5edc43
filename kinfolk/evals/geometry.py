"""How features lie on the sphere: diagnostics of a representation, none of which is better when larger or smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.neighbours import nearest, normalised
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

    from kinfolk.evals.features import Features, FeatureSplits


@dataclass(frozen=True)
class Geometry(FeatureEvaluator):
    """Alignment, uniformity, effective rank, evenness of repulsion, and where labels are known how the classes lie.

    All on the test split, on features of length one. Alignment needs a view pair, uniformity and the effective rank two
    rows, the entropy of repulsion three, the class margin two classes; what cannot be measured is not yielded. Rows
    without a label are left out of the classes' numbers, and the record counts them.

    With labels come the within-class variance `mean ||z - mu_y||^2`; the class margin, the smallest distance of two
    class means less the mean distance of a row from its own; and the share of false negatives among the k negatives
    that push an anchor hardest: of the k labelled rows most similar to it, itself excluded, those of its own class.

    Args:
        alignment_samples: test samples whose two views are compared, at most; a seeded subset.
        uniformity_rows: rows whose pairs are compared, at most; a seeded subset.
        rank_rows: rows the effective rank is taken over, at most; a seeded subset.
        repulsion_rows: rows that repel one another, at most; a seeded subset.
        t_neg: strength of the repulsion weights, not negative; 0 makes them even.
        negatives: how many of the most similar rows are looked at for false negatives, each count at least 1; with
            fewer other rows all of them, and the record says how many.
        negative_anchors: anchors whose negatives are looked at, at most; a seeded subset. Their negatives are sought
            among all rows.
        seed: of the subsets.

    Reference:
        Wang, Isola (2020), Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere. Roy, Vetterli (2007), The effective rank: a measure of effective dimensionality. Zheng, Chen, Yao,
        Yang, Li, Zhang, Zhang, Tsang, Zhou, Zhou (2023), Contrastive Attraction and Contrastive Repulsion for
        Representation Learning.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> split = Features.from_rows(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2))
        >>> [(m.name, round(m.value, 3)) for m in Geometry().run(FeatureSplits(split, split))]
        [('uniformity', -8.0), ('effective rank', 1.0)]
    """

    alignment_samples: int = 2_000
    uniformity_rows: int = 20_000
    rank_rows: int = 4_096
    repulsion_rows: int = 4_096
    t_neg: float = 2.0
    negatives: tuple[int, ...] = (10, 100)
    negative_anchors: int = 4_096
    seed: int = 0

    protocol: ClassVar[str] = "geometry"
    needs_labels: ClassVar[bool] = False
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "negatives", tuple(self.negatives))
        if self.alignment_samples < 1 or self.uniformity_rows < 2 or self.rank_rows < 2:
            raise ValueError(
                "geometry needs at least one aligned sample and two rows, got "
                f"alignment_samples={self.alignment_samples}, uniformity_rows={self.uniformity_rows}, "
                f"rank_rows={self.rank_rows}."
            )
        if self.repulsion_rows < 3:
            raise ValueError(
                f"repulsion weights of a row need two others to differ, got repulsion_rows={self.repulsion_rows}; "
                "take at least 3."
            )
        if not 0 <= self.t_neg < math.inf:
            raise ValueError(f"t_neg must be at least 0 and finite, got {self.t_neg}; 2.0 is the default.")
        if min(*self.negatives, self.negative_anchors, math.inf) < 1 or len(set(self.negatives)) < len(self.negatives):
            raise ValueError(
                "negatives must be different counts of at least 1, and negative_anchors at least 1, got "
                f"negatives={self.negatives}, negative_anchors={self.negative_anchors}."
            )

    def run(self, features: FeatureSplits) -> Iterator[Measurement]:
        """Yield the diagnostics."""
        rows = normalised(features.test.rows)
        if features.view_pair is not None:
            first, second = features.view_pair
            yield Measurement("alignment", alignment(first, second), details={"pairs": len(first)})
        if len(rows) > 1:
            sample = rows[subset(len(rows), self.uniformity_rows, seed=self.seed)]
            yield Measurement("uniformity", uniformity(sample), details={"rows": len(sample)})
            sample = rows[subset(len(rows), self.rank_rows, seed=self.seed)]
            yield Measurement("effective rank", effective_rank(sample), details={"rows": len(sample)})
        if len(rows) > 2:
            sample = rows[subset(len(rows), self.repulsion_rows, seed=self.seed)]
            entropy = repulsion_entropy(sample, t_neg=self.t_neg)
            yield Measurement("repulsion entropy", entropy, details={"rows": len(sample)})
        if features.test.has_labels:
            labelled = features.test.labelled()
            left_out = {"rows": len(labelled), "unlabelled_left_out": len(rows) - len(labelled)}
            yield from _class_geometry(labelled, left_out)
            yield from self._false_negatives(labelled, left_out)

    def _false_negatives(self, test: Features, details: dict[str, int]) -> Iterator[Measurement]:
        n = len(test)
        if n < 2 or not self.negatives:
            return
        anchors = subset(n, self.negative_anchors, seed=self.seed)
        same = same_class_among_nearest(test, k=max(self.negatives), anchors=anchors)
        for k in self.negatives:
            yield Measurement(
                f"false negatives, top {k}",
                same[:, :k].double().mean().item(),
                details={**details, "k_used": min(k, n - 1), "anchors": len(anchors)},
            )


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of positive pairs on the sphere, in [0, 4]; 0 when the views agree.

    Args:
        first: `[p, d]`, one view of each sample.
        second: `[p, d]`, another view of it.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0))
        2.0
    """
    return (normalised(first) - normalised(second)).square().sum(dim=1).mean().item()


def uniformity(rows: Float64[Tensor, "n d"]) -> float:
    """`log mean_{i<j} exp(-2 ||z_i - z_j||^2)`, in [-8, 0]; 0 when all rows are one point.

    Args:
        rows: normalised rows, at least two.

    Returns:
        About `-4 + 8 / d` for the uniform distribution on the sphere.
    """
    n = len(rows)
    assert n > 1
    squares = rows.square().sum(dim=1)  # 1, but 0 for a zero row
    total = 0.0
    step = max(1, 2**23 // n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        distance = squares[start:stop, None] + squares[start:] - 2 * rows[start:stop] @ rows[start:].T
        weight = distance.clamp_(min=0).mul_(-2).exp_()
        total += weight.triu_(diagonal=1).sum().item()
    return math.log(total) - math.log(n * (n - 1) / 2)


def effective_rank(rows: Float64[Tensor, "n d"]) -> float:
    """Exponential of the entropy of the covariance's normalised eigenvalues, in [1, min(n - 1, d)].

    Args:
        rows: normalised rows; their mean is taken off first.

    Returns:
        How many directions the features spread over; 1 for features that do not vary at all.
    """
    centred = rows - rows.mean(dim=0)
    gram = centred @ centred.T if rows.shape[0] < rows.shape[1] else centred.T @ centred
    variances = torch.linalg.eigvalsh(gram).clamp(min=0)
    if variances.sum() <= 1e-12 * len(rows):  # float32 features that are equal but for rounding
        return 1.0
    share = variances / variances.sum()
    return torch.special.entr(share).sum().exp().item()


def repulsion_entropy(rows: Float64[Tensor, "n d"], *, t_neg: float) -> float:
    """Mean entropy of the repulsion weights over that of even ones, `H / log(n - 1)`, in [0, 1].

    Every row is repelled by all others with weights `softmax_{j != i}(-t_neg ||z_i - z_j||^2)`: those of CACR's
    repulsion between single views. 1 means that all rows push alike, a small value that the nearest alone push.

    Args:
        rows: normalised rows, at least three.
        t_neg: strength, >= 0.

    Example:
        >>> rows = normalised(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))
        >>> round(repulsion_entropy(rows, t_neg=2.0), 3), round(repulsion_entropy(rows, t_neg=0.0), 3)
        (0.336, 1.0)
    """
    n = len(rows)
    assert n > 2
    squares = rows.square().sum(dim=1)  # 1, but 0 for a zero row
    total = 0.0
    step = max(1, 2**22 // n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        # The anchor's own square is the same for all candidates, and cancels in the softmax.
        logits = (rows[start:stop] @ rows.T).mul_(2).sub_(squares).mul_(t_neg)
        logits[torch.arange(stop - start), torch.arange(start, stop)] = -torch.inf
        total += torch.special.entr(logits.softmax(dim=1)).sum().item()
    return min(1.0, total / n / math.log(n - 1))  # even weights may exceed 1 by rounding


def same_class_among_nearest(
    test: Features, *, k: int, anchors: Int64[Tensor, " a"] | None = None
) -> Bool[Tensor, "a k"]:
    """Which of the k rows most similar to each anchor are of its class, the most similar first, itself excluded.

    Args:
        test: labelled rows, at least two.
        k: negatives; of n rows at most n - 1 are returned. Equally similar ones come in the order of their ids.
        anchors: rows that are asked; None asks all.

    Example:
        >>> from kinfolk.evals import Features
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3]])
        >>> same_class_among_nearest(Features.from_rows(rows, torch.arange(3), torch.tensor([0, 1, 0])), k=2).tolist()
        [[False, True], [False, False], [False, True]]
    """
    assert test.labels is not None
    rows = normalised(test.rows)
    anchors = torch.arange(len(rows)) if anchors is None else anchors
    _, found = nearest(rows[anchors], rows, k=min(k, len(rows) - 1), exclude=anchors)
    return test.labels[found] == test.labels[anchors, None]


def subset(n: int, at_most: int, *, seed: int) -> Int64[Tensor, " r"]:
    """A seeded subset of `0..n-1` in ascending order, everything where it fits.

    Example:
        >>> subset(3, 5, seed=0).tolist(), len(subset(9, 4, seed=0))
        ([0, 1, 2], 4)
    """
    if n <= at_most:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:at_most].sort().values


def subset_of(ids: Int64[Tensor, " n"], at_most: int, *, seed: int) -> Int64[Tensor, " r"]:
    """Places of a seeded subset of samples in ascending order, everything where it fits: who is in it follows from ids.

    Example:
        >>> ids = torch.tensor([8, 3, 5, 9])
        >>> chosen, again = (x[subset_of(x, 2, seed=0)] for x in (ids, ids.flip(0)))
        >>> set(chosen.tolist()) == set(again.tolist())
        True
    """
    return ids.argsort(stable=True)[subset(len(ids), at_most, seed=seed)].sort().values


def _class_geometry(test: Features, details: dict[str, int]) -> Iterator[Measurement]:
    rows = normalised(test.rows)
    assert test.labels is not None
    classes, y = torch.unique(test.labels, return_inverse=True)
    means = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, y, rows) / y.bincount()[:, None]
    squared_radius = (rows - means[y]).square().sum(dim=1)
    yield Measurement("within-class variance", squared_radius.mean().item(), details=details)
    if len(classes) > 1:
        nearest_means = torch.nn.functional.pdist(means).min()
        yield Measurement("class margin", (nearest_means - squared_radius.sqrt().mean()).item(), details=details)
