"""What every loss module shares: its options, its checks and the mean over the anchors that have a target."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from kinfolk.distributed import Gather, Ranks, all_reduce, world_size
from kinfolk.ops import Impl, PairMask, choose, integer_ids, prepare

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Reduction = Literal["mean", "sum", "none"]
"""``"mean"`` over valid anchors, their ``"sum"``, or one value per anchor."""

_warned = False


class Loss(nn.Module, ABC):
    """A loss over one set of anchors: options in the constructor, tensors in the call.

    Over W processes, "mean" returns W / (valid anchors of all) times the sum over the own anchors, and "sum" W times
    that sum: their mean over processes, which is also what DDP makes of the gradients, is the loss of the joined batch.
    "none" is local and not scaled.

    Args:
        reduction: ``"mean"`` over the anchors that have a target, ``"sum"``, or ``"none"`` (exactly 0 for the others).
        normalize: l2-normalise the vectors inside, with norms in float32 floored at 1e-6.
        gather: contrast with the candidates of all processes, gathered with gradient. ``"ring"`` lets them visit one
            rank's at a time, for keys too many to hold at once. False stays within each process.
        impl: ``"auto"``, ``"chunked"`` or ``"reference"``; changes speed and memory, not the value.
    """

    def __init__(
        self, *, reduction: Reduction = "mean", normalize: bool = True, gather: Gather = True, impl: Impl = "auto"
    ) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, found {reduction!r}.")
        if gather not in (True, False, "ring"):
            raise ValueError(f'gather must be True, False or "ring", found {gather!r}.')
        choose(impl, torch.empty(0))
        self.reduction, self.normalize, self.gather, self.impl = reduction, normalize, gather, impl

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the reduced loss."""

    def reduce(self, values: Float[Tensor, " n"], valid: Bool[Tensor, " n"], *, warn: bool = True) -> Tensor:
        """Reduce one value per anchor over the valid ones of all ranks; without any, a zero that still has a graph.

        ``warn=False`` where a term without anchors is nothing unusual.
        """
        values = values.where(valid, torch.zeros_like(values))
        if self.reduction == "none":
            return values
        world = world_size() if self.gather else 1
        count = valid.sum() if world == 1 else all_reduce(valid.sum())
        if warn and not torch.compiler.is_compiling() and not int(count):
            _warn_once(type(self).__name__)
        return world * values.sum() / count.clamp(min=1) if self.reduction == "mean" else world * values.sum()

    def extra_repr(self) -> str:
        """Return the options."""
        numbers = [f"{k}={v}" for k, v in vars(self).items() if k[0] != "_" and isinstance(v, int | float | str)]
        return ", ".join(text for text in numbers if not text.startswith("training"))


class PooledLoss(Loss):
    """A loss that is not one mean over one set of anchors, and so has no value per anchor.

    Args:
        reduction: ``"mean"``, or ``"sum"`` over the same terms.
        normalize, gather, impl: as in `Loss`.
    """

    def __init__(
        self, *, reduction: Reduction = "mean", normalize: bool = True, gather: Gather = True, impl: Impl = "auto"
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        if reduction == "none":
            raise ValueError(
                f'{type(self).__name__} is not one mean over one set of anchors: reduction must be "mean" or "sum", '
                'found "none".'
            )


def _warn_once(name: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"{name}: no anchor in this batch has a target, so the loss is 0; check labels, ids and masks.",
            RuntimeWarning,
            stacklevel=4,
        )


def positive(value: float | Tensor, name: str = "temperature") -> float | Tensor:
    """Check a temperature, a number or a tensor with one element (learnable).

    Raises:
        ValueError: unless it is positive.

    Example:
        >>> positive(0.1)
        0.1
    """
    one_number(value, name)
    if isinstance(value, Tensor) and torch.compiler.is_compiling():
        return value
    number = float(value.detach()) if isinstance(value, Tensor) else value
    if not number > 0:
        raise ValueError(f"{name} must be positive, found {number}.")
    return value


def inverse(temperature: float | Tensor) -> float | Tensor:
    """Return the factor on scores that a temperature stands for, in float32 at least.

    Example:
        >>> inverse(torch.tensor(0.0130, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    temperature = positive(temperature)
    if isinstance(temperature, Tensor):
        temperature = (temperature.float() if temperature.element_size() < 4 else temperature).reshape(())
    return 1 / temperature


def one_number(value: float | Tensor, name: str) -> float | Tensor:
    """Check a scale or bias of logits, a number or a tensor with one element (learnable).

    Example:
        >>> one_number(torch.zeros(6), "logit_scale")
        Traceback (most recent call last):
            ...
        ValueError: logit_scale must be a number or a tensor with one element, found shape (6,).
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} must be a number or a tensor with one element, found shape {tuple(value.shape)}.")
    return value


def same_shape(**tensors: Tensor) -> None:
    """Check that vectors which belong together are matrices of one shape.

    Example:
        >>> same_shape(z0=torch.zeros(2, 3), z1=torch.zeros(3, 3))
        Traceback (most recent call last):
            ...
        ValueError: z0 and z1 must be [n, d] of one shape, row k of each belonging to sample k; found (2, 3), (3, 3).
    """
    shapes = [tuple(t.shape) for t in tensors.values()]
    if len(set(shapes)) > 1 or any(len(shape) != 2 for shape in shapes):
        raise ValueError(
            f"{' and '.join(tensors)} must be [n, d] of one shape, row k of each belonging to sample k; "
            f"found {', '.join(map(str, shapes))}."
        )


def one_per_row(labels: Tensor, rows: Tensor, name: str = "labels") -> None:
    """Check that there is one label or id per row.

    Example:
        >>> one_per_row(torch.zeros(2), torch.zeros(4, 8))
        Traceback (most recent call last):
            ...
        ValueError: labels must have one entry per row: rows (4, 8), labels (2,); repeat them once per view.
    """
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{name} must have one entry per row: rows {tuple(rows.shape)}, {name} {tuple(labels.shape)}; "
            "repeat them once per view."
        )


def own_scores(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], *, normalize: bool) -> Float[Tensor, " n"]:
    """Return the product of every row with its partner, in float32 at least, as the primitives compute it.

    Example:
        >>> own_scores(torch.eye(2).half(), torch.eye(2).half(), normalize=True)
        tensor([1., 1.])
    """
    return torch.linalg.vecdot(*prepare(x, y, normalize=normalize))


def checked_ids(ids: Int[Tensor, " n"] | None, rows: Tensor) -> Int[Tensor, " n"] | None:
    """Check that there is one integer id per sample, where ids are given.

    Example:
        >>> checked_ids(torch.tensor([3, 4], dtype=torch.int16), torch.zeros(2, 8))
        tensor([3, 4])
    """
    if ids is None:
        return None
    ids = integer_ids(ids)
    if ids.shape != rows.shape[:1]:
        raise ValueError(f"ids must have one entry per sample: rows {tuple(rows.shape)}, ids {tuple(ids.shape)}.")
    return ids.to(rows.device)


def other_samples(
    ids: Int[Tensor, " n"] | None,
    ranks: Ranks,
    *,
    device: torch.device | None = None,
    views: int = 1,
    partners: bool = True,
) -> tuple[PairMask, bool]:
    """Return the mask that drops a row's own place, and what the batch knows to be the same sample.

    The rows of a rank are its samples' views, view after view. ``partners=False`` drops a sample's own views even where
    no id occurs twice; otherwise they stay as long as nothing else has to leave.

    Args:
        ids: this rank's sample ids, checked; -1 equals nothing.
        ranks: over the rows.
        device: where the rows are.
        views: rows per sample.
        partners: whether the own other views stay candidates where no sample occurs twice.

    Returns:
        The mask [rows of this rank, rows of all], and whether it dropped the own views.

    Example:
        >>> ranks = Ranks(sizes=(4,))
        >>> other_samples(None, ranks, views=2)
        (PairMask(4 x 4: keeps 12 of 16 pairs; drops self), False)
        >>> other_samples(torch.tensor([5, 5]), ranks, views=2)[0].to_dense().any()
        tensor(False)
    """
    sample = None if ids is None else ids.repeat(views)
    samples = None if sample is None else ranks.gather(sample)
    repeated = samples is not None and occurs_more_than(samples, views)
    leave = repeated or not partners
    if views == 1 or not leave:
        mask = PairMask.exclude_self(ranks.sizes[ranks.rank], ranks.total, offset=ranks.offset)
    else:  # own views leave by place, so that those of a sample whose id is -1 leave as well
        places = torch.cat([_places(ranks, r, views, device) for r in range(ranks.world)])
        mask = PairMask.exclude(places if ranks.world == 1 else places[slice(*ranks.span(ranks.rank))], places)
    if sample is not None and samples is not None and repeated:
        mask = mask & PairMask.exclude(sample, samples)
    return mask, leave


def occurs_more_than(ids: Int[Tensor, " n"], times: int) -> bool:
    """Whether any id but -1 occurs more often than that.

    Example:
        >>> occurs_more_than(torch.tensor([7, 7, -1, -1]), 1), occurs_more_than(torch.tensor([7, 8, -1, -1]), 1)
        (True, False)
    """
    counts = torch.unique(ids[ids != -1], return_counts=True)[1]
    return bool((counts > times).any())


def _places(ranks: Ranks, of: int, views: int, device: torch.device | None) -> Int[Tensor, " n"]:
    """A number per sample of a rank that no other sample of any rank has, once per view."""
    start, stop = ranks.span(of)
    return torch.arange(start // views, stop // views, device=device).repeat(views)


def softplus(x: Tensor) -> Tensor:
    """Return ``log(1 + e^x)``, exact at any size and 0 with zero gradient at -inf.

    Example:
        >>> softplus(torch.tensor([-float("inf"), 100.0]))
        tensor([  0., 100.])
    """
    return torch.logaddexp(x, torch.zeros_like(x))
