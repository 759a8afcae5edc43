"""`match`: who belongs to whom, from scores alone; the order of the rows never enters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from kinfolk.theory.pair_scores import MatrixScores, ProductScores, as_scores
from kinfolk.theory.sinkhorn import scaled

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.theory.pair_scores import Scores

How = Literal["argmax", "mutual", "assignment", "sinkhorn"]
"""How rows and columns are matched."""


class Match(NamedTuple):
    """A column per row, and how sure that is.

    Attributes:
        columns: column of every row, int64 [n]; -1 where it has none.
        confidence: between 0 and 1 [n]; 0 where there is no column.

    Example:
        >>> match(torch.tensor([[0.0, 9.0]])).columns
        tensor([1])
    """

    columns: Tensor
    confidence: Tensor


@torch.no_grad()
def match(
    scores: Scores,
    *,
    how: How = "argmax",
    copies: Int[Tensor, " m"] | None = None,
    temperature: float = 1.0,
    start_temperature: float | None = None,
    row_mass: Float[Tensor, " n"] | None = None,
    column_mass: Float[Tensor, " m"] | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-3,
    normalize: bool = False,
    impl: str = "auto",
) -> Match:
    """Match the rows of two modalities by their scores.

    With ``p(j | i) = softmax_j(s_ij / temperature)`` and ``p(i | j)`` likewise over rows:

    - ``"argmax"``: every row's best column; columns may be taken several times. Confidence ``p(j | i)``.
    - ``"mutual"``: only where each is the other's best. Confidence ``min(p(j | i), p(i | j))``.
    - ``"assignment"``: one-to-one with the largest sum of scores, min(n, m) pairs. Confidence as for mutual. Needs
      SciPy, O(n m) memory and O(n m min(n, m)) time.
    - ``"sinkhorn"``: the best column under a transport plan (`sinkhorn`) that gives every column its due; nearly
      one-to-one at a low temperature, in O((n + m) d) memory. Confidence: the share of the row's mass that goes there.

    Nothing but scores is read, so that permuted columns permute the answer. Among equal scores any may be taken.

    A column may stand for several rows, as one caption does that was written to five images; with ``copies`` c_j
    ``"mutual"`` asks that the row be among the c_j best of its column, ``"assignment"`` gives the column to at most c_j
    rows, a plan's column receives in proportion to c_j, and where p(i | j) is read, ``min(1, c_j p(i | j))`` is.

    Args:
        scores: [n, m], or a pair (x [n, d], y [m, d]) whose products are meant, never stored except for
            ``"assignment"``. -inf is a pair that must not be; ``"sinkhorn"`` wants finite scores.
        how: see above.
        copies: how many rows each column stands for [m], at least 1. None = 1 each.
        temperature: of p, and of the plan.
        start_temperature, row_mass, column_mass, iterations, tolerance: as in `sinkhorn`, and read only there; without
            a ``column_mass`` the copies are it.
        normalize: l2-normalise x and y first.
        impl: as in `kinfolk.ops.row_logsumexp`.

    Returns:
        The `Match`, without gradient. No rows give an empty one.

    Raises:
        TypeError: for scores that are not float, or copies that are no integers.
        ValueError: for shapes that do not fit, an unknown ``how``, a temperature that is not positive, copies below 1,
            scores that are NaN or +inf; for ``"assignment"`` where every assignment takes a score that is not finite.
        ImportError: for ``"assignment"`` without SciPy.

    Warns:
        RuntimeWarning: as `sinkhorn`.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data (argmax); Harold William Kuhn, 1955, The
        Hungarian Method for the Assignment Problem; Marco Cuturi, 2013, Sinkhorn Distances: Lightspeed Computation of
        Optimal Transport.

    Example:
        >>> scores = torch.tensor([[5.0, 4.0], [4.0, 0.0]])
        >>> [match(scores, how=how).columns.tolist() for how in ("argmax", "assignment", "mutual")]
        [[0, 0], [1, 0], [0, -1]]
    """
    if how not in get_args(How):
        raise ValueError(f"how must be one of {', '.join(get_args(How))}, found {how!r}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}.")
    found = as_scores(scores, normalize=normalize, impl=impl)
    if not found.shape[0]:
        return Match(found.none.long(), found.none)
    if copies is not None:
        copies = _checked(copies, found.shape[1]).to(found.none.device)
    bias = None
    if how == "sinkhorn":
        plan = scaled(
            found,
            temperature=temperature,
            start_temperature=start_temperature,
            row_mass=row_mass,
            column_mass=copies.to(found.none) if column_mass is None and copies is not None else column_mass,
            iterations=iterations,
            tolerance=tolerance,
        )
        bias = plan.column_potential
    if how == "assignment":
        index = assigned(found, copies)
    else:
        index = found.best(None if bias is None else temperature * bias)
    if how == "mutual":
        index = index.where(_wanted(found, index, copies), -1)
    index = index.masked_fill(found.at(index.clamp_min(0)) == -torch.inf, -1)
    confidence = _confidence(found, index, 1 / temperature, bias, copies, both=how in ("mutual", "assignment"))
    if lost := int(confidence.isnan().sum()):
        raise ValueError(
            f"scores must not be NaN or +inf, and those of a plan finite: {lost} of {len(index)} rows cannot be "
            "matched; drop what is not finite."
        )
    return Match(index, confidence)


def _checked(copies: Int[Tensor, " m"], columns: int) -> Int[Tensor, " m"]:
    if copies.is_floating_point() or copies.dtype == torch.bool:
        raise TypeError(f"copies must be an integer tensor, found {copies.dtype}.")
    if copies.shape != (columns,) or int(copies.min()) < 1:
        raise ValueError(
            f"copies must be at least 1 for each of {columns} columns, found {tuple(copies.shape)}"
            f"{f' with {int(copies.min())}' if copies.numel() else ''}."
        )
    return copies


def _wanted(
    scores: MatrixScores | ProductScores, index: Int[Tensor, " n"], copies: Int[Tensor, " m"] | None
) -> Bool[Tensor, " n"]:
    """Whether each row is among the best of its column, as many as the column stands for."""
    rows = torch.arange(len(index), device=index.device)
    if copies is None:
        return scores.columns_first.best()[index] == rows
    most = min(int(copies.max()), len(index))
    back = scores.columns_first.several(most)
    within = torch.arange(most, device=index.device) < copies[:, None]
    return (back.where(within, -1)[index] == rows[:, None]).any(1)


def _confidence(
    scores: MatrixScores | ProductScores,
    index: Int[Tensor, " n"],
    scale: float,
    bias: Float[Tensor, " m"] | None,
    copies: Int[Tensor, " m"] | None,
    *,
    both: bool,
) -> Float[Tensor, " n"]:
    columns = index.clamp_min(0)
    logit = scale * scores.at(columns)
    share = logit - scores.logsumexp(scale, bias) + (0.0 if bias is None else bias[columns])
    if both:
        other = logit - scores.columns_first.logsumexp(scale)[columns]
        share = torch.minimum(share, other if copies is None else other + copies[columns].to(other).log())
    return torch.exp(share).clamp(max=1.0).masked_fill(index < 0, 0.0)


def assigned(scores: MatrixScores | ProductScores, copies: Int[Tensor, " m"] | None = None) -> Int[Tensor, " n"]:
    """Return the one-to-one assignment with the largest sum of scores, -1 for rows that are left over.

    A column with copies goes to as many rows at most.

    Example:
        >>> assigned(as_scores(torch.tensor([[5.0], [6.0]])))
        tensor([-1,  0])
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as missing:
        raise ImportError('how="assignment" needs SciPy: pip install "kinfolk[train]", or how="sinkhorn".') from missing
    matrix = scores.block(slice(None))
    column_of = torch.arange(matrix.shape[1], device=matrix.device)
    if copies is not None:
        column_of = column_of.repeat_interleave(copies)
        matrix = matrix[:, column_of]
    try:
        rows, columns = linear_sum_assignment(matrix.double().cpu().numpy(), maximize=True)
    except ValueError as impossible:
        raise ValueError(
            f'how="assignment" needs a one-to-one assignment of finite scores; of {tuple(matrix.shape)} scores found '
            f"{int(matrix.isnan().sum())} NaN and {int(matrix.isinf().sum())} infinite."
        ) from impossible
    index = torch.full((len(matrix),), -1, dtype=torch.int64)
    index[torch.as_tensor(rows)] = column_of.cpu()[torch.as_tensor(columns)]
    return index.to(matrix.device)
