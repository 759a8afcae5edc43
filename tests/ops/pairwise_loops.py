"""The pairwise primitives as double loops in float64, and the mask forms as Python predicates on one pair of indices.

Scalars are float64 tensors, so autograd gives the definition's own gradient. A row that keeps nothing has no terms:
-inf for a logsumexp, 0 for a sum or a mean, and no gradient. A bias is added to a pair's logit: of a logsumexp, of the
weights of a mean, of the argument of a sum's function, of a top-k's product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Number = float | Tensor

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda s: s,
    "softplus": F.softplus,
    "square": lambda s: s * s,
    "exp": torch.exp,
}


@dataclass(frozen=True)
class Kept:
    """What a mask means: which pairs stay, bool [n, m], and what is added to a score, float64 [n, m] or None."""

    keep: Tensor
    bias: Tensor | None = None

    def columns(self, i: int) -> list[int]:
        return [j for j in range(self.keep.shape[1]) if bool(self.keep[i, j])]

    def rows(self, j: int) -> list[int]:
        return [i for i in range(self.keep.shape[0]) if bool(self.keep[i, j])]


def everything(n: int, m: int) -> Kept:
    return Kept(torch.ones(n, m, dtype=torch.bool))


def keep_where(n: int, m: int, predicate: Callable[[int, int], bool]) -> Kept:
    return Kept(torch.tensor([[predicate(i, j) for j in range(m)] for i in range(n)], dtype=torch.bool).reshape(n, m))


def both(a: Kept, b: Kept) -> Kept:
    """The conjunction: pairs that both keep; biases add."""
    bias = a.bias if b.bias is None else b.bias if a.bias is None else a.bias + b.bias
    return Kept(a.keep & b.keep, bias)


def _rows(x: Tensor, normalize: bool) -> list[Tensor]:
    rows = x.double().unbind()
    return [r / torch.linalg.vector_norm(r).clamp_min(1e-6) for r in rows] if normalize else list(rows)


def scores(x: Tensor, y: Tensor, scale: Number, *, normalize: bool = False) -> list[list[Tensor]]:
    """s_ij = scale x_i . y_j as a list of lists of scalars."""
    xs, ys = _rows(x, normalize), _rows(y, normalize)
    return [[scale * torch.dot(a, b) for b in ys] for a in xs]


def _lse(terms: Sequence[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(list(terms)), 0) if terms else torch.tensor(-math.inf, dtype=torch.float64)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else torch.zeros((), dtype=torch.float64)


def _biased(s: list[list[Tensor]], kept: Kept, i: int, j: int) -> Tensor:
    return s[i][j] if kept.bias is None else s[i][j] + kept.bias[i, j]


def row_logsumexp(x: Tensor, y: Tensor, *, scale: Number, kept: Kept, normalize: bool = False) -> Tensor:
    s = scores(x, y, scale, normalize=normalize)
    return torch.stack([_lse([_biased(s, kept, i, j) for j in kept.columns(i)]) for i in range(len(x))])


def two_way_logsumexp(
    x: Tensor, y: Tensor, *, scale: Number, kept: Kept, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    s = scores(x, y, scale, normalize=normalize)
    over_columns = [_lse([_biased(s, kept, i, j) for j in kept.columns(i)]) for i in range(len(x))]
    over_rows = [_lse([_biased(s, kept, i, j) for i in kept.rows(j)]) for j in range(len(y))]
    return torch.stack(over_columns), torch.stack(over_rows)


def row_softmax_mean(
    x: Tensor,
    y: Tensor,
    *,
    scale: Number,
    weight_scale: Number,
    kept: Kept,
    detach_weights: bool = False,
    normalize: bool = False,
) -> Tensor:
    s = scores(x, y, scale, normalize=normalize)
    values = []
    for i in range(len(x)):
        terms = [s[i][j] for j in kept.columns(i)]
        if not terms:
            values.append(torch.zeros((), dtype=torch.float64))
            continue
        bias = 0.0 if kept.bias is None else kept.bias[i, kept.columns(i)]
        weights = torch.softmax(weight_scale * torch.stack(terms) + bias, 0)
        values.append(
            _sum([w * t for w, t in zip(weights.detach() if detach_weights else weights, terms, strict=True)])
        )
    return torch.stack(values)


def row_sum(
    x: Tensor,
    y: Tensor,
    *,
    fn: str,
    scale: Number,
    kept: Kept,
    row_shift: Tensor | None = None,
    normalize: bool = False,
) -> Tensor:
    s = scores(x, y, scale, normalize=normalize)
    shift = torch.zeros(len(x), dtype=torch.float64) if row_shift is None else row_shift
    return torch.stack(
        [_sum([FUNCTIONS[fn](_biased(s, kept, i, j) - shift[i]) for j in kept.columns(i)]) for i in range(len(x))]
    )


def row_topk(
    x: Tensor, y: Tensor, *, k: int, kept: Kept, largest: bool = True, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    s = scores(x, y, 1.0, normalize=normalize)
    sign = -1.0 if largest else 1.0
    values = torch.full((len(x), k), sign * math.inf, dtype=torch.float64)
    indices = torch.full((len(x), k), -1)
    for i in range(len(x)):
        logits = {j: float(_biased(s, kept, i, j)) for j in kept.columns(i)}
        for place, j in enumerate(sorted(logits, key=lambda j, row=logits: sign * row[j])[:k]):  # type: ignore[misc]
            values[i, place], indices[i, place] = logits[j], j
    return values, indices


def attraction(x: Tensor, y: Tensor, *, scale: Number, target: Tensor, normalize: bool = False) -> Tensor:
    """sum_j T_ij s_ij for a dense float64 target [n, m] that may itself require grad."""
    s = scores(x, y, scale, normalize=normalize)
    return torch.stack([_sum([target[i, j] * s[i][j] for j in range(len(y))]) for i in range(len(x))])


def gradients(value: Tensor, weights: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of <weights, the finite entries of value>; an input that is not used has gradient 0."""
    finite = torch.isfinite(value.detach())
    picked = (value[finite] * weights.to(value.dtype)[finite]).sum()
    if not picked.requires_grad:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad(picked, list(inputs), allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]


def assert_close(got: Tensor, expected: Tensor, *, atol: float, rtol: float = 0.0, what: str = "") -> None:
    """Equal infinities, and |got - expected| <= atol + rtol * |expected| elsewhere; NaN never passes."""
    torch.testing.assert_close(
        got.detach().double(), expected.detach().double(), atol=atol, rtol=rtol, msg=lambda text: f"{what}: {text}"
    )
