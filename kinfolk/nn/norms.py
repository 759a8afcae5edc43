"""Normalisation layers: the choice between batch and group norm, and batch norm over groups of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

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
        # The very same tensors, so that an optimiser built before keeps working.
        twin._parameters.update(module._parameters)
        twin._buffers.update(module._buffers)
        return twin.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, split_batch_norm(child, splits=splits))
    return module
