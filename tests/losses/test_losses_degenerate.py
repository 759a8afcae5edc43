"""Anchors without a target, single classes, tiny batches, zero and broken rows, duplicates."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import definitions
import fixture
import pytest
import torch
from cases import CASES
from cases.inputs import duplicate_ids

from kinfolk import graphs, losses
from kinfolk.ops import PairMask

IMPLS = ["reference", "chunked"]
EVERY_IMPL = pytest.mark.parametrize("impl", IMPLS)
EVERY = pytest.mark.parametrize("name", CASES)

ZERO_LOSSES = {
    "SupCon, all labels differ": lambda impl, x: losses.SupConLoss(impl=impl)(x, torch.arange(len(x))),
    "SupCon, no label at all": lambda impl, x: losses.SupConLoss(impl=impl)(x, -torch.ones(len(x), dtype=torch.int64)),
    "SupCon in, all labels differ": lambda impl, x: losses.SupConLoss(form="in", impl=impl)(x, torch.arange(len(x))),
    "SupCon, one row": lambda impl, x: losses.SupConLoss(impl=impl)(x[:1], torch.zeros(1, dtype=torch.int64)),
    "XSample, one row": lambda impl, x: losses.XSampleLoss(impl=impl)(x[:1], torch.ones(1, 3)),
    "GraphContrastive, zero graph": lambda impl, x: losses.GraphContrastiveLoss(temperature=0.1, impl=impl)(
        x, x, graphs.DenseGraph(torch.zeros(len(x), len(x)))
    ),
    "GraphContrastive, all masked": lambda impl, x: losses.GraphContrastiveLoss(temperature=0.1, impl=impl)(
        x, x, graphs.PairGraph(len(x)), mask=torch.zeros(len(x), len(x), dtype=torch.bool)
    ),
    "GraphContrastive, target masked": lambda impl, x: losses.GraphContrastiveLoss(temperature=0.1, impl=impl)(
        x, x, graphs.PairGraph(len(x)), mask=~torch.eye(len(x), dtype=torch.bool)
    ),
    "DCL, one sample only": lambda impl, x: losses.DCLLoss(impl=impl)(x, x.flip(1), ids=torch.zeros(len(x)).long()),
    "CACR, one sample only": lambda impl, x: losses.CACRLoss(impl=impl)([x, x.flip(1)], ids=torch.zeros(len(x)).long()),
}


@EVERY_IMPL
@pytest.mark.parametrize("name", ZERO_LOSSES)
def test_no_valid_anchor_is_zero_with_a_graph(name: str, impl: str) -> None:
    x = fixture.z(0).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = ZERO_LOSSES[name](impl, x)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, x)
    assert not gradient.any()


def test_no_valid_anchor_warns_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinfolk.losses.base._warned", False)  # as in a process of its own
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            losses.SupConLoss()(torch.randn(3, 2), torch.arange(3))
    assert ["anchor" in str(warning.message) for warning in caught] == [True]


@EVERY_IMPL
def test_singletons_are_not_counted(impl: str) -> None:
    each = losses.SupConLoss(reduction="none", impl=impl)(fixture.z(0), torch.tensor([0, 0, 1, 1, 2, 3]))
    mean = losses.SupConLoss(impl=impl)(fixture.z(0), torch.tensor([0, 0, 1, 1, 2, 3]))
    assert mean.item() == pytest.approx(6.0453903660, abs=1e-9)
    assert each[4:].tolist() == [0, 0]
    assert (each.sum() / 6).item() == pytest.approx(4.0302602440, abs=1e-9)


@EVERY_IMPL
def test_anchor_without_a_positive_is_still_a_key(impl: str) -> None:
    x, labels = fixture.z(0), torch.tensor([0, 0, 1, 1, 2, -1])
    whole = losses.SupConLoss(impl=impl)(x, labels)
    without = losses.SupConLoss(impl=impl)(x[:4], labels[:4])
    assert whole.item() > without.item() + 1e-3


@EVERY_IMPL
def test_one_class_has_its_true_value(impl: str) -> None:
    x, labels = fixture.z(0).requires_grad_(), torch.zeros(6, dtype=torch.int64)
    assert losses.SupConLoss(impl=impl)(x, labels).item() == pytest.approx(4.6211064730, abs=1e-9)
    inside = losses.SupConLoss(form="in", impl=impl)(x, labels)
    assert inside.item() == pytest.approx(math.log(5), abs=1e-12)
    (gradient,) = torch.autograd.grad(inside, x)
    assert gradient.abs().max() < 1e-12


@EVERY_IMPL
def test_true_zero_counts_in_the_mean(impl: str) -> None:
    """Two rows of one class and nothing else: the value is 0 and both rows are anchors."""
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    graph = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    queries = torch.cat([pair, pair[:1]])
    mask = torch.tensor([[False, True], [True, False], [True, True]])
    loss = losses.GraphContrastiveLoss(temperature=1.0, impl=impl)(queries, pair, graph, mask=mask)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) / 3, abs=1e-12)


@EVERY_IMPL
def test_one_sample_has_nothing_to_tell_apart(impl: str) -> None:
    x, y = fixture.z(0)[:1].requires_grad_(), fixture.z(1)[:1].requires_grad_()
    for loss in (losses.NTXentLoss(impl=impl)(x, y), losses.CLIPLoss(impl=impl)(x, y, torch.tensor(10.0))):
        assert loss.item() == pytest.approx(0, abs=1e-12)
        for gradient in torch.autograd.grad(loss, [x, y]):
            assert gradient.abs().max() < 1e-12


@pytest.mark.no_cover
@EVERY_IMPL
@EVERY
def test_zero_rows_give_a_finite_loss_and_gradient(name: str, impl: str) -> None:
    case = CASES[name]
    call = case.random(6, 4)
    for t in replace(call, parameters={}).tensors(case.learnt):
        if t.ndim == 2:
            t.data[2] = 0
    loss = case.value(call, impl=impl)
    values, valid = case.loops(call)
    assert loss.item() == pytest.approx((values.sum() / sum(valid)).item(), abs=1e-9)
    for gradient in torch.autograd.grad(loss, call.tensors(case.learnt)):
        assert torch.isfinite(gradient).all()


@pytest.mark.no_cover
@EVERY_IMPL
@pytest.mark.parametrize("broken", [math.nan, math.inf])
@EVERY
def test_broken_row_is_not_hidden(name: str, broken: float, impl: str) -> None:
    case = CASES[name]
    call = case.random(6, 4)
    call.tensors(case.learnt)[0].data[1, 0] = broken
    if not isinstance(call.args[case.learnt[0]], list):  # row 1 might be neither an anchor nor a key of one
        call.tensors(case.learnt)[0].data[:, 0] = broken
    assert not torch.isfinite(case.value(call, impl=impl))


def _mean(loops: definitions.Loops) -> float:
    return definitions.mean(loops).item()


@EVERY_IMPL
def test_duplicated_sample_leaves_a_floor_without_ids(impl: str) -> None:
    """Five samples, two of them the same, perfectly encoded: ids remove the floor under the loss."""
    perfect = torch.eye(5, dtype=torch.float64)
    perfect[1] = perfect[0]
    ids = duplicate_ids(5)
    sharp = torch.tensor(200.0, dtype=torch.float64)
    clip = losses.CLIPLoss(impl=impl)
    assert clip(perfect, perfect, sharp).item() == pytest.approx(2 * math.log(2) / 5, abs=1e-9)
    assert clip(perfect, perfect, sharp, ids=ids).item() == pytest.approx(0, abs=1e-9)
    ntxent = losses.NTXentLoss(temperature=0.005, impl=impl)
    assert ntxent(perfect, perfect).item() == pytest.approx(2 * math.log(3) / 5, abs=1e-9)
    assert ntxent(perfect, perfect, ids=ids).item() == pytest.approx(0, abs=1e-9)


@EVERY_IMPL
def test_same_id_is_a_positive_whatever_the_labels(impl: str) -> None:
    x, labels, ids = fixture.z(0), torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([7, 7, 8, 9, 8, 10])
    each = losses.SupConLoss(reduction="none", impl=impl)(x, labels, ids=ids)
    values, valid = definitions.supcon(x, labels, temperature=0.1, ids=ids)
    assert valid == [True, True, True, False, True, False]
    assert torch.allclose(each, values, atol=1e-9)


@EVERY_IMPL
def test_ids_and_labels_beyond_single_precision_differ(impl: str) -> None:
    x, y = fixture.z(0)[:3], fixture.z(1)[:3]
    ids = torch.tensor([2**24, 2**24 + 1, 5])
    for loss in (losses.NTXentLoss(impl=impl), losses.DCLLoss(impl=impl), losses.CACRLoss(impl=impl)):
        call: tuple[object, ...] = ([x, y],) if isinstance(loss, losses.CACRLoss) else (x, y)
        assert torch.equal(loss(*call, ids=ids), loss(*call))
    supcon = losses.SupConLoss(reduction="none", impl=impl)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert supcon(x, ids).tolist() == [0, 0, 0]
        assert supcon(x, torch.tensor([-1, -1, -1]), ids=ids).tolist() == [0, 0, 0]


@EVERY_IMPL
def test_soft_target_losses_mask_nothing_by_id(impl: str) -> None:
    x, side, ids = fixture.z(0), fixture.side_embeddings()[:6], torch.tensor([3, 3, 4, 4, 5, 5])
    xsample = losses.XSampleLoss(impl=impl)
    assert torch.equal(xsample(x, side, ids=ids), xsample(x, side))
    general, graph = (
        losses.GraphContrastiveLoss(temperature=0.1, impl=impl),
        graphs.LabelGraph(torch.tensor([0, 0, 1, 1, 2, 2])),
    )
    assert torch.equal(general(x, x, graph, ids=ids), general(x, x, graph))


def test_sparse_graph_names_its_keys_by_id() -> None:
    """Edges to ids reach every row of that id, also the other view; the anchor itself is only dropped by the mask."""
    x, ids = torch.cat([fixture.z(0)[:3], fixture.z(1)[:3]]), torch.tensor([30, 10, 20]).repeat(2)
    related = {30: [30, 10], 10: [20], 20: [99]}
    edges = [related[int(i)] for i in ids]
    crow = torch.tensor([0, *[len(e) for e in edges]]).cumsum(0)
    by_id = graphs.SparseGraph(crow, torch.tensor([i for e in edges for i in e]))
    weights = torch.tensor([[float(int(b) in related[int(a)]) for b in ids] for a in ids])
    not_self = ~torch.eye(6, dtype=torch.bool)
    values, valid = definitions.graph_contrastive(x, x, weights, temperature=0.1, mask=not_self)
    assert valid == [True, True, False] * 2
    got = losses.XSampleLoss(reduction="none")(x, by_id, ids=ids)
    assert torch.allclose(got, values, atol=1e-9)
    general = losses.GraphContrastiveLoss(temperature=0.1)(x, x, by_id, mask=not_self, ids=ids)
    assert general.item() == pytest.approx(values.sum().item() / 4, abs=1e-9)
    with pytest.raises(ValueError, match="ids"):
        losses.XSampleLoss()(x, by_id)


@EVERY_IMPL
def test_bias_of_a_mask_enters_the_partition_only(impl: str) -> None:
    x, y = fixture.z(0), fixture.z(1)
    bias = torch.linspace(-2, 2, 6, dtype=torch.float64)
    loss = losses.GraphContrastiveLoss(temperature=0.2, reduction="none", impl=impl)
    got = loss(x, y, graphs.PairGraph(6), mask=PairMask.bias(bias))
    scores = x @ y.T / 0.2
    assert torch.allclose(got, torch.logsumexp(scores + bias, 1) - scores.diagonal(), atol=1e-9)


@EVERY_IMPL
def test_learnt_side_embeddings_of_a_graph_are_constants_of_a_loss(impl: str) -> None:
    x, side = fixture.z(0).requires_grad_(), fixture.rows(11, 6, dim=3).requires_grad_()
    kernel = graphs.KernelGraph(side, temperature=0.3)
    mixed = graphs.MixtureGraph([kernel, graphs.PairGraph(6)], [1.0, 1.0])
    for graph in (kernel, kernel.row_normalised(), mixed):
        x.grad = None
        losses.GraphContrastiveLoss(temperature=0.1, impl=impl)(x, fixture.z(1), graph).backward()
        assert side.grad is None
        assert x.grad is not None
        assert x.grad.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_width(dtype: torch.dtype) -> None:
    x, labels = fixture.z(0), fixture.labels()
    assert torch.equal(losses.SupConLoss()(x, labels.to(dtype)), losses.SupConLoss()(x, labels))


@pytest.mark.parametrize("name", [name for name in CASES if "," not in name])
def test_no_rows_at_all_is_an_error(name: str) -> None:
    case = CASES[name]
    call = case.random(max(3, case.minimum), 4)
    empty = call.map(lambda t: t[:0] if t.ndim else t, range(len(call.args)))
    with pytest.raises(ValueError, match=r"none|0"):
        empty.of(case.make(call))


@pytest.mark.parametrize(
    ("name", "n"), [(name, n) for name, case in CASES.items() if "ids" not in name for n in range(1, case.minimum)]
)
def test_too_few_samples_name_the_loss_and_the_count(name: str, n: int) -> None:
    call = CASES[name].random(n, 4)
    with pytest.raises(ValueError, match=rf"(?s){CASES[name].build.__name__}.*{n}"):
        CASES[name].value(call)


def test_one_view_is_too_few_for_cacr() -> None:
    with pytest.raises(ValueError, match=r"(?s)CACRLoss.*1"):
        losses.CACRLoss()([fixture.z(0)])
