"""`sinkhorn`: entropic transport between two sets of rows in the log domain, without their matrix."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kinfolk.theory.pair_scores import MatrixScores, ProductScores, as_scores

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.theory.pair_scores import Scores


class Plan(NamedTuple):
    """A transport plan by its potentials: ``log P_ij = s_ij / temperature + row_potential_i + column_potential_j``.

    Attributes:
        row_potential: [n].
        column_potential: [m].
        error: ``sum_i |sum_j P_ij - row_mass_i|``; the column sums are exact.
        iterations: how many passes over rows and columns were made.

    Example:
        >>> sinkhorn(torch.zeros(2, 3)).column_potential
        tensor([0., 0., 0.])
    """

    row_potential: Tensor
    column_potential: Tensor
    error: float
    iterations: int


@torch.no_grad()
def sinkhorn(
    scores: Scores,
    *,
    temperature: float = 1.0,
    start_temperature: float | None = None,
    row_mass: Float[Tensor, " n"] | None = None,
    column_mass: Float[Tensor, " m"] | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-3,
    normalize: bool = False,
    impl: str = "auto",
) -> Plan:
    """Return the plan P >= 0 with given row and column sums that maximises ``<P, s> + temperature * entropy(P)``.

    Rows and columns are scaled in turn, as logsumexps with the other side's potential as a bias per column: O(n m d)
    time an iteration, O((n + m) d) memory, and no exponential of a score is ever formed. The lower the temperature
    the nearer the plan is to a one-to-one assignment, and the more iterations it takes.

    Args:
        scores: [n, m], finite, or a pair (x [n, d], y [m, d]) whose products are meant.
        temperature: strength of the entropy, in units of the scores.
        start_temperature: begin there, at about the range of the scores, and halve down to ``temperature``, where hard
            problems take several times fewer iterations in all. None = no such detour.
        row_mass: what each row gives [n], at least 0; taken as shares of its sum. None = all alike.
        column_mass: what each column receives [m], likewise.
        iterations: at most so many in all.
        tolerance: stop when `Plan.error` is not above it; the sums are 1 in all.
        normalize: l2-normalise x and y first.
        impl: as in `kinfolk.ops.row_logsumexp`.

    Raises:
        TypeError: for scores that are not float.
        ValueError: for shapes that do not fit, masses that are negative or all 0, temperatures that are not positive,
            no rows.

    Warns:
        RuntimeWarning: when the error is above the tolerance after all iterations.

    Reference:
        Marco Cuturi, 2013, Sinkhorn Distances: Lightspeed Computation of Optimal Transport.

    Example:
        >>> scores = torch.tensor([[1.0, 0.0], [0.9, 0.8]])
        >>> plan = sinkhorn(scores, temperature=0.1)
        >>> torch.exp(scores / 0.1 + plan.row_potential[:, None] + plan.column_potential).sum(0)
        tensor([0.5000, 0.5000])
    """
    return scaled(
        as_scores(scores, normalize=normalize, impl=impl),
        temperature=temperature,
        start_temperature=start_temperature,
        row_mass=row_mass,
        column_mass=column_mass,
        iterations=iterations,
        tolerance=tolerance,
    )


def scaled(
    scores: MatrixScores | ProductScores,
    *,
    temperature: float,
    start_temperature: float | None = None,
    row_mass: Float[Tensor, " n"] | None = None,
    column_mass: Float[Tensor, " m"] | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-3,
) -> Plan:
    """Return the plan of scores that are prepared already.

    Example:
        >>> scaled(as_scores(torch.zeros(2, 2)), temperature=1.0).iterations
        1
    """
    start = temperature if start_temperature is None else start_temperature
    if not (temperature > 0 and start > 0) or iterations < 1:
        raise ValueError(
            "temperatures must be positive and iterations at least 1, found "
            f"temperature={temperature}, start_temperature={start_temperature}, iterations={iterations}."
        )
    give, take = (
        _log_shares(mass, size, scores.none) for mass, size in zip((row_mass, column_mass), scores.shape, strict=True)
    )
    columns, used = torch.zeros_like(take), 0
    while start > 2 * temperature and used < iterations - 1:
        plan = _at(start, scores, give, take, columns, iterations - 1 - used, 10 * tolerance)
        columns, used, start = 2 * plan.column_potential, used + plan.iterations, start / 2
    columns = columns * (start / temperature) if used else columns
    plan = _at(temperature, scores, give, take, columns, iterations - used, tolerance)
    if plan.error > tolerance:
        warnings.warn(
            f"sinkhorn is at an error of {plan.error:.1e} after {iterations} iterations, above the tolerance of "
            f"{tolerance:.1e}; allow more of them or raise the temperature of {temperature:g}.",
            RuntimeWarning,
            stacklevel=4,
        )
    return plan._replace(iterations=used + plan.iterations)


def _at(
    temperature: float,
    scores: MatrixScores | ProductScores,
    give: Float[Tensor, " n"],
    take: Float[Tensor, " m"],
    columns: Float[Tensor, " m"],
    iterations: int,
    tolerance: float,
) -> Plan:
    """Scale rows and columns in turn at one temperature; the next pass needs what tells the error of this one."""
    turned, scale, shares = scores.columns_first, 1 / temperature, give.exp()
    reach = scores.logsumexp(scale, columns)
    for count in range(1, iterations + 1):
        rows = give - reach
        columns = take - turned.logsumexp(scale, rows)
        reach = scores.logsumexp(scale, columns)
        plan = Plan(rows, columns, float((torch.exp(rows + reach) - shares).abs().sum()), count)
        if not plan.error > tolerance:
            break
    return plan


def _log_shares(mass: Tensor | None, size: int, like: Tensor) -> Float[Tensor, " n"]:
    if mass is None:
        mass = like.new_ones(size)
    mass = mass.to(like)
    if mass.shape != (size,) or not bool((mass >= 0).all()) or not bool(mass.sum() > 0):
        raise ValueError(
            f"masses must be {size} numbers of at least 0 with a positive sum, found shape {tuple(mass.shape)}"
            f"{f' and a sum of {float(mass.sum()):g}' if mass.shape == (size,) else ''}."
        )
    return torch.log(mass / mass.sum())
