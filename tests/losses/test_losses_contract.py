"""What a loss refuses and how it says so; signatures, copies, state, printing, more than one rank."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace

import fixture
import pytest
import torch
from cases import CASES, DEFAULTS, Case

from kinfolk import losses

EVERY = pytest.mark.parametrize("name", CASES)
CLASSES = sorted({case.build for case in CASES.values()}, key=lambda build: build.__name__)
EVERY_CLASS = pytest.mark.parametrize("build", CLASSES, ids=lambda build: build.__name__)
WITH_TEMPERATURE = [build for build in CLASSES if "temperature" in inspect.signature(build).parameters]
COMMON = {"reduction": "mean", "normalize": True, "gather": True, "impl": "auto"}
Z0, Z1 = fixture.z(0), fixture.z(1)


def case_of(build: type) -> Case:
    return next(case for case in CASES.values() if case.build is build)


@EVERY_CLASS
def test_options_are_keyword_only_and_common_ones_have_their_defaults(build: type) -> None:
    parameters = {k: p for k, p in inspect.signature(build).parameters.items() if k != "self"}
    optional = {k: p for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in optional.values())
    assert {k: parameters[k].default for k in COMMON} == {
        **COMMON,
        **{k: v for k, v in DEFAULTS[build].items() if k in COMMON},
    }


@EVERY_CLASS
def test_every_call_takes_ids(build: type) -> None:
    assert inspect.signature(build.forward).parameters["ids"].default is None  # type: ignore[attr-defined]


@EVERY_CLASS
def test_defaults_are_those_of_the_methods(build: type) -> None:
    parameters = inspect.signature(build).parameters
    own = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty and k not in COMMON}
    assert own == {k: v for k, v in DEFAULTS[build].items() if k not in COMMON}


@EVERY_CLASS
def test_unknown_reduction_and_implementation(build: type) -> None:
    with pytest.raises(ValueError, match=r"(?s)average.*mean|mean.*average"):
        case_of(build).make(reduction="average")
    with pytest.raises(ValueError, match=r"(?s)fast.*reference|reference.*fast"):
        case_of(build).make(impl="fast")


@pytest.mark.parametrize("build", WITH_TEMPERATURE, ids=lambda build: build.__name__)
@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan")])
def test_temperature_must_be_positive(build: type, bad: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        case_of(build).make(temperature=bad)


def test_other_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"(?s)gather.*ring"):
        losses.NTXentLoss(gather="everything")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="graph_temperature"):
        losses.XSampleLoss(graph_temperature=0.0)
    with pytest.raises(ValueError, match=r"(?s)form.*out"):
        losses.SupConLoss(form="outside")
    with pytest.raises(ValueError, match="sigma"):
        losses.DCLLoss(sigma=0.0)
    with pytest.raises(ValueError, match=r"(?s)attraction.*uniform"):
        losses.CACRLoss(attraction="none")
    with pytest.raises(ValueError, match=r"(?s)repulsion.*uniform"):
        losses.CACRLoss(repulsion="none")


WRONG_SHAPES = {
    "NTXent": lambda: losses.NTXentLoss()(Z0, Z1[:4]),
    "NTXent, widths": lambda: losses.NTXentLoss()(Z0, Z1[:, :4]),
    "DCL": lambda: losses.DCLLoss()(Z0, Z1[:4]),
    "CLIP": lambda: losses.CLIPLoss()(Z0, Z1[:4], torch.tensor(1.0)),
    "InfoNCE keys": lambda: losses.InfoNCELoss()(Z0, Z1[:4], fixture.queue()),
    "SupCon": lambda: losses.SupConLoss()(Z0, torch.zeros(4, dtype=torch.int64)),
    "CACR": lambda: losses.CACRLoss()([Z0, Z1[:4]]),
    "XSample": lambda: losses.XSampleLoss()(Z0, torch.randn(4, 3)),
    "GraphContrastive": lambda: losses.GraphContrastiveLoss(temperature=0.1)(Z0, Z1, torch.ones(4, 4)),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shapes_name_both(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)6.*4|4.*6"):
        WRONG_SHAPES[name]()


def test_queue_of_another_width_names_both() -> None:
    with pytest.raises(ValueError, match=r"(?s)5.*3|3.*5"):
        losses.InfoNCELoss()(Z0, Z1, torch.randn(8, 3, dtype=torch.float64))


def test_exclude_of_another_shape_names_both() -> None:
    with pytest.raises(ValueError, match=r"(?s)6.*7|7.*6"):
        losses.InfoNCELoss()(Z0, Z1, fixture.queue(), exclude=torch.zeros(6, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"(?s)8.*7|7.*8"):
        losses.InfoNCELoss()(Z0, Z1, fixture.queue(), exclude=(torch.zeros(6).long(), torch.zeros(7).long()))


def test_mask_of_another_shape_names_both() -> None:
    with pytest.raises(ValueError, match=r"(?s)6.*5|5.*6"):
        losses.GraphContrastiveLoss(temperature=0.1)(Z0, Z1, torch.ones(6, 6), mask=torch.ones(6, 5, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_labels_and_ids_are_integers(dtype: torch.dtype) -> None:
    bad = torch.tensor([0, 0, 1, 1, 1, 0]).to(dtype)
    with pytest.raises(TypeError, match=r"(?s)labels.*int|int.*labels"):
        losses.SupConLoss()(Z0, bad)
    with pytest.raises(TypeError, match=r"(?s)ids.*int|int.*ids"):
        losses.SupConLoss()(Z0, torch.zeros(6, dtype=torch.int64), ids=bad)
    with pytest.raises(TypeError, match="int"):
        losses.InfoNCELoss()(Z0, Z1, fixture.queue(), exclude=(bad, fixture.queue_labels()))
    for loss in (losses.NTXentLoss(), losses.DCLLoss()):
        with pytest.raises(TypeError, match=r"(?s)ids.*int|int.*ids"):
            loss(Z0, Z1, ids=bad)
    with pytest.raises(TypeError, match=r"(?s)ids.*int|int.*ids"):
        losses.CLIPLoss()(Z0, Z1, torch.tensor(1.0), ids=bad)
    with pytest.raises(TypeError, match=r"(?s)ids.*int|int.*ids"):
        losses.CACRLoss()([Z0, Z1], ids=bad)


def test_labels_below_minus_one_are_refused() -> None:
    with pytest.raises(ValueError, match="-2"):
        losses.SupConLoss()(Z0, torch.tensor([0, 0, 1, 1, -2, 0]))
    with pytest.raises(ValueError, match="-2"):
        losses.InfoNCELoss()(
            Z0, Z1, fixture.queue(), exclude=(torch.tensor([0, 0, 1, 1, -2, 0]), fixture.queue_labels())
        )


@EVERY_CLASS
def test_ids_of_another_length_name_both(build: type) -> None:
    case = case_of(build)
    call = case.random(6, 4)
    first = call.args[case.ids_of]
    rows = len(first[0] if isinstance(first, list) else first)
    with pytest.raises(ValueError, match=rf"(?s){rows}.*99|99.*{rows}"):
        replace(call, kwargs={**call.kwargs, "ids": torch.arange(99)}).of(case.make(call))


def test_negative_graph_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"negative|>= 0|non-negative"):
        losses.GraphContrastiveLoss(temperature=0.1)(Z0, Z1, -torch.ones(6, 6))


def test_xsample_takes_a_square_tensor_as_side_embeddings() -> None:
    side = fixture.rows(11, 6, dim=6)
    as_graph = losses.GraphContrastiveLoss(temperature=0.1)(Z0, Z0, side.abs(), mask=~torch.eye(6, dtype=torch.bool))
    assert losses.XSampleLoss()(Z0, side).item() != pytest.approx(as_graph.item(), abs=1e-6)


@EVERY
def test_copies_and_pickles_give_the_same_value(name: str) -> None:
    case = CASES[name]
    call = case.random(5, 4)
    loss, own = case.make(call).double(), replace(call, parameters={})
    value = own.of(loss)
    twin = case.make(call).double()
    twin.load_state_dict(loss.state_dict())
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), twin):
        assert torch.equal(own.of(other), value)


@EVERY
def test_repr_names_the_class_and_its_options(name: str) -> None:
    case = CASES[name]
    text = repr(case.make())
    assert case.build.__name__ in text
    for option in case.options:
        assert option in text
    if "temperature" in case.options:
        assert str(case.options["temperature"]) in text
