"""InterCLR's machinery: MoCo before the clusters begin, then positives and negatives by cluster."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinfolk.data.counter import counter_uniform
from kinfolk.losses import InfoNCELoss
from kinfolk.methods import InterCLRConfig, MoCoConfig, TrainingPlan
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)


def small(**settings) -> InterCLRConfig:
    return InterCLRConfig(**{"head": HEAD, "queue_size": 40, "clusters": 6, "negatives": 9, **settings})


def step(method, batch, optimizer=None):
    terms = method(batch)
    if optimizer is not None:
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    method.after_step()
    return terms


@pytest.fixture
def begun(digits, build):
    """Return `begun(config)`: a method whose clusters have begun after two steps."""

    def make(config, *, norm="group"):
        method = build(config, norm=norm)
        method.begin(TrainingPlan(20, 2, digits(0, n=90)["ids"], torch.nn.Identity()))
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            step(method, digits(0, n=90), optimizer)
        return method

    return make


def test_before_the_first_pass_is_over_it_is_moco_bitwise(digits, build):
    mine, moco = (build(c) for c in (small(), MoCoConfig(temperature=0.2, head=HEAD, queue_size=40)))
    for number in range(3):
        batch = digits(number, n=24)
        assert torch.equal(step(mine, batch)["loss"], step(moco, batch)["loss"])
    assert not mine.clusters.started


def test_clusters_begin_after_the_first_pass(begun):
    method = begun(small())
    assert method.clusters.started
    assert method.bank.seen.all()
    assert method.clusters.labels.min() == 0


@pytest.mark.parametrize("sampling", ["semi-hard", "random"])
def test_a_step_is_the_definition_in_loops(sampling, begun, digits):
    method = begun(small(sampling=sampling, pool=0.4)).double()
    batch = digits(0, n=90)
    chosen = torch.arange(12)
    batch = {"views": [v[chosen].double() for v in batch["views"]], **{k: batch[k][chosen] for k in ("ids", "labels")}}
    bank, labels, now = F.normalize(method.bank.snapshot()), method.clusters.labels.clone(), int(method.step)
    queue = method.queue.snapshot()
    terms = method(batch)

    q, k = method.head(method.encoder(batch["views"][0])), method.twin(batch["views"][1])
    intra = InfoNCELoss(temperature=0.2)(q, k, queue.features, exclude=(batch["ids"], queue.ids))
    unit, losses = F.normalize(q), []
    for i, name in enumerate(batch["ids"].tolist()):
        own = int(method.bank.places(batch["ids"][i : i + 1]))
        others = [j for j in range(90) if labels[j] == labels[own] and j != own]
        draw = counter_uniform((0, now, 0), batch["ids"][i : i + 1], count=1).item()
        positive = others[int(draw * len(others))] if others else own
        pool = (
            sorted(range(90), key=lambda j: -float(unit[i].detach() @ bank[j]))[:36]
            if sampling == "semi-hard"
            else range(90)
        )
        pool = sorted(pool)
        lots = counter_uniform((0, now, 1), torch.tensor([name]), count=len(pool))[0].tolist()
        allowed = sorted((lot, j) for lot, j in zip(lots, pool, strict=True) if labels[j] != labels[own])[:9]
        own_score = (unit[i] @ bank[positive] + 0.5) / 0.2
        logits = torch.stack([own_score, *(unit[i] @ bank[j] / 0.2 for _, j in allowed)])
        losses.append(logits.logsumexp(0) - own_score)
    expected = 0.75 * intra + 0.25 * torch.stack(losses).mean()
    torch.testing.assert_close(terms["loss"], expected, rtol=0, atol=1e-9)
    gradients = [torch.autograd.grad(loss, method.encoder.parameters()) for loss in (terms["loss"], expected)]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


def test_positives_share_the_cluster_and_are_never_the_own_row(begun, digits):
    method, ids = begun(small(clusters=12)), digits(0, n=90)["ids"]
    own, sizes = method.bank.places(ids), method.clusters.sizes()
    drawn = []
    for number in range(20):
        method.step.fill_(number)
        found = method._positives(ids)
        assert torch.equal(method.clusters.labels[found], method.clusters.labels[own])
        alone = sizes[method.clusters.labels[own]] == 1
        assert torch.equal(found == own, alone)
        drawn.append(found)
    large = int(sizes.argmax())
    place = int((method.clusters.labels[own] == large).nonzero()[0])
    assert len({int(found[place]) for found in drawn}) > 1  # another one in another step


def test_negatives_are_other_clusters_rows_drawn_once_from_the_pool(begun, digits):
    method, batch = begun(small(pool=0.3)), digits(0, n=90)
    rows, ids = method.bank.snapshot(), batch["ids"]
    q = method.head(method.encoder(batch["views"][0])).detach()
    found = method._negatives(q, rows, ids)
    pool = (F.normalize(q) @ rows.T).topk(27).indices
    own = method.clusters.labels[method.bank.places(ids)]
    for i, row in enumerate(found):
        chosen = row[row >= 0]
        assert len(chosen.unique()) == len(chosen)
        assert set(chosen.tolist()) <= set(pool[i].tolist())
        assert not method.clusters.labels[chosen].eq(own[i]).any()
        allowed = int((method.clusters.labels[pool[i]] != own[i]).sum())
        assert len(chosen) == min(9, allowed)  # fewer where the cluster holds most of the pool, and nobody waits


def test_one_cluster_that_holds_everything_leaves_a_loss_of_zero(begun, digits):
    method = begun(small(clusters=1, min_cluster=1))
    terms = method(digits(0, n=30))
    assert terms["inter_loss"].item() == 0
    assert terms["largest_cluster"].item() == 1
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in method.head.parameters())


def test_draws_do_not_depend_on_the_batch_they_fall_in(begun, digits):
    method, batch = begun(small()), digits(0, n=90)
    q = method.head(method.encoder(batch["views"][0])).detach()
    rows, ids = method.bank.snapshot(), batch["ids"]
    some = torch.tensor([4, 80, 2])
    assert torch.equal(method._positives(ids)[some], method._positives(ids[some]))
    assert torch.equal(method._negatives(q, rows, ids)[some], method._negatives(q[some], rows, ids[some]))


def test_what_it_needs_is_said(digits, build):
    with pytest.raises(ValueError, match="InterCLR keeps something about every training sample, and a stream"):
        build(small()).begin(TrainingPlan(9, 3, None, torch.nn.Identity()))
    with pytest.raises(ValueError, match="InterCLR finds samples in its bank by ids; found batch keys"):
        build(small())({"views": digits(0)["views"]})
    for field, value in {"inter_weight": 1.5, "pool": 0.0, "negatives": 0, "sampling": "hard"}.items():
        with pytest.raises(ValueError, match=field):
            small(**{field: value})
