"""CACR with a momentum encoder and a queue, against the algorithm written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.losses import CACRLoss
from kinfolk.losses.cacr_over_queue import cacr_over_queue
from kinfolk.methods import CACRConfig
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)


def queued(**settings):
    return CACRConfig(**{"head": HEAD, "queue_size": 40, "momentum": 0.8, **settings})


def some_rows(*, views=3, n=5, size=7):
    torch.manual_seed(0)
    q, k, queue = (torch.randn(*shape, 4).double() for shape in ((views, n), (views, n), (size,)))
    return q.requires_grad_(), k, queue


def by_loops(q, k, queue, ids, queue_ids, *, t_pos=1.0, t_neg=2.0, alpha=1.0, beta=1.0, detach=False):
    """Sample by sample, key by key."""
    q, k, queue = (F.normalize(x, dim=-1) for x in (q, k, queue))
    views, n, _ = q.shape

    def weighted(costs, strength):
        logits = strength * (costs.detach() if detach else costs)
        return (logits.softmax(0) * costs).sum()

    values = []
    for i in range(n):
        total = 0.0
        for v in range(views):
            others = [u for u in range(views) if u != v]
            near = [k[u, i] for u in others]
            far = [k[u, j] for u in others for j in range(n) if j != i and (ids[j] != ids[i] or ids[i] == -1)]
            far += [queue[j] for j in range(len(queue)) if queue_ids[j] != ids[i] or ids[i] == -1]
            pull, push = (torch.stack([(q[v, i] - y).square().sum() for y in ys]) for ys in (near, far))
            total = total + alpha * weighted(pull, t_pos) - beta * weighted(push, -t_neg)
        values.append(total / views)
    return torch.stack(values)


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("detach", [False, True])
def test_values_and_gradients_are_those_of_the_loops(views, detach):
    q, k, queue = some_rows(views=views)
    ids, queue_ids = torch.tensor([3, 8, 3, -1, -1]), torch.tensor([8, 8, -1, 3, 11, -1, 12])
    options = {"t_pos": 0.7, "t_neg": 1.4, "alpha": 1.5, "beta": 0.6}
    expected = by_loops(q, k, queue, ids, queue_ids, detach=detach, **options)
    found, valid = cacr_over_queue(
        list(q), list(k), queue, ids=ids, queue_ids=queue_ids, detach_weights=detach, **options
    )
    assert valid.all()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    one, other = (torch.autograd.grad(x.sin().sum(), q)[0] for x in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_no_gradient_reaches_keys_or_queue():
    q, k, queue = (x.detach().requires_grad_() for x in some_rows())
    ids = torch.arange(5)
    values, _ = cacr_over_queue(list(q), list(k), queue, ids=ids, queue_ids=torch.full((7,), -1))
    values.sum().backward()
    assert q.grad.abs().sum(2).min() > 0  # every view of every sample is pushed and pulled
    assert k.grad is None
    assert queue.grad is None


def test_without_a_usable_queue_it_is_the_loss_in_the_batch_in_both_directions():
    q, _, queue = some_rows(views=2)
    ids = torch.arange(5)
    both = [CACRLoss(reduction="none", t_neg=3.0)(list(z)) for z in (q, q.flip(0))]
    away = by_loops(q, q, queue[:0], ids, torch.zeros(0), t_neg=3.0)
    torch.testing.assert_close(away, sum(both) / 2)
    found, _ = cacr_over_queue(list(q), list(q), queue[:0], ids=ids, queue_ids=ids[:0], t_neg=3.0)
    torch.testing.assert_close(found, away)


def test_uniform_weights_are_strengths_of_zero():
    q, k, queue = some_rows()
    rest = {"ids": torch.arange(5), "queue_ids": torch.full((7,), -1)}
    equal, _ = cacr_over_queue(list(q), list(k), queue, attraction="uniform", repulsion="uniform", **rest)
    torch.testing.assert_close(equal, by_loops(q, k, queue, rest["ids"], rest["queue_ids"], t_pos=0.0, t_neg=0.0))


def test_a_sample_without_a_negative_gives_nothing():
    q, k, queue = some_rows(n=1)
    own = torch.full((7,), 4)
    values, valid = cacr_over_queue(list(q), list(k), queue, ids=own[:1], queue_ids=own)
    assert values.tolist() == [0.0]
    assert valid.tolist() == [False]
    values, valid = cacr_over_queue(list(q), list(k), queue, ids=own[:1] - 1, queue_ids=own)
    assert valid.tolist() == [True]
    assert values.item() != 0


def test_memory_is_linear_in_the_queue():
    """A queue as long as ImageNet's, for queries whose matrix of weights would be large."""
    torch.manual_seed(0)
    q, queue = torch.randn(2, 64, 16), torch.randn(65_536, 16)
    leaf, saved = q.requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        values, _ = cacr_over_queue(
            list(leaf), list(q.detach()), queue, ids=torch.arange(64), queue_ids=torch.full((65_536,), -1)
        )
    values.sum().backward()
    assert leaf.grad.isfinite().all()
    assert max(saved) < 2_000_000 < 64 * 65_536


def test_it_follows_the_algorithm(digits, build):
    """Queries, moving average, keys, loss against the old queue, step, the first view's keys into the queue."""
    method = build(queued(), norm="group").double()
    query = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    key = copy.deepcopy(query).requires_grad_(False)
    queue, queue_ids = F.normalize(method.queue.snapshot().features), torch.full((40,), -1)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (method, query)]
    for number in range(5):
        batch = digits(number % 3, views=3, n=14)  # samples come again while their keys are in the queue
        batch["views"] = [view.double() for view in batch["views"]]

        queries = torch.stack([query(view) for view in batch["views"]])
        for k, q in zip(key.parameters(), query.parameters(), strict=True):
            k.copy_(0.8 * k + 0.2 * q.detach())
        keys = torch.stack([key(view) for view in batch["views"]])
        loss = by_loops(queries, keys, queue, batch["ids"], queue_ids).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        queue, queue_ids = torch.cat([queue, F.normalize(keys[0])])[-40:], torch.cat([queue_ids, batch["ids"]])[-40:]

        terms = method(batch)
        optimizers[0].zero_grad()
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
        assert terms["queue_fill"].item() == pytest.approx(min(14 * number, 40) / 40)
    found = method.queue.snapshot().features.roll(-int(method.queue.pointer), 0)
    torch.testing.assert_close(found, queue, rtol=0, atol=1e-9)


def test_without_a_queue_there_is_neither_twin_nor_key(digits, build):
    method, batch = build(CACRConfig(momentum=0.3, batch_norm_splits=4)), digits(0, views=3, n=12)
    assert not hasattr(method, "twin")
    assert method.embed_keys(batch) == ()
    same = build(CACRConfig())
    assert method.state_dict().keys() == same.state_dict().keys()
    assert torch.equal(method(batch)["loss"], same(batch)["loss"])
    assert method.negatives(samples=12, views=3) == 11
    assert build(queued()).negatives(samples=12, views=3) == 40 + 2 * 11


def test_the_twin_has_what_its_config_says():
    from kinfolk.nn import SmallConvConfig

    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
    method = queued(momentum=0.7, momentum_schedule="cosine", batch_norm_splits=2).build(encoder)
    assert method.twin.encoder.momentum == 0.7
    assert (method.twin.schedule, method.twin.splits) == ("cosine", 2)
    assert queued(queue_size=65_536).smoke().queue_size == 128
    assert CACRConfig().smoke() == CACRConfig()


def test_a_queue_without_a_head_works(digits, build):
    method = build(queued(head=HeadConfig(layers=0), batch_norm_splits=1))
    method(digits(0, views=2, n=12))["loss"].backward()
    method.after_step()
    assert int(method.queue.filled) == 12


def test_what_does_not_fit_is_explained():
    q, k, queue = some_rows()
    rest = {"ids": torch.arange(5), "queue_ids": torch.full((7,), -1)}
    with pytest.raises(ValueError, match="queue_size must be at least 0, where 0 is no queue; found -1"):
        CACRConfig(queue_size=-1)
    with pytest.raises(ValueError, match=r"a key for every query, .*\(5, 3, 4\), found keys \(5, 2, 4\)"):
        cacr_over_queue(list(q), list(k[:2]), queue, **rest)
    with pytest.raises(ValueError, match=r"queue must be \[K, d\] of the queries' width"):
        cacr_over_queue(list(q), list(k), queue[:, :3], **rest)
    with pytest.raises(ValueError, match="t_neg must be at least 0"):
        cacr_over_queue(list(q), list(k), queue, t_neg=-1.0, **rest)
