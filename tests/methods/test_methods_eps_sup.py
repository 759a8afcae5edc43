"""eps-SupInfoNCE, eps-SupCon and FairKL, against the algorithm written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.evals import EvaluationConfig
from kinfolk.methods import EpsSupConfig, SimCLRConfig, SupConConfig
from kinfolk.nn import HeadConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import fit, read_metrics
from kinfolk.train.serialization import decode, encode

HEAD = HeadConfig(hidden=16, out_dim=8)


def plain(**settings):
    return EpsSupConfig(**{"head": HEAD, **settings})


def doubled(batch):
    return {**batch, "views": [view.double() for view in batch["views"]]}


def contrast_written_out(z, labels, ids, *, loss, form, epsilon, temperature):
    scores = F.normalize(z) @ F.normalize(z).T / temperature
    values = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positive = [j for j in others if ids[j] == ids[i] or (labels[j] == labels[i] and labels[i] >= 0)]
        negative = [scores[i, j] for j in others if j not in positive]
        own = scores[i, positive]
        if loss == "info-nce" and form == "out":
            values += [torch.stack([torch.stack([s - epsilon, *negative]).logsumexp(0) - s for s in own]).mean()]
        elif loss == "info-nce":
            mean = (own - epsilon).exp().mean().log()
            values += [torch.stack([mean, *negative]).logsumexp(0) - own.logsumexp(0)]
        else:
            partition = torch.stack([*(own - epsilon), *negative]).logsumexp(0)
            values += [partition - (own.mean() if form == "out" else own.exp().mean().log())]
    return torch.stack(values).mean()


def fairness_written_out(features, labels, bias, *, form):
    """Moments of the cosines of pairs with the same and with another bias, in each of two kinds of pairs."""
    h = F.normalize(features)
    pairs = [(i, j) for i in range(len(h)) for j in range(i) if min(labels[i], labels[j], bias[i], bias[j]) >= 0]
    total = torch.zeros((), dtype=h.dtype)
    for same_label in (True, False):
        kind = [(i, j) for i, j in pairs if bool(labels[i] == labels[j]) == same_label]
        aligned, conflicting = (
            [h[i] @ h[j] for i, j in kind if bool(bias[i] == bias[j]) == same_bias] for same_bias in (True, False)
        )
        if min(len(aligned), len(conflicting)) < 2:
            continue
        (mu_a, var_a), (mu_c, var_c) = (
            (torch.stack(group).mean(), torch.stack(group).var(correction=0)) for group in (aligned, conflicting)
        )
        if form == "kl":
            a, c = (torch.distributions.Normal(mu, (var + 1e-6).sqrt()) for mu, var in ((mu_a, var_a), (mu_c, var_c)))
            total = total + torch.distributions.kl_divergence(a, c)
        else:
            total = total + (mu_a - mu_c) ** 2 + (var_a.sqrt() - var_c.sqrt()) ** 2
    return total


@pytest.mark.parametrize(
    ("loss", "form", "fair_form"),
    [("info-nce", "out", "kl"), ("info-nce", "in", "moments"), ("con", "out", "moments"), ("con", "in", "kl")],
)
def test_it_follows_the_algorithm_written_out(loss, form, fair_form, digits, build):
    """Contrast on projections, FairKL on the encoder's features, each with its weight once, then the step."""
    settings = {"loss": loss, "form": form, "epsilon": 0.4, "temperature": 0.3}
    method = build(plain(alpha=0.7, fair_weight=1.5, fair_form=fair_form, **settings), norm="group").double()
    own = nn.Sequential(copy.deepcopy(method.encoder), copy.deepcopy(method.head))
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (method, own)]
    for number in range(3):
        batch = doubled(digits(number, n=7))
        batch["labels"] = torch.tensor([0, 0, 1, 1, 1, 0, -1])
        batch["bias_labels"] = torch.tensor([0, 1, 0, 1, 1, -1, 1])

        labels, bias, ids = (batch[name].repeat(2) for name in ("labels", "bias_labels", "ids"))
        features = torch.cat([own[0](view) for view in batch["views"]])
        contrastive = contrast_written_out(own[1](features), labels, ids, **settings)
        fairness = fairness_written_out(features, labels, bias, form=fair_form)
        expected = 0.7 * contrastive + 1.5 * fairness
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()

        terms = method(batch)
        optimizers[0].zero_grad()
        terms["loss"].backward()
        optimizers[0].step()
        method.after_step()
        found = [terms[name].item() for name in ("contrastive", "fairness", "loss")]
        assert found == pytest.approx([contrastive.item(), fairness.item(), expected.item()], abs=1e-9)
        assert fairness > 1e-4
    for a, b in zip(nn.Sequential(method.encoder, method.head).parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.parametrize("form", ["out", "in"])
def test_without_a_margin_eps_supcon_is_supcon_also_with_unlabelled_samples(form, digits, build):
    batch = doubled(digits(0, n=24))
    batch["labels"] = torch.where(batch["ids"] % 4 == 0, -1, batch["labels"])
    found, expected = (
        build(config, norm="group").double()
        for config in (plain(loss="con", epsilon=0.0, form=form), SupConConfig(form=form, head=HEAD))
    )
    losses = [method(batch)["loss"] for method in (found, expected)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-9)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-8)


def test_epsilon_leads_from_simclr_to_dcl_when_no_two_samples_are_of_one_class(digits, build):
    batch = doubled(digits(0, n=20))
    batch["labels"] = torch.arange(20)
    for epsilon, decoupled in ((0.0, False), (200.0, True)):
        found = build(plain(epsilon=epsilon), norm="group").double()(batch)["loss"].item()
        other = SimCLRConfig(temperature=0.1, decoupled=decoupled, head=HEAD)
        expected = build(other, norm="group").double()(batch)["loss"].item()
        # a wide margin enters as a constant: softplus(eps - x) - eps = -x
        assert found == pytest.approx(expected, abs=1e-9)


def test_without_fairness_no_bias_is_read_and_nothing_else_changes(digits, build):
    batch = digits(0, n=24)
    with_fairness = build(plain(fair_weight=1.0))(batch)
    del batch["bias_labels"]
    method = build(plain())
    terms = method(batch)
    assert terms["loss"].item() == with_fairness["contrastive"].item()
    assert terms.keys() == {"loss", "positive_cosine", "participation_ratio"}
    assert len(method.embed(batch)) == 2
    assert method.fairness is None


def test_fairness_is_about_features_and_leaves_the_head_alone(digits, build):
    method = build(plain(alpha=0.0, fair_weight=1.0), norm="group")
    terms = method(digits(0))
    terms["loss"].backward()
    assert terms["loss"].item() == terms["fairness"].item() > 0
    assert all(bool((p.grad == 0).all()) for p in method.head.parameters())
    assert all(bool((p.grad != 0).any()) for p in method.encoder.parameters())


def test_a_sample_of_unknown_bias_is_contrasted_and_in_no_pair_of_fairness(digits, build):
    method, batch = build(plain(fair_weight=1.0), norm="group").double(), doubled(digits(0, n=40))
    keep = batch["ids"] % 4 != 0
    hidden = method({**batch, "bias_labels": torch.where(keep, batch["bias_labels"], -1)})
    del batch["text"]  # words, not rows of a tensor
    left = method({name: [v[keep] for v in x] if name == "views" else x[keep] for name, x in batch.items()})
    full = method(batch)
    assert hidden["fairness"].item() == pytest.approx(left["fairness"].item(), abs=1e-9)
    assert hidden["fairness"].item() != pytest.approx(full["fairness"].item(), abs=1e-4)
    assert hidden["contrastive"].item() == full["contrastive"].item()


def test_without_labels_each_sample_is_a_class_of_its_own(digits, build):
    method, batch = build(plain(fair_weight=1.0), norm="group").double(), doubled(digits(0, n=12))
    unlabelled = method({**batch, "labels": torch.full((12,), -1)})
    alone = method({**batch, "labels": torch.arange(12)})
    assert unlabelled["contrastive"].item() == pytest.approx(alone["contrastive"].item(), abs=1e-9)
    assert unlabelled["fairness"].item() == 0


@pytest.mark.parametrize("bias", [torch.zeros(12, dtype=torch.int64), torch.full((12,), -1)])
def test_where_no_pair_conflicts_fairness_is_zero_and_has_a_gradient_of_zero(bias, digits, build):
    method, batch = build(plain(alpha=0.0, fair_weight=1.0)), digits(0, n=12)
    terms = method({**batch, "bias_labels": bias})
    terms["loss"].backward()
    assert terms["fairness"].item() == 0
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in method.parameters())


def test_a_batch_of_one_class_has_the_least_value_and_no_gradient(digits, build):
    method, batch = build(plain(epsilon=0.3)), digits(0, n=8)
    loss = method({**batch, "labels": torch.full((8,), 4)})["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(-0.3)
    assert all(bool((p.grad == 0).all()) for p in method.parameters())


def test_fairness_makes_features_of_one_class_alike_across_the_bias(digits, build):
    """A stripe of the image goes with the class; a fifth of the samples conflict."""

    def biased(number, n=64):
        batch = digits(number, n=n)
        bias = torch.where(batch["ids"] % 5 == 0, (batch["labels"] + 1 + batch["ids"] % 3) % 10, batch["labels"])
        views = [view.clone() for view in batch["views"]]
        for view in views:
            view[:, 0, 0] = F.one_hot(bias, 10)[:, 1:9].float()
        return {**batch, "views": views, "bias_labels": bias}

    def gap(method):
        batch = biased(500, n=200)
        with torch.no_grad():
            h = F.normalize(method.eval().encoder(batch["views"][0]))
        same, aligned = (batch[name][:, None] == batch[name] for name in ("labels", "bias_labels"))
        others, cosine = ~torch.eye(len(h), dtype=torch.bool), h @ h.T
        return (cosine[same & aligned & others].mean() - cosine[same & ~aligned].mean()).item()

    gaps = {}
    for weight in (0.0, 2.0):
        method = build(plain(fair_weight=weight))
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for number in range(30):
            loss = method(biased(number))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        gaps[weight] = gap(method)
    assert gaps[0.0] > 0.1
    assert abs(gaps[2.0]) < 0.5 * gaps[0.0]


def test_a_run_on_coloured_digits_brings_their_bias_to_the_method_and_is_measured_by_it(tmp_path):
    config = smoke(recipe("fair-kl-digits"))
    assert decode(EpsSupConfig, encode(config.method)) == config.method
    config = replace(config, evaluation=EvaluationConfig(protocols=("bias_accuracy",), max_train_rows=300))
    run = fit(config, out=tmp_path / "run")
    found = [record for record in read_metrics(run.metrics_file) if record["event"] == "train"]
    assert any(record["fairness"] > 0 for record in found)
    weight = config.method.fair_weight
    assert all(r["loss"] == pytest.approx(r["contrastive"] + weight * r["fairness"], abs=1e-4) for r in found)
    assert {"accuracy, conflicting", "accuracy, unbiased"} <= {record["metric"] for record in run.records}


@pytest.mark.parametrize("data", ["digits", "fashion-mnist"])
def test_biased_recipes_leave_the_hue_alone_and_show_no_edge(data):
    config = recipe(f"fair-kl-{data}")
    assert config.derived[0].kind == "coloured"
    views = config.views
    assert (views.hue, views.saturation, views.grey) == (0.0, 0.0, 0.0)
    assert views.padding == "border"
    assert "bias_accuracy" in config.evaluation.protocols


def test_a_batch_without_bias_labels_is_refused_with_a_way_out(digits, build):
    batch = digits(0, n=8)
    del batch["bias_labels"]
    with pytest.raises(
        ValueError, match=r"FairKL needs bias_labels in the batch, found keys \[.*ColouredConfig.*or set fair_weight=0"
    ):
        build(plain(fair_weight=1.0))(batch)
    with pytest.raises(ValueError, match="eps-SupInfoNCE needs labels in the batch"):
        build(plain())({"views": batch["views"]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "nce"}, "loss must be one of info-nce, con; found 'nce'"),
        ({"alpha": -1.0}, r"alpha must be at least 0, found -1\.0"),
        ({"fair_weight": float("nan")}, "fair_weight must be at least 0, found nan"),
        ({"alpha": 0.0}, "alpha and fair_weight are both 0, so there is nothing to learn"),
        ({"epsilon": -0.1}, r"epsilon must be at least 0 and finite, found -0\.1"),
        ({"temperature": 0.0}, r"temperature must be positive, found 0\.0"),
        ({"form": "both"}, "form must be one of out, in, found 'both'"),
        ({"fair_weight": 1.0, "fair_form": "mmd"}, "form must be one of kl, moments, found 'mmd'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, build):
    with pytest.raises(ValueError, match=message):
        build(plain(**settings))
