"""NNCLR's searches, its queue and its predictor, against the algorithm written out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kinfolk.losses import CLIPLoss
from kinfolk.methods import NNCLRConfig
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    return NNCLRConfig(**{"head": HEAD, "predictor": HEAD, "queue_size": 40, **settings})


def step(method, batch, optimizer):
    optimizer.zero_grad()
    loss = method(batch)["loss"]
    loss.backward()
    optimizer.step()
    method.after_step()
    return loss.item()


def in_float64(batch):
    return batch | {"views": [view.double() for view in batch["views"]]}


@pytest.mark.parametrize("decoupled", [False, True])
def test_it_follows_the_algorithm_as_published(decoupled, digits, build):
    """Both searches in the old queue, cross-entropy both ways, step, then the first view's projections enter."""
    method = build(plain(decoupled=decoupled), norm="group").double()
    body = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    predictor = copy.deepcopy(method.predictor)
    queue = F.normalize(method.queue.snapshot().features)
    optimizers = [
        torch.optim.SGD(method.parameters(), lr=0.2),
        torch.optim.SGD([*body.parameters(), *predictor.parameters()], lr=0.2),
    ]
    for number in range(7):
        batch = in_float64(digits(number, n=24))

        z = [body(view) for view in batch["views"]]
        p = [F.normalize(predictor(rows)) for rows in z]
        found = [queue[(F.normalize(rows.detach()) @ queue.T).argmax(1)] for rows in z]
        losses = []
        for anchors, candidates in ((found[0], p[1]), (found[1], p[0])):
            logits = anchors @ candidates.T / 0.2
            others = logits.masked_fill(torch.eye(24, dtype=torch.bool), -torch.inf) if decoupled else logits
            losses.append((others.logsumexp(1) - logits.diagonal()).mean())
        loss = torch.stack(losses).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        queue = torch.cat([queue, F.normalize(z[0].detach())])[-40:]

        assert step(method, batch, optimizers[0]) == pytest.approx(loss.item(), abs=1e-9)
    found = method.queue.snapshot().features.roll(-int(method.queue.pointer), 0)
    torch.testing.assert_close(found, queue, rtol=0, atol=1e-9)


def test_a_queue_that_holds_the_batch_makes_it_clip(digits, build):
    """Every projection finds itself: projections of one view against predictions of the other, both ways."""
    for predictor in (HEAD, HeadConfig(layers=0)):
        method = build(plain(queue_size=48, predictor=predictor), norm="group").double()
        batch = in_float64(digits(0, n=24))
        z0, z1, p0, p1 = method.embed(batch)
        method.queue.enqueue(torch.cat([z0, z1]))
        logits = [F.normalize(a) @ F.normalize(b).T / 0.2 for a, b in ((z0, p1), (z1, p0))]
        rows = sum(F.cross_entropy(x, torch.arange(24)) for x in logits) / 2
        assert method(batch)["loss"].item() == pytest.approx(rows.item(), abs=1e-9)
    # Without a predictor that is CLIP between the two views.
    assert rows.item() == pytest.approx(CLIPLoss()(z0, z1, 1 / 0.2).item(), abs=1e-9)


def test_gradient_passes_through_predictions_only(digits, build):
    method, batch = build(plain(), norm="group"), digits(0, n=12)
    embeddings = [rows.detach().requires_grad_() for rows in method.embed(batch)]
    method.terms(embeddings, batch)["loss"].backward()
    assert [rows.grad is not None and bool(rows.grad.abs().sum() > 0) for rows in embeddings] == [
        False,
        False,
        True,
        True,
    ]
    assert not method.queue.rows.requires_grad


def test_the_first_views_projections_enter_the_queue_after_the_step(digits, build):
    method, batch = build(plain(), norm="group"), digits(0, n=12)
    before, projections = method.queue.snapshot(), method.embed(batch)[0]
    method(batch)["loss"].backward()
    assert torch.equal(method.queue.snapshot().features, before.features)
    method.after_step()
    after = method.queue.snapshot()
    torch.testing.assert_close(after.features[:12], F.normalize(projections).detach())
    assert torch.equal(after.features[12:], before.features[12:])
    assert torch.equal(after.ids[:12], batch["ids"])
    assert torch.equal(after.labels[:12], batch["labels"])
    method.after_step()
    assert int(method.queue.filled) == 12


def test_passes_without_gradient_leave_no_trace(digits, build):
    method = build(plain(), norm="group")
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(digits(0))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_batch_norm_sees_both_views_together(digits, build):
    method, batch = build(plain(head=HeadConfig(hidden=16, out_dim=8, norm="batch"))), digits(0, n=12)
    together = method.head(method.encoder(torch.cat(batch["views"])))
    torch.testing.assert_close(torch.cat(method.embed(batch)[:2]), together)
    torch.testing.assert_close(torch.cat(method.embed(batch)[2:]), method.predictor(together))


def test_a_repeated_sample_is_no_negative_of_itself(digits, build):
    batch = digits(0, n=12)
    del batch["text"]  # words, not rows of a tensor
    twice = {name: torch.cat([rows, rows[:3]]) for name, rows in batch.items() if name != "views"}
    twice["views"] = [torch.cat([view, view[:3]]) for view in batch["views"]]
    method = build(plain(), norm="group")
    told = method(twice)["loss"].item()
    not_told = method({"views": twice["views"]})["loss"].item()
    assert told < not_told - 1e-3


def test_one_sample_alone_has_nothing_to_tell_apart(digits, build):
    batch = digits(0, n=1)
    assert build(plain(), norm="group")(batch)["loss"].item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="needs at least 2 samples, found n = 1"):
        build(plain(decoupled=True), norm="group")(batch)


def test_health_says_whose_neighbours_were_found(digits, build):
    method, batch = build(plain(), norm="group"), digits(0, n=24)
    own = method.embed(batch)[0].detach()
    method.queue.enqueue(own[:10], ids=batch["ids"][:10], labels=batch["labels"][:10])
    terms = method(batch)
    nearest = (F.normalize(own) @ F.normalize(method.queue.rows).T).argmax(1)
    assert terms["neighbour_is_own"].item() == pytest.approx((nearest[:10] == torch.arange(10)).sum().item() / 24)
    assert terms["neighbour_is_own"].item() == pytest.approx(10 / 24)
    found = method.queue.row_labels[nearest]
    known = found >= 0
    assert terms["same_label"].item() == pytest.approx((found == batch["labels"])[known].float().mean().item())
    assert {"same_label", "neighbour_is_own"}.isdisjoint(method({"views": batch["views"]}))


def test_random_rows_of_a_new_queue_are_no_one(digits, build):
    terms = build(plain(), norm="group")(digits(0, n=24))
    assert (terms["same_label"].item(), terms["neighbour_is_own"].item()) == (0, 0)


def test_settings_that_cannot_be_are_refused(digits, build):
    with pytest.raises(ValueError, match=r"predictor.out_dim is 5, the head gives 8; set both alike"):
        build(plain(predictor=HeadConfig(out_dim=5)))
    with pytest.raises(ValueError, match="NNCLR takes exactly 2 views of each image, found 3"):
        build(plain())(digits(0, views=3))
    assert build(plain()).negatives(samples=24, views=2) == 23
    assert plain(queue_size=98304).smoke().queue_size == 128
