"""Losses of pairs from two modalities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fixture
import torch
from definitions import modalities as definitions
from definitions.loops import Ids, Loops
from torch import Generator, Tensor

from cases.case import Call, Case, Golden
from cases.inputs import duplicate_ids, two_views, two_views_with_ids
from kinfolk import losses


def _pairs_at_scale(n: int, d: int, generator: Generator) -> Call:
    return Call([*two_views(n, d, generator).args, torch.tensor(7.5, dtype=torch.float64)])


def _pairs_at_scale_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_pairs_at_scale(n, d, generator).args, {"ids": duplicate_ids(n)})


def _clip(image: Tensor, text: Tensor, logit_scale: Tensor, ids: Ids = None) -> Loops:
    return definitions.clip(image, text, logit_scale=logit_scale.double(), ids=ids)


def sharpen(call: Call, temperature: float) -> Call:
    """The call at another scale, in float32 as a model in half precision keeps it."""
    scale = torch.tensor(1 / temperature, dtype=torch.float32, requires_grad=True)
    return replace(call, args=[*call.args[:2], scale, *call.args[3:]])


def _pairs_at_scale_and_bias(n: int, d: int, generator: Generator) -> Call:
    return Call([*_pairs_at_scale(n, d, generator).args, torch.tensor(-2.5, dtype=torch.float64)])


def _pairs_at_scale_and_bias_with_ids(n: int, d: int, generator: Generator) -> Call:
    return Call(_pairs_at_scale_and_bias(n, d, generator).args, {"ids": duplicate_ids(n)})


def _sig_lip(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, ids: Ids = None) -> Loops:
    scale, bias = logit_scale.double(), logit_bias.double()
    return definitions.sig_lip(image, text, logit_scale=scale, logit_bias=bias, ids=ids)


def _near(inputs: Callable[[int, int, Generator], Call]) -> Callable[[int, int, Generator], Call]:
    """Short rows: sums of exponentials, and their gradients, stay in the range of float16 at any temperature tried."""
    return lambda n, d, generator: inputs(n, d, generator).map(lambda t: 0.05 * t, (0, 1))


def _taught(n: int, d: int, generator: Generator) -> Call:
    """Two modalities and a teacher's scores."""
    scores = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return Call([*two_views(n, d, generator).args, scores])


def _shuffle_sides(call: Call, order: Tensor) -> Call:
    """Each modality in an order of its own: what stands at equal places has nothing in common."""
    x, y, *scores = call.args
    other = order.flip(0)
    return Call([x[order], y[other], *(s[order][:, other] for s in scores)])


def _mmcl_case(*, ids: bool = False, **options: Any) -> Case:
    inputs = two_views_with_ids if ids else two_views
    sums_exponentials = options.get("phi") == "identity" and options.get("psi") != "identity"
    decoupled = options.get("epsilon") == 0 and "phi" not in options
    return Case(
        losses.MMCLLoss,
        options,
        _near(inputs) if sums_exponentials else inputs,
        definitions.mmcl,
        (0, 1),
        minimum=3 if ids else 2 if decoupled else 1,
        swappable=(0, 1),
        unit=(),
        space=(0, 1),
        scores_only=False,
    )


def _unpaired_case(inputs: Callable[[int, int, Generator], Call], matching: str) -> Case:
    options = {"temperature": 0.3, "matching": matching}
    define = definitions.unpaired_mmcl
    constant = (2,) if inputs is _taught else ()
    return Case(
        losses.UnpairedMMCLLoss,
        options,
        inputs,
        define,
        (0, 1),
        constant=constant,
        permute=_shuffle_sides,
        pooled=True,
        swappable=None if constant else (0, 1),
    )


CASES = {
    "CLIP": Case(losses.CLIPLoss, {}, _pairs_at_scale, _clip, (0, 1, 2), swappable=(0, 1), sharpen=sharpen),
    "CLIP, ids": Case(
        losses.CLIPLoss,
        {},
        _pairs_at_scale_with_ids,
        _clip,
        (0, 1, 2),
        minimum=3,
        swappable=(0, 1),
        sharpen=sharpen,
    ),
    "SigLIP": Case(
        losses.SigLIPLoss,
        {},
        _pairs_at_scale_and_bias,
        _sig_lip,
        (0, 1, 2, 3),
        swappable=(0, 1),
        sharpen=sharpen,
    ),
    "SigLIP, ids": Case(
        losses.SigLIPLoss,
        {},
        _pairs_at_scale_and_bias_with_ids,
        _sig_lip,
        (0, 1, 2, 3),
        minimum=3,
        swappable=(0, 1),
        sharpen=sharpen,
    ),
    "MMCL": _mmcl_case(temperature=0.5),
    "MMCL, ids": _mmcl_case(temperature=0.5, epsilon=0.3, ids=True),
    "MMCL, decoupled": _mmcl_case(temperature=0.5, epsilon=0.0),
    "MMCL, decoupled, ids": _mmcl_case(temperature=0.5, epsilon=0.0, ids=True),
    "MMCL, exponentials": _mmcl_case(temperature=0.5, phi="identity", epsilon=0.7),
    "MMCL, linear": _mmcl_case(phi="identity", psi="identity"),
    "MMCL, linear, ids": _mmcl_case(phi="identity", psi="identity", ids=True),
    "UnpairedMMCL": _unpaired_case(two_views, "top"),
    "UnpairedMMCL, taught": _unpaired_case(_taught, "top"),
    "UnpairedMMCL, argmax": _unpaired_case(two_views, "argmax"),
    "UnpairedMMCL, argmax, taught": _unpaired_case(_taught, "argmax"),
}

_Z0, _Z1, _TEN = fixture.z(0), fixture.z(1), torch.tensor(10.0, dtype=torch.float64)


def _mmcl_golden(expected: float, **options: Any) -> Golden:
    return Golden(
        expected,
        lambda **common: losses.MMCLLoss(**options, **common)(_Z0, _Z1),
        lambda: definitions.mmcl(_Z0, _Z1, **options),
    )


GOLDEN = {
    "CLIP": Golden(
        0.4023003288,
        lambda **options: losses.CLIPLoss(**options)(_Z0, _Z1, _TEN),
        lambda: definitions.clip(_Z0, _Z1, logit_scale=10.0),
    ),
    "SigLIP": Golden(
        2.0134372124,
        lambda **options: losses.SigLIPLoss(**options)(_Z0, _Z1, _TEN, -_TEN),
        lambda: definitions.sig_lip(_Z0, _Z1, logit_scale=10.0, logit_bias=-10.0),
    ),
    "MMCL": _mmcl_golden(0.3648670516, temperature=0.5),
    "MMCL, decoupled": _mmcl_golden(0.0007195044, temperature=0.5, epsilon=0.0),
    "MMCL, linear": _mmcl_golden(-4.6786066047, phi="identity", psi="identity"),
    "UnpairedMMCL": Golden(
        0.6753429369,
        lambda **options: losses.UnpairedMMCLLoss(temperature=0.5, **options)(_Z0, _Z1),
        lambda: definitions.unpaired_mmcl(_Z0, _Z1, temperature=0.5),
    ),
}

MEMORY = {
    "CLIPLoss": "losses.CLIPLoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]), 10.0)",
    "SigLIPLoss": "losses.SigLIPLoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]), 10.0, -10.0)",
    "MMCLLoss": "losses.MMCLLoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]))",
    "UnpairedMMCLLoss": "losses.UnpairedMMCLLoss(impl=impl)(torch.cat([a, b]), torch.cat([b, a]))",
}

TRACED = dict.fromkeys(
    [
        "CLIP",
        "SigLIP",
        "MMCL",
        "MMCL, decoupled",
        "MMCL, exponentials",
        "MMCL, linear",
        "UnpairedMMCL",
        "UnpairedMMCL, taught",
        "UnpairedMMCL, argmax",
        "UnpairedMMCL, argmax, taught",
    ],
    "",
)

DEFAULTS: dict[type, dict[str, object]] = {
    losses.CLIPLoss: {},
    losses.SigLIPLoss: {},
    losses.MMCLLoss: {"phi": "log", "psi": "exp", "epsilon": 1.0, "temperature": 1.0, "normalize": False},
    losses.UnpairedMMCLLoss: {"temperature": 1.0, "matching": "top"},
}
