"""How far a classifier's confidence can be trusted: calibration error, log-loss, Brier score, and one temperature.

Functions of any classifier's probabilities or logits. Labels are columns of these, -1 for a class without a column.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from scipy.optimize import brentq
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

TEMPERATURES = (1e-2, 1e2)  # ends of the search


def reliability(
    probabilities: Float[Tensor, "n c"], labels: Int64[Tensor, " n"], *, bins: int = 15
) -> tuple[list[int], list[float | None], list[float | None]]:
    """Count, mean confidence and accuracy of the rows in every bin of confidence.

    Bin b of B holds confidences in `(b / B, (b + 1) / B]`, the first one 0 too. The prediction is the most probable
    class, ties to the lower one.

    Args:
        probabilities: rows sum to 1.
        labels: column of the true class, -1 for a class without a column, which is never right.
        bins: how many, at least 1.

    Returns:
        Three lists with one entry per bin; confidence and accuracy of an empty bin are None.

    Raises:
        ValueError: for no row, entries that are no probabilities, or labels that do not fit.

    Example:
        >>> reliability(torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]), torch.tensor([0, 0, 0]), bins=2)
        ([1, 2], [0.5, 0.75], [1.0, 0.5])
    """
    _check(probabilities, labels, bins)
    confidence, predicted = probabilities.max(dim=1).values, probabilities.argmax(dim=1)
    # Edges of the probabilities' own type, so that a confidence of exactly b / B is below its edge in float32 too.
    edges = (torch.arange(1, bins, dtype=torch.float64) / bins).to(confidence)
    which = torch.bucketize(confidence, edges)
    count = which.bincount(minlength=bins)
    sums = [which.bincount(weights=values.double(), minlength=bins) for values in (confidence, (predicted == labels))]
    means = [
        [total / n if n else None for total, n in zip(values.tolist(), count.tolist(), strict=True)] for values in sums
    ]
    return count.tolist(), means[0], means[1]


def expected_calibration_error(
    probabilities: Float[Tensor, "n c"], labels: Int64[Tensor, " n"], *, bins: int = 15
) -> float:
    """Mean over rows of the gap between accuracy and mean confidence in the row's bin, in [0, 1].

    Args:
        probabilities: rows sum to 1, of any classifier.
        labels: column of the true class, -1 for a class without a column, which counts as an error.
        bins: of equal width, at least 1; see `reliability`.

    Raises:
        ValueError: for no row, entries that are no probabilities, or labels that do not fit.

    Example:
        >>> probabilities = torch.tensor([[0.75, 0.25]]).repeat(4, 1)
        >>> expected_calibration_error(probabilities, torch.tensor([0, 0, 0, 1]))  # right in three of four
        0.0
        >>> expected_calibration_error(probabilities, torch.tensor([0, 1, 1, 1]))
        0.5
    """
    counts, confidences, accuracies = reliability(probabilities, labels, bins=bins)
    gaps = (
        n * abs(accuracy - confidence)
        for n, confidence, accuracy in zip(counts, confidences, accuracies, strict=True)
        if confidence is not None and accuracy is not None
    )
    return math.fsum(gaps) / len(labels)


def fit_temperature(logits: Float[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> float:
    """Return the temperature T that minimises the log-loss of `softmax(logits / T)`.

    The loss is convex in 1 / T, and its derivative's zero is found by bracketing, to 1e-6 of itself.

    Args:
        logits: of rows that the classifier was not fitted on.
        labels: column of the true class; -1 for a class without a column, whose loss is infinite at any temperature:
            such rows are left out.

    Returns:
        In [0.01, 100], its ends where the optimum lies beyond: the lower one when every row is right, so that more
        confidence is always better, the upper one for logits that say nothing about the labels, or the opposite. 1
        where no temperature changes anything: a single class, or logits that are equal in every row.

    Raises:
        ValueError: when no row has a known class, or labels do not fit the logits.

    Reference:
        Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]]).repeat(4, 1)
        >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))  # right in three of four
        >>> (logits / temperature).softmax(dim=1)[0].round(decimals=3)
        tensor([0.7500, 0.2500])
    """
    _check_labels(logits, labels)
    known = labels >= 0
    if not bool(known.any()):
        raise ValueError(f"none of the {len(labels)} rows has a class with a column; there is no log-loss to minimise.")
    z, y = logits[known].double(), labels[known]
    z = z - z.gather(1, y[:, None])  # relative to the true class: the loss is mean logsumexp(z / T)
    if bool((z.amax(dim=1) - z.amin(dim=1) <= 1e-12).all()):
        return 1.0

    def slope(log_temperature: float) -> float:
        """Derivative of the loss by 1 / T."""
        share = (z / math.exp(log_temperature)).softmax(dim=1)
        return (share * z).sum(dim=1).mean().item()

    low, high = (math.log(end) for end in TEMPERATURES)
    if slope(low) <= 0:
        return TEMPERATURES[0]
    if slope(high) >= 0:
        return TEMPERATURES[1]
    return math.exp(brentq(slope, low, high, xtol=1e-6))


def negative_log_likelihood(logits: Float[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> float:
    """Mean log-loss in nats over the rows whose class has a column.

    Args:
        logits: log-probabilities up to a constant per row.
        labels: column of the true class, -1 for a class without one.

    Raises:
        ValueError: when no row has a known class, or labels do not fit the logits.

    Example:
        >>> round(negative_log_likelihood(torch.zeros(3, 4), torch.tensor([0, 3, -1])), 4)
        1.3863
    """
    _check_labels(logits, labels)
    known = labels >= 0
    if not bool(known.any()):
        raise ValueError(f"none of the {len(labels)} rows has a class with a column; their log-loss is infinite.")
    return torch.nn.functional.cross_entropy(logits[known].double(), labels[known]).item()


def brier_score(probabilities: Float[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> float:
    """Mean over rows of `sum_c (p_c - [y = c])^2`, in [0, 2].

    Args:
        probabilities: rows sum to 1.
        labels: column of the true class, -1 for a class without one: its probability was 0.

    Raises:
        ValueError: for no row, entries that are no probabilities, or labels that do not fit.

    Example:
        >>> brier_score(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, -1]))
        1.25
    """
    _check(probabilities, labels, 1)
    p = probabilities.double()
    true = p.gather(1, labels.clamp(min=0)[:, None]).squeeze(1).where(labels >= 0, 0.0)
    return (p.square().sum(dim=1) - 2 * true + 1).mean().item()


def _check(probabilities: Tensor, labels: Tensor, bins: int) -> None:
    _check_labels(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}; 15 is the default.")
    total = probabilities.double().sum(dim=1)
    if not bool((probabilities >= 0).all()) or not bool((total - 1).abs().max() < 1e-3):
        raise ValueError(
            "probabilities must not be negative and sum to 1 in every row, found entries down to "
            f"{probabilities.min().item():.4g} and sums from {total.min().item():.4g} to {total.max().item():.4g}; "
            "take the softmax of logits first."
        )


def _check_labels(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or 0 in scores.shape or labels.shape != scores.shape[:1]:
        raise ValueError(
            "expected one row of scores [n, c] per label [n], at least one: found scores "
            f"{tuple(scores.shape)}, labels {tuple(labels.shape)}."
        )
    if not -1 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise ValueError(
            f"labels must be columns from 0 to {scores.shape[1] - 1}, or -1 for a class without one, found "
            f"{int(labels.min())} to {int(labels.max())}."
        )
