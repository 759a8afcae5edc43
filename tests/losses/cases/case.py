"""A row of the table: a loss class with the options of one form of it, and random calls of any size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from definitions.loops import Loops
from torch import Generator, Tensor, nn

Arguments = list[Any]
Keywords = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of a loss: positional arguments (tensors, lists of tensors), keyword arguments, the loss's parameters.

    A keyword argument that can be called is called anew every time: a generator in a known state.
    """

    args: Arguments
    kwargs: Keywords = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor], positions: Sequence[int]) -> Call:
        """The same call with some positional tensors changed (every tensor of a list of views)."""
        args = [_apply(change, a) if i in positions else a for i, a in enumerate(self.args)]
        return replace(self, args=args)

    def map_parameters(self, change: Callable[[Tensor], Tensor], names: Sequence[str] | None = None) -> Call:
        """The same call with some parameters of the loss changed; None is all of them."""
        some = self.parameters if names is None else names
        return replace(self, parameters={k: change(p) if k in some else p for k, p in self.parameters.items()})

    def tensors(self, positions: Sequence[int]) -> list[Tensor]:
        """The tensors at these positions, and the parameters of the loss."""
        found = [self.args[i] for i in positions]
        return [t for a in found for t in (a if isinstance(a, list) else [a])] + list(self.parameters.values())

    def keywords(self) -> Keywords:
        return {k: v() if callable(v) else v for k, v in self.kwargs.items()}

    def of(self, loss: nn.Module) -> Tensor:
        """What the loss returns, with the parameters of this call in place of its own."""
        if not self.parameters:
            return loss(*self.args, **self.keywords())
        return torch.func.functional_call(loss, self.parameters, tuple(self.args), self.keywords())


def _apply(change: Callable[[Tensor], Tensor], argument: Any) -> Any:
    return [change(t) for t in argument] if isinstance(argument, list) else change(argument)


@dataclass(frozen=True)
class Case:
    """A loss class with the options of one form of it.

    Attributes:
        build: the class.
        options: hyper-parameters, given to the class and to the definition alike.
        inputs: a random call of n samples of width d.
        define: the definition in loops; takes a call's arguments and the options, and ``parameters=`` where the loss
            has some of its own.
        learnt: positions of the tensors that get gradient (a list of views counts as one position).
        anchors_per_sample: values of ``reduction="none"`` per sample, samples of a view following one another.
        minimum: fewest samples.
        constant: positions of tensors that never get gradient.
        swappable: two positions that may change places.
        permute: how a permutation of the samples changes the call; None permutes every tensor's rows.
        permutable: False where a permutation of the samples changes the value (random draws per row).
        pooled: no value per anchor; the definition gives one value for the batch.
        sized: hyper-parameters that depend on the call's shapes, such as ``dim``.
        parameters: the loss's own parameters by name, for a width d.
        unit: positions of tensors that are normalised inside; None is `learnt`.
        space: positions of tensors that a rotation turns together; None is `unit`.
        space_parameters: the loss's own parameters in that space.
        scores_only: whether the value depends on products over the temperature alone, so that doubled vectors at four
            times the temperature give the same.
        sharpen: how a call gets another temperature where that is an argument of the call.
        ids_of: position of the tensor whose rows the call's ids belong to.
    """

    build: type[nn.Module]
    options: Keywords
    inputs: Callable[[int, int, Generator], Call]
    define: Callable[..., Loops]
    learnt: tuple[int, ...]
    anchors_per_sample: int = 1
    minimum: int = 1
    constant: tuple[int, ...] = ()
    swappable: tuple[int, int] | None = None
    permute: Callable[[Call, Tensor], Call] | None = None
    permutable: bool = True
    pooled: bool = False
    sized: Callable[[Call], Keywords] | None = None
    parameters: Callable[[int, Generator], dict[str, Tensor]] | None = None
    unit: tuple[int, ...] | None = None
    space: tuple[int, ...] | None = None
    space_parameters: tuple[str, ...] = ()
    scores_only: bool = True
    sharpen: Callable[[Call, float], Call] | None = None
    ids_of: int = 0

    def make(self, call: Call | None = None, **common: Any) -> nn.Module:
        """The loss, in evaluation mode, of the size that a call needs (six samples of width four without one)."""
        sized = self.sized(call or self.random(max(6, self.minimum), 4)) if self.sized else {}
        return self.build(**{**self.options, **sized, **common}).eval()

    def value(self, call: Call, **common: Any) -> Tensor:
        """What a fresh loss returns for a call."""
        return call.of(self.make(call, **common))

    def random(self, n: int, d: int, dtype: torch.dtype = torch.float64, *, seed: int = 0) -> Call:
        """A random call of n samples whose tensors are leaves of the given dtype; the learnt ones require grad."""
        generator = torch.Generator().manual_seed(1000 * seed + 10 * n + d)
        call = self.inputs(n, d, generator)
        if self.parameters is not None:
            call = replace(call, parameters=self.parameters(d, generator))
        return self.leaves(call, dtype)

    def leaves(self, call: Call, dtype: torch.dtype = torch.float64) -> Call:
        """The same values in another precision, the learnt ones requiring grad."""
        call = call.map(lambda t: t.detach().to(dtype), self.learnt + self.constant)
        call = call.map(lambda t: t.requires_grad_(), self.learnt)
        return call.map_parameters(lambda p: p.detach().to(dtype).requires_grad_())

    def loops(self, call: Call, **options: Any) -> Loops:
        """What the definition says: values and which anchors have a target."""
        own = {"parameters": call.parameters} if call.parameters else {}
        sized = self.sized(call) if self.sized else {}
        return self.define(*call.args, **call.keywords(), **own, **{**self.options, **sized, **options})

    def permuted(self, call: Call, order: Tensor) -> Call:
        if self.permute is not None:
            return self.permute(call, order)
        kwargs = {k: v[order] if isinstance(v, Tensor) else v for k, v in call.kwargs.items()}
        moved = call.map(lambda t: t[order] if t.ndim else t, range(len(call.args)))
        return replace(moved, kwargs=kwargs)

    def anchor_order(self, order: Tensor) -> Tensor:
        return torch.cat([order + k * len(order) for k in range(self.anchors_per_sample)])

    @property
    def normalised(self) -> tuple[int, ...]:
        return self.learnt if self.unit is None else self.unit

    @property
    def rotated(self) -> tuple[int, ...]:
        return self.normalised if self.space is None else self.space

    @property
    def has_temperature(self) -> bool:
        return "temperature" in inspect.signature(self.build).parameters


@dataclass(frozen=True)
class Golden:
    """A published value on the fixture: of the loss, ``loss(impl=...)``, and of its definition."""

    expected: float
    loss: Callable[..., Tensor]
    loops: Callable[[], Loops]
