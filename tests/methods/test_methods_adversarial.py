"""The attacked view and the step around it, against the algorithm written out, and what an attack must leave alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kinfolk.data.counter import counter_uniform
from kinfolk.evals import RawPixels
from kinfolk.losses import NTXentLoss
from kinfolk.methods import AdversarialConfig, FalseNegativesConfig, SimCLRConfig
from kinfolk.nn import Attack, HeadConfig
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)
PLAIN = AdversarialConfig(attack=Attack(0.06, 3, 0.03), seed=4, head=HEAD)


def double(batch: dict) -> dict:
    return {**batch, "views": [view.double() for view in batch["views"]]}


def value_of(query, positive, negatives, temperature=0.5):
    """NT-Xent of one anchor by its definition."""
    scores = torch.stack([positive, *negatives]) @ query / temperature
    return scores.logsumexp(0) - scores[0]


def attacked_by_loops(encode_one, views, ids, *, attack, key):
    """The attack in words, image by image: the worst iterate of a signed ascent from a random start in the ball."""
    clean = [[F.normalize(encode_one(image), dim=0) for image in view] for view in views]
    found = []
    for i, image in enumerate(views[0]):
        negatives = [rows[j] for rows in clean for j in range(len(ids)) if ids[j] != ids[i]]
        noise = counter_uniform(key, ids[i : i + 1], count=image.numel()).view_as(image)
        best, worst = value_of(clean[0][i], clean[1][i], negatives), image
        x = (image + (2 * noise - 1) * attack.eps).clamp(0, 1)
        for _ in range(attack.steps + 1):
            x = x.clamp(image - attack.eps, image + attack.eps).clamp(0, 1).detach().requires_grad_()
            value = value_of(F.normalize(encode_one(x), dim=0), clean[1][i], negatives)
            if value > best:
                best, worst = value.detach(), x.detach()
            x = x + attack.step * torch.autograd.grad(value, x)[0].sign()
        found.append(worst)
    return torch.stack(found)


def nt_xent_by_loops(z0, z1):
    rows = F.normalize(torch.cat([z0, z1]), dim=1)
    n, values = len(z0), []
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        values.append(value_of(rows[i], rows[p], [rows[j] for j in range(2 * n) if j not in (i, p)]))
    return torch.stack(values).mean()


def test_it_follows_the_algorithm_as_published(digits, build):
    """Attack in eval mode against clean keys, three views in one batch, the mean over pairs, a step; twice."""
    method = build(PLAIN, norm="batch").double()
    twin = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.3) for m in (method, twin)]
    for number in range(2):
        batch = double(digits(number, n=5))
        first, second = batch["views"]

        twin.eval().requires_grad_(False)
        attacked = attacked_by_loops(
            lambda image: twin(image[None])[0], batch["views"], batch["ids"], attack=PLAIN.attack, key=(4, number)
        )
        twin.train().requires_grad_(True)
        a, b, c = twin(torch.cat([first, second, attacked])).split(5)
        loss = (nt_xent_by_loops(a, b) + nt_xent_by_loops(a, c) + nt_xent_by_loops(b, c)) / 3
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

        terms = method(batch)
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
        assert terms["adversarial_loss"].item() == pytest.approx(nt_xent_by_loops(b, c).item(), abs=1e-9)
        assert terms["adversarial_cosine"].item() == pytest.approx(F.cosine_similarity(b, c).mean().item(), abs=1e-6)
        assert terms["positive_cosine"].item() == pytest.approx(F.cosine_similarity(a, b).mean().item(), abs=1e-6)
        optimizers[0].zero_grad()
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()


def test_without_room_it_is_simclr_with_the_first_view_twice(digits, build):
    method = build(replace(PLAIN, attack=Attack(0.0, 1)), norm="group")
    simclr = build(SimCLRConfig(temperature=0.5, head=HEAD), norm="group")
    batch = digits(0, n=12)
    first, second = batch["views"]
    assert torch.equal(method.prepare(batch)["attacked"], first)
    expected = simclr({**batch, "views": [first, second, first]})["loss"]
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_attacked_view_is_in_the_ball_in_range_and_found_harder(digits, build):
    method, batch = build(PLAIN), digits(0, n=32)
    attacked = method.prepare(batch)["attacked"]
    first, second = batch["views"]
    assert (attacked - first).abs().max() <= 0.06 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    method.eval()
    loss = NTXentLoss(temperature=0.5)
    z0, z1, z2 = (method.head(method.encoder(view)) for view in (first, second, attacked))
    assert loss(z2, z1, ids=batch["ids"]) > loss(z0, z1, ids=batch["ids"]) + 0.01
    assert set(batch) == set(digits(0, n=32))  # the batch itself is not changed


def test_an_attack_leaves_statistics_modes_and_gradients_alone(digits, build):
    method = build(replace(PLAIN, head=replace(HEAD, norm="batch")))
    method.encoder.eval()  # someone's frozen encoder stays frozen
    modes = [part.training for part in method.modules()]
    before = copy.deepcopy(method.state_dict())
    method.head.steps[0].weight.grad = torch.full_like(method.head.steps[0].weight, 3.0)
    method.prepare(digits(0, n=8))
    assert [part.training for part in method.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert (method.head.steps[0].weight.grad == 3).all()
    assert all(p.grad is None for p in method.encoder.parameters())
    assert all(p.requires_grad for p in method.parameters())


def test_starts_change_with_step_seed_and_sample_and_with_nothing_else(digits, build):
    method, batch = build(PLAIN, norm="group").double(), double(digits(0, n=10))

    def attacked(method, batch):
        return method.prepare(batch)["attacked"]

    first = attacked(method, batch)
    torch.manual_seed(77)
    assert torch.equal(attacked(method, batch), first)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = {"views": [view[order] for view in batch["views"]], "ids": batch["ids"][order]}
    torch.testing.assert_close(attacked(method, shuffled), first[order], rtol=0, atol=1e-12)
    assert not torch.allclose(attacked(method, {**batch, "ids": batch["ids"] + 10_000}), first)
    assert not torch.allclose(attacked(build(replace(PLAIN, seed=5), norm="group").double(), batch), first)
    method(batch)["loss"].backward()
    assert torch.equal(attacked(method, batch), first)  # the step is not done yet
    method.after_step()
    assert not torch.allclose(attacked(method, batch), first)


def test_only_training_passes_count_as_steps(digits, build):
    method, batch = build(PLAIN), digits(0, n=6)
    method.after_step()
    with torch.no_grad():
        method(batch)
    method.after_step()
    method.eval()(batch)
    method.after_step()
    assert int(method.progress.step) == 0
    method.train()
    for number in range(2):  # accumulated batches are one step
        method(digits(number, n=6))["loss"].backward()
    method.after_step()
    method.after_step()
    assert int(method.progress.step) == 1


def test_a_sample_that_is_there_twice_is_no_negative_of_itself(digits, build):
    method, batch = build(PLAIN, norm="group").double(), double(digits(0, n=4))
    twice = {"views": [view[[0, 1, 2, 3, 1]] for view in batch["views"]], "ids": batch["ids"][[0, 1, 2, 3, 1]]}
    once = method.prepare(batch)["attacked"]
    found = method.prepare(twice)["attacked"]
    torch.testing.assert_close(found[1], found[4], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[[1]], once[[1]], rtol=0, atol=1e-12)


def test_one_sample_alone_and_equal_features_are_nothing_to_gain(digits, build):
    method = build(PLAIN, norm="group")
    terms = method(digits(0, n=1))
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(0, abs=1e-6)
    torch.nn.init.zeros_(method.head.steps[-1].weight)  # the head says the same of everything
    batch = digits(1, n=6)
    assert torch.equal(method.prepare(batch)["attacked"], batch["views"][0])
    assert method(batch)["loss"].item() == pytest.approx(math.log(11), abs=1e-5)


def test_weights_receive_their_gradient_under_autocast(digits, build):
    """A weight that the attack's keys cast without gradient must be cast again for the loss."""
    batch = digits(0, n=16)
    found, plain = build(PLAIN, norm="group"), build(PLAIN, norm="group")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = found(batch)["loss"]
    loss.backward()
    plain(batch)["loss"].backward()
    for (name, a), b in zip(found.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is not None, name
        assert F.cosine_similarity(a.grad.flatten(), b.grad.flatten(), dim=0) > 0.9 or b.grad.abs().max() < 1e-3, name


def test_views_outside_the_unit_range_are_refused(digits, build):
    batch = digits(0, n=4)
    batch["views"] = [view * 2 - 1 for view in batch["views"]]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found -1 to .*normalise inside the model"):
        build(PLAIN)(batch)
    with pytest.raises(ValueError, match="Adversarial takes exactly 2 views of each image, found 3"):
        build(PLAIN)(digits(0, views=3, n=4))


def test_the_attack_is_a_setting_of_its_own_in_yaml():
    config = replace(PLAIN, attack=Attack(0.1, 5))
    assert encode(config)["attack"] == {"eps": 0.1, "steps": 5, "step": None}
    assert decode(AdversarialConfig, encode(config)) == config
    default = AdversarialConfig()
    assert (default.temperature, default.attack) == (0.5, Attack(8 / 255, 7, 0.007))
    assert default.labels_used == "none"
    assert PLAIN.build(RawPixels(channels=1, image_size=(2, 2))).negatives(samples=5, views=2) == 8


def losses_without(z0, z1, kind):
    """NT-Xent of every row without the negatives of its own kind, by loops."""
    rows, kinds, n = F.normalize(torch.cat([z0, z1]), dim=1), [*kind, *kind], len(z0)
    values = []
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        negatives = [rows[j] for j in range(2 * n) if j not in (i, p) and kinds[j] != kinds[i]]
        values.append(value_of(rows[i], rows[p], negatives))
    return torch.stack(values).mean()


def test_with_labels_no_sample_of_the_class_is_a_negative_and_the_record_says_so(digits, build):
    oracle = replace(PLAIN, false_negatives=FalseNegativesConfig(detector="labels", start=0.0))
    method, batch = build(oracle, norm="group").double(), double(digits(0, n=12))
    batch["labels"] = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, -1, -1])
    terms = method(batch)
    kind = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, "a", "b"]  # an unlabelled sample is like no other
    embeddings = method.embed(method.prepare(batch))
    pairs = [losses_without(embeddings[a], embeddings[b], kind) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert terms["loss"].item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-9)
    assert terms["excluded_share"].item() == pytest.approx((3 * 2 + 2 * 1 + 4 * 3) / 12**2)
    assert terms["false_negative_precision"].item() == 1
    assert (oracle.labels_used, PLAIN.labels_used) == ("all", "none")
    with pytest.raises(ValueError, match="false negatives by labels need batches with labels"):
        method({name: value for name, value in batch.items() if name != "labels"})


def test_the_attack_does_not_flee_to_what_is_no_negative(digits, build):
    """With one class there is nothing left to be confused with."""
    oracle = FalseNegativesConfig(detector="labels", start=0.0)
    method = build(replace(PLAIN, false_negatives=oracle), norm="group")
    batch = {**digits(0, n=6), "labels": torch.zeros(6, dtype=torch.int64)}
    assert torch.equal(method.prepare(batch)["attacked"], batch["views"][0])
    assert method(batch)["loss"].item() == pytest.approx(0, abs=1e-6)


def test_the_most_similar_samples_leave_with_both_rows_and_only_after_the_start(digits, build):
    search = FalseNegativesConfig(detector="similarity", share=0.3, start=0.5)
    settings = replace(PLAIN, false_negatives=search)
    method, plain = (build(one, norm="group", steps=2).double() for one in (settings, PLAIN))
    batch = double(digits(0, n=11))
    terms = method(batch)
    assert terms["loss"].item() == plain(batch)["loss"].item()
    assert (terms["excluded_share"].item(), terms["false_negative_precision"].item()) == (0, 0)
    method.after_step()

    prepared = method.prepare(batch)
    first, second, _ = (F.normalize(rows, dim=1) for rows in method.embed(prepared))
    similarity = F.normalize(first + second, dim=1) @ F.normalize(first + second, dim=1).T
    expected = torch.zeros(11, 11, dtype=torch.bool)
    expected.scatter_(1, similarity.fill_diagonal_(-2).topk(3).indices, True)
    found = torch.zeros_like(expected).scatter(1, prepared["false_negatives"], True)
    assert torch.equal(found, expected)
    terms = method(batch)
    same = batch["labels"][:, None] == batch["labels"]
    assert terms["excluded_share"].item() == pytest.approx(3 / 11)
    assert terms["false_negative_precision"].item() == pytest.approx((expected & same).sum().item() / 33)
    assert terms["loss"] < build(PLAIN, norm="group").double()(batch)["loss"]
