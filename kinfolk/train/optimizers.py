"""Optimizers, the learning-rate schedule, and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW: adaptive steps with decoupled weight decay; the default for small encoders.

    Reference:
        Loshchilov and Hutter, 2019, Decoupled Weight Decay Regularization.

    Example:
        >>> optimizer = AdamWConfig(learning_rate=1e-3).build(nn.Linear(4, 2))
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.0001, 0.0]
    """

    kind: ClassVar[str] = "adamw"
    learning_rate: float = 2e-3
    """Peak learning rate, reached after the warm-up."""
    weight_decay: float = 1e-4
    """Decoupled weight decay; norm layers and biases never decay."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.999
    """Decay of the second moment."""

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.weight_decay)

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer over the module's trainable parameters."""
        groups = parameter_groups(module, weight_decay=self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(self.beta1, self.beta2))


@dataclass(frozen=True)
class SGDConfig:
    """Stochastic gradient descent with momentum, as the contrastive papers use it on residual networks.

    Example:
        >>> SGDConfig(learning_rate=0.06).build(nn.Linear(4, 2)).param_groups[0]["momentum"]
        0.9
    """

    kind: ClassVar[str] = "sgd"
    learning_rate: float = 0.06
    """Peak learning rate, reached after the warm-up."""
    weight_decay: float = 5e-4
    """Weight decay, added to the gradient; norm layers and biases never decay."""
    momentum: float = 0.9
    """Momentum of the gradient."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.weight_decay)

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer over the module's trainable parameters."""
        groups = parameter_groups(module, weight_decay=self.weight_decay)
        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.nesterov)


def parameter_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not (biases, norm layers, scalars).

    Every parameter with fewer than two dimensions is a bias, a norm layer's scale or a temperature, so the number of
    dimensions decides. Frozen parameters (an EMA twin's) are left out; a shared one appears once. A module that has
    `rate_factors`, such as ``{"encoder": 0.1}``, gets two groups for every submodule that it names, and the training
    loop multiplies their learning rate by the group's ``rate_factor``. Where only the directions of a matrix's rows
    count, as of prototypes, the module names the submodules that hold such in `without_decay`, and none of it decays.

    Returns:
        Two groups for an optimizer, the decaying one first; then two for every named submodule.

    Example:
        >>> decay, plain = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), weight_decay=0.1)
        >>> len(decay["params"]), len(plain["params"])
        (1, 3)
    """
    factors: dict[str, float] = getattr(module, "rate_factors", {})
    spared = tuple(f"{name}." for name in getattr(module, "without_decay", ()))
    members: dict[tuple[str, bool], list[nn.Parameter]] = {
        (owner, decays): [] for owner in ("", *factors) for decays in (True, False)
    }
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            owner = next((prefix for prefix in factors if name.startswith(f"{prefix}.")), "")
            members[owner, parameter.ndim >= 2 and not name.startswith(spared)].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "rate_factor": factors.get(owner, 1.0),
        }
        for (owner, decays), parameters in members.items()
    ]


def cosine_schedule(step: int, *, total_steps: int, warmup_fraction: float) -> float:
    """Factor on the learning rate: a linear warm-up, then half a cosine down to zero, per optimizer step.

    Args:
        step: Number of steps already taken, from 0 to ``total_steps - 1``.
        total_steps: Steps of the whole run.
        warmup_fraction: Share of the steps that warm up, in [0, 1).

    Returns:
        A factor in (0, 1]. The first step is never 0, so no step is wasted; the last is just above it.

    Reference:
        Loshchilov and Hutter, 2017, SGDR: Stochastic Gradient Descent with Warm Restarts.

    Example:
        >>> [round(cosine_schedule(step, total_steps=6, warmup_fraction=1 / 3), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    warmup = round(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def _check(learning_rate: float, weight_decay: float) -> None:
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, found {learning_rate}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be 0 or more, found {weight_decay}")
