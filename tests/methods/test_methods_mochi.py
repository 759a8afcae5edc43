"""MoCHi's mixtures, draws and schedule, against the algorithm written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kinfolk import distributed
from kinfolk.losses.mochi import Mixing
from kinfolk.methods import MoCHiConfig, MoCoConfig, TrainingPlan
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)
MIXED = {"hardest": 6, "mixed": 4, "query_mixed": 3}


def plain(**settings):
    return MoCHiConfig(**{"head": HEAD, "queue_size": 40, "momentum": 0.8, "warmup": 0.0, **MIXED, **settings})


def step(method, batch, optimizer):
    optimizer.zero_grad()
    loss = method(batch)["loss"]
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.item()


def sgd(module):
    return torch.optim.SGD((p for p in module.parameters() if p.requires_grad), lr=0.5)


def mixtures(q, queue, drawn):
    """Form every mixture of every query, as constants: [n, mixed + query_mixed, d]."""
    hard = queue[(q @ queue.T).topk(MIXED["hardest"], dim=1)[1]]
    first, second, third = (torch.stack([h[p] for h, p in zip(hard, places, strict=True)]) for places in drawn[:3])
    a, b = (share[:, :, None].to(q) for share in drawn[3:])
    of_pairs = F.normalize(a * first + (1 - a) * second, dim=2)
    of_query = F.normalize(b * q[:, None] + (1 - b) * third, dim=2)
    return torch.cat([of_pairs, of_query], 1).detach()


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_follows_the_algorithm_as_published(symmetric, digits, build):
    """MoCo, and mixtures from the moment that the warm-up is over until the cool-down: steps 2 to 5 of 8."""
    config = plain(symmetric=symmetric, warmup=0.25, cooldown=0.25, seed=3)
    method = build(config, norm="group", steps=8).double()
    query = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    key = copy.deepcopy(query).requires_grad_(False)
    queue = F.normalize(method.queue.snapshot().features)
    optimizers = [sgd(method), sgd(query)]
    for number in range(8):
        batch = digits(number, n=20)
        batch["views"] = [view.double() for view in batch["views"]]

        first, second = batch["views"]
        directions = [(first, second), (second, first)] if symmetric else [(first, second)]
        queries = [F.normalize(query(view)) for view, _ in directions]
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            k.copy_(0.8 * k + 0.2 * q.detach())
        keys = [F.normalize(key(view)) for _, view in directions]
        draws, losses = method.draws(), []
        for q, k in zip(queries, keys, strict=True):
            logits = [(q * k).sum(1, keepdim=True), q @ queue.T]
            if 2 <= number < 6:
                m = Mixing.draw(20, **MIXED, generator=draws)
                made = mixtures(q.detach(), queue, (m.first, m.second, m.third, m.share, m.query_share))
                logits.append(torch.einsum("nd,nsd->ns", q, made))
            losses.append(F.cross_entropy(torch.cat(logits, 1) / 0.1, torch.zeros(20, dtype=torch.int64)))
        loss = torch.stack(losses).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        queue = torch.cat([queue, *keys])[-40:]

        # The shares are drawn in float32 and used in float64 by both.
        assert step(method, batch, optimizers[0]) == pytest.approx(loss.item(), abs=1e-9)
    found = method.queue.snapshot().features.roll(-int(method.queue.pointer), 0)
    torch.testing.assert_close(found, queue, rtol=0, atol=1e-9)  # keys only, never a mixture


@pytest.mark.parametrize(
    "settings", [{"mixed": 0, "query_mixed": 0}, {"warmup": 1.0}, {"warmup": 0.0, "cooldown": 1.0}]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_with_nothing_mixed_it_is_moco_bit_for_bit(symmetric, settings, digits, build):
    shared = {"head": HEAD, "queue_size": 40, "momentum": 0.8, "symmetric": symmetric}
    found = build(MoCHiConfig(**shared, **{**MIXED, **settings}))
    moco = build(MoCoConfig(**shared, exclude_own=False))
    optimizers = [sgd(method) for method in (found, moco)]
    for number in range(4):
        losses = [step(m, digits(number, n=24), o) for m, o in zip((found, moco), optimizers, strict=True)]
        assert losses[0] == losses[1]
    ours = found.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in moco.state_dict().items())
    assert ours.keys() - moco.state_dict().keys() == {"progress.step"}


def test_mixtures_make_the_loss_larger_and_enter_nothing_but_the_loss(digits, build):
    batch = digits(0, n=24)
    mixing, plain_moco = build(plain(), norm="group"), build(plain(mixed=0, query_mixed=0), norm="group")
    assert mixing(batch)["loss"] > plain_moco(batch)["loss"]
    for method in (mixing, plain_moco):
        method.after_step()
    torch.testing.assert_close(mixing.queue.rows, plain_moco.queue.rows)
    assert (mixing.negatives(samples=8, views=2), plain_moco.negatives(samples=8, views=2)) == (47, 40)


def test_draws_change_with_step_seed_and_process_and_with_nothing_else(digits, build, monkeypatch):
    batch = digits(0, n=24)

    def loss(method, *, made=0, rank=0):
        method.progress.step.fill_(made)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        with torch.no_grad():
            return method(batch)["loss"].item()

    method, other = build(plain(), norm="group"), build(plain(seed=1), norm="group")
    torch.rand(3)  # the global generator plays no part
    assert loss(method) == loss(method)
    assert len({loss(method), loss(method, made=1), loss(method, rank=1), loss(other)}) == 4


def test_both_directions_draw_anew(digits, build, monkeypatch):
    method, batch = build(plain(symmetric=True), norm="group"), digits(0, n=6)
    drawn = []
    own = Mixing.draw
    monkeypatch.setattr(Mixing, "draw", lambda *a, **k: drawn.append(own(*a, **k)) or drawn[-1])
    method(batch)
    assert not torch.equal(drawn[0].share, drawn[1].share)
    assert torch.equal(drawn[0].share, drawn[2].share)  # for the health of the first direction


def test_steps_are_counted_once_and_only_where_there_was_training(digits, build):
    method = build(plain(), norm="group")
    method.after_step()
    with torch.no_grad():
        method(digits(0, n=8))
    method.after_step()
    assert int(method.progress.step) == 0
    for number in range(2):
        method(digits(number, n=8))["loss"].backward()
    method.after_step()
    assert int(method.progress.step) == 1


def test_a_schedule_needs_the_length_of_training(digits, build):
    def unbegun(config):
        method = build(config)
        method.progress.total_steps = None
        return method

    with pytest.raises(ValueError, match=r"needs its length: call method.begin\(TrainingPlan"):
        unbegun(plain(warmup=0.1))(digits(0, n=8))
    with pytest.raises(ValueError, match=r"needs its length: call method.begin\(TrainingPlan"):
        unbegun(plain(cooldown=0.1))(digits(0, n=8))
    assert unbegun(plain())(digits(0, n=8))["loss"].isfinite()


def test_begin_sets_both_schedules(build):
    method = build(plain(momentum_schedule="cosine", warmup=0.5), steps=4)
    assert (method.is_mixing(), method.twin.encoder.cosine_steps) == (False, 4)
    method.progress.step.fill_(2)
    assert method.is_mixing()
    method.begin(TrainingPlan(10, 1, None, features=torch.nn.Identity()))
    assert not method.is_mixing()


def made_up(method, digits, *, noise=0.5):
    """Return rows in float64 and a batch: queries, keys at some distance of them, and a queue with some labels."""
    draws = torch.Generator().manual_seed(0)
    q, away, rows = (torch.randn(24, 8, generator=draws, dtype=torch.float64) for _ in range(3))
    method.queue.enqueue(rows, labels=torch.arange(24) % 10)
    return F.normalize(q), F.normalize(q + noise * away), digits(0, n=24)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_health_counts_found_keys_and_false_negatives(warmup, digits, build):
    method = build(plain(warmup=warmup)).double()
    q, k, batch = made_up(method, digits)
    terms = method.terms((q,), batch, keys=(k,))
    queue, labels = F.normalize(method.queue.rows), method.queue.row_labels
    cosines = [q @ queue.T]
    if not warmup:
        m = Mixing.draw(24, **MIXED, generator=method.draws())
        made = mixtures(q, queue, (m.first, m.second, m.third, m.share, m.query_share))
        cosines.append(torch.einsum("nd,nsd->ns", q, made))
    hits = (q * k).sum(1) > torch.cat(cosines, 1).amax(1)
    assert 0 < hits.double().mean() < 1
    assert terms["proxy_accuracy"].item() == pytest.approx(hits.double().mean().item())
    same = [
        int(labels[j] == y)
        for row, y in zip((q @ queue.T).topk(6)[1], batch["labels"], strict=True)
        for j in row
        if labels[j] >= 0
    ]
    assert 0 < sum(same) < len(same) < 24 * 6
    assert terms["same_label"].item() == pytest.approx(sum(same) / len(same))
    assert "same_label" not in method.terms((q,), {"views": batch["views"]}, keys=(k,))


def test_unlabelled_samples_have_no_share_of_false_negatives(digits, build):
    batch = digits(0, n=8)
    batch["labels"] = torch.full_like(batch["labels"], -1)
    assert build(plain())(batch)["same_label"].item() == 0


def test_mixtures_are_harder_than_the_queue(digits, build):
    """Fewer queries find their key, since a mixture with the query is nearer than what it was mixed from."""
    found = {}
    for name, settings in {"mixing": {}, "plain": {"warmup": 1.0}}.items():
        method = build(plain(hardest=2, query_mixed=32, **settings)).double()
        q, k, batch = made_up(method, digits)
        found[name] = method.terms((q,), batch, keys=(k,))["proxy_accuracy"].item()
    assert found["mixing"] < found["plain"] - 0.2


def test_settings_that_cannot_be_are_refused(build):
    with pytest.raises(ValueError, match="hardest must be at most queue_size: hardest = 41, queue_size = 40"):
        plain(hardest=41)
    assert plain(hardest=41, mixed=0, query_mixed=0).hardest == 41  # it plays no part
    with pytest.raises(ValueError, match=r"warmup must be a share of training, 0 to 1, found 10"):
        plain(warmup=10)
    with pytest.raises(ValueError, match=r"leave time between them: 0.7 \+ 0.6 is more than 1"):
        plain(warmup=0.7, cooldown=0.6)
    with pytest.raises(ValueError, match="mixed must be a whole number of at least 0, found -1"):
        build(plain(mixed=-1))


def test_a_smoke_run_shrinks_what_is_mixed_with_the_queue():
    large = MoCHiConfig(queue_size=65536, hardest=1024, mixed=512, query_mixed=256, temperature=0.2)
    assert large.smoke() == replace(large, queue_size=128, batch_norm_splits=2, hardest=32, mixed=16, query_mixed=16)
