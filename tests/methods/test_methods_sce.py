"""SCE's roles of the views, its target and its predictor, against the algorithm written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.methods import MoCoConfig, SCEConfig
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    return SCEConfig(**{"head": HEAD, "queue_size": 40, "momentum": 0.8, **settings})


def step(method, batch, optimizer):
    optimizer.zero_grad()
    loss = method(batch)["loss"]
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.item()


def sgd(module):
    return torch.optim.SGD((p for p in module.parameters() if p.requires_grad), lr=0.5)


def in_float64(batch):
    return batch | {"views": [view.double() for view in batch["views"]]}


@pytest.mark.parametrize("predictor", [HeadConfig(layers=0), HEAD])
@pytest.mark.parametrize("symmetric", [False, True])
def test_it_follows_the_algorithm_as_published(symmetric, predictor, digits, build):
    """The weak view's key relates to the queue as it was; the strong view's online row has to answer alike."""
    method = build(plain(symmetric=symmetric, predictor=predictor, coefficient=0.3), norm="group").double()
    body = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    online = torch.nn.Sequential(body, copy.deepcopy(method.predictor))
    target = copy.deepcopy(body).requires_grad_(False)
    queue = F.normalize(method.queue.snapshot().features)
    optimizers = [sgd(method), sgd(online)]
    for number in range(6):
        batch = in_float64(digits(number, n=24))

        weak, strong = batch["views"]
        directions = [(strong, weak), (weak, strong)] if symmetric else [(strong, weak)]
        rows = [F.normalize(online(view)) for view, _ in directions]
        for k, q in zip(target.parameters(), body.parameters(), strict=True):
            k.copy_(0.8 * k + 0.2 * q.detach())
        keys = [F.normalize(target(view)) for _, view in directions]
        losses = []
        for o, t in zip(rows, keys, strict=True):
            log_p = (torch.cat([(o * t).sum(1, keepdim=True), o @ queue.T], 1) / 0.1).log_softmax(1)
            relations = (t @ queue.T / 0.05).softmax(1)
            wanted = torch.cat([torch.full((24, 1), 0.3, dtype=torch.float64), 0.7 * relations], 1)
            losses.append(-(wanted * log_p).sum(1).mean())
        loss = torch.stack(losses).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        queue = torch.cat([queue, *keys])[-40:]

        assert step(method, batch, optimizers[0]) == pytest.approx(loss.item(), abs=1e-9)
    found = method.queue.snapshot().features.roll(-int(method.queue.pointer), 0)
    torch.testing.assert_close(found, queue, rtol=0, atol=1e-9)


@pytest.mark.parametrize("symmetric", [False, True])
def test_with_the_whole_target_on_the_own_key_it_is_moco(symmetric, digits, build):
    """MoCo's query is the first view, SCE's online view is the second."""
    shared = {"head": HEAD, "queue_size": 40, "momentum": 0.8, "symmetric": symmetric}
    sce = build(SCEConfig(**shared, coefficient=1.0)).double()
    moco = build(MoCoConfig(**shared, temperature=0.1, exclude_own=False)).double()
    optimizers = [sgd(method) for method in (sce, moco)]
    for number in range(4):
        batch = in_float64(digits(number, n=24))
        swapped = batch | {"views": batch["views"][::-1]}
        assert step(sce, batch, optimizers[0]) == pytest.approx(step(moco, swapped, optimizers[1]), abs=1e-9)
    ours, theirs = sce.state_dict(), moco.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9)


def test_between_the_ends_the_loss_is_linear_in_the_coefficient(digits, build):
    batch = in_float64(digits(0, n=24))
    first, middle, last = (
        build(plain(coefficient=c), norm="group").double()(batch)["loss"].item() for c in (0.0, 0.25, 1.0)
    )
    assert abs(last - first) > 1e-2
    assert middle == pytest.approx(0.75 * first + 0.25 * last, abs=1e-9)


def test_the_target_sees_the_weak_view_and_the_online_encoder_the_strong_one(digits, build):
    method, batch = build(plain(), norm="group"), digits(0, n=12)
    weak, strong = batch["views"]
    (online,), (target,) = method.embed(batch), method.embed_keys(batch)
    torch.testing.assert_close(online, method.head(method.encoder(strong)))
    torch.testing.assert_close(target, method.twin(weak))
    assert online.requires_grad
    assert not target.requires_grad


def test_keys_enter_the_queue_after_the_step_with_ids_and_labels(digits, build):
    for symmetric, rows in ((False, 12), (True, 24)):
        method, batch = build(plain(symmetric=symmetric), norm="group"), digits(0, n=12)
        before, keys = method.queue.snapshot(), method.embed_keys(batch)
        method(batch)["loss"].backward()
        assert torch.equal(method.queue.snapshot().features, before.features)
        method.after_step()
        after = method.queue.snapshot()
        torch.testing.assert_close(after.features[:rows], F.normalize(torch.cat(keys)))
        assert torch.equal(after.ids[:rows], batch["ids"].repeat(rows // 12))
        assert torch.equal(after.labels[:rows], batch["labels"].repeat(rows // 12))
        assert int(method.queue.filled) == rows


def test_the_predictor_is_online_only(digits, build):
    method = build(plain(predictor=HEAD), norm="group")
    method(digits(0, n=12))["loss"].backward()
    assert all(p.grad is not None for p in method.predictor.parameters())
    assert not any("predictor" in name for name, _ in method.twin.named_parameters())
    assert not list(build(plain()).predictor.parameters())


def test_passes_without_gradient_leave_no_trace(digits, build):
    method = build(plain(), norm="group")
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(digits(0))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_health_measures_the_relations(digits, build):
    method, batch = build(plain(), norm="group").double(), in_float64(digits(0, n=24))
    method.queue.enqueue(method.twin(in_float64(digits(1, n=30))["views"][0]), labels=digits(1, n=30)["labels"])
    terms = method(batch)
    target, queue = F.normalize(method.twin(batch["views"][0])), F.normalize(method.queue.rows)
    relations = (target @ queue.T / 0.05).softmax(1)
    entropy = -(relations * relations.log()).sum(1).mean()
    assert terms["relation_perplexity"].item() == pytest.approx(entropy.exp().item(), rel=1e-6)
    found = method.queue.row_labels[relations.argmax(1)]
    known = found >= 0
    assert known.any()
    assert terms["same_label"].item() == pytest.approx((found == batch["labels"])[known].double().mean().item())
    assert "same_label" not in method({"views": batch["views"]})


def test_a_lower_target_temperature_relates_to_fewer_keys(digits, build):
    found = [
        build(plain(target_temperature=t), norm="group")(digits(0))["relation_perplexity"].item()
        for t in (1e-3, 0.05, 0.1, 100.0)
    ]
    assert found == sorted(found)
    assert found[0] == pytest.approx(1.0, abs=0.2)
    assert found[-1] == pytest.approx(40.0, rel=1e-3)


def test_settings_that_cannot_be_are_refused(digits, build):
    with pytest.raises(ValueError, match=r"predictor.out_dim is 5, the head gives 8; set both alike"):
        build(plain(predictor=HeadConfig(out_dim=5)))
    with pytest.raises(ValueError, match=r"coefficient must lie in \[0, 1\], found 2"):
        build(plain(coefficient=2))
    with pytest.raises(ValueError, match="SCE takes exactly 2 views of each image, found 3"):
        build(plain())(digits(0, views=3))
