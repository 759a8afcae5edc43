"""UniCon's mixtures and step against the algorithm written out, and the batches that have nothing to mix."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kinfolk.data.counter import counter_uniform
from kinfolk.methods import UniConConfig
from kinfolk.methods import uni_con as module
from kinfolk.nn import HeadConfig
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)
PLAIN = UniConConfig(seed=3, head=HEAD)


def double(batch: dict) -> dict:
    return {**batch, "views": [view.double() for view in batch["views"]]}


def universum_by_loops(views, labels, ids, *, key, share):
    """One mixture a view and sample; partners stand in the order of class, id and view, without the own class."""
    places = sorted(
        (int(labels[i]), int(ids[i]), v, i) for i in range(len(ids)) for v in range(len(views)) if labels[i] >= 0
    )
    made = []
    for v, view in enumerate(views):
        rows = []
        for i in range(len(ids)):
            others = [(w, j) for label, _, w, j in places if label != labels[i]]
            number = counter_uniform((*key, v), ids[i : i + 1], count=1).item()
            w, j = others[int(number * len(others))]
            rows.append(share * views[w][j] + (1 - share) * view[i])
        made.append(torch.stack(rows))
    return made


def loss_by_loops(rows, universum, labels, ids, temperature):
    """The definition, row by row: own universum on neither side, the mean over rows with a positive."""
    scores, values = F.normalize(rows, dim=1) @ F.normalize(universum, dim=1).T / temperature, []
    for i in range(len(rows)):
        others = [a for a in range(len(rows)) if a != i]
        positives = [p for p in others if (labels[p] == labels[i] and labels[i] >= 0) or ids[p] == ids[i]]
        if positives:
            partition = torch.stack([scores[i, a] for a in others]).logsumexp(0)
            values.append(partition - sum(scores[i, p] for p in positives) / len(positives))
    return torch.stack(values).mean()


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_it_follows_the_algorithm_as_published(share, digits, build):
    """Mixtures, two passes of one network, the loss, a step; three times, with an unlabelled sample."""
    method = build(replace(PLAIN, share=share), norm="batch").double()
    twin = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (method, twin)]
    for number in range(3):
        batch = double(digits(number, n=9))
        labels, ids = batch["labels"].clone(), batch["ids"]
        labels[4] = -1
        batch["labels"] = labels

        universum = universum_by_loops(batch["views"], labels, ids, key=(3, number), share=share)
        rows = twin(torch.cat(batch["views"]))
        mixed = twin(torch.cat(universum))
        loss = loss_by_loops(rows, mixed, labels.repeat(2), ids.repeat(2), 0.1)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

        torch.testing.assert_close(method.prepare(batch)["universum"], universum, rtol=0, atol=1e-12)
        terms = method(batch)
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
        assert terms["universum_cosine"].item() == pytest.approx(F.cosine_similarity(rows, mixed).mean().item(), 1e-5)
        optimizers[0].zero_grad()
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()
    twin_state = {**dict(twin[0].state_dict(prefix="encoder.")), **dict(twin[1].state_dict(prefix="head."))}
    for name, value in twin_state.items():
        torch.testing.assert_close(method.state_dict()[name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mixer", ["mixup", "cutmix"])
def test_a_mixture_is_half_of_another_class_and_all_views_and_classes_give_partners(mixer, digits, build):
    """Every pixel of an image says of which class it is, and of which view: the mixture tells what went in."""
    method, batch = build(replace(PLAIN, mixer=mixer)), digits(0, n=64)
    batch["views"] = [(batch["labels"] + 100.0 * (v + 1))[:, None, None, None].expand(-1, 1, 16, 16) for v in range(2)]
    seen = set()
    for view, universum in zip(batch["views"], method.prepare(batch)["universum"], strict=True):
        if mixer == "mixup":
            partner = 2 * universum - view
            assert bool((universum == universum[:, :, :1, :1]).all())
        else:
            cut = universum != view
            assert bool(((cut.float().mean((1, 2, 3)) - 0.5).abs() < 0.09).all())
            partner = torch.where(cut, universum, 0).amax((1, 2, 3), keepdim=True)
        partner = partner[:, 0, 0, 0].round().long()
        assert bool((partner % 100 != batch["labels"]).all())
        seen |= set(partner.tolist())
    assert {p // 100 for p in seen} == {1, 2}
    assert {p % 100 for p in seen} == set(batch["labels"].tolist())


def test_draws_change_with_step_seed_and_sample_and_with_nothing_else(digits, build):
    method, batch = build(PLAIN), digits(0, n=20)

    def made(method, batch):
        return torch.stack(list(method.prepare(batch)["universum"]), dim=1)

    first = made(method, batch)
    torch.manual_seed(77)
    assert torch.equal(made(method, batch), first)
    del batch["text"]  # words, not rows of a tensor
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = {k: [view[order] for view in v] if k == "views" else v[order] for k, v in batch.items()}
    assert torch.equal(made(method, shuffled), first[order])
    assert not torch.equal(made(build(replace(PLAIN, seed=4)), batch), first)
    method.eval()
    method(batch)
    method.after_step()
    assert torch.equal(made(method, batch), first)  # neither evaluation nor `prepare` is a step
    method.train()
    method(batch)
    method.after_step()
    assert not torch.equal(made(method, batch), first)


def test_partners_come_from_the_batch_of_all_processes(digits, build, monkeypatch):
    method, batch = build(PLAIN), digits(0, n=20)
    whole = method.prepare(batch)["universum"]
    shares = [
        {k: [view[rows] for view in v] if k == "views" else v[rows] for k, v in batch.items()}
        for rows in (slice(13, 20), slice(0, 13))  # in another order than the whole
    ]
    gathered = iter([part for pair in zip(*map(gathers, shares), strict=True) for part in [torch.cat(pair)]] * 2)
    monkeypatch.setattr(module, "all_gather", lambda x: next(gathered))
    ranks = [method.prepare(share)["universum"] for share in shares]
    for view, late, early in zip(whole, *ranks, strict=True):
        assert torch.equal(view, torch.cat([early, late]))


def gathers(share: dict) -> list[torch.Tensor]:
    return [share["labels"], share["ids"], *share["views"], share["labels"]]


@pytest.mark.parametrize("labels", [[2, 2, 2, 2], [2, 2, -1, -1], [-1, -1, -1, -1]])
def test_a_batch_of_one_class_has_loss_and_gradient_zero(labels, digits, build):
    method, batch = build(PLAIN), digits(0, n=4)
    terms = method(batch | {"labels": torch.tensor(labels)})
    terms["loss"].backward()
    assert terms["loss"].item() == 0
    assert all(p.grad is not None and bool((p.grad == 0).all()) for p in method.parameters())
    method.after_step()
    assert int(method.progress.step) == 1


def test_an_unlabelled_sample_is_no_partner_and_attracts_its_own_views_alone(digits, build):
    method, batch = build(PLAIN, norm="group"), digits(0, n=12)
    batch["labels"] = torch.tensor([0, 1, 1, -1] * 3)
    batch["views"] = [torch.where((batch["labels"] < 0)[:, None, None, None], 7.0, view) for view in batch["views"]]
    for universum in method.prepare(batch)["universum"]:
        known = universum[batch["labels"] >= 0]
        assert float(known.max()) <= 1
        assert bool((universum[batch["labels"] < 0] < 4.1).all())  # half of it is a labelled image
    assert method(batch)["loss"].isfinite()


def test_with_constant_embeddings_the_loss_is_the_logarithm_of_the_universum(digits, build):
    method, batch = build(PLAIN), digits(0, n=10)
    z = torch.ones(10, 8)
    loss = method.terms([z] * 4, method.prepare(batch))["loss"]
    assert loss.item() == pytest.approx(math.log(19), abs=1e-5)


def test_it_takes_more_views_and_no_ids(digits, build):
    method, batch = build(PLAIN), digits(0, views=3, n=10)
    del batch["ids"]
    prepared = method.prepare(batch)
    assert len(prepared["universum"]) == 3
    assert len(method.embed(prepared)) == 6
    assert method(batch)["loss"].isfinite()
    assert method.negatives(samples=10, views=3) == 27


def test_embedding_in_parts_gives_the_whole_batch(digits, build):
    method = build(PLAIN, norm="group")
    batch = method.prepare(digits(0, n=10))
    parts = [{k: [x[rows] for x in v] if isinstance(v, list) else v[rows] for k, v in batch.items()}
             for rows in (slice(0, 7), slice(7, 10))]  # fmt: skip
    joined = [torch.cat(rows) for rows in zip(*map(method.embed, parts), strict=True)]
    torch.testing.assert_close(joined, list(method.embed(batch)))


def test_unfit_batches_and_settings_are_explained(digits, build):
    batch = digits(0, n=4)
    with pytest.raises(ValueError, match="UniCon needs labels in the batch"):
        build(PLAIN)({k: v for k, v in batch.items() if k != "labels"})
    with pytest.raises(ValueError, match="UniCon takes at least two views of each image, found 1"):
        build(PLAIN)({**batch, "views": batch["views"][:1]})
    for share in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="share must be between 0 and 1, so that a mixture has something of both"):
            UniConConfig(share=share)
    for area in ((0.0, 0.5), (0.6, 0.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match="box_area must be two shares between 0 and 1 in ascending order"):
            UniConConfig(box_area=area)


def test_a_config_survives_yaml():
    config = UniConConfig(mixer="cutmix", box_area=(0.4, 0.6), seed=2, head=HEAD)
    assert decode(UniConConfig, encode(config)) == config
