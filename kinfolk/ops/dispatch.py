"""The public primitives: they check what they are given, choose an implementation once and call it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from kinfolk.ops import chunked, reference
from kinfolk.ops.masks import PairMask, as_mask
from kinfolk.ops.normalise import normalise

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Impl = Literal["auto", "chunked", "triton", "reference"]
"""Names of the implementations; ``"auto"`` decides by device and shape."""

Function = Literal["identity", "softplus", "square", "exp"]
"""What `row_sum` can sum."""


def choose(impl: str, x: Tensor) -> Literal["chunked", "triton", "reference"]:
    """Return the implementation that ``impl`` stands for: for ``"auto"`` triton on NVIDIA GPUs, chunked elsewhere.

    Raises:
        ValueError: for a name that does not exist.

    Example:
        >>> choose("auto", torch.zeros(4, 2))
        'chunked'
    """
    if impl not in get_args(Impl):
        raise ValueError(f"impl must be one of {', '.join(get_args(Impl))}, found {impl!r}.")
    if impl == "auto":
        return "triton" if _triton_serves(x) else "chunked"
    return impl  # type: ignore[return-value]


def _triton_serves(x: Tensor) -> bool:
    """Whether the fused kernels take these vectors."""
    return x.is_cuda and x.dtype != torch.float64 and implementation("triton").available(x.device)


def implementation(name: str) -> Any:
    """Return the module of an implementation; triton is imported when it is first needed.

    Example:
        >>> implementation("chunked").__name__
        'kinfolk.ops.chunked'
    """
    if name == "triton":
        return import_module("kinfolk.ops.triton")
    return chunked if name == "chunked" else reference


def explain(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"] | None = None,
    *,
    mask: PairMask | Tensor | None = None,
    impl: str = "auto",
) -> str:
    """Say in a sentence which implementation a primitive would use for these tensors, and why.

    Example:
        >>> x = torch.zeros(100, 64)
        >>> explain(x)
        'chunked on cpu: 100 x 100 pairs in tiles of 100 x 100 (0.0 MB), upper triangle only (both sides are one)'
        >>> explain(x, impl="reference")
        'reference on cpu: all 100 x 100 pairs at once (0.0 MB a matrix), because impl="reference" was asked for'
    """
    keys = x if y is None else y
    n, m = x.shape[0], keys.shape[0]
    pair_mask = as_mask(mask, n, m)
    size = 8 if x.dtype == torch.float64 else 4
    name = choose(impl, x)
    if name == "reference":
        return (
            f"reference on {x.device.type}: all {n} x {m} pairs at once ({n * m * size / 2**20:.1f} MB a matrix), "
            'because impl="reference" was asked for'
        )
    same = keys is x and (pair_mask is None or pair_mask.symmetric)
    how = "upper triangle only (both sides are one)" if same else "all tiles"
    if name == "triton":
        return f"triton on {x.device.type}: {n} x {m} pairs in fused kernels, {how}"
    why = ", since float64 has no fused kernel" if x.is_cuda and x.dtype == torch.float64 else ""
    like = torch.empty(0, dtype=torch.float64 if size == 8 else torch.float32, device=x.device)
    walk = chunked.Walk(n, m, like, triangle=same)
    height, width = min(walk.height, max(n, 1)), min(walk.width, max(m, 1))
    return (
        f"chunked on {x.device.type}: {n} x {m} pairs in tiles of {height} x {width} "
        f"({height * width * size / 2**20:.1f} MB), {how}{why}"
    )


def check(x: Tensor, y: Tensor) -> None:
    """Check that two sets of vectors are float matrices of the same width.

    Example:
        >>> check(torch.zeros(2, 3), torch.zeros(2, 4))
        Traceback (most recent call last):
            ...
        ValueError: expected x [n, d] and y [m, d] of the same width d, found (2, 3) and (2, 4).
    """
    for name, side in (("x", x), ("y", y)):
        if not isinstance(side, Tensor) or not side.is_floating_point():
            raise TypeError(f"{name} must be a float tensor, found {getattr(side, 'dtype', type(side).__name__)}.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected x [n, d] and y [m, d] of the same width d, found {tuple(x.shape)} and {tuple(y.shape)}."
        )


def prepare(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], *, normalize: bool
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Check two sets of vectors and return them in float32 (float64 stays), l2-normalised where asked.

    Norms are taken in that precision and floored at 1e-6, so that a zero row stays a zero vector. The result for
    ``y`` is the result for ``x`` itself when both are the same tensor.

    Raises:
        TypeError: for integer vectors.
        ValueError: when they are not matrices of the same width.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> prepare(x, x, normalize=True)[0]
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    check(x, y)
    wide = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    left = _cast(x, wide, normalize)
    return left, left if y is x else _cast(y, wide, normalize)


def ready(x: Float[Tensor, "n d"], *, normalize: bool, impl: str) -> tuple[Float[Tensor, "n d"], bool]:
    """Prepare rows once for several calls, where the implementation would prepare them in each.

    Returns:
        The rows, and whether the primitives have yet to normalise them: kernels take raw rows as they are.

    Example:
        >>> ready(torch.tensor([[3.0, 4.0]]), normalize=True, impl="chunked")
        (tensor([[0.6000, 0.8000]]), False)
    """
    if choose(impl, x) == "triton":
        return x, normalize
    return prepare(x, x, normalize=normalize)[0], False


def _cast(x: Tensor, dtype: torch.dtype, normalize: bool) -> Tensor:
    x = x.to(dtype)
    return normalise(x) if normalize else x


def as_scale(scale: float | Tensor, like: Tensor) -> Tensor:
    """Return a scale as a 0-dimensional tensor of the scores' precision, with its gradient.

    Example:
        >>> as_scale(0.1, torch.zeros(1, dtype=torch.float64))
        tensor(0.1000, dtype=torch.float64)
    """
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise ValueError(f"scale must be a number or a tensor with one element, found shape {tuple(scale.shape)}.")
    return torch.as_tensor(scale, device=like.device, dtype=like.dtype).reshape(())


def row_logsumexp(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    scale: float | Tensor,
    mask: PairMask | Bool[Tensor, "n m"] | None = None,
    normalize: bool = False,
    impl: str = "auto",
    recompute: bool | None = None,
) -> Float[Tensor, " n"]:
    """Logsumexp of every row's kept logits, ``lse_j(scale <x_i, y_j> + b_ij)``.

    Args:
        x: anchors [n, d], any float dtype; the result is float32, or float64 for float64 inputs.
        y: candidates [m, d]. Passing ``x`` itself halves the work where the mask is symmetric.
        scale: inverse temperature, a number or a tensor with one element; differentiable.
        mask: which pairs count and their biases, a `PairMask` or a bool matrix (True = kept).
        normalize: l2-normalise both sides first (norm in float32, floored at 1e-6).
        impl: ``"auto"``, ``"chunked"`` (linear memory, any device), ``"triton"`` (NVIDIA GPUs) or ``"reference"``
            (dense).
        recompute: compute scores again in the backward pass (True), or keep them, n m numbers of memory, for a faster
            one (False). None keeps them where they take less than 16 MB. Read by ``"chunked"`` only.

    Returns:
        [n]; -inf with zero gradient where a row keeps nothing.

    Raises:
        ValueError: for shapes that do not fit or an unknown ``impl``.
        TypeError: for integer vectors.

    Example:
        >>> x = torch.eye(3)
        >>> row_logsumexp(x, x, scale=1.0, mask=PairMask.exclude_self(3))
        tensor([0.6931, 0.6931, 0.6931])
    """
    with torch.autocast(x.device.type, enabled=False):
        module, x, y, options = _call(x, y, mask, normalize, impl, scale=scale)
        if module is chunked:
            options["recompute"] = recompute
        return module.row_logsumexp(x, y, **options)


def two_way_logsumexp(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    scale: float | Tensor,
    mask: PairMask | Bool[Tensor, "n m"] | None = None,
    normalize: bool = False,
    impl: str = "auto",
    recompute: bool | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Logsumexp of every row and of every column from one pass over the scores.

    Arguments and errors are those of `row_logsumexp`.

    Returns:
        [n] over columns and [m] over rows; -inf with zero gradient where nothing is kept.

    Example:
        >>> two_way_logsumexp(torch.eye(2), torch.eye(2)[:1], scale=0.0)
        (tensor([0., 0.]), tensor([0.6931]))
    """
    with torch.autocast(x.device.type, enabled=False):
        module, x, y, options = _call(x, y, mask, normalize, impl, scale=scale)
        if module is chunked:
            options["recompute"] = recompute
        return module.two_way_logsumexp(x, y, **options)


def logsumexp_and_kernel_attraction(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    u: Float[Tensor, "n e"],
    v: Float[Tensor, "m e"],
    *,
    scale: float | Tensor,
    relation_scale: float,
    mask: PairMask | None = None,
    target_mask: PairMask | None = None,
    normalize: bool = False,
    impl: str = "auto",
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Partition and soft target of side embeddings from one sweep; `kinfolk.graphs.KernelGraph` is its front door.

    Args:
        x: anchors [n, d].
        y: candidates [m, d].
        u: unit side embeddings of the anchors [n, e].
        v: unit side embeddings of the candidates [m, e].
        scale: ``s_ij = scale <x_i, y_j>``; differentiable.
        relation_scale: ``T_ij = softmax_j(relation_scale <u_i, v_j>)``, over what ``target_mask`` keeps.
        mask: which pairs enter the partition, and their biases.
        target_mask: which pairs the target is normalised over; its biases play no role.
        normalize: l2-normalise x and y first.
        impl: as in `row_logsumexp`; not ``"reference"``, where the two parts are two calls.

    Returns:
        ``lse_j(s_ij + b_ij)`` [n] and ``sum_j T_ij s_ij`` [n].

    Example:
        >>> x = torch.eye(2)
        >>> logsumexp_and_kernel_attraction(x, x, x, x, scale=1.0, relation_scale=0.0)
        (tensor([1.3133, 1.3133]), tensor([0.5000, 0.5000]))
    """
    with torch.autocast(x.device.type, enabled=False):
        module, x, y, options = _call(x, y, mask, normalize, impl, scale=scale)
        masks = {"target_mask": as_mask(target_mask, x.shape[0], y.shape[0]), "relation_scale": float(relation_scale)}
        precision = torch.float64 if x.dtype == torch.float64 else torch.float32
        side = u.to(precision)
        return module.logsumexp_and_kernel_attraction(
            x, y, side, side if v is u else v.to(precision), **options, **masks
        )


def row_softmax_mean(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    scale: float | Tensor,
    weight_scale: float,
    mask: PairMask | Bool[Tensor, "n m"] | None = None,
    detach_weights: bool = False,
    normalize: bool = False,
    impl: str = "auto",
) -> Float[Tensor, " n"]:
    """Mean of every row's kept scores under softmax weights, ``sum_j softmax_j(w s_ij + b_ij) s_ij``.

    Args:
        x: anchors [n, d].
        y: candidates [m, d].
        scale: ``s_ij = scale <x_i, y_j>``; differentiable.
        weight_scale: w; positive favours near, negative far candidates, 0 gives the plain mean.
        mask: which pairs count; a bias enters the weights only.
        detach_weights: let no gradient pass through the weights.
        normalize: l2-normalise both sides first.
        impl: as in `row_logsumexp`.

    Returns:
        [n]; 0 with zero gradient where a row keeps nothing.

    Example:
        >>> row_softmax_mean(torch.eye(2), torch.eye(2), scale=1.0, weight_scale=0.0)
        tensor([0.5000, 0.5000])
    """
    with torch.autocast(x.device.type, enabled=False):
        module, x, y, options = _call(x, y, mask, normalize, impl, scale=scale)
        return module.row_softmax_mean(x, y, weight_scale=float(weight_scale), detach_weights=detach_weights, **options)


def row_sum(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    fn: Function,
    scale: float | Tensor,
    row_shift: Float[Tensor, " n"] | None = None,
    mask: PairMask | Bool[Tensor, "n m"] | None = None,
    normalize: bool = False,
    impl: str = "auto",
) -> Float[Tensor, " n"]:
    """Sum of an elementwise function over every row's kept logits, ``sum_j fn(s_ij + b_ij - shift_i)``.

    Args:
        x: anchors [n, d].
        y: candidates [m, d].
        fn: ``"identity"``, ``"softplus"``, ``"square"`` or ``"exp"``.
        scale: ``s_ij = scale <x_i, y_j>``; differentiable.
        row_shift: [n], subtracted from a row's logits; differentiable.
        mask: which pairs count and their biases.
        normalize: l2-normalise both sides first.
        impl: as in `row_logsumexp`.

    Returns:
        [n]; 0 with zero gradient where a row keeps nothing.

    Example:
        >>> row_sum(torch.eye(2), torch.eye(2), fn="exp", scale=1.0)
        tensor([3.7183, 3.7183])
    """
    if fn not in reference.ELEMENTWISE:
        raise ValueError(f"fn must be one of {', '.join(reference.ELEMENTWISE)}, found {fn!r}.")
    if row_shift is not None and row_shift.shape != x.shape[:1]:
        raise ValueError(
            f"row_shift must have one entry per row of x {tuple(x.shape)}, found {tuple(row_shift.shape)}."
        )
    with torch.autocast(x.device.type, enabled=False):
        module, x, y, options = _call(x, y, mask, normalize, impl, scale=scale)
        shift = None if row_shift is None else row_shift.to(options["scale"].dtype)
        return module.row_sum(x, y, fn=fn, row_shift=shift, **options)


@torch.no_grad()
def row_topk(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    *,
    k: int,
    largest: bool = True,
    mask: PairMask | Bool[Tensor, "n m"] | None = None,
    normalize: bool = False,
    impl: str = "auto",
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return the k largest (or smallest) kept products of every row and their columns, best first; no gradient.

    Args:
        x: queries [n, d].
        y: candidates [m, d].
        k: how many, at least 1.
        largest: the largest products, otherwise the smallest.
        mask: which pairs count; a bias is added to the product.
        normalize: l2-normalise both sides first.
        impl: as in `row_logsumexp`.

    Returns:
        Values [n, k] and columns [n, k]; places that cannot be filled hold -inf (+inf for the smallest) and -1.

    Example:
        >>> row_topk(torch.eye(2), torch.eye(2), k=1, mask=PairMask.exclude_self(2))
        (tensor([[0.],
                [0.]]), tensor([[1],
                [0]]))
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}.")
    with torch.autocast(x.device.type, enabled=False):
        module, x, y, options = _call(x, y, mask, normalize, impl)
        return module.row_topk(x, y, k=k, largest=largest, **options)


def _call(x, y, mask, normalize, impl, *, scale=None):  # type: ignore[no-untyped-def]
    """What every primitive does first: check, choose, and prepare the vectors as the implementation wants them."""
    check(x, y)
    name = choose(impl, x)
    options: dict[str, Any] = {"mask": as_mask(mask, x.shape[0], y.shape[0])}
    if name == "triton":  # takes half precision as it is, and scales products by inverse norms
        options["normalize"] = normalize
    else:
        x, y = prepare(x, y, normalize=normalize)
    if scale is not None:
        options["scale"] = as_scale(scale, x if x.dtype == torch.float64 else x.new_empty(0, dtype=torch.float32))
    return implementation(name), x, y, options
