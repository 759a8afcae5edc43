"""What the kernels share: the scores of one tile, the order in which tiles are visited, block sizes.

Legend: M rows of a tile, N its columns, D the features that one step of the product takes.

A tile costs ``2 M N D`` operations a step on the tensor cores; both operands come from the L2 cache, which the grouped
order keeps warm. float32 inputs use the plain float32 units (``ieee``) unless PyTorch was told to allow TF32; they are
an order of magnitude slower. Block sizes are chosen once per width and order of magnitude of the problem from the list
below. Not yet measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on a CPU; decided when this file is first imported."""

_UPCAST = tl.constexpr(INTERPRETED)  # the interpreter multiplies the bits of bfloat16 as integers
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = 0.6931471805599453
_GROUP = 8
"""Row blocks that are visited together, so that they share the columns' vectors in the L2 cache."""

_ROW_BLOCK = {
    torch.float32: 32 if INTERPRETED else 64,
    torch.bfloat16: 32 if INTERPRETED else 128,
    torch.float16: 32 if INTERPRETED else 128,
}

_PROGRAMS = 1024
"""Programs that a sweep should have at least, several for each of a large GPU's multiprocessors."""

_CHUNK = 32 if INTERPRETED else 512
"""Columns that a program walks over at least."""


class Sides(NamedTuple):
    """What a kernel reads of the two sets of vectors; a NamedTuple, since kernels take tuples of pointers."""

    x: Tensor  # [n, d], rows contiguous
    y: Tensor  # [m, d]
    inverse_x: Tensor | None  # [n] float32, one over the norm; None where products are taken as they are
    inverse_y: Tensor | None  # [m]
    scale: Tensor  # [] float32
    stride_x: int
    stride_y: int
    n: int
    m: int
    d: int


@triton.jit
def load_rows(ptr, index, stop, other):  # type: ignore[no-untyped-def]
    """One number per row (or column) of a tile, float32."""
    return tl.load(ptr + index, mask=index < stop, other=other).to(tl.float32)


@triton.jit
def tile_scores(  # type: ignore[no-untyped-def]
    sides,
    rows,
    columns,
    factor,
    PRECISION: tl.constexpr,
    EVEN_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``factor * scale * <x_i, y_j>`` (times both inverse norms) of a tile; 0 outside the matrix."""
    inside_x, inside_y = (rows < sides.n)[:, None], (columns < sides.m)[None, :]
    feature = tl.arange(0, BLOCK_D)
    x_ptrs = sides.x + rows.to(tl.int64)[:, None] * sides.stride_x + feature[None, :]
    y_ptrs = sides.y + columns.to(tl.int64)[None, :] * sides.stride_y + feature[:, None]
    acc_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, sides.d, BLOCK_D):
        if EVEN_D:
            x_MD = tl.load(x_ptrs + start, mask=inside_x, other=0.0)
            y_DN = tl.load(y_ptrs + start, mask=inside_y, other=0.0)
        else:
            inside = start + feature < sides.d
            x_MD = tl.load(x_ptrs + start, mask=inside_x & inside[None, :], other=0.0)
            y_DN = tl.load(y_ptrs + start, mask=inside_y & inside[:, None], other=0.0)
        if _UPCAST:
            x_MD, y_DN = x_MD.to(tl.float32), y_DN.to(tl.float32)
        acc_MN = tl.dot(x_MD, y_DN, acc_MN, input_precision=PRECISION)
    factor = factor * tl.load(sides.scale)
    if sides.inverse_x is not None:
        acc_MN *= load_rows(sides.inverse_y, columns, sides.m, 0.0)[None, :]
        acc_MN *= (load_rows(sides.inverse_x, rows, sides.n, 0.0) * factor)[:, None]
    else:
        acc_MN *= factor
    return acc_MN


@triton.jit
def inverse_norms(sides, w_MN, rows, columns):  # type: ignore[no-untyped-def]
    """Weights of scores as weights of raw products: times both inverse norms."""
    if sides.inverse_x is not None:
        w_MN *= load_rows(sides.inverse_x, rows, sides.n, 0.0)[:, None]
        w_MN *= load_rows(sides.inverse_y, columns, sides.m, 0.0)[None, :]
    return w_MN


@triton.jit
def grouped(program, row_blocks, column_blocks, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row block and column block of a program: a group of row blocks takes one column block after the other."""
    span = GROUP * column_blocks
    first = program // span * GROUP
    size = tl.minimum(row_blocks - first, GROUP)
    place = program % span
    return first + place % size, place // size


def precision(dtype: torch.dtype) -> str:
    """Return how float32 products are taken: exactly, or in TF32 where PyTorch's own setting asks for it."""
    if dtype != torch.float32 or INTERPRETED:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    setting = getattr(matmul, "fp32_precision", None)  # newer; mixing it with allow_tf32 is an error
    asked = matmul.allow_tf32 if setting is None else setting == "tf32"
    return "tf32" if asked else "ieee"


def row_block(dtype: torch.dtype) -> int:
    """Return how many rows a tile has; the same in every configuration, since partial results are stored per block."""
    return _ROW_BLOCK[dtype]


def launch_options(x: Tensor) -> dict[str, Any]:
    """Return the constants of a kernel that follow from one side's precision and width, without the tuned ones."""
    limit = 64 if INTERPRETED else 32 if x.dtype == torch.float32 else 64
    step = max(16, min(limit, triton.next_power_of_2(max(x.shape[1], 1))))
    return {
        "PRECISION": precision(x.dtype),
        "EVEN_D": x.shape[1] % step == 0,
        "BLOCK_M": row_block(x.dtype),
        "BLOCK_D": step,
        "GROUP": _GROUP,
        "enable_fp_fusion": True,
    }


def relation_options(u: Tensor) -> dict[str, Any]:
    """Return the constants of a kernel that follow from the side embeddings."""
    options = launch_options(u)
    return {"PRECISION_E": options["PRECISION"], "EVEN_E": options["EVEN_D"], "BLOCK_E": options["BLOCK_D"]}


def configurations() -> list[triton.Config]:
    """Return the few block sizes that are tried."""
    if INTERPRETED:
        return [triton.Config({"BLOCK_N": 32}, num_warps=1, num_stages=1)]
    return [
        triton.Config({"BLOCK_N": 128}, num_warps=4, num_stages=3),
        triton.Config({"BLOCK_N": 128}, num_warps=8, num_stages=4),
        triton.Config({"BLOCK_N": 256}, num_warps=8, num_stages=3),
        triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=4),
    ]


def fitting(configs: list[triton.Config], named: dict[str, Any], **_more: Any) -> list[triton.Config]:
    """Leave out block sizes that float32 operands, which take twice the shared memory, do not fit."""
    if INTERPRETED or named["sides"].x.dtype != torch.float32:
        return configs
    return [c for c in configs if c.kwargs["BLOCK_N"] <= 128 and c.num_stages < 4] + configs[-1:]


TUNED: dict[str, Any] = {
    "configs": configurations(),
    "key": ["width_class", "problem_class"],
    "prune_configs_by": {"early_config_prune": fitting},
}
"""How every kernel is tuned: once per width, order of magnitude and precision."""


TUNED_FOR_TWO: dict[str, Any] = {
    "configs": TUNED["configs"]
    if INTERPRETED
    else [
        triton.Config({"BLOCK_N": 128}, num_warps=8, num_stages=3),
        triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=3),
    ],
    "key": ["width_class", "problem_class"],
}
"""The same for kernels that hold two tiles at a time."""


def chunk_columns(row_blocks: int, m: int, *, finer: int = 1) -> int:
    """Return how many columns one program walks over, so that few row blocks still fill a GPU."""
    wanted = triton.cdiv(_PROGRAMS * finer, max(row_blocks, 1))
    chunks = max(1, min(wanted, triton.cdiv(m, _CHUNK)))
    step = _CHUNK // 2
    return triton.cdiv(triton.cdiv(m, chunks), step) * step


def sweep_shape(sides: Sides) -> tuple[int, int, int]:
    """Return the row blocks of a sweep over all pairs, the columns of a chunk and the number of chunks."""
    blocks = triton.cdiv(sides.n, row_block(sides.x.dtype))
    chunk = chunk_columns(blocks, sides.m)
    return blocks, chunk, max(triton.cdiv(sides.m, max(chunk, 1)), 1)


def weigh_blocks(panel: Tensor) -> tuple[int, Callable[[dict[str, int]], tuple[int]]]:
    """Return the row blocks of a panel of weights and the grid of programs that fills it."""
    height, width = panel.shape
    blocks = triton.cdiv(height, row_block(panel.dtype))
    return blocks, lambda meta: (blocks * triton.cdiv(width, meta["BLOCK_N"]),)


def tuning(sides: Sides, forms: tuple[int, ...], n: int, m: int) -> tuple[int, int]:
    """Return what block sizes are tuned for: the width of the vectors, and the order of magnitude of the problem.

    Masks made of ids keep numbers of every column in registers, so that they are a class of their own.
    """
    size = sum(n * m > limit for limit in (1 << 20, 1 << 23, 1 << 28))
    return triton.next_power_of_2(max(sides.d, 1)), size + 4 * min(sum(forms[:2]) + forms[3], 2)
