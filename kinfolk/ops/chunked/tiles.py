"""What the tile sweeps share: the walk over tiles, scores of a tile, and softmax sums that never overflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.ops.masks import PairMask, Span

if TYPE_CHECKING:
    from jaxtyping import Float

_ROWS, _COLUMNS = 512, 1024
"""A float32 tile of this size is 2 MB: it stays in a core's cache between the product and the exponentials."""

_SAFE_EXPONENT = 80.0
"""``exp`` of anything in [-80, 80] and its product with such a number's inverse are normal float32 numbers."""


def tile_shape(n: int, m: int) -> tuple[int, int]:
    """Return the tile that a sweep over ``n x m`` pairs uses.

    Example:
        >>> tile_shape(100, 100_000)
        (100, 1024)
    """
    return max(min(n, _ROWS), 1), max(min(m, _COLUMNS), 1)


def spans(length: int, step: int, start: int = 0) -> Iterator[Span]:
    """Cut ``[start, length)`` into ranges of at most ``step``."""
    for begin in range(start, length, step):
        yield begin, min(begin + step, length)


def tiles(n: int, m: int) -> Iterator[tuple[Span, Span]]:
    """Walk over all tiles, row strip by row strip."""
    height, width = tile_shape(n, m)
    for rows in spans(n, height):
        for columns in spans(m, width):
            yield rows, columns


def triangle(n: int) -> Iterator[tuple[Span, Span]]:
    """Walk over the tiles on and above the diagonal; the tiles on it are square."""
    step = min(tile_shape(n, n))
    for rows in spans(n, step):
        for columns in spans(n, step, rows[0]):
            yield rows, columns


class TileScores:
    """Scores ``scale * <x_i, y_j>`` of one tile at a time, written into a buffer that is used again."""

    def __init__(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], scale: float) -> None:
        self.x, self.y = x * scale, y
        height, width = tile_shape(x.shape[0], y.shape[0])
        self.buffer = x.new_empty(height * width)

    def __call__(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return the scores of a tile; the next call overwrites them."""
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        out = self.buffer[: height * width].view(height, width)
        return torch.mm(self.x[slice(*rows)], self.y[slice(*columns)].T, out=out)


def add_mask_(tile: Float[Tensor, "a b"], mask: PairMask | None, rows: Span, columns: Span) -> None:
    """Turn the scores of a tile into logits, in place: add the biases, drop to -inf what is not kept."""
    if mask is None:
        return
    bias = mask.bias_block(rows, columns)
    if bias is not None:
        tile += bias.detach().to(tile)
    mask.fill_(tile, rows, columns, -torch.inf)


def safe_shift(x: Tensor, y: Tensor, scale: float, mask: PairMask | None) -> float | None:
    """Return one shift that keeps every exponential of every row in range, or None where only a running maximum does.

    Scores lie within the product of the largest norms. When that and the range of the biases are small, a fixed
    shift replaces the maximum, which saves passes over the tile and lets rows and columns share one exponential.
    """
    if not (x.numel() and y.numel()):
        return None
    bound = abs(scale) * float(torch.linalg.vector_norm(x, dim=1).max() * torch.linalg.vector_norm(y, dim=1).max())
    low = high = 0.0
    if mask is not None and mask.column_bias is not None:
        bias = mask.column_bias.detach()
        low, high = float(bias.min()), float(bias.max())
    for _, value in mask.equal_bias if mask is not None else ():
        low, high = low + min(value, 0.0), high + max(value, 0.0)
    return bound + high if 2 * bound + (high - low) < _SAFE_EXPONENT else None


class RunningSoftmax:
    """Sums of exponentials per row, and of values weighted by them, while tiles pass by.

    With a fixed ``shift`` an exponential is taken against it; otherwise against the running maximum, and what was
    summed so far is rescaled whenever the maximum rises.
    """

    def __init__(self, n: int, like: Tensor, shift: float | None, *, weighted: bool = False) -> None:
        self.shift = shift
        self.maximum = like.new_full((n,), -torch.inf)
        self.total = like.new_zeros(n)
        self.weighted = like.new_zeros(n) if weighted else None

    def exponentials_(self, rows: Span, logits: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]:
        """Overwrite the logits of a tile by their exponentials against the shift, rescaling the sums if needed."""
        if self.shift is not None:
            return logits.sub_(self.shift).exp_()
        here = slice(*rows)
        old = self.maximum[here]
        new = torch.maximum(old, logits.amax(1))
        against = new.masked_fill(new == -torch.inf, 0.0)
        rescale = torch.exp(old - against)
        self.maximum[here] = new
        self.total[here] *= rescale
        if self.weighted is not None:
            self.weighted[here] *= rescale
        return logits.sub_(against.unsqueeze(1)).exp_()

    def add(self, rows: Span, exponentials: Tensor, products: Tensor | None = None) -> None:
        """Add the rows of a tile of exponentials, and of their products with the values that are averaged."""
        self.total[slice(*rows)] += exponentials.sum(1)
        if products is not None:
            assert self.weighted is not None
            self.weighted[slice(*rows)] += products.sum(1)

    def logsumexp(self) -> Float[Tensor, " n"]:
        """Return the logsumexp of every row; -inf where nothing was kept."""
        return self.total.log() + (self.maximum if self.shift is None else self.shift)

    def shift_and_total(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return what exponentials were taken against and their sum; the shift of an empty row may be -inf."""
        return (self.maximum if self.shift is None else torch.full_like(self.total, self.shift)), self.total

    def mean(self) -> Float[Tensor, " n"]:
        """Return the weighted mean of every row; 0 where nothing was kept."""
        assert self.weighted is not None
        return (self.weighted / self.total).masked_fill(self.total == 0, 0.0)


def unreachable(lse: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Put +inf in place of the -inf of empty rows, so that ``exp(s - lse)`` is 0 there and not NaN."""
    return lse.masked_fill(lse == -torch.inf, torch.inf)


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off: sums of exponentials need at least float32."""
    return torch.autocast(like.device.type, enabled=False)


class _Refusal(torch.autograd.Function):
    """Pass a gradient on, and say what to do when it is to be differentiated again."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, _graph: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> Any:
        raise RuntimeError(
            "second derivatives were asked for, but impl='chunked' computes its gradient in closed form, once; "
            "use impl='reference' for double backward."
        )


def closed_form(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Run a backward in full precision and without a graph; differentiating its result again is an error."""

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        with torch.no_grad(), full_precision(gradients[0]):
            results = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return results
        anchor = torch.zeros((), requires_grad=True)
        return tuple(None if r is None else _Refusal.apply(r, anchor) for r in results)

    return wrapped
