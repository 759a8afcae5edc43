"""`match`: who belongs to whom, from scores alone; the order of the rows never enters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from kinfolk.theory.pair_scores import MatrixScores, ProductScores, as_scores
from kinfolk.theory.sinkhorn import scaled

if TYPE_CHECKING:
    from jaxtyping import Float, Int

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

    Args:
        scores: [n, m], finite, or a pair (x [n, d], y [m, d]) whose products are meant, never stored except for
            ``"assignment"``.
        how: see above.
        temperature: of p, and of the plan.
        start_temperature, row_mass, column_mass, iterations, tolerance: as in `sinkhorn`, and read only there.
        normalize: l2-normalise x and y first.
        impl: as in `kinfolk.ops.row_logsumexp`.

    Returns:
        The `Match`, without gradient. No rows give an empty one.

    Raises:
        TypeError: for scores that are not float.
        ValueError: for shapes that do not fit, an unknown ``how``, a temperature that is not positive; for
            ``"assignment"`` where every assignment takes a score that is not finite.
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
    bias = None
    if how == "sinkhorn":
        plan = scaled(
            found,
            temperature=temperature,
            start_temperature=start_temperature,
            row_mass=row_mass,
            column_mass=column_mass,
            iterations=iterations,
            tolerance=tolerance,
        )
        bias = plan.column_potential
    index = assigned(found) if how == "assignment" else found.best(None if bias is None else temperature * bias)
    if how == "mutual":
        back = found.columns_first.best()[index]
        index = index.where(back == torch.arange(len(index), device=index.device), -1)
    return Match(index, _confidence(found, index, 1 / temperature, bias, both=how in ("mutual", "assignment")))


def _confidence(
    scores: MatrixScores | ProductScores,
    index: Int[Tensor, " n"],
    scale: float,
    bias: Float[Tensor, " m"] | None,
    *,
    both: bool,
) -> Float[Tensor, " n"]:
    columns = index.clamp_min(0)
    logit = scale * scores.at(columns)
    share = logit - scores.logsumexp(scale, bias) + (0.0 if bias is None else bias[columns])
    if both:
        share = torch.minimum(share, logit - scores.columns_first.logsumexp(scale)[columns])
    return torch.exp(share).clamp(max=1.0).masked_fill(index < 0, 0.0)


def assigned(scores: MatrixScores | ProductScores) -> Int[Tensor, " n"]:
    """Return the one-to-one assignment with the largest sum of scores, -1 for rows that are left over.

    Example:
        >>> assigned(as_scores(torch.tensor([[5.0], [6.0]])))
        tensor([-1,  0])
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as missing:
        raise ImportError('how="assignment" needs SciPy: pip install "kinfolk[train]", or how="sinkhorn".') from missing
    matrix = scores.block(slice(None))
    try:
        rows, columns = linear_sum_assignment(matrix.double().cpu().numpy(), maximize=True)
    except ValueError as impossible:
        raise ValueError(
            f'how="assignment" needs a one-to-one assignment of finite scores; of {tuple(matrix.shape)} scores found '
            f"{int(matrix.isnan().sum())} NaN and {int(matrix.isinf().sum())} infinite."
        ) from impossible
    index = torch.full((len(matrix),), -1, dtype=torch.int64)
    index[torch.as_tensor(rows)] = torch.as_tensor(columns)
    return index.to(matrix.device)
