"""Bounds, limits and traps of losses of several kinds: what ids that say nothing do, learnt scales, broken teachers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import definitions.prototypes as prototypes
import definitions.views as views
import fixture
import pytest
import torch
import torch.nn.functional as F
from cases.prototypes import with_parameters
from cases.views import linear_networks
from closeness import close, slope, slopes
from definitions.loops import mean
from torch import Tensor, nn

from kinfolk import losses, theory
from kinfolk.losses.bregman import bregman

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, Z2 = fixture.z(0), fixture.z(1), fixture.z(2)
P0, P1 = fixture.rows(3), fixture.rows(4)
STACKED, UNIVERSUM = torch.cat([Z0, Z1]), torch.cat([fixture.rows(5), fixture.rows(6)])
FEATURES, W = torch.cat([fixture.rows(12), fixture.rows(14)]), fixture.rows(13, 3)
LABELS, PARTIAL = fixture.labels().repeat(2), torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
QUEUE, QUEUE_LABELS = fixture.queue(), fixture.queue_labels()
OPEN = torch.tensor([0, 0, 1, -1, -1, -1]).repeat(2)
GUESSES = torch.tensor([0, 0, 1, 2, 2, 1]).repeat(2)
NOVEL = torch.tensor([False, False, False, True, True, False]).repeat(2)
LINEAR = {"weight": W, "bias": torch.zeros(3, dtype=torch.float64)}


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def esupcon() -> losses.ESupConLoss:
    return with_parameters(losses.ESupConLoss(3, 5), weight=W)


def paco() -> losses.PaCoLoss:
    return with_parameters(losses.PaCoLoss(3, 5), **LINEAR)


# ids and labels


OF_VIEWS: dict[str, Callable[[str, Tensor | None], Tensor]] = {
    "ReLIC": lambda impl, ids: losses.ReLICLoss(impl=impl)([P0, P1, Z2], [Z0, Z1], ids=ids),
    "RenyiCL": lambda impl, ids: losses.RenyiCLLoss(impl=impl)([P0, P1], [Z0, Z1], ids=ids),
    "Bregman": lambda impl, ids: linear_networks(impl=impl)(Z0, Z1, ids=ids),
    "CLIP": lambda impl, ids: losses.CLIPLoss(impl=impl)(Z0, Z1, 10.0, ids=ids),
    "SigLIP": lambda impl, ids: losses.SigLIPLoss(impl=impl)(Z0, Z1, 10.0, -10.0, ids=ids),
    "MMCL": lambda impl, ids: losses.MMCLLoss(temperature=0.5, impl=impl)(Z0, Z1, ids=ids),
    "MMCL, decoupled": lambda impl, ids: losses.MMCLLoss(epsilon=0.0, impl=impl)(Z0, Z1, ids=ids),
    "MMCL, exponentials": lambda impl, ids: losses.MMCLLoss(phi="identity", impl=impl)(Z0, Z1, ids=ids),
    "MMCL, linear": lambda impl, ids: losses.MMCLLoss(phi="identity", psi="identity", impl=impl)(Z0, Z1, ids=ids),
    "AlignUniform": lambda impl, ids: losses.AlignUniformLoss(impl=impl)(Z0, Z1, ids=ids),
}


@EVERY_IMPL
@pytest.mark.parametrize("name", OF_VIEWS)
def test_ids_that_are_all_different_or_unknown_change_nothing(name: str, impl: str) -> None:
    """Two of them are one number in single precision, and unknown samples (-1) are not each other's duplicates."""
    call = OF_VIEWS[name]
    for ids in ([2**24, 2**24 + 1, 3, 4, 5, 6], [-1] * 6):
        close(call(impl, torch.tensor(ids)), call(impl, None), atol=1e-12)
    assert (call(impl, torch.tensor([7, 7, 3, 4, 5, 6])) - call(impl, None)).abs() > 1e-6


OF_LABELS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "ESupCon": lambda t: esupcon()(STACKED, PARTIAL.to(t), ids=fixture.ids().to(t)),
    "PaCo": lambda t: paco()(
        STACKED, PARTIAL.to(t), FEATURES, QUEUE, QUEUE_LABELS.to(t), fixture.ids().to(t), QUEUE_LABELS.to(t)
    ),
    "OpenCon": lambda t: losses.OpenConLoss()(STACKED, OPEN.to(t), GUESSES.to(t), NOVEL, fixture.ids().to(t)),
    "ResCom": lambda t: losses.ResComLoss([9, 5, 1])(STACKED, PARTIAL.to(t), QUEUE, QUEUE_LABELS.to(t)),
    "FairKL": lambda t: losses.FairKLLoss()(STACKED, LABELS.to(t), (torch.arange(12) % 3).to(t)),
}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("name", OF_LABELS)
def test_every_label_of_a_call_may_have_any_width(name: str, dtype: torch.dtype) -> None:
    assert torch.equal(OF_LABELS[name](dtype), OF_LABELS[name](torch.int64))


# ReLIC


@EVERY_IMPL
@pytest.mark.identity("ReLICLoss")
def test_relic_never_compares_a_crop_with_itself(impl: str) -> None:
    """Without the divergence the first online view does not see the first target at all."""
    found = []
    for own in (Z0, Z2):
        p0, p1 = leaf(P0), leaf(P1)
        found.append(slopes(losses.ReLICLoss(beta=0.0, impl=impl)([p0, p1], [own, Z1]), [p0, p1]))
    assert torch.equal(found[0][0], found[1][0])
    assert (found[0][1] - found[1][1]).abs().max() > 1e-3


@EVERY_IMPL
@pytest.mark.parametrize("temperature", [0.01, 7.0, 50.0])
def test_relic_s_temperature_is_not_clamped(temperature: float, impl: str) -> None:
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    same = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    ours = losses.ReLICLoss(temperature=tau, impl=impl)([P0, P1, Z2], [Z0, Z1])
    theirs = mean(views.relic([P0, P1, Z2], [Z0, Z1], temperature=same))
    close(ours, theirs)
    close(slope(ours, tau), slope(theirs, same), atol=1e-8, rtol=1e-10)


# RenyiCL


@EVERY_IMPL
@pytest.mark.parametrize("gamma", [1.0, 2.0, 5.0])
@pytest.mark.identity("RenyiCLLoss")
def test_renyi_s_skew_leads_from_the_negatives_to_the_positives(gamma: float, impl: str) -> None:
    f = P1 @ Z0.T / 0.5
    near, far = f.diagonal(), f[~torch.eye(6, dtype=torch.bool)]
    pull = near.mean() if gamma == 1 else ((gamma - 1) * near).exp().mean().log() / (gamma - 1)
    for alpha, scores in ((0.0, far), (1.0, near)):
        value = losses.RenyiCLLoss(gamma=gamma, alpha=alpha, impl=impl)([P0, P1], [Z0])
        close(value, (gamma * scores).exp().mean().log() / gamma - pull)
    assert value >= 0  # with the positives on both sides, means of higher order are larger


@pytest.mark.identity("RenyiCLLoss")
def test_renyi_s_gradient_gathers_on_hard_negatives_as_gamma_grows() -> None:
    """Effective number of negatives, (sum w)^2 / sum w^2 of the gradients on their scores."""
    sizes = []
    for gamma in (1.0, 2.0, 4.0):
        scores = leaf(P1 @ Z0.T)
        loss = losses.RenyiCLLoss(gamma=gamma, alpha=0.01, normalize=False)
        weights = slope(loss([scores.detach(), scores], [torch.eye(6, dtype=torch.float64)]), scores)
        weights = weights[~torch.eye(6, dtype=torch.bool)]
        assert (weights > 0).all()
        sizes.append((weights.sum().square() / weights.square().sum()).item())
    assert 30 > sizes[0] > 1.2 * sizes[1] > 1.2**2 * sizes[2] > 1


# Bregman


@EVERY_IMPL
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("size", [1.0, 1e5])
@pytest.mark.identity("BregmanLoss")
def test_bregman_s_logits_lie_between_zero_and_the_inverse_temperature(
    size: float, temperature: float, impl: str
) -> None:
    """And so its values between those of a near partner among far rows, and of a far one among near rows."""
    rows = size * fixture.rows(13, 4)
    each, _ = bregman(Z0, Z1, lambda z: z @ rows.T, temperature=temperature, impl=impl)
    term = each - losses.NTXentLoss(temperature=temperature, reduction="none", impl=impl)(Z0, Z1)
    least, most = (math.log1p(10 * math.exp(sign / temperature)) for sign in (-1, 1))
    assert least - 1e-9 < term.min()
    assert term.max() < most
    if size > 1:  # networks far apart: a similarity is 1 or 0, and row 3 shares its network with its partner alone
        close(term.min(), least)


# UniCon and ResCom


@EVERY_IMPL
@pytest.mark.identity("UniConLoss")
def test_unicon_of_one_class_is_the_mean_of_its_softmax(impl: str) -> None:
    x, u, y, v = leaf(STACKED), leaf(UNIVERSUM), leaf(STACKED), leaf(UNIVERSUM)
    ours = losses.UniConLoss(impl=impl)(x, u, torch.zeros(12, dtype=torch.int64))
    scores = F.normalize(y, dim=1) @ F.normalize(v, dim=1).T / 0.1
    others = scores[~torch.eye(12, dtype=torch.bool)].view(12, 11)
    theirs = -torch.log_softmax(others, 1).mean()
    close(ours, theirs)
    for a, b in zip(slopes(ours, [x, u]), slopes(theirs, [y, v]), strict=True):
        close(a, b, atol=1e-8)


@EVERY_IMPL
@pytest.mark.identity("ResComLoss")
def test_rescom_s_empty_slots_are_not_there(impl: str) -> None:
    """An empty slot would be everyone's nearest row of another class, or the farthest of one's own."""
    slots = torch.cat([QUEUE, Z0, -Z0])
    labels = torch.cat([QUEUE_LABELS, torch.full((12,), -1)])
    loss = losses.ResComLoss([9, 5, 1], positives=2, negatives=3, reduction="none", impl=impl)
    close(loss(STACKED, PARTIAL, slots, labels), loss(STACKED, PARTIAL, QUEUE, QUEUE_LABELS))
    filled = torch.cat([QUEUE_LABELS, torch.arange(12) % 3])
    assert (loss(STACKED, PARTIAL, slots, filled) - loss(STACKED, PARTIAL, slots, labels)).abs().max() > 1


@EVERY_IMPL
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("name", ["ResCom", "PaCo"])
def test_what_an_empty_slot_holds_does_not_matter(name: str, garbage: float, impl: str) -> None:
    """A queue that was allocated and not yet written may hold anything."""
    labels = torch.tensor([-1, 1, -1, 0, 1, -1, 0, 1])  # no slot of class 2, and the first one is empty
    queue = QUEUE.masked_fill((labels == -1)[:, None], garbage)
    x, y = leaf(STACKED), leaf(STACKED)
    if name == "ResCom":
        loss = losses.ResComLoss([9, 5, 1], positives=3, negatives=9, impl=impl)
        found = [loss(z, LABELS, slots, labels) for z, slots in ((x, queue), (y, QUEUE))]
    else:
        loss = with_parameters(losses.PaCoLoss(3, 5, impl=impl), **LINEAR)
        found = [loss(z, LABELS, FEATURES, slots, labels) for z, slots in ((x, queue), (y, QUEUE))]
    close(found[0], found[1], atol=1e-12)
    close(slope(found[0], x), slope(found[1], y), atol=1e-12)


# FairKL


@EVERY_IMPL
@pytest.mark.parametrize("form", ["kl", "moments"])
@pytest.mark.identity("FairKLLoss")
def test_fairkl_leaves_out_a_row_s_product_with_itself(form: str, impl: str) -> None:
    """Self products of 1 would be aligned positive pairs; here all true pairs of a class are at right angles."""
    rows = torch.eye(8, dtype=torch.float64)
    labels, bias = torch.zeros(8, dtype=torch.int64), torch.arange(8) % 2
    x = leaf(rows)
    value = losses.FairKLLoss(form=form, impl=impl)(x, labels, bias)
    close(value, 0.0, atol=1e-15)
    assert slope(value, x).abs().max() < 1e-12


# OpenCon


@EVERY_IMPL
def test_opencon_s_temperatures_can_be_learnt(impl: str) -> None:
    ours, theirs = (leaf(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)) for _ in range(2))
    value = losses.OpenConLoss(temperatures=tuple(ours.unbind()), impl=impl)(
        STACKED, OPEN, GUESSES, NOVEL, fixture.ids()
    )
    expected = mean(
        prototypes.opencon(STACKED, OPEN, GUESSES, NOVEL, ids=fixture.ids(), temperatures=tuple(theirs.unbind()))
    )
    close(value, expected)
    close(slope(value, ours), slope(expected, theirs), atol=1e-8)


def test_opencon_s_temperatures_that_are_parameters_are_the_module_s() -> None:
    """An optimiser of the loss's parameters would pass over what only a tuple holds."""
    call = (STACKED, OPEN, GUESSES, NOVEL, fixture.ids())
    own = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    loss = losses.OpenConLoss(temperatures=(0.1, own, 0.7))
    assert dict(loss.named_parameters()).keys() == {"unlabelled_temperature"} == loss.state_dict().keys()
    close(loss(*call), losses.OpenConLoss()(*call))
    value = loss(*call)
    value.backward()
    torch.optim.SGD(loss.parameters(), lr=1e-3).step()
    assert loss.temperatures[1] is own
    assert loss(*call) < value
    other = {"unlabelled_temperature": torch.tensor(0.9, dtype=torch.float64)}
    hotter = losses.OpenConLoss(temperatures=(0.1, 0.9, 0.7))(*call)
    close(torch.func.functional_call(loss, other, call), hotter)
    assert "temperatures=(0.1, 0.3" in repr(loss)


def test_opencon_without_any_anchor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinfolk.losses.base._warned", False)  # it warns once per process
    x, nothing = torch.randn(4, 2), torch.zeros(4, dtype=torch.bool)

    def caught(labels: list[int], ids: torch.Tensor | None = None) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            losses.OpenConLoss()(x, torch.tensor(labels), torch.zeros(4).long(), nothing, ids)
        return [str(w.message) for w in found]

    assert caught([0, 0, -1, -1]) == []
    assert caught([-1] * 4, torch.tensor([5, 5, 6, 7])) == []
    (message,) = caught([-1] * 4)
    assert message.startswith("OpenConLoss: no anchor")


# two modalities


@pytest.mark.parametrize("elements", [2, 6])
def test_a_scale_or_bias_of_several_elements_is_named(elements: int) -> None:
    several, shape = torch.ones(elements), rf"one element, found shape \({elements},\)"
    with pytest.raises(ValueError, match=f"logit_scale must be .*{shape}"):
        losses.CLIPLoss()(Z0, Z1, several)
    with pytest.raises(ValueError, match=f"logit_scale must be .*{shape}"):
        losses.SigLIPLoss()(Z0, Z1, several, -10.0)
    with pytest.raises(ValueError, match=f"logit_bias must be .*{shape}"):
        losses.SigLIPLoss()(Z0, Z1, 10.0, several)


@EVERY_IMPL
@pytest.mark.identity("CLIPLoss", "MMCLLoss", "UnpairedMMCLLoss")
def test_scale_of_one_element_in_any_shape(impl: str) -> None:
    scale, bias = torch.tensor([10.0]), torch.tensor([[-10.0]])
    one = losses.CLIPLoss(impl=impl)(Z0, Z1, scale)
    assert one.shape == losses.SigLIPLoss(impl=impl)(Z0, Z1, scale, bias).shape == ()
    close(one, losses.CLIPLoss(impl=impl)(Z0, Z1, 10.0))
    close(10 * losses.MMCLLoss(temperature=1 / scale, normalize=True, impl=impl)(Z0, Z1), one, atol=1e-6)
    own = losses.UnpairedMMCLLoss(temperature=1 / scale, impl=impl)(Z0, Z1, torch.eye(6))
    close(own, one, atol=1e-6)


@EVERY_IMPL
@pytest.mark.identity("SigLIPLoss")
def test_siglip_of_one_pair_is_one_question(impl: str) -> None:
    x, y, scale, bias = leaf(Z0[:1]), leaf(Z1[:1]), leaf(torch.tensor(3.0).double()), leaf(torch.tensor(-1.0).double())
    u, v, s, b = (leaf(t) for t in (x, y, scale, bias))
    ours = losses.SigLIPLoss(impl=impl)(x, y, scale, bias)
    theirs = F.softplus(-(s * F.cosine_similarity(u, v) + b)).sum()
    close(ours, theirs)
    for a, c in zip(slopes(ours, [x, y, scale, bias]), slopes(theirs, [u, v, s, b]), strict=True):
        close(a, c, atol=1e-8)


@EVERY_IMPL
@pytest.mark.parametrize("matching", ["top", "argmax"])
def test_a_broken_teacher_is_not_hidden(matching: str, impl: str) -> None:
    teacher = torch.eye(6)
    teacher[3, 1] = math.nan
    assert losses.UnpairedMMCLLoss(matching=matching, impl=impl)(Z0, Z1, teacher).isnan()


def test_what_no_assignment_can_avoid_is_said() -> None:
    barred = torch.full((6, 6), -math.inf)
    barred[0] = 1.0
    with pytest.raises(ValueError, match=r"(?s)finite.*\(6, 6\).*0 NaN and 30 infinite"):
        losses.UnpairedMMCLLoss(matching="assignment")(Z0, Z1, barred)
    with pytest.raises(ValueError, match=r"(?s)finite.*\(6, 6\).*36 NaN and 0 infinite"):
        theory.match(torch.full((6, 6), math.nan), how="assignment")


@pytest.fixture
def double_by_default() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("matching", ["top", "argmax", "assignment"])
def test_default_precision_does_not_enter_the_result(matching: str) -> None:
    assert losses.UnpairedMMCLLoss(matching=matching)(Z0.float(), Z1.float()).dtype == torch.float32


def test_rank_and_rho_of_the_svd_may_be_given_in_their_order() -> None:
    for a, b in zip(theory.svd_solution(Z0, Z1, 2, 0.7), theory.svd_solution(Z0, Z1, rank=2, rho=0.7), strict=True):
        assert torch.equal(a, b)


# what does not fit


def test_labels_of_a_queue_that_is_not_there() -> None:
    for rest in ({"queue_labels": QUEUE_LABELS}, {"queue_ids": QUEUE_LABELS, "ids": fixture.ids()}):
        with pytest.raises(ValueError, match="queue_labels and queue_ids belong to a queue"):
            paco()(STACKED, LABELS, FEATURES, **rest)


def test_logits_are_not_counts() -> None:
    with pytest.raises(TypeError, match=r"logits must be a float tensor.*int64"):
        losses.BalancedSoftmaxLoss([3, 2, 1])(torch.ones(6, 3, dtype=torch.int64), fixture.labels())
