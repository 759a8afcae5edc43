"""MoCo's order of events, against the algorithm written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.losses import InfoNCELoss
from kinfolk.methods import MoCoConfig, TrainingPlan
from kinfolk.nn import HeadConfig, SplitBatchNorm

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    return MoCoConfig(**{"head": HEAD, "queue_size": 40, "momentum": 0.8, **settings})


def step(method, batch, optimizer):
    optimizer.zero_grad()
    loss = method(batch)["loss"]
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.item()


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_follows_the_algorithm_as_published(symmetric, digits, build):
    """Query forward, moving average, key forward, loss against the old queue, step, enqueue: in that order."""
    method = build(plain(symmetric=symmetric, exclude_own=False), norm="group").double()
    query = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    key = copy.deepcopy(query).requires_grad_(False)
    queue = F.normalize(method.queue.snapshot().features)  # they began as float32
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (method, query)]
    for number in range(7):
        batch = digits(number, n=24)
        batch["views"] = [view.double() for view in batch["views"]]

        first, second = batch["views"]
        directions = [(first, second), (second, first)] if symmetric else [(first, second)]
        queries = [F.normalize(query(view)) for view, _ in directions]
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            k.copy_(0.8 * k + 0.2 * q.detach())
        keys = [F.normalize(key(view)) for _, view in directions]
        losses = []
        for q, k in zip(queries, keys, strict=True):
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.1
            losses.append(F.cross_entropy(logits, torch.zeros(24, dtype=torch.int64)))
        loss = torch.stack(losses).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        queue = torch.cat([queue, *keys])[-40:]

        assert step(method, batch, optimizers[0]) == pytest.approx(loss.item(), abs=1e-9)
    found = method.queue.snapshot().features.roll(-int(method.queue.pointer), 0)
    torch.testing.assert_close(found, queue, rtol=0, atol=1e-9)


def test_keys_enter_the_queue_with_their_ids_and_labels_after_the_step(digits, build):
    method, batch = build(plain()), digits(0, n=24)
    before = method.queue.snapshot()
    method(batch)["loss"].backward()
    assert torch.equal(method.queue.snapshot().features, before.features)
    method.after_step()
    after = method.queue.snapshot()
    assert torch.equal(after.ids[:24], batch["ids"])
    assert torch.equal(after.labels[:24], batch["labels"])
    assert torch.equal(after.features[24:], before.features[24:])
    assert method(batch)["queue_fill"].item() == pytest.approx(24 / 40)


def test_a_symmetric_step_enqueues_the_keys_of_both_views(digits, build):
    method, batch = build(plain(symmetric=True)), digits(0, n=12)
    method(batch)
    method.after_step()
    assert torch.equal(method.queue.snapshot().ids[:24], batch["ids"].repeat(2))
    assert int(method.queue.filled) == 24


def test_accumulated_batches_are_all_enqueued_and_average_once(digits, build):
    method = build(plain())
    for number in range(2):
        method(digits(number, n=10))["loss"].backward()
    method.after_step()
    assert torch.equal(
        method.queue.snapshot().ids[:20], torch.cat([digits(number, n=10)["ids"] for number in range(2)])
    )
    assert int(method.twin.encoder.step) == 1


def test_passes_without_gradient_leave_no_trace(digits, build):
    method = build(plain(), norm="group")
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(digits(0))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_own_earlier_keys_are_no_negatives_unless_asked(digits, build):
    batch = digits(0, n=20)
    for exclude_own in (True, False):
        method = build(plain(exclude_own=exclude_own), norm="group")
        method(batch)
        method.after_step()
        queue = method.queue.snapshot()
        q = method.head(method.encoder(batch["views"][0]))
        k = method.twin.head(method.twin.encoder(batch["views"][1]))
        exclude = (batch["ids"][:, None] == queue.ids) & exclude_own
        expected = InfoNCELoss(temperature=0.1)(q, k, queue.features, exclude=exclude)
        torch.testing.assert_close(method(batch)["loss"], expected)


def test_without_ids_the_queue_names_nothing_and_keeps_all_negatives(digits, build):
    losses = []
    for exclude_own in (True, False):
        method = build(plain(exclude_own=exclude_own), norm="group")
        for number in range(2):
            loss = method({"views": digits(number, n=20)["views"]})["loss"]
            method.after_step()
        losses.append(loss.item())
        assert method.queue.snapshot().ids.eq(-1).all()
    assert losses[0] == losses[1]


def test_batch_norm_sees_groups_and_the_keys_in_another_grouping(digits, build):
    method, view = build(plain(batch_norm_splits=3), norm="batch"), digits(0, n=12)["views"][0]
    assert sum(isinstance(m, SplitBatchNorm) for m in method.encoder.modules()) == 2
    twin = copy.deepcopy(method)
    alone = twin.requires_grad_(False)
    found = method.twin(view)
    for group in (range(0, 12, 3), range(1, 12, 3), range(2, 12, 3)):  # each holds samples of every query group
        rows = torch.tensor(group)
        one = copy.deepcopy(alone)
        for module in one.modules():
            if isinstance(module, SplitBatchNorm):
                module.splits = 1
        torch.testing.assert_close(found[rows], one.twin.head(one.twin.encoder(view[rows])))


@pytest.mark.parametrize("n", [12, 13, 3])
def test_keys_come_back_in_the_order_of_their_images(n, digits, build):
    method, view = build(plain(), norm="group"), digits(0, n=n)["views"][0]
    torch.testing.assert_close(method.twin(view), method.twin.head(method.twin.encoder(view)))


def test_one_split_leaves_batch_norm_alone(build):
    assert not any(isinstance(m, SplitBatchNorm) for m in build(plain(batch_norm_splits=1)).modules())
    with pytest.raises(ValueError, match="splits must be at least 1, found 0"):
        build(plain(batch_norm_splits=0))


def test_health_shows_an_encoder_that_outruns_its_queue(digits, build):
    ratios = {}
    for momentum in (0.8, 0.99):
        config = plain(momentum=momentum, queue_size=128, head=HeadConfig(hidden=32, out_dim=16))
        method = build(config, norm="group")
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for number in range(40):
            step(method, digits(number), optimizer)
        ratios[momentum] = method(digits(40))["participation_ratio"].item()
    assert ratios[0.8] < 1.5 < 2.5 < ratios[0.99]


def test_momentum_rises_over_its_steps(digits, build):
    method = build(plain(momentum_schedule="cosine"))
    method.begin(TrainingPlan(2, 1, None, features=torch.nn.Identity()))
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    momenta = [method.twin.head.current_momentum()]
    for number in range(2):
        step(method, digits(number), optimizer)
        momenta.append(method.twin.head.current_momentum())
    assert momenta == pytest.approx([0.8, 0.9, 1.0])
