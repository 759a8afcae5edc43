"""Losses of any number of views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fixture
import torch
from definitions import views as definitions
from definitions.loops import Loops
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import duplicate_ids, two_views, two_views_with_ids, vectors, views, views_with_ids
from kinfolk import losses
from kinfolk.losses.fnc import fnc_given


def _cacr(
    views: list[Tensor], *, attraction: str = "contrastive", repulsion: str = "contrastive", **options: Any
) -> Loops:
    if attraction == "uniform":
        options["t_pos"] = None
    if repulsion == "uniform":
        options["t_neg"] = None
    return definitions.cacr(views, **options)


def _cacr_case(inputs: Callable[[int, int, Generator], Call], *, minimum: int = 2, **options: Any) -> Case:
    return Case(losses.CACRLoss, options, inputs, _cacr, (0,), minimum=minimum, scores_only=False)


def _views_and_support(n: int, d: int, generator: Generator) -> Call:
    return Call([[vectors(n, d, generator) for _ in range(3)], [vectors(n, d, generator) for _ in range(2)]])


def _fnc_case(inputs: Callable[[int, int, Generator], Call], count: int, *, minimum: int = 1, **options: Any) -> Case:
    options = {"temperature": 0.15, "top_k": 3, "threshold": 0.3, **options}
    support = (1,) if inputs is _views_and_support else ()
    return Case(
        losses.FNCLoss,
        options,
        inputs,
        definitions.fnc,
        (0,),
        anchors_per_sample=count,
        minimum=minimum,
        constant=support,
        unit=(0, *support),
        scores_only=False,
    )


def _online_and_target(online: int, target: int, *, ids: bool = False) -> Callable[[int, int, Generator], Call]:
    def inputs(n: int, d: int, generator: Generator) -> Call:
        args = [[vectors(n, d, generator) for _ in range(count)] for count in (online, target)]
        return Call(args, {"ids": duplicate_ids(n)} if ids else {})

    return inputs


def _target_case(
    build: Any, define: Callable[..., Loops], inputs: Callable[[int, int, Generator], Call], **more: Any
) -> Case:
    fields = {"pooled", "minimum", "scores_only"}
    options = {"temperature": 0.2, **{k: v for k, v in more.items() if k not in fields}}
    rest = {k: v for k, v in more.items() if k in fields}
    return Case(build, options, inputs, define, (0,), constant=(1,), unit=(0, 1), **rest)


def _renyi_case(inputs: Callable[[int, int, Generator], Call], *, minimum: int = 2, **options: Any) -> Case:
    define = definitions.renyi_cl
    return _target_case(losses.RenyiCLLoss, define, inputs, pooled=True, minimum=minimum, **options)


def _perceptrons(d: int, generator: Generator) -> dict[str, Tensor]:
    shapes = {"hidden_weight": (5, 4, d), "hidden_bias": (5, 4), "weight": (5, 4), "bias": (5,)}
    return {
        f"networks.{name}": torch.randn(*shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def _bregman(z0: Tensor, z1: Tensor, *, parameters: dict[str, Tensor], **options: Any) -> Loops:
    own = {name.removeprefix("networks."): value for name, value in parameters.items()}
    return definitions.bregman(z0, z1, parameters=own, **options)


def _bregman_case(inputs: Callable[[int, int, Generator], Call], *, minimum: int = 1) -> Case:
    return Case(
        losses.BregmanLoss,
        {"networks": 5, "hidden": 4, "sigma": 0.7, "temperature": 0.2, "weight": 0.8},
        inputs,
        _bregman,
        (0, 1),
        anchors_per_sample=2,
        minimum=minimum,
        swappable=(0, 1),
        sized=lambda call: {"dim": call.args[0].shape[1]},
        parameters=_perceptrons,
        space_parameters=("networks.hidden_weight",),
        scores_only=False,
    )


CASES = {
    "CACR": _cacr_case(views(3)),
    "CACR, one positive": _cacr_case(views(2), t_pos=0.7, t_neg=0.9, alpha=0.5, beta=2.0),
    "CACR, detached": _cacr_case(views(4), detach_weights=True),
    "CACR, uniform attraction": _cacr_case(views(3), attraction="uniform"),
    "CACR, uniform repulsion": _cacr_case(views(3), repulsion="uniform"),
    "CACR, ids": _cacr_case(views_with_ids, minimum=3),
    "CMC": Case(losses.CMCLoss, {"temperature": 0.15}, views(3), definitions.cmc, (0,)),
    "CMC, core": Case(losses.CMCLoss, {"temperature": 0.15, "core": 1}, views(4), definitions.cmc, (0,)),
    "CMC, ids": Case(losses.CMCLoss, {"temperature": 0.15}, views_with_ids, definitions.cmc, (0,), minimum=3),
    "FNC": _fnc_case(views(2), 2),
    "FNC, eliminate with support": _fnc_case(_views_and_support, 3, mode="eliminate"),
    "FNC, ids": _fnc_case(views_with_ids, 3, minimum=3),
    "FNC, eliminate with ids": _fnc_case(views_with_ids, 3, minimum=3, mode="eliminate"),
    "ReLIC": _target_case(losses.ReLICLoss, definitions.relic, _online_and_target(2, 2), alpha=0.7, beta=1.5),
    "ReLIC, small crops": _target_case(losses.ReLICLoss, definitions.relic, _online_and_target(4, 3)),
    "ReLIC, ids": _target_case(
        losses.ReLICLoss, definitions.relic, _online_and_target(3, 2, ids=True), minimum=3, beta=0.8
    ),
    "RenyiCL": _renyi_case(_online_and_target(2, 2), alpha=0.1),
    "RenyiCL, small crops": _renyi_case(_online_and_target(3, 2), gamma=1.5, alpha=0.05),
    "RenyiCL, gamma 1": _renyi_case(_online_and_target(2, 2), gamma=1.0, alpha=0.1),
    "RenyiCL, ids": _renyi_case(_online_and_target(2, 2, ids=True), minimum=3, alpha=0.0),
    "Bregman": _bregman_case(two_views),
    "Bregman, ids": _bregman_case(two_views_with_ids, minimum=3),
}

_VIEWS = [fixture.z(0), fixture.z(1), fixture.z(2)]
_SAME_CLASS = [[j for j in range(12) if j % 6 != i and j % 6 // 2 == i // 2] for i in range(6)]


def _fnc_golden(expected: float, mode: Any) -> Golden:
    options = {"top_k": 3, "threshold": 0.5, "mode": mode}
    return Golden(
        expected,
        lambda **more: losses.FNCLoss(**options, **more)(_VIEWS[:2]),
        lambda: definitions.fnc(_VIEWS[:2], temperature=0.1, **options),
    )


def _fnc_oracle(expected: float, mode: Any) -> Golden:
    """Every row of the same class is known to be a false negative."""
    return Golden(
        expected,
        lambda **more: fnc_given(_VIEWS[:2], torch.tensor(_SAME_CLASS), mode=mode, **more)[0].mean(),
        lambda: definitions.fnc(_VIEWS[:2], temperature=0.1, mode=mode, found=_SAME_CLASS),
    )


_ONLINE, _TARGET = [fixture.rows(3), fixture.rows(4)], _VIEWS[:2]


def _relic_golden(expected: float, online: list[Tensor]) -> Golden:
    return Golden(
        expected,
        lambda **options: losses.ReLICLoss(**options)(online, _TARGET),
        lambda: definitions.relic(online, _TARGET, temperature=0.1),
    )


def _renyi_golden(expected: float, gamma: float) -> Golden:
    return Golden(
        expected,
        lambda **options: losses.RenyiCLLoss(gamma=gamma, **options)(_ONLINE, _TARGET),
        lambda: definitions.renyi_cl(_ONLINE, _TARGET, temperature=0.5, gamma=gamma),
    )


def linear_networks(**options: Any) -> losses.BregmanLoss:
    """The loss whose networks are f_k(z) = <z, w_k> for the rows w_k of the fixture: w z = relu(w z) - relu(-w z)."""
    loss = losses.BregmanLoss(5, networks=4, hidden=2, **options).double().eval()
    rows = fixture.rows(13, 4)
    with torch.no_grad():
        loss.networks.hidden_weight.copy_(torch.stack([rows, -rows], 1))
        loss.networks.weight.copy_(torch.tensor([1.0, -1.0]).expand(4, 2))
        loss.networks.hidden_bias.zero_()
        loss.networks.bias.zero_()
    return loss


def _bregman_linear(weight: float) -> Loops:
    own = {name: value.detach() for name, value in linear_networks().named_parameters()}
    return _bregman(_VIEWS[0], _VIEWS[1], parameters=own, temperature=0.1, weight=weight)


def _bregman_alone() -> Loops:
    with_term, without = _bregman_linear(1.0), _bregman_linear(0.0)
    return with_term[0] - without[0], with_term[1]


GOLDEN = {
    "CACR": Golden(
        -1.1703538625,
        lambda **options: losses.CACRLoss(**options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS),
    ),
    "CACR, attraction alone": Golden(
        0.2787751993,
        lambda **options: losses.CACRLoss(beta=0.0, **options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS, beta=0.0),
    ),
    "CACR, repulsion alone": Golden(
        -1.4491290618,
        lambda **options: losses.CACRLoss(alpha=0.0, **options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS, alpha=0.0),
    ),
    "CACR, uniform": Golden(
        -1.9747867907,
        lambda **options: losses.CACRLoss(attraction="uniform", repulsion="uniform", **options)(_VIEWS),
        lambda: definitions.cacr(_VIEWS, t_pos=None, t_neg=None),
    ),
    "CMC": Golden(
        1.8392631241,
        lambda **options: losses.CMCLoss(**options)(_VIEWS),
        lambda: definitions.cmc(_VIEWS, temperature=0.07),
    ),
    "CMC, core 0": Golden(
        1.6243113134,
        lambda **options: losses.CMCLoss(core=0, **options)(_VIEWS),
        lambda: definitions.cmc(_VIEWS, temperature=0.07, core=0),
    ),
    "FNC": _fnc_golden(0.5481555787, "attract"),
    "FNC, eliminate": _fnc_golden(0.0161443319, "eliminate"),
    "FNC, oracle attracts": _fnc_oracle(6.2600584823, "attract"),
    "FNC, oracle eliminates": _fnc_oracle(0.0161295805, "eliminate"),
    "ReLIC": _relic_golden(0.5203570556, _ONLINE),
    "ReLIC, third online view": _relic_golden(0.4658690171, [*_ONLINE, _VIEWS[2]]),
    "RenyiCL": _renyi_golden(-1.4633015478, 2.0),
    "RenyiCL, gamma 1": _renyi_golden(-1.7966757249, 1.0),
    "Bregman": Golden(
        2.2375968695,
        lambda **options: linear_networks(**options)(*_VIEWS[:2]),
        lambda: _bregman_linear(1.0),
    ),
    "Bregman, its own term": Golden(
        1.6581824788,
        lambda **options: linear_networks(**options)(*_VIEWS[:2]) - losses.NTXentLoss(**options)(*_VIEWS[:2]),
        _bregman_alone,
    ),
}

MEMORY = {
    "CACRLoss": "losses.CACRLoss(impl=impl)([torch.cat([a, b]), torch.cat([b, a])])",
    "CMCLoss": "losses.CMCLoss(impl=impl)([torch.cat([a, b]), torch.cat([b, a])])",
    "FNCLoss": "losses.FNCLoss(impl=impl, threshold=0.2)([a, b], [b])",
    "ReLICLoss": "losses.ReLICLoss(impl=impl)([torch.cat([a, b]), torch.cat([b, a])], 2 * [torch.cat([b, b])])",
    "RenyiCLLoss": "losses.RenyiCLLoss(impl=impl)([torch.cat([a, b]), torch.cat([b, a])], [torch.cat([b, b])])",
    "BregmanLoss": "losses.BregmanLoss(64, networks=8, hidden=16, impl=impl)(a, b)",
}

TRACED = dict.fromkeys(
    ["CACR", "CMC", "FNC", "FNC, eliminate with support", "ReLIC", "RenyiCL", "RenyiCL, gamma 1", "Bregman"], ""
)

DEFAULTS = {
    losses.CACRLoss: {
        "t_pos": 1.0,
        "t_neg": 2.0,
        "alpha": 1.0,
        "beta": 1.0,
        "detach_weights": False,
        "attraction": "contrastive",
        "repulsion": "contrastive",
    },
    losses.CMCLoss: {"temperature": 0.07, "core": None},
    losses.ReLICLoss: {"temperature": 0.1, "alpha": 1.0, "beta": 1.0},
    losses.RenyiCLLoss: {"temperature": 0.5, "gamma": 2.0, "alpha": 1 / 65536},
    losses.BregmanLoss: {
        "networks": 100,
        "hidden": 512,
        "sigma": 0.9,
        "temperature": 0.1,
        "weight": 1.0,
        "dropout": 0.2,
    },
    losses.FNCLoss: {"temperature": 0.1, "top_k": 10, "threshold": 0.7, "mode": "attract"},
}
