"""OpenCon's pseudo-labels, novelty test, contrasts, prior and prototypes, against the algorithm written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kinfolk.data import ArraySource, DigitsConfig, Splits
from kinfolk.data.derived import OpenWorldConfig
from kinfolk.losses import NTXentLoss, SupConLoss
from kinfolk.methods import OpenConConfig
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)
KNOWN = 5


def plain(**given):
    return OpenConConfig(**{"classes": 10, "labelled_classes": KNOWN, "head": HEAD, **given})


def opened(batch, *, labelled=None):
    """Hide labels: of digits from 5 up, and of every third of the others, or of all but those that are asked for."""
    known = (batch["labels"] < KNOWN) & (batch["ids"] % 3 > 0) if labelled is None else labelled
    return batch | {"labels": batch["labels"].where(known, -1), "views": [view.double() for view in batch["views"]]}


def step(method, batch, optimizer):
    optimizer.zero_grad()
    terms = method(batch)
    terms["loss"].backward()
    optimizer.step()
    method.after_step()
    return terms


def row_terms(rows, members, names, temperature):
    """The mean of SupCon's row form over a set's rows whose name another one has too; 0 for none."""
    found = []
    inside = [i for i, member in enumerate(members) if member]
    for i in inside:
        others = [j for j in inside if j != i]
        near = [j for j in others if names[j] == names[i]]
        if near:
            logits = rows @ rows[i] / temperature
            found.append(logits[others].logsumexp(0) - logits[near].mean())
    return torch.stack(found).mean() if found else rows.sum() * 0


@pytest.mark.parametrize("tested_only", [False, True])
def test_it_follows_the_algorithm_as_published(tested_only, digits, build):
    """Guess, test, three contrasts and prior by the old prototypes; then view 1 moves these, row after row."""
    config = plain(tested_only=tested_only, ramp=0.5)
    method = build(config, norm="group", steps=10).double()
    body = torch.nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    mu = list(method.prototypes.rows.clone())
    running, seen_novel = -math.inf, 0
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.5) for each in (method, body)]
    for number in range(5):
        batch = opened(digits(number, n=14))
        if number in (0, 3):  # once before any threshold, once after
            batch = opened(digits(number, n=14), labelled=torch.tensor(False))
        y, ids = batch["labels"].tolist(), batch["ids"].tolist()
        z = [F.normalize(body(view)) for view in batch["views"]]

        guess, score = [], []
        for row in z[0].detach():
            cosines = torch.stack([row @ m for m in mu])
            guess.append(int(cosines.argmax()))
            score.append(float(((cosines - cosines.mean()) / cosines.std(unbiased=False))[:KNOWN].max()))
        labelled = sorted(s for s, label in zip(score, y, strict=True) if label >= 0)
        if labelled:
            place = 0.3 * (len(labelled) - 1)
            low, high = labelled[math.floor(place)], labelled[math.ceil(place)]
            threshold = low + (place - math.floor(place)) * (high - low)
        else:
            threshold = running
        novel = [label < 0 and s < threshold for label, s in zip(y, score, strict=True)]
        seen_novel += sum(novel)

        rows = torch.cat(z)
        weights = (0.2, 1.0, 0.1 * min(number / 5, 1))
        members = ([label >= 0 for label in y], [label < 0 for label in y], novel)
        kinds = zip(weights, members, (y, ids, guess), (0.1, 0.4, 0.7), strict=True)
        contrast = sum(w * row_terms(rows, 2 * own, 2 * names, t) for w, own, names, t in kinds)
        mean = torch.stack([(10 * torch.stack(mu) @ z[0][k]).softmax(0) for k in range(14) if y[k] < 0]).mean(0)
        share = torch.tensor([0.5] * 5 + [1.0] * 5).double()
        loss = contrast + 0.05 * (mean * (mean / (share / share.sum())).log()).sum()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

        for k in range(14):
            moves = guess[k] >= KNOWN and (novel[k] or not tested_only)
            label = y[k] if y[k] >= 0 else guess[k] if moves else None
            if label is not None:
                mu[label] = F.normalize(0.9 * mu[label] + 0.1 * z[0][k].detach(), dim=0)
        if labelled:
            running = threshold if running == -math.inf else 0.9 * running + 0.1 * threshold

        terms = step(method, batch, optimizers[0])
        assert terms["loss"].item() == pytest.approx(loss.item(), abs=1e-9)
        assert terms["novel_share"].item() == pytest.approx(sum(novel) / sum(label < 0 for label in y))
        if number == 0:
            assert not any(novel)
    torch.testing.assert_close(method.prototypes.rows, torch.stack(mu), rtol=0, atol=1e-9)
    assert method.threshold.item() == pytest.approx(running, abs=1e-9)
    assert seen_novel > 10


def test_a_batch_without_unlabelled_samples_is_supcon_and_one_without_labels_is_ntxent(digits, build):
    method = build(plain(labelled_classes=10, prior_weight=0.0, ramp=0.0), norm="group").double()
    batch = opened(digits(0, n=16), labelled=torch.tensor(True))
    z = torch.cat(method.embed(batch))
    supcon = 0.2 * SupConLoss(temperature=0.1)(z, batch["labels"].repeat(2), ids=batch["ids"].repeat(2))
    assert method(batch)["loss"].item() == pytest.approx(supcon.item(), abs=1e-9)
    bare = opened(digits(0, n=16), labelled=torch.tensor(False))
    ntxent = NTXentLoss(temperature=0.4)(*method.embed(bare), ids=bare["ids"])
    terms = method(bare)
    assert terms["loss"].item() == pytest.approx(ntxent.item(), abs=1e-9)  # no threshold yet, so nothing is novel
    assert terms["accuracy"].item() == terms["novel_share"].item() == 0


def test_no_unlabelled_sample_moves_a_labelled_prototype_and_the_test_may_be_asked():
    labels, guesses = torch.tensor([1, -1, -1, -1, 0]), torch.tensor([3, 0, 2, 3, 3])
    novel = torch.tensor([False, True, True, False, False])
    for tested_only, expected in ((False, [1, -1, 2, 3, 0]), (True, [1, -1, 2, -1, 0])):
        config = plain(classes=4, labelled_classes=2, tested_only=tested_only)
        method = config.build(as_identity(8))
        assert method.movers(labels, guesses, novel).tolist() == expected


def as_identity(dim):
    body = torch.nn.Flatten()
    body.feature_dim = dim
    return body


def test_the_threshold_is_a_percentile_of_the_labelled_scores_over_known_prototypes():
    """Three prototypes along the axes; the third is novel and does not enter a score."""
    method = plain(classes=3, labelled_classes=2, percentile=0.5).build(as_identity(8)).double()
    cosines = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.4], [0.1, 0.2, 0.9], [0.0, 0.7, 0.7], [0.9, 0.1, 0.2]])
    novel, threshold = method.find_novel(cosines.double(), torch.tensor([0, 1, -1, -1, -1]))
    scores = [((row - row.mean()) / row.std(unbiased=False))[:2].max().item() for row in cosines.double()]
    assert threshold.item() == pytest.approx((scores[0] + scores[1]) / 2)
    assert novel.tolist() == [False, False, True, True, bool(scores[4] < threshold)]
    assert method.find_novel(cosines.double(), torch.full((5,), -1))[1] is None


def test_the_weight_of_novel_rows_rises(digits, build):
    method = build(plain(ramp=0.4), steps=10)
    optimizer, found = torch.optim.SGD(method.parameters(), lr=0.0), []
    for number in range(6):
        batch = digits(number, n=12)
        step(method, batch | {"labels": torch.full((12,), -1)}, optimizer)
        found.append(method.loss.weights)
    assert [w for _, _, w in found] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])
    assert {pair[:2] for pair in found} == {(0.2, 1.0)}
    assert build(plain(ramp=0.0)).ramped() == 1.0


def test_the_gradient_reaches_projections_of_all_views_and_no_prototype(digits, build):
    method, batch = build(plain(ramp=0.0), norm="group").double(), opened(digits(0, n=24))
    embeddings = [rows.detach().requires_grad_() for rows in method.embed(batch)]
    method.terms(embeddings, batch)["loss"].backward()
    assert all(rows.grad.abs().sum() > 0 for rows in embeddings)
    assert not method.prototypes.rows.requires_grad
    without = [rows.detach().requires_grad_() for rows in embeddings]
    method.config = replace(method.config, prior_weight=0.0)
    method.terms(without, batch)["loss"].backward()
    assert torch.equal(without[1].grad, embeddings[1].grad)  # the prior sees the first view
    moved = (without[0].grad - embeddings[0].grad).abs().sum(1) > 1e-12
    assert torch.equal(moved, batch["labels"] < 0)  # of unlabelled samples


def test_the_prior_spreads_samples_over_prototypes(digits, build):
    """It keeps the mean prediction nearer to what the classes should have than training without it does."""
    found, batches = [], [opened_single(digits(number, n=48)) for number in range(20)]
    for weight in (0.0, 0.5):
        method = build(plain(prior_weight=weight, ramp=0.0), norm="group")
        optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
        terms = [step(method, batch, optimizer) for batch in batches]
        found.append(sum(each["prior"].item() for each in terms[-8:]) / 8)
    assert found[1] < 0.75 * found[0]


def test_a_mixed_run_resumes_bitwise_and_draws_nothing(digits, build):
    batches = [{**b, "labels": opened(b)["labels"]} for b in (digits(number, n=24) for number in range(6))]
    method = build(plain())
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for batch in batches[:3]:
        step(method, batch, optimizer)
    saved = copy.deepcopy(method.state_dict())
    for batch in batches[3:]:
        step(method, batch, optimizer)
    resumed = build(replace(plain(), seed=7), seed=9)
    resumed.load_state_dict(saved)
    torch.manual_seed(4)
    for batch in batches[3:]:
        step(resumed, batch, torch.optim.SGD(resumed.parameters(), lr=0.1))
    expected = method.state_dict()
    assert {"prototypes.rows", "threshold", "progress.step"} < set(expected)
    assert all(torch.equal(expected[name], value) for name, value in resumed.state_dict().items())


def test_passes_without_a_step_leave_no_trace(digits, build):
    method = build(plain())
    step(method, opened_single(digits(0, n=24)), torch.optim.SGD(method.parameters(), lr=0.1))
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method.eval()(opened_single(digits(1, n=24)))
        method.train().terms([torch.rand(24, 8)] * 2, opened_single(digits(1, n=24)))
    method.after_step()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert int(method.progress.step) == 1


def opened_single(batch):
    return {**batch, "labels": opened(batch)["labels"]}


@pytest.mark.parametrize("labels", [[-1], [0], [-1] * 6, [2] * 6, [0, -1, 1, -1, -1, -1]])
def test_batches_of_any_make_up_are_finite_under_autocast(labels, digits, build):
    method, batch = build(plain(ramp=0.0), norm="group"), digits(0, n=len(labels))
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = method(batch | {"labels": torch.tensor(labels)})
        terms["loss"].backward()
        method.after_step()
        assert all(term.isfinite() for term in terms.values())
    assert terms["loss"].dtype == torch.float32
    torch.testing.assert_close(method.prototypes.rows.norm(dim=1), torch.ones(10))


def test_it_predicts_the_nearest_prototype(digits, build):
    method = build(plain()).eval()
    images = digits(0, n=9)["views"][0]
    z = F.normalize(method.head(method.encoder(images)))
    torch.testing.assert_close(method.logits(images), 10 * z @ method.prototypes.rows.T)
    assert torch.equal(method.predict(images), (z @ method.prototypes.rows.T).argmax(1))


def test_frozen_parts_stay_as_they_are(digits, build):
    method = build(plain(frozen=("blocks.0",)))
    before = copy.deepcopy(method.encoder.get_submodule("blocks.0").state_dict())
    optimizer = torch.optim.SGD((p for p in method.parameters() if p.requires_grad), lr=0.1)
    for number in range(2):
        step(method, opened_single(digits(number, n=24)), optimizer)
    method.eval().train()
    assert not method.encoder.get_submodule("blocks.0").training
    after = method.encoder.get_submodule("blocks.0").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert method.head.steps[0].weight.grad is not None
    with pytest.raises(ValueError, match="frozen names parts of the encoder, and 'layer4' is none of "):
        build(plain(frozen=("layer4",)))


def test_an_open_world_says_how_many_classes_there_are():
    full = DigitsConfig().load()
    train = OpenWorldConfig(known=0.3).apply(full).train
    settled = OpenConConfig().settled(train)
    assert (settled.classes, settled.labelled_classes) == (10, 3)
    assert OpenConConfig(classes=20, labelled_classes=4).settled(train).labelled_classes == 4
    with pytest.raises(ValueError, match="all 10 classes that are known of have labels, so there is nothing"):
        OpenConConfig().settled(full.train)
    assert OpenConConfig(classes=12).settled(full.train).labelled_classes == 10


def test_classes_without_names_must_be_counted_by_hand():
    def source(labels):
        return ArraySource(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), torch.tensor(labels))

    hidden = OpenWorldConfig().apply(Splits(source([0, 1, 2, 3] * 4), source([0, 1, 2, 3]))).train
    with pytest.raises(ValueError, match=r"all 2 classes .* give OpenConConfig\(classes=...\), novel ones included"):
        OpenConConfig().settled(hidden)
    with pytest.raises(ValueError, match=r"must be the first ones, .* has labels of \[0, 2\]"):
        OpenConConfig().settled(source([0, 2, -1]))
    with pytest.raises(ValueError, match="OpenCon needs labels"):
        OpenConConfig().settled(source([-1, -1]))


def test_errors_say_what_to_do(digits, build):
    with pytest.raises(ValueError, match="OpenCon needs labels in the batch"):
        build(plain())({"views": digits(0, n=4)["views"]})
    with pytest.raises(ValueError, match="the first 5 classes have labels, and the batch has the label 9; give"):
        build(plain())(digits(0, n=64))
    with pytest.raises(ValueError, match=r"how many classes have labels is open; give OpenConConfig\(labelled_class"):
        OpenConConfig(classes=3).build(as_identity(8))
    with pytest.raises(ValueError, match="the number of classes is open"):
        OpenConConfig(labelled_classes=3).build(as_identity(8))
    with pytest.raises(ValueError, match="a schedule over training needs its length"):
        plain().build(as_identity(64)).terms([torch.rand(2, 8)] * 2, {"views": [], "labels": torch.tensor([0, -1])})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labelled_classes": 11}, "labelled_classes must be at least 1 and at most classes = 10, found 11"),
        ({"labelled_classes": 0}, "found 0"),
        ({"weights": (1.0, 1.0)}, r"weights must be three, .* found \(1.0, 1.0\)"),
        ({"temperatures": (0.1,)}, "temperatures must be three"),
        ({"percentile": 30}, r"percentile must lie in \[0, 1\], found 30"),
        ({"ramp": -0.1}, "ramp must lie"),
        ({"momentum": 1.5}, "momentum must lie"),
        ({"labelled_ratio": 1.0}, r"labelled_ratio must lie in \[0, 1\), found 1.0"),
        ({"prior_temperature": 0.0}, "prior_temperature positive, found 0.05 and 0.0"),
    ],
)
def test_settings_outside_their_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        plain(**given)
