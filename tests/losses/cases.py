"""One row per loss and form: how it is built, called, defined by loops, permuted. The battery runs over this table.

A call is a list of positional arguments (tensors, a list of views, a graph as a dense tensor) and keyword arguments.
`learnt` and `constant` name the tensors by position; a list of views counts as one position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import definitions
import torch
from definitions import Loops
from torch import Generator, Tensor, nn

from kinfolk import losses

Arguments = list[Any]
Keywords = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a loss."""

    args: Arguments
    kwargs: Keywords = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor], positions: Sequence[int]) -> Call:
        """The same call with some positional tensors changed (every tensor of a list of views)."""
        args = [_apply(change, a) if i in positions else a for i, a in enumerate(self.args)]
        return Call(args, self.kwargs)

    def tensors(self, positions: Sequence[int]) -> list[Tensor]:
        found = [self.args[i] for i in positions]
        return [t for a in found for t in (a if isinstance(a, list) else [a])]


def _apply(change: Callable[[Tensor], Tensor], argument: Any) -> Any:
    return [change(t) for t in argument] if isinstance(argument, list) else change(argument)


@dataclass(frozen=True)
class Case:
    """A loss class with the options of one form of it."""

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
    defined_by: Callable[[Call], Call] = lambda call: call

    def make(self, **common: Any) -> nn.Module:
        return self.build(**{**self.options, **common})

    def random(self, n: int, d: int, dtype: torch.dtype = torch.float64, *, seed: int = 0) -> Call:
        """A random call of n samples whose tensors are leaves of the given dtype; the learnt ones require grad."""
        generator = torch.Generator().manual_seed(1000 * seed + 10 * n + d)
        call = self.inputs(n, d, generator).map(lambda t: t.to(dtype), self.learnt + self.constant)
        return call.map(lambda t: t.requires_grad_(), self.learnt)

    def loops(self, call: Call, **options: Any) -> Loops:
        call = self.defined_by(call)
        return self.define(*call.args, **call.kwargs, **{**self.options, **options})

    def permuted(self, call: Call, order: Tensor) -> Call:
        if self.permute is not None:
            return self.permute(call, order)
        kwargs = {k: v[order] for k, v in call.kwargs.items()}
        return Call(call.map(lambda t: t[order] if t.ndim else t, range(len(call.args))).args, kwargs)

    def anchor_order(self, order: Tensor) -> Tensor:
        return torch.cat([order + k * len(order) for k in range(self.anchors_per_sample)])


def vectors(n: int, d: int, generator: Generator) -> Tensor:
    """Rows of different lengths, so that a missing normalisation shows."""
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x * (0.5 + torch.rand(n, 1, generator=generator, dtype=torch.float64))


def some_labels(n: int, generator: Generator, *, low: int = -1) -> Tensor:
    return torch.randint(low, 3, (n,), generator=generator)


def duplicate_ids(n: int) -> Tensor:
    """Sample 1 is sample 0 again, the last two are not known (-1), all others are themselves."""
    ids = torch.arange(n).clamp_min(1) + 4
    ids[5:][-2:] = -1
    return ids


def _two_views(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, d, generator)])


def _two_views_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_two_views(n, d, generator).args, {"ids": duplicate_ids(n)})


def _queue(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, d, generator), vectors(11, d, generator)])


def _queue_excluding_labels(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"exclude": (some_labels(n, generator), some_labels(11, generator))})


def _queue_excluding_pairs(n: int, d: int, generator: Generator) -> Call:
    return Call(_queue(n, d, generator).args, {"exclude": torch.rand(n, 11, generator=generator) < 0.5})


def _permute_queue_call(call: Call, order: Tensor) -> Call:
    queries, keys, queue = call.args
    exclude = call.kwargs.get("exclude")
    if isinstance(exclude, tuple):
        exclude = (exclude[0][order], exclude[1])
    elif exclude is not None:
        exclude = exclude[order]
    return Call([queries[order], keys[order], queue], {} if exclude is None else {"exclude": exclude})


def _labelled(n: int, d: int, generator: Generator) -> Call:
    labels = some_labels(n, generator)
    labels[:2] = 1  # at least one pair of rows is an anchor
    return Call([vectors(n, d, generator), labels])


def _labelled_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_labelled(n, d, generator).args, {"ids": torch.randint(0, max(1, n // 2), (n,), generator=generator)})


def _with_side(n: int, d: int, generator: Generator) -> Call:
    return Call([vectors(n, d, generator), vectors(n, 4, generator)])


def _rectangular_graph(n: int, d: int, generator: Generator) -> Call:
    m = n + 2
    weights = torch.rand(n, m, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(n, m, generator=generator) < 0.5)
    return Call([vectors(n, d, generator), vectors(m, d, generator), weights])


def _masked_graph(n: int, d: int, generator: Generator) -> Call:
    call = _rectangular_graph(n, d, generator)
    return Call(call.args, {"mask": torch.rand(n, n + 2, generator=generator) < 0.7})


def _permute_graph_call(call: Call, order: Tensor) -> Call:
    queries, keys, weights = call.args
    return Call([queries[order], keys, weights[order]], {k: v[order] for k, v in call.kwargs.items()})


def _views(count: int) -> Callable[[int, int, Generator], Call]:
    return lambda n, d, generator: Call([[vectors(n, d, generator) for _ in range(count)]])


def _views_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_views(3)(n, d, generator).args, {"ids": duplicate_ids(n)})


def _cacr(
    views: list[Tensor], *, attraction: str = "contrastive", repulsion: str = "contrastive", **options: Any
) -> Loops:
    if attraction == "uniform":
        options["t_pos"] = None
    if repulsion == "uniform":
        options["t_neg"] = None
    return definitions.cacr(views, **options)


def _pairs_at_scale(n: int, d: int, generator: Generator) -> Call:
    return Call([*_two_views(n, d, generator).args, torch.tensor(7.5, dtype=torch.float64)])


def _pairs_at_scale_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_pairs_at_scale(n, d, generator).args, {"ids": duplicate_ids(n)})


def _clip(image: Tensor, text: Tensor, logit_scale: Tensor, ids: Tensor | None = None) -> Loops:
    return definitions.clip(image, text, logit_scale=logit_scale.double(), ids=ids)


def _two_view_case(build: type[nn.Module], define: Callable[..., Loops], *, ids: bool = False, **options: Any) -> Case:
    n = 3 if ids else 2 if build is losses.DCLLoss else 1
    inputs = _two_views_with_ids if ids else _two_views
    return Case(build, options, inputs, define, (0, 1), anchors_per_sample=2, minimum=n, swappable=(0, 1))


def _queue_case(inputs: Callable[[int, int, Generator], Call]) -> Case:
    options = {"temperature": 0.2}
    return Case(
        losses.InfoNCELoss, options, inputs, definitions.infonce, (0,), constant=(1, 2), permute=_permute_queue_call
    )


def _supcon_case(inputs: Callable[[int, int, Generator], Call], form: str) -> Case:
    return Case(losses.SupConLoss, {"temperature": 0.15, "form": form}, inputs, definitions.supcon, (0,))


def _graph_case(inputs: Callable[[int, int, Generator], Call]) -> Case:
    options = {"temperature": 0.25}
    define = definitions.graph_contrastive
    return Case(
        losses.GraphContrastiveLoss, options, inputs, define, (0, 1), constant=(2,), permute=_permute_graph_call
    )


def _cacr_case(inputs: Callable[[int, int, Generator], Call], *, minimum: int = 2, **options: Any) -> Case:
    return Case(losses.CACRLoss, options, inputs, _cacr, (0,), minimum=minimum)


CASES: dict[str, Case] = {
    "NTXent": _two_view_case(losses.NTXentLoss, definitions.ntxent, temperature=0.15),
    "NTXent, ids": _two_view_case(losses.NTXentLoss, definitions.ntxent, ids=True, temperature=0.15),
    "DCL": _two_view_case(losses.DCLLoss, definitions.dcl, temperature=0.15),
    "DCL, ids": _two_view_case(losses.DCLLoss, definitions.dcl, ids=True, temperature=0.15),
    "DCLW": _two_view_case(losses.DCLLoss, definitions.dcl, temperature=0.15, sigma=0.4),
    "DCLW, attached": _two_view_case(
        losses.DCLLoss, definitions.dcl, temperature=0.15, sigma=0.4, detach_weights=False
    ),
    "InfoNCE": _queue_case(_queue),
    "InfoNCE, excluded labels": _queue_case(_queue_excluding_labels),
    "InfoNCE, excluded pairs": _queue_case(_queue_excluding_pairs),
    "SupCon out": _supcon_case(_labelled, "out"),
    "SupCon in": _supcon_case(_labelled, "in"),
    "SupCon out, ids": _supcon_case(_labelled_with_ids, "out"),
    "SupCon in, ids": _supcon_case(_labelled_with_ids, "in"),
    "XSample": Case(
        losses.XSampleLoss,
        {"temperature": 0.15, "graph_temperature": 0.3},
        _with_side,
        definitions.xsample,
        (0,),
        constant=(1,),
    ),
    "GraphContrastive": _graph_case(_rectangular_graph),
    "GraphContrastive, masked": _graph_case(_masked_graph),
    "CACR": _cacr_case(_views(3)),
    "CACR, one positive": _cacr_case(_views(2), t_pos=0.7, t_neg=0.9, alpha=0.5, beta=2.0),
    "CACR, detached": _cacr_case(_views(4), detach_weights=True),
    "CACR, uniform attraction": _cacr_case(_views(3), attraction="uniform"),
    "CACR, uniform repulsion": _cacr_case(_views(3), repulsion="uniform"),
    "CACR, ids": _cacr_case(_views_with_ids, minimum=3),
    "CLIP": Case(losses.CLIPLoss, {}, _pairs_at_scale, _clip, (0, 1, 2), swappable=(0, 1)),
    "CLIP, ids": Case(losses.CLIPLoss, {}, _pairs_at_scale_with_ids, _clip, (0, 1, 2), minimum=3, swappable=(0, 1)),
}


def classes_without_a_case(module: Any, cases: dict[str, Case]) -> set[str]:
    """Public loss classes of a module that no row of the table builds."""
    public = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    modules = {name for name in public if issubclass(getattr(module, name), nn.Module)}
    return modules - {case.build.__name__ for case in cases.values()}
