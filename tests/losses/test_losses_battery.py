"""What every loss passes: value and gradient against loops, invariances, layout, repeated use, reductions."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import definitions
import pytest
import torch
from cases import CASES, GOLDEN, Call, Case, Golden, classes_without_a_case
from closeness import close, slopes
from torch import Tensor

from kinfolk import losses

IMPLS = ["reference", "chunked"]
SHAPES = [(1, 3), (2, 1), (3, 5), (7, 3), (17, 64)]
EVERY = pytest.mark.parametrize("name", CASES)
PER_ANCHOR = pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.pooled])
TEMPERED = pytest.mark.parametrize("name", [name for name, case in CASES.items() if "temperature" in case.options])
EVERY_IMPL = pytest.mark.parametrize("impl", IMPLS)
UNTRACED = pytest.mark.no_cover  # its lines are those of test_loss_is_its_definition


def sizes(case: Case) -> list[tuple[int, int]]:
    return [(n, d) for n, d in SHAPES if n >= case.minimum]


@functools.cache
def definition(name: str, n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, list[bool], list[Tensor]]:
    """Values, valid anchors and the gradient of the mean by loops, in float64 on the inputs as the loss sees them."""
    case = CASES[name]
    call = case.leaves(case.random(n, d, dtype))
    values, valid = case.loops(call)
    mean = values.sum() / max(1, sum(valid))
    return values.detach(), valid, slopes(mean, call.tensors(case.learnt))


def test_every_loss_has_a_row_in_the_table() -> None:
    assert classes_without_a_case(losses, CASES) == set()


@EVERY_IMPL
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_value(name: str, impl: str) -> None:
    golden: Golden = GOLDEN[name]
    close(golden.loss(impl=impl), golden.expected, atol=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_definition_reproduces_golden_value(name: str) -> None:
    golden: Golden = GOLDEN[name]
    close(definitions.mean(golden.loops()), golden.expected, atol=1e-10)


def test_missing_row_is_noticed() -> None:
    fewer = {name: case for name, case in CASES.items() if case.build is not losses.CACRLoss}
    assert classes_without_a_case(losses, fewer) == {"CACRLoss"}


@EVERY_IMPL
@pytest.mark.parametrize(("name", "n", "d"), [(name, n, d) for name, case in CASES.items() for n, d in sizes(case)])
@pytest.mark.filterwarnings("ignore:.*no anchor")
def test_loss_is_its_definition(name: str, n: int, d: int, impl: str) -> None:
    case = CASES[name]
    values, valid, gradients = definition(name, n, d, torch.float64)
    call = case.random(n, d)
    if not case.pooled:
        close(case.value(call, reduction="none", impl=impl), values, atol=1e-9, what="none")
    mean = case.value(call, impl=impl)
    close(mean, values.sum() / max(1, sum(valid)), atol=1e-9, what="mean")
    for k, (a, b) in enumerate(zip(slopes(mean, call.tensors(case.learnt)), gradients, strict=True)):
        close(a, b, atol=1e-8, what=f"gradient of tensor {k}")


@UNTRACED
@pytest.mark.usefixtures("small_tiles")
@EVERY
def test_loss_is_its_definition_over_many_tiles(name: str) -> None:
    test_loss_is_its_definition(name, 7, 3, "chunked")


@UNTRACED
@EVERY_IMPL
@EVERY
def test_single_precision(name: str, impl: str) -> None:
    case = CASES[name]
    values, valid, gradients = definition(name, 7, 64, torch.float32)
    call = case.random(7, 64, torch.float32)
    mean = case.value(call, impl=impl)
    assert mean.dtype == torch.float32
    if not case.pooled:
        each = case.value(call, reduction="none", impl=impl)
        assert each.dtype == torch.float32
        close(each, values, atol=1e-5, rtol=1e-5, what="none")
    close(mean, values.sum() / sum(valid), atol=1e-5, rtol=1e-5, what="mean")
    for a, b in zip(slopes(mean, call.tensors(case.learnt)), gradients, strict=True):
        close(a, b, atol=1e-4 * float(b.abs().max()), what="gradient")


class DetachedKeys(losses.NTXentLoss):
    """A planted bug, common in published code: the right value, but keys gathered without gradient."""

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:
        rows = torch.nn.functional.normalize(torch.cat([z0, z1]), dim=1)
        scores = rows @ rows.T.detach() / self.temperature
        scores = scores.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
        each = torch.logsumexp(scores, 1) - scores.roll(len(z0), 1).diagonal()
        return each if self.reduction == "none" else each.mean()


def test_planted_wrong_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "planted", dataclasses.replace(CASES["NTXent"], build=DetachedKeys))
    with pytest.raises(AssertionError, match="gradient of tensor 0"):
        test_loss_is_its_definition("planted", 3, 5, "reference")


def sharp(case: Case, temperature: float) -> dict[str, Any]:
    return {"temperature": temperature} if "temperature" in case.options else {}


@functools.cache
def sharp_definition(name: str, temperature: float, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """The mean by loops and its gradient, in float64 on the rounded inputs."""
    case, call = CASES[name], sharp_call(name, temperature, dtype)
    exact = case.leaves(call)
    values, valid = case.loops(exact, **sharp(case, temperature))
    expected = values.sum() / sum(valid)
    return expected.detach(), slopes(expected, exact.tensors(case.learnt))


def sharp_call(name: str, temperature: float, dtype: torch.dtype) -> Call:
    case = CASES[name]
    call = case.random(6, 16, dtype)
    return call if case.sharpen is None else case.sharpen(call, temperature)


@UNTRACED
@EVERY_IMPL
@pytest.mark.parametrize(
    ("temperature", "dtype"),
    [(0.01, torch.bfloat16), (0.01, torch.float16), (0.05, torch.float16), (0.1, torch.bfloat16)],
)
@EVERY
def test_half_precision_inputs(name: str, temperature: float, dtype: torch.dtype, impl: str) -> None:
    case, call = CASES[name], sharp_call(name, temperature, dtype)
    loss = case.value(call, impl=impl, **sharp(case, temperature))
    assert loss.dtype == torch.float32
    expected, wanted = sharp_definition(name, temperature, dtype)
    close(loss, expected, atol=1e-2, rtol=1e-2)
    for a, b in zip(slopes(loss, call.tensors(case.learnt)), wanted, strict=True):
        close(a, b, atol=2e-2 * float(b.abs().max()) + 1e-6, what="gradient")


@UNTRACED
@EVERY_IMPL
@EVERY
def test_autocast_around_a_loss_changes_nothing(name: str, impl: str) -> None:
    case = CASES[name]
    call = case.random(6, 16, torch.float32)
    loss = case.make(call, impl=impl, **sharp(case, 0.02))
    plain = call.of(loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = call.of(loss)
    assert inside.dtype == torch.float32
    assert torch.equal(plain, inside)
    for a, b in zip(slopes(inside, call.tensors(case.learnt)), slopes(plain, call.tensors(case.learnt)), strict=True):
        assert torch.equal(a, b)


@UNTRACED
@EVERY_IMPL
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.permutable])
def test_joint_permutation_of_the_samples(name: str, impl: str) -> None:
    case = CASES[name]
    call, order = case.random(7, 5), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    moved = case.permuted(call, order)
    if case.pooled:
        close(case.value(moved, impl=impl), case.value(call, impl=impl), atol=1e-9)
    else:
        expected = case.value(call, reduction="none", impl=impl)[case.anchor_order(order)]
        close(case.value(moved, reduction="none", impl=impl), expected, atol=1e-9)


@UNTRACED
@EVERY
def test_common_rotation(name: str) -> None:
    case = CASES[name]
    call = case.random(7, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turned = call.map(lambda t: t @ rotation if t.ndim == 2 else t, case.rotated)
    turned = turned.map_parameters(lambda p: p @ rotation, case.space_parameters)
    close(case.value(turned), case.value(call), atol=1e-9)


@UNTRACED
@EVERY
def test_lengths_of_the_rows_do_not_matter(name: str) -> None:
    case = CASES[name]
    call = case.random(7, 5)
    longer = call.map(lambda t: t * torch.linspace(0.1, 9, len(t)).unsqueeze(1) if t.ndim == 2 else t, case.normalised)
    close(case.value(longer), case.value(call), atol=1e-9)


@EVERY_IMPL
@EVERY
def test_normalize_false_takes_the_rows_as_they_are(name: str, impl: str) -> None:
    case = CASES[name]
    unit = case.random(7, 5).map(
        lambda t: torch.nn.functional.normalize(t, dim=1) if t.ndim == 2 else t, case.normalised
    )
    expected = case.value(unit, impl=impl)
    close(case.value(unit, normalize=False, impl=impl), expected, atol=1e-9)
    if "temperature" in case.options and "sigma" not in case.options and case.scores_only:
        twice = unit.map(lambda t: 2 * t, case.normalised)
        hotter = case.value(twice, normalize=False, impl=impl, temperature=4 * case.options["temperature"])
        close(hotter, expected, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.swappable])
def test_swapping_the_two_views(name: str) -> None:
    case = CASES[name]
    call = case.random(7, 5)
    a, b = case.swappable or (0, 1)
    args = list(call.args)
    args[a], args[b] = args[b], args[a]
    close(case.value(dataclasses.replace(call, args=args)), case.value(call), atol=1e-9)


def is_matrix(argument: Any) -> bool:
    return isinstance(argument, list) or (argument.ndim == 2 and argument.is_floating_point())


LAYOUTS = {
    "transposed": (lambda t: t.T.contiguous(), lambda t: t.T),
    "strided": (lambda t: torch.stack([t, t + 1], 2), lambda t: t[..., 0]),
    "expanded": (lambda t: t[:1].clone(), lambda t: t.expand(6, -1)),
}


@UNTRACED
@EVERY_IMPL
@pytest.mark.parametrize("layout", LAYOUTS)
@EVERY
def test_layout_of_the_inputs_does_not_matter(name: str, layout: str, impl: str) -> None:
    case = CASES[name]
    store, view = LAYOUTS[layout]
    matrices = tuple(i for i in case.learnt if is_matrix(case.random(6, 4).args[i]))
    if layout == "expanded" and case.build is losses.GraphContrastiveLoss:
        matrices = (0,)  # the keys have other rows
    base = case.random(6, 4).map(lambda t: store(t.detach()).requires_grad_(), matrices)
    odd, even = base.map(view, matrices), base.map(lambda t: view(t).contiguous(), matrices)
    got, expected = case.value(odd, impl=impl), case.value(even, impl=impl)
    close(got, expected, atol=1e-12)
    for a, b in zip(slopes(got, base.tensors(matrices)), slopes(expected, base.tensors(matrices)), strict=True):
        close(a, b, atol=1e-10)


@UNTRACED
@EVERY_IMPL
@EVERY
def test_two_backward_passes_and_double_use(name: str, impl: str) -> None:
    case = CASES[name]
    call = case.random(6, 4)
    leaves, loss = call.tensors(case.learnt), case.make(call, impl=impl)
    value = call.of(loss)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    second = torch.autograd.grad(value, leaves, retain_graph=True)
    both = torch.autograd.grad(value + 2 * call.of(loss), leaves)
    for a, b, c in zip(first, second, both, strict=True):
        assert torch.equal(a, b)
        close(c, 3 * a, atol=1e-10)


@EVERY_IMPL
@PER_ANCHOR
def test_reductions_agree(name: str, impl: str) -> None:
    case = CASES[name]
    call = case.random(7, 4)
    mean, total, each = (case.value(call, reduction=r, impl=impl) for r in ("mean", "sum", "none"))
    values, valid = case.loops(call)
    assert mean.shape == total.shape == ()
    assert each.shape == values.shape
    assert sum(valid) > 0
    close(total, each.sum(), atol=1e-10)
    close(mean * sum(valid), total, atol=1e-10)
    assert all(float(value.detach()) == 0 for value, has_target in zip(each, valid, strict=True) if not has_target)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pooled])
def test_a_pooled_loss_has_no_value_per_anchor(name: str) -> None:
    case = CASES[name]
    with pytest.raises(ValueError, match=r'(?s)"sum".*found "none"'):
        case.make(reduction="none")
    call = case.random(7, 4)
    assert case.value(call).shape == case.value(call, reduction="sum").shape == ()


@UNTRACED
@EVERY_IMPL
@PER_ANCHOR
def test_upstream_weights_per_anchor(name: str, impl: str) -> None:
    """Gradient of a weighted sum of "none": each anchor's own gradient, not only their mean's."""
    case = CASES[name]
    call, copy = case.random(5, 3), case.random(5, 3)
    each = case.value(call, reduction="none", impl=impl)
    values, _ = case.loops(copy)
    weights = torch.linspace(-1, 2, len(values), dtype=torch.float64)
    ours = slopes((each * weights).sum(), call.tensors(case.learnt))
    for a, b in zip(ours, slopes((values * weights).sum(), copy.tensors(case.learnt)), strict=True):
        close(a, b, atol=1e-8)


@TEMPERED
@EVERY_IMPL
def test_learnable_temperature(name: str, impl: str) -> None:
    case = CASES[name]
    call, copy = case.random(6, 4), case.random(6, 4)
    ours, theirs = (torch.tensor(0.3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    case.value(call, temperature=ours, impl=impl).backward()
    values, valid = case.loops(copy, temperature=theirs)
    (values.sum() / sum(valid)).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    close(ours.grad, theirs.grad, atol=1e-8)


@TEMPERED
def test_temperature_of_one_element_in_any_shape_and_precision(name: str) -> None:
    """A half-precision temperature has its own value, but its inverse is not rounded to half again."""
    case = CASES[name]
    call = case.random(6, 4, torch.float32)
    for temperature in (torch.tensor([[0.013]]), torch.tensor(0.013, dtype=torch.bfloat16), torch.tensor(0.013).half()):
        exact, got = case.value(call, temperature=float(temperature)), case.value(call, temperature=temperature)
        assert got.shape == ()
        assert got.dtype == torch.float32
        close(got, exact, atol=1e-4, rtol=1e-4)


@TEMPERED
def test_temperature_that_is_a_parameter_is_trained_and_saved(name: str) -> None:
    case = CASES[name]
    call = case.random(6, 4)
    loss = case.make(call, temperature=torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64)))
    assert {key for key, _ in loss.named_parameters()} == {"temperature", *call.parameters}
    assert "temperature" in loss.state_dict()
    before = call.of(loss)
    before.backward()
    torch.optim.SGD([loss.temperature], lr=1e-3).step()
    assert call.of(loss) < before


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.constant])
@EVERY_IMPL
def test_teachers_queues_and_targets_get_no_gradient(name: str, impl: str) -> None:
    case = CASES[name]
    call = case.random(6, 4).map(lambda t: t.requires_grad_(), case.constant)
    case.value(call, impl=impl).backward()
    for t in dataclasses.replace(call, parameters={}).tensors(case.constant):
        assert t.grad is None or not t.grad.any()
    for t in call.tensors(case.learnt):
        assert t.grad is not None
        assert t.grad.any()


@UNTRACED
@EVERY
def test_successive_calls_of_different_size_agree_with_fresh_objects(name: str) -> None:
    case = CASES[name]
    loss = case.make(case.random(7, 4))
    for n in (7, 4, 9):
        call = case.random(n, 4)
        assert torch.equal(call.of(loss), case.value(call))
