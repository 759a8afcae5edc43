"""What the custom ops share: masks as flat arguments, gradients as asked for, the refusal of second derivatives.

Every sweep is an op with a fake implementation, so that `torch.compile` traces through it as one node. Ops take
tensors, numbers and text only; a mask travels as its tensors and a line of numbers that says what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.ops.masks import IdPair, PairMask

if TYPE_CHECKING:
    from jaxtyping import Float

MASK = "Tensor[] {0}parts, str {0}layout"
"""A mask's share of an op's schema; its column bias is an argument of its own, since it may need a gradient."""


def column_bias(mask: PairMask | None, like: Tensor) -> Float[Tensor, " m"] | None:
    """Return the differentiable part of a mask in the scores' precision."""
    return None if mask is None or mask.column_bias is None else mask.column_bias.to(like)


def pack(mask: PairMask | None) -> tuple[list[Tensor], str]:
    """Flatten a mask, all but its column bias, into tensors and numbers that say what they are."""
    if mask is None:
        return [], ""
    parts: list[Tensor] = []
    layout: list[int | float] = []

    def put(pair: IdPair) -> None:
        same = pair.rows is pair.columns
        parts.extend(pair[:1] if same else pair)
        layout.append(int(same))

    layout += [len(mask.self_offsets), *mask.self_offsets, len(mask.excluded)]
    for pair in mask.excluded:
        put(pair)
    layout.append(len(mask.required))
    for union in mask.required:
        layout.append(len(union))
        for pair in union:
            put(pair)
    layout += [len(mask.excluded_columns), len(mask.kept), len(mask.equal_bias)]
    parts += [*mask.excluded_columns, *mask.kept]
    for pair, value in mask.equal_bias:
        put(pair)
        layout.append(value)
    return parts, " ".join(map(repr, layout))


def unpack(n: int, m: int, parts: list[Tensor], layout: str, bias: Tensor | None = None) -> PairMask | None:
    """Undo `pack`."""
    if not layout:
        return None
    numbers, tensor = iter(layout.split()), iter(parts)

    def number() -> int:
        return int(next(numbers))

    def take() -> IdPair:
        same, rows = number(), next(tensor)
        return IdPair(rows, rows if same else next(tensor))

    offsets = tuple(number() for _ in range(number()))
    excluded = tuple(take() for _ in range(number()))
    required = tuple(tuple(take() for _ in range(number())) for _ in range(number()))
    lists, kept, biases = number(), number(), number()
    return PairMask(
        n,
        m,
        self_offsets=offsets,
        excluded=excluded,
        required=required,
        excluded_columns=tuple(_some(tensor, lists)),
        kept=tuple(_some(tensor, kept)),
        column_bias=bias,
        equal_bias=tuple((take(), float(next(numbers))) for _ in range(biases)),
    )


def _some(tensors: Iterator[Tensor], count: int) -> list[Tensor]:
    return [next(tensors) for _ in range(count)]


def wanted(*shapes: tuple[Any, bool], like: Tensor) -> list[Tensor]:
    """Return zeros for every gradient that is asked for, an empty tensor for the others."""
    return [like.new_zeros(shape if needed else (0,)) for shape, needed in shapes]


def wanted_like(*pairs: tuple[Tensor, bool]) -> list[Tensor]:
    """The shapes of `wanted`, for fake implementations."""
    return [like.new_empty(like.shape if needed else (0,)) for like, needed in pairs]


def given(gradients: list[Tensor], needed: list[bool]) -> list[Tensor | None]:
    """Return the gradients that were asked for, None for the others."""
    return [gradient if asked else None for gradient, asked in zip(gradients, needed, strict=True)]


def none_for(parts: list[Tensor]) -> tuple[list[None], None]:
    """Return the gradients of a packed mask: none."""
    return [None] * len(parts), None


def scale_gradient(x: Float[Tensor, "n d"], dx: Float[Tensor, "n d"], scale: Tensor) -> Tensor:
    """Return dL/dscale from the gradient of ``scale * x``."""
    return torch.dot(x.reshape(-1), dx.reshape(-1)).reshape(scale.shape)


def refuse(ctx: Any, *_gradients: Any) -> Any:
    """Say what to do when a gradient is to be differentiated again."""
    raise RuntimeError(
        "second derivatives were asked for, but impl='chunked' computes its gradient in closed form, once; "
        "use impl='reference' for double backward."
    )
