"""How features lie on the sphere: diagnostics of a representation, none of which is better when larger or smaller."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.evals.neighbours import normalised
from kinfolk.evals.protocol import FeatureEvaluator, Measurement

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from kinfolk.evals.features import Features, FeatureSplits


@dataclass(frozen=True)
class Geometry(FeatureEvaluator):
    """Alignment, uniformity, effective rank, and where labels are known the spread and margin of the classes.

    All on the test split, on features of length one. Alignment needs a view pair, uniformity two rows, the class margin
    two classes; what cannot be measured is not yielded.

    Args:
        alignment_samples: test samples whose two views are compared, at most; a seeded subset.
        uniformity_rows: rows whose pairs are compared, at most; a seeded subset.
        rank_rows: rows the effective rank is taken over, at most; a seeded subset.
        seed: of the three subsets.

    Reference:
        Wang, Isola (2020), Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere. Roy, Vetterli (2007), The effective rank: a measure of effective dimensionality.

    Example:
        >>> from kinfolk.evals import Features, FeatureSplits
        >>> split = Features.from_rows(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2))
        >>> [(m.name, round(m.value, 3)) for m in Geometry().run(FeatureSplits(split, split))]
        [('uniformity', -8.0), ('effective rank', 1.0)]
    """

    alignment_samples: int = 2_000
    uniformity_rows: int = 20_000
    rank_rows: int = 4_096
    seed: int = 0

    protocol: ClassVar[str] = "geometry"
    needs_labels: ClassVar[bool] = False
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        if self.alignment_samples < 1 or self.uniformity_rows < 2 or self.rank_rows < 2:
            raise ValueError(
                "geometry needs at least one aligned sample and two rows, got "
                f"alignment_samples={self.alignment_samples}, uniformity_rows={self.uniformity_rows}, "
                f"rank_rows={self.rank_rows}."
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
        if features.test.has_labels:
            yield from _class_geometry(features.test.labelled())


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


def _class_geometry(test: Features) -> Iterator[Measurement]:
    rows = normalised(test.rows)
    assert test.labels is not None
    classes, y = torch.unique(test.labels, return_inverse=True)
    means = rows.new_zeros(len(classes), rows.shape[1]).index_add_(0, y, rows) / y.bincount()[:, None]
    squared_radius = (rows - means[y]).square().sum(dim=1)
    yield Measurement("within-class variance", squared_radius.mean().item())
    if len(classes) > 1:
        nearest_means = torch.nn.functional.pdist(means).min()
        yield Measurement("class margin", (nearest_means - squared_radius.sqrt().mean()).item())
