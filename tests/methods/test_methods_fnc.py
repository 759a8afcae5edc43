"""FNC's machinery: when it searches, what support views do, and the loss against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kinfolk.methods import FNCConfig, SimCLRConfig
from kinfolk.nn import HeadConfig

HEAD = HeadConfig(hidden=16, out_dim=8)


def small(**settings) -> FNCConfig:
    return FNCConfig(**{"head": HEAD, "top_k": 3, "threshold": 0.5, "start": 0.0, **settings})


def doubled(batch: dict) -> dict:
    return {**batch, "views": [view.double() for view in batch["views"]]}


@pytest.mark.parametrize("mode", ["attract", "eliminate"])
def test_a_step_is_the_definition_in_loops(mode, digits, build):
    method, batch = build(small(mode=mode, temperature=0.2), norm="group").double(), doubled(digits(0, views=3, n=12))
    terms = method(batch)
    z = [F.normalize(method.head(method.encoder(view))) for view in batch["views"]]
    rows, losses, found = torch.cat(z[:2]), [], 0
    for i in range(12):
        score = {m: max(float(view[i].detach() @ rows[m].detach()) for view in z) for m in range(24) if m % 12 != i}
        alike = [m for m in sorted(score, key=lambda m: -score[m])[:3] if score[m] > 0.5]
        found += len(alike)
        for own, other in ((i, i + 12), (i + 12, i)):
            s = rows[own] @ rows.T / 0.2
            kept = [m for m in range(24) if m != own and not (mode == "eliminate" and m in alike)]
            pulled = [other, *(alike if mode == "attract" else [])]
            losses.append(s[kept].logsumexp(0) - s[pulled].mean())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(terms["loss"], expected, rtol=0, atol=1e-9)
    assert found > 0
    assert terms["false_negatives"].item() == pytest.approx(found / 12)
    gradients = [torch.autograd.grad(loss, method.head.parameters()) for loss in (terms["loss"], expected)]
    for mine, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-8)


def test_until_it_starts_it_is_simclr_on_the_views_that_are_contrasted(digits, build):
    method = build(small(start=0.5, temperature=0.2), norm="group", steps=4)
    simclr = build(SimCLRConfig(temperature=0.2, head=HEAD), norm="group")
    for number in range(4):
        batch = digits(number, views=3)
        terms = method(batch)
        expected = simclr({**batch, "views": batch["views"][:2]})["loss"]
        assert torch.allclose(terms["loss"], expected, rtol=0, atol=1e-6) == (number < 2)
        assert (terms["false_negatives"] > 0) == (number >= 2)
        method.after_step()


def test_support_views_help_to_find_and_carry_no_gradient(digits, build):
    batch = digits(0, views=3)
    one, none = build(small(), norm="group"), build(small(support_views=0), norm="group")
    views = [view.clone().requires_grad_() for view in batch["views"]]
    one({**batch, "views": views})["loss"].backward()
    assert [view.grad is None or not view.grad.any() for view in views] == [False, False, True]
    alone = none({**batch, "views": batch["views"][:2]})["false_negatives"]
    assert one(batch)["false_negatives"] >= alone  # a maximum over more views only finds more


def test_precision_is_reported_with_labels_and_labels_change_nothing(digits, build):
    batch = digits(0, views=3)
    method = build(small(), norm="group")
    terms, without = method(batch), method({k: v for k, v in batch.items() if k != "labels"})
    assert 0.1 < terms["same_label"] <= 1
    assert "same_label" not in without
    assert torch.equal(terms["loss"], without["loss"])
    unknown = method({**batch, "labels": torch.full_like(batch["labels"], -1)})
    assert unknown["same_label"] == 0


def test_only_training_passes_count_as_steps(digits, build):
    method = build(small())
    method.eval()(digits(0, views=3))
    method.after_step()
    with torch.no_grad():
        method.train()(digits(0, views=3))
    method.after_step()
    assert int(method.progress.step) == 0
    method(digits(0, views=3))
    method.after_step()
    method.after_step()
    assert int(method.progress.step) == 1


def test_what_it_needs_is_said(digits, build):
    with pytest.raises(
        ValueError, match=r"takes 1 more to find false negatives, found 2 views; set ViewsConfig.count to 3"
    ):
        build(small())(digits(0))
    with pytest.raises(ValueError, match="support_views must be 0 or more, found -1"):
        small(support_views=-1)
    with pytest.raises(ValueError, match="start is a share of training, 0 to 1, found 2"):
        small(start=2)
    method = small(start=0.1).build(build(small()).encoder)
    with pytest.raises(ValueError, match="needs its length: call method"):
        method(digits(0, views=3))
