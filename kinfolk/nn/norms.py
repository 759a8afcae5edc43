"""Normalisation layers: batch or group norm, batch norm over groups of the batch, and batch norm over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from kinfolk import distributed

if TYPE_CHECKING:
    from jaxtyping import Float

Norm = Literal["batch", "group"]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation layer for a map of `channels` channels.

    Args:
        norm: `"batch"`, or `"group"` (up to 8 groups of at least 4 channels; each sample by itself, so nothing leaks
            between the samples of a batch and evaluation equals training).
        channels: channels of the map.

    Raises:
        ValueError: for any other `norm`.

    Example:
        >>> make_norm("group", 32).num_groups
        8
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        # A group needs several channels: on a 1x1 map a group of one channel has one value and normalises to zero.
        return nn.GroupNorm(next((g for g in (8, 4, 2) if channels % (4 * g) == 0), 1), channels)
    raise ValueError(f"norm must be 'batch' or 'group', found {norm!r}.")


class SplitBatchNorm(_BatchNorm):
    """Batch norm whose training statistics come from groups of the batch instead of the whole of it.

    One device then behaves like several that normalise on their own. With the keys in another order than the queries
    this keeps a momentum encoder from recognising its positive by shared batch statistics. The running statistics
    move once a step, towards the mean over the groups. In eval mode, and in its `state_dict`, this is ordinary batch
    norm: weights load into `nn.BatchNorm1d` and `nn.BatchNorm2d` and back.

    Args:
        num_features: channels.
        splits: number of groups; a batch too small for groups of 2 is split into fewer.
        eps, momentum, affine: as in `nn.BatchNorm2d`.

    Reference: He, Fan, Wu, Xie, Girshick (2020), Momentum Contrast for Unsupervised Visual Representation Learning.

    Example:
        >>> layer = SplitBatchNorm(1, splits=2)
        >>> layer(torch.tensor([[0.0], [2.0], [10.0], [30.0]])).flatten().round().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(
        self, num_features: int, *, splits: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=affine)
        self.splits = splits

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Normalise each group by its own statistics when training, everything by the running ones otherwise."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        groups = max(1, min(self.splits, len(input) // 2))
        means, variances = (s.expand(groups, -1).clone() for s in (self.running_mean, self.running_var))
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        parts = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, True, momentum, self.eps)
            for part, mean, variance in zip(input.tensor_split(groups), means, variances, strict=True)
        ]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        return torch.cat(parts)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected an input [b, {self.num_features}, ...], found {tuple(input.shape)}.")

    def extra_repr(self) -> str:
        """Show the number of groups beside batch norm's own settings."""
        return f"{super().extra_repr()}, splits={self.splits}"


def split_batch_norm(module: nn.Module, *, splits: int) -> nn.Module:
    """Replace every batch norm inside `module` by a `SplitBatchNorm` with the same parameters and statistics.

    Works in place and returns `module` (or the new layer, when `module` itself is a batch norm). Layers that keep no
    running statistics, and modules without batch norm, stay as they are.

    Example:
        >>> split_batch_norm(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), splits=8)[1].splits
        8
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, found {splits}.")
    if isinstance(module, _BatchNorm) and module.track_running_stats:
        twin = SplitBatchNorm(
            module.num_features, splits=splits, eps=module.eps, momentum=module.momentum, affine=module.affine
        )
        return _take_over(twin, module)
    for name, child in module.named_children():
        setattr(module, name, split_batch_norm(child, splits=splits))
    return module


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm whose training statistics are those of all ranks together; it runs on CPUs too.

    Count, sum and then the squares around the joint mean are summed over the ranks, so values, gradients and running
    statistics are those of one process on the joined batch, also for unequal and empty local batches. It takes two
    collectives forward and one backward, so every rank must run the layer equally often. With one process, in eval
    mode and in its `state_dict` this is ordinary batch norm.

    The statistics are float32 whatever the input's type (float64 for float64). One value per channel over all ranks
    has no spread: it is normalised to 0.

    Args:
        num_features: channels.
        eps, momentum, affine, track_running_stats: as in `nn.BatchNorm2d`.

    Example:
        >>> layer = SynchronisedBatchNorm(1)
        >>> layer(torch.tensor([[0.0], [2.0]])).flatten().round().tolist()
        [-1.0, 1.0]
    """

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Normalise by the statistics of all ranks when training, by the running ones otherwise."""
        self._check_input_dim(input)
        if distributed.world_size() == 1 or not (self.training or self.running_mean is None):
            return super().forward(input)
        out, mean, variance, count = _JointBatchNorm.apply(input, self.weight, self.bias, self.eps)
        if self.training and self.running_mean is not None:
            self._track(mean, variance * count / (count - 1).clamp(min=1))
        return out

    @torch.no_grad()
    def _track(self, mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(variance.to(self.running_var), momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"expected an input [b, {self.num_features}, ...], found {tuple(input.shape)}.")


class _JointBatchNorm(torch.autograd.Function):
    """Batch norm over all ranks; it keeps the input, two vectors and no map of its own for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        others = [d for d in range(x.ndim) if d != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        local = wide.new_tensor([x.numel() // x.shape[1]])
        # The second sum is around the joint mean: the difference of two large sums would lose a small variance.
        count, total = distributed.all_reduce(torch.cat([local, wide.sum(others)])).split([1, x.shape[1]])
        mean = total / count.clamp(min=1)
        variance = distributed.all_reduce((wide - _wide_as(mean, x)).square().sum(others)) / count.clamp(min=1)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        out = (wide - _wide_as(mean, x)) * _wide_as(scale if weight is None else scale * weight, x)
        out = out if bias is None else out + _wide_as(bias, x)
        ctx.mark_non_differentiable(mean, variance, count)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        others = [d for d in range(x.ndim) if d != 1]
        grad = grads[0].to(mean.dtype)
        unit = (x.to(mean.dtype) - _wide_as(mean, x)) * _wide_as(scale, x)
        grad_bias, grad_weight = grad.sum(others), (grad * unit).sum(others)
        # What flows through the statistics comes from every rank; parameters keep the local part for DDP's mean.
        mean_grad, mean_pull = (
            distributed.all_reduce(torch.stack([grad_bias, grad_weight])) / count.clamp(min=1)
        ).unbind()
        slope = scale if weight is None else scale * weight
        grad_x = (grad - _wide_as(mean_grad, x) - unit * _wide_as(mean_pull, x)) * _wide_as(slope, x)
        if weight is None:
            return grad_x.to(x.dtype), None, None, None
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _wide_as(values: Float[Tensor, " c"], x: Float[Tensor, "b c ..."]) -> Float[Tensor, "1 c ..."]:
    """Shape one number per channel so that it broadcasts over `x`."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside `module` by a `SynchronisedBatchNorm` with the same parameters and statistics.

    Works in place and returns `module` (or the new layer, when `module` itself is a batch norm). `SplitBatchNorm`
    stays: its statistics are meant to be local. Call it before an optimiser or a data-parallel wrapper is made, or
    after; the parameters are the very same tensors.

    Example:
        >>> type(synchronise_batch_norm(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)))[1]).__name__
        'SynchronisedBatchNorm'
    """
    if isinstance(module, SplitBatchNorm | SynchronisedBatchNorm):
        return module
    if isinstance(module, _BatchNorm):
        twin = SynchronisedBatchNorm(
            module.num_features,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
        )
        return _take_over(twin, module)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batch_norm(child))
    return module


def _take_over(twin: _BatchNorm, module: _BatchNorm) -> _BatchNorm:
    """Give a new layer the very same tensors as an old one, so that an optimiser built before keeps working."""
    twin._parameters.update(module._parameters)
    twin._buffers.update(module._buffers)
    return twin.train(module.training)
