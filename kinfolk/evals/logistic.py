"""Multinomial logistic regression by L-BFGS in float64, in coordinates where it converges in few steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

_SMALL_STEP = 50_000_000  # multiply-adds of one step below which a second thread costs more than it brings
_LARGEST_BASIS = 4096  # above this an eigendecomposition costs more than the steps it saves


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Subtract the mean and divide by the standard deviation of training rows.

    A feature whose spread is below float32's resolution of its mean counts as constant and becomes 0 everywhere.

    Example:
        >>> Standardiser.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))(torch.tensor([[4.0, 9.0]])).tolist()
        [[2.0, 0.0]]
    """

    mean: Float64[Tensor, " d"]
    inverse: Float64[Tensor, " d"]

    @classmethod
    def fit(cls, rows: Float[Tensor, "n d"]) -> Standardiser:
        """Take the statistics of the rows, in float64."""
        spread, mean = torch.std_mean(rows.double(), dim=0, correction=0)
        varies = spread > 1e-6 * mean.abs()
        return cls(mean, torch.where(varies, 1 / spread.where(varies, torch.ones_like(spread)), 0.0))

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
        """Standardise rows."""
        return (rows.double() - self.mean) * self.inverse


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """A fitted linear classifier.

    Args:
        weight: float64 `[d, c]`.
        bias: float64 `[c]`.
        converged: whether the optimiser met its tolerance before its last step.
    """

    weight: Float64[Tensor, "d c"]
    bias: Float64[Tensor, " c"]
    converged: bool

    def predict(self, rows: Float64[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """The most probable class of every row, ties to the lower one."""
        return torch.addmm(self.bias, rows, self.weight).argmax(dim=1)


class LogisticProblem:
    """The training rows of a logistic regression, prepared once for fits at several penalties.

    The objective is `mean_i cross_entropy(x_i W + b, y_i) + l2 / 2 * ||W||^2`, the bias free. A rotation changes
    neither term, so the rows are rotated into the eigenbasis of their covariance. There, directions without variance
    have weight 0 at the optimum and are dropped, and the Hessian is nearly diagonal: L-BFGS works on weights divided by
    `(variance / 4 + l2)^(-1/2)` and needs about half the steps or fewer. The optimum is the same.

    Args:
        rows: float64 `[n, d]`, centred (see `Standardiser`).
        labels: int64 `[n]` in `0..classes-1`.
        classes: number of classes.

    Example:
        >>> rows = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> LogisticProblem(rows, torch.tensor([0, 1]), classes=2).fit(l2=0.1).predict(3 * rows).tolist()
        [0, 1]
    """

    def __init__(self, rows: Float64[Tensor, "n d"], labels: Int64[Tensor, " n"], *, classes: int) -> None:
        self.labels = labels
        self.classes = classes
        with _calm_threads(min(rows.shape) ** 3):
            self.basis, self.variance = _eigenbasis(rows)
        self.rows = rows if self.basis is None else rows @ self.basis

    def fit(
        self, *, l2: float, start: LogisticModel | None = None, tolerance: float = 1e-5, max_steps: int = 500
    ) -> LogisticModel:
        """Minimise the objective.

        Args:
            l2: penalty on the weights, > 0.
            start: a model to start from, such as the one of a neighbouring penalty; None starts from zero.
            tolerance: largest entry of the gradient, in the scaled weights, at which to stop.
            max_steps: L-BFGS steps at most.

        Returns:
            The model in the coordinates of the rows that were given.
        """
        scale = (self.variance / 4 + l2).rsqrt()[:, None]
        shape = (len(scale) + 1, self.classes)
        initial = np.zeros(shape) if start is None else self._packed(start, scale)
        with _calm_threads(self.rows.numel() * self.classes):
            found = minimize(
                self._value_and_gradient,
                initial.ravel(),
                args=(scale, l2),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": max_steps, "maxfun": 2 * max_steps, "gtol": tolerance, "ftol": 1e-13},
            )
        solution = torch.from_numpy(found.x.reshape(shape)).to(self.rows)
        weight = scale * solution[:-1]
        return LogisticModel(weight if self.basis is None else self.basis @ weight, solution[-1], bool(found.success))

    def _packed(self, model: LogisticModel, scale: Tensor) -> np.ndarray:
        weight = model.weight if self.basis is None else self.basis.T @ model.weight
        return torch.cat([weight / scale, model.bias[None]]).cpu().numpy()

    def _value_and_gradient(self, flat: np.ndarray, scale: Tensor, l2: float) -> tuple[float, np.ndarray]:
        packed = torch.from_numpy(flat.reshape(-1, self.classes)).to(self.rows)
        weight, bias = scale * packed[:-1], packed[-1]
        log_p = torch.addmm(bias, self.rows, weight).log_softmax(dim=1)
        n = len(log_p)
        value = -log_p.gather(1, self.labels[:, None]).sum() / n + l2 / 2 * weight.square().sum()
        residual = log_p.exp_()
        residual[torch.arange(n, device=residual.device), self.labels] -= 1
        residual /= n
        by_weight = scale * torch.addmm(weight, self.rows.T, residual, beta=l2)
        return value.item(), torch.cat([by_weight, residual.sum(0, keepdim=True)]).cpu().numpy().ravel()


@contextmanager
def _calm_threads(products: int) -> Iterator[None]:
    """Let the optimiser run on one thread, and torch too where a step is small.

    The optimiser's vectors are tiny. On more threads its library's waiting workers and torch's fight for the cores,
    and the same fit takes five times as long on two of them.
    """
    threads = torch.get_num_threads()
    if products < _SMALL_STEP:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def _eigenbasis(rows: Tensor) -> tuple[Tensor | None, Tensor]:
    """Directions `[d, r]` that vary and their variances `[r]`; no basis and unit variances where that costs more."""
    n, d = rows.shape
    if min(n, d) > _LARGEST_BASIS:
        return None, rows.new_ones(d)
    wide = d > n
    variance, vectors = torch.linalg.eigh((rows @ rows.T if wide else rows.T @ rows) / n)
    keep = variance > 1e-10 * variance[-1].clamp(min=1e-300)
    variance, vectors = variance[keep], vectors[:, keep]
    return (rows.T @ vectors / (n * variance).sqrt() if wide else vectors), variance
