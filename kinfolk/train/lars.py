"""LARS: every layer steps in proportion to the size of its weights, so that very large batches can be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.train.optimizers import parameter_groups


@final
class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent with momentum whose rate is adapted to each layer.

    For an adapted parameter ``w`` with gradient ``g``: ``g' = g + weight_decay w``,
    ``rate = lr trust |w| / |g'|``, ``v = momentum v + rate g'``, ``w = w - v``. The rate is within the momentum, so
    that steps made at another learning rate keep their size. Where a norm is zero, and in groups with
    ``adapted=False``, the rate is ``lr``.

    Args:
        params: parameters, or groups of them; ``adapted`` of a group says whether its rates are.
        lr: learning rate.
        momentum: of the steps.
        weight_decay: added to the gradient.
        trust: share of a layer's norm that a step may have at a learning rate of 1.
        nesterov: step along the momentum as it will be.

    Reference: You, Gitman, Ginsburg (2017), Large Batch Training of Convolutional Networks.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = LARS([weight], lr=1.0, trust=0.1)
        >>> (100 * weight[0]).backward()
        >>> optimizer.step()
        >>> weight.detach()  # a tenth of the norm, whatever the size of the gradient
        tensor([2.5000, 4.0000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults | {"nesterov": nesterov, "adapted": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; a closure is called first, with gradient, and what it returns is handed on."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])  # type: ignore[union-attr]
        if group["adapted"]:
            gradient *= _rate(parameter, gradient, group["trust"])
        gradient *= group["lr"]
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity = state["velocity"].mul_(group["momentum"]).add_(gradient)
        if group["nesterov"]:
            gradient.add_(velocity, alpha=group["momentum"])
            parameter.sub_(gradient)
        else:
            parameter.sub_(velocity)


def _rate(weight: Tensor, gradient: Tensor, trust: float) -> Tensor:
    """Return ``trust |w| / |g|``, 1 where one of them is zero; a tensor, so that a GPU need not wait."""
    size, pull = weight.norm(), gradient.norm()
    return torch.where((size > 0) & (pull > 0), trust * size / pull, torch.ones_like(size))


@dataclass(frozen=True)
class LARSConfig:
    """LARS, for batches of a thousand samples and more; the defaults are those of SimCLR at batch 4,096.

    Biases, norm layers and other parameters of one dimension neither decay nor have their rate adapted. A step does not
    depend on the size of an adapted gradient, so clipping the gradient only touches those others.

    Reference:
        You, Gitman, Ginsburg, 2017, Large Batch Training of Convolutional Networks.
        Chen, Kornblith, Norouzi, Hinton, 2020, A Simple Framework for Contrastive Learning of Visual Representations.

    Example:
        >>> optimizer = LARSConfig().build(nn.Linear(4, 2))
        >>> [(group["weight_decay"], group["adapted"]) for group in optimizer.param_groups]
        [(0.0001, True), (0.0, False)]
    """

    kind: ClassVar[str] = "lars"
    learning_rate: float = 4.8
    """Peak learning rate, reached after the warm-up; SimCLR takes 0.075 times the root of the batch size."""
    weight_decay: float = 1e-4
    """Weight decay, added to the gradient; norm layers and biases never decay."""
    momentum: float = 0.9
    """Momentum of the steps."""
    trust: float = 0.001
    """Share of a layer's norm that a step may have at a learning rate of 1."""
    nesterov: bool = False
    """Look ahead along the momentum."""

    def __post_init__(self) -> None:
        for name, least in (("learning_rate", math.ulp(0.0)), ("trust", math.ulp(0.0)), ("weight_decay", 0.0)):
            if not least <= getattr(self, name) < math.inf:
                wanted = "0 or more" if least == 0 else "positive"
                raise ValueError(f"{name} must be {wanted}, found {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, found {self.momentum}")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer over the module's trainable parameters."""
        # parameter_groups gives those that decay and those that do not, in turn
        groups = parameter_groups(module, weight_decay=self.weight_decay)
        groups = [group | {"adapted": decays} for group, decays in zip(groups, cycle((True, False)), strict=False)]
        return LARS(groups, lr=self.learning_rate, momentum=self.momentum, trust=self.trust, nesterov=self.nesterov)
