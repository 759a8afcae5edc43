"""The pairwise primitives as dense PyTorch: the specification that every other implementation is compared with.

Inputs are float32 or float64 and already normalised where that was asked for; autograd does the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.ops.masks import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda s: s,
    "softplus": lambda s: torch.nn.functional.softplus(s, threshold=40.0),  # the default of 20 is off by 2e-9 there
    "square": torch.square,
    "exp": torch.exp,
}
"""The functions that `row_sum` knows."""


def scores(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], scale: float | Tensor) -> Float[Tensor, "n m"]:
    """Return ``scale * <x_i, y_j>`` for every pair."""
    return scale * (x @ y.T)


def kept_and_bias(
    mask: PairMask | None, s: Float[Tensor, "n m"]
) -> tuple[Bool[Tensor, "n m"], Float[Tensor, "#n #m"] | None]:
    """Return the kept pairs and the bias of all scores; a bias of -inf, a prior of 0, drops its pairs."""
    if mask is None:
        return torch.ones_like(s, dtype=torch.bool), None
    n, m = s.shape
    keep, bias = mask.block((0, n), (0, m)), mask.bias_block((0, n), (0, m))
    keep = torch.ones_like(s, dtype=torch.bool) if keep is None else keep.to(s.device)
    if bias is None:
        return keep, None
    dropped = bias == -torch.inf
    return keep & ~dropped, bias.masked_fill(dropped, 0.0).to(s)


def masked_logsumexp(logits: Float[Tensor, "n m"], keep: Bool[Tensor, "n m"], dim: int) -> Float[Tensor, " kept"]:
    """Return the logsumexp of the kept logits; -inf with zero gradient where nothing is kept."""
    some = keep.any(dim)
    safe = logits.masked_fill(~keep, -torch.inf).where(some.unsqueeze(dim), torch.zeros_like(logits))
    return torch.logsumexp(safe, dim).masked_fill(~some, -torch.inf)


def _logits(s: Tensor, bias: Tensor | None) -> Tensor:
    return s if bias is None else s + bias


def row_logsumexp(x: Tensor, y: Tensor, *, scale: float | Tensor, mask: PairMask | None) -> Tensor:
    """``lse_j(s_ij + b_ij)`` over the kept columns."""
    s = scores(x, y, scale)
    keep, bias = kept_and_bias(mask, s)
    return masked_logsumexp(_logits(s, bias), keep, 1)


def two_way_logsumexp(x: Tensor, y: Tensor, *, scale: float | Tensor, mask: PairMask | None) -> tuple[Tensor, Tensor]:
    """The logsumexp of every row and of every column."""
    s = scores(x, y, scale)
    keep, bias = kept_and_bias(mask, s)
    logits = _logits(s, bias)
    return masked_logsumexp(logits, keep, 1), masked_logsumexp(logits, keep, 0)


def attraction(x: Tensor, y: Tensor, *, scale: float | Tensor, target: Float[Tensor, "n m"]) -> Tensor:
    """``sum_j T_ij s_ij`` for explicit weights; a weight of 0 wins over any score."""
    s = scores(x, y, scale)
    return (target * s.where(target != 0, torch.zeros_like(s))).sum(1)


def kernel_target(u: Tensor, v: Tensor, *, scale: float | Tensor, mask: PairMask | None) -> Float[Tensor, "n m"]:
    """Softmax of side similarities over the kept columns; a row with nothing kept is 0."""
    r = scores(u, v, scale)
    keep, _ = kept_and_bias(mask, r)
    lse = masked_logsumexp(r, keep, 1)
    some = torch.isfinite(lse) | lse.isnan()
    weights = torch.exp(r - lse.where(some, torch.zeros_like(lse)).unsqueeze(1))
    return weights.where(keep, torch.zeros_like(weights))


def row_softmax_mean(
    x: Tensor,
    y: Tensor,
    *,
    scale: float | Tensor,
    weight_scale: float,
    mask: PairMask | None,
    detach_weights: bool,
) -> Tensor:
    """``sum_j softmax_j(w s_ij + b_ij) s_ij`` over the kept columns; 0 where nothing is kept."""
    s = scores(x, y, scale)
    keep, bias = kept_and_bias(mask, s)
    logits = _logits(weight_scale * s, bias)
    lse = masked_logsumexp(logits, keep, 1)
    some = keep.any(1)
    weights = torch.exp(logits - lse.where(some, torch.zeros_like(lse)).unsqueeze(1))
    weights = weights.where(keep, torch.zeros_like(weights))
    weights = weights.detach() if detach_weights else weights
    return (weights * s.where(keep, torch.zeros_like(s))).sum(1)


def row_sum(
    x: Tensor, y: Tensor, *, fn: str, scale: float | Tensor, row_shift: Tensor | None, mask: PairMask | None
) -> Tensor:
    """``sum_j fn(s_ij + b_ij - shift_i)`` over the kept columns; 0 where nothing is kept."""
    s = scores(x, y, scale)
    keep, bias = kept_and_bias(mask, s)
    argument = _logits(s, bias)
    argument = argument if row_shift is None else argument - row_shift.unsqueeze(1)
    argument = argument.where(keep, torch.zeros_like(argument))  # before fn, so that no dropped pair overflows
    value = ELEMENTWISE[fn](argument)
    return value.where(keep, torch.zeros_like(value)).sum(1)


def row_topk(
    x: Tensor, y: Tensor, *, k: int, largest: bool, mask: PairMask | None
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest (smallest) kept logits of a row and their columns, in order; index -1 where there are fewer."""
    s = scores(x, y, 1.0)
    keep, bias = kept_and_bias(mask, s)
    nothing = -torch.inf if largest else torch.inf
    logits = _logits(s, bias).masked_fill(~keep, nothing)
    values, indices = logits.topk(min(k, logits.shape[1]), dim=1, largest=largest, sorted=True)
    return fill_topk(values, indices.masked_fill(~keep.gather(1, indices), -1), k, nothing)


def fill_topk(
    values: Tensor, indices: Tensor, k: int, nothing: float
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Pad the result of a top-k over fewer than k columns."""
    missing = k - values.shape[1]
    if missing <= 0:
        return values, indices
    return (
        torch.nn.functional.pad(values, (0, missing), value=nothing),
        torch.nn.functional.pad(indices, (0, missing), value=-1),
    )
