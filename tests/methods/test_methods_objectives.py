"""What each method computes, against its loss called by hand, and what it says about unfit batches."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
import torch

from kinfolk.data import ClassTable, SideEmbeddings
from kinfolk.losses import CACRLoss, DCLLoss, NTXentLoss, SupConLoss, XSampleLoss
from kinfolk.methods import CACRConfig, MoCoConfig, SimCLRConfig, SupConConfig, XCLRConfig
from kinfolk.methods.health import participation_ratio, positive_cosine, relative_entropy


def project(method, views):
    """Return each view's projections, encoded together as in training."""
    return method.head(method.encoder(torch.cat(views))).tensor_split(len(views))


@pytest.mark.parametrize("views", [2, 3, 4])
def test_simclr_is_the_mean_of_nt_xent_over_pairs_of_views(views, digits, build):
    method, batch = build(SimCLRConfig(temperature=0.3), norm="group").eval(), digits(0, views=views, n=12)
    z = project(method, batch["views"])
    pairs = [NTXentLoss(temperature=0.3)(a, b) for a, b in combinations(z, 2)]
    torch.testing.assert_close(method(batch)["loss"], sum(pairs) / len(pairs))


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_a_decoupled_simclr_is_dcl_and_with_weights_dclw(sigma, digits, build):
    config = SimCLRConfig(temperature=0.3, decoupled=True, sigma=sigma)
    method, batch = build(config, norm="group").eval(), digits(0, n=12)
    expected = DCLLoss(temperature=0.3, sigma=sigma)(*project(method, batch["views"]), ids=batch["ids"])
    assert torch.equal(method(batch)["loss"], expected)
    with pytest.raises(ValueError, match=r"sigma = 0\.5 weighs the positives of DCL: set decoupled"):
        SimCLRConfig(sigma=0.5)


def test_simclr_knows_a_sample_that_is_twice_in_the_batch(digits, build):
    method, batch = build(SimCLRConfig()).eval(), digits(0, n=12)
    batch = {
        "views": [torch.cat([v, v[:1]]) for v in batch["views"]],
        "ids": torch.cat([batch["ids"], batch["ids"][:1]]),
    }
    without = {"views": batch["views"]}
    assert method(batch)["loss"] < method(without)["loss"] - 1e-3


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("views", [2, 3])
def test_supcon_takes_labels_and_ids_once_per_view(form, views, digits, build):
    method, batch = build(SupConConfig(form=form)).eval(), digits(0, views=views, n=12)
    batch["labels"][:4] = -1  # unlabelled: own views only
    z = torch.cat(project(method, batch["views"]))
    labels, ids = (torch.cat([batch[name]] * views) for name in ("labels", "ids"))
    expected = SupConLoss(temperature=0.1, form=form)(z, labels, ids=ids)
    torch.testing.assert_close(method(batch)["loss"], expected)
    del batch["ids"]
    torch.testing.assert_close(method(batch)["loss"], expected)


def test_supcon_without_any_label_is_simclr_over_its_views(digits, build):
    batch = digits(0, n=12)
    batch["labels"] = torch.full((12,), -1)
    supcon, simclr = (
        build(cls(temperature=0.2, head=SupConConfig().head)).eval() for cls in (SupConConfig, SimCLRConfig)
    )
    torch.testing.assert_close(supcon(batch)["loss"], simclr(batch)["loss"])


def test_xclr_matches_the_text_embeddings_of_the_batch(digits, build):
    config = XCLRConfig(temperature=0.2, graph_temperature=0.4)
    method, batch = build(config).eval(), digits(0, n=12)
    z = torch.cat(project(method, batch["views"]))
    expected = XSampleLoss(temperature=0.2, graph_temperature=0.4)(z, torch.cat([batch["text_embedding"]] * 2))
    torch.testing.assert_close(method(batch)["loss"], expected)


@pytest.mark.parametrize("views", [2, 3])
def test_xclr_prefers_its_relation_to_the_text_embeddings(views, source, digits, build):
    relation = SideEmbeddings(source.ids, torch.randn(len(source), 5), 0.3)
    method, batch = build(XCLRConfig(), relation=relation).eval(), digits(0, views=views, n=12)
    assert method.relation is relation
    z = torch.cat(project(method, batch["views"]))
    side = torch.stack([relation.embeddings[source.ids.tolist().index(i)] for i in batch["ids"].tolist()])
    expected = XSampleLoss(temperature=0.1, graph_temperature=0.3)(z, torch.cat([side] * views))
    torch.testing.assert_close(method(batch)["loss"], expected)
    assert not any("relation" in name for name in method.state_dict())


def test_xclr_with_a_sharp_class_table_is_supcon(source, digits, build):
    table = ClassTable(source.ids, source.labels, torch.eye(10), 1e-2)
    batch = digits(0, n=24)
    xclr = build(XCLRConfig(head=SupConConfig().head), relation=table).eval()
    supcon = build(SupConConfig()).eval()
    torch.testing.assert_close(xclr(batch)["loss"], supcon(batch)["loss"])


def test_xclr_cannot_fall_below_the_entropy_of_its_target(digits, build):
    batch = digits(0, n=12)
    loss = build(XCLRConfig(graph_temperature=0.5)).eval()(batch)["loss"]
    side = torch.nn.functional.normalize(batch["text_embedding"].repeat(2, 1))
    logits = (side @ side.T / 0.5).fill_diagonal_(-torch.inf)
    assert loss > torch.special.entr(logits.softmax(1)).sum(1).mean()


@pytest.mark.parametrize("views", [2, 5])
def test_cacr_takes_every_view(views, digits, build):
    config = CACRConfig(t_pos=0.7, t_neg=1.3, alpha=2.0, beta=0.5, detach_weights=True)
    method, batch = build(config).eval(), digits(0, views=views, n=12)
    z = list(project(method, batch["views"]))
    assert z[0].shape == (12, method.encoder.feature_dim)  # no head by default
    loss = CACRLoss(t_pos=0.7, t_neg=1.3, alpha=2.0, beta=0.5, detach_weights=True)
    torch.testing.assert_close(method(batch)["loss"], loss(z))


def test_cacr_reports_the_entropy_of_its_repulsion(digits, build):
    batch = digits(0, n=12)
    uniform, sharp = (build(CACRConfig(t_neg=t)).eval()(batch)["repulsion_entropy"] for t in (0.0, 50.0))
    assert uniform.item() == pytest.approx(1.0, abs=1e-5)
    assert 0 <= sharp.item() < 0.5


def test_cacr_can_weigh_all_alike(digits, build):
    batch = digits(0, views=3, n=12)
    equal = build(CACRConfig(attraction="uniform", repulsion="uniform")).eval()(batch)
    torch.testing.assert_close(equal["loss"], build(CACRConfig(t_pos=0.0, t_neg=0.0)).eval()(batch)["loss"])
    assert equal["repulsion_entropy"].item() == pytest.approx(1.0, abs=1e-5)


def test_cacr_takes_the_head_that_its_config_asks_for(digits, build):
    head = dataclasses.replace(SimCLRConfig().head, out_dim=6, hidden=10)
    method = build(CACRConfig(head=head))
    assert method.head.out_dim == 6
    method(digits(0, n=12))["loss"].backward()
    assert all(p.grad is not None for p in method.head.parameters())


def test_side_embeddings_of_integers_are_refused(digits, build):
    batch = digits(0, n=4)
    with pytest.raises(TypeError, match=r"text_embedding must be floats \[b, e\], found torch.int64 \[4, 10\]"):
        build(XCLRConfig())({**batch, "text_embedding": batch["text_embedding"].long()})


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (SupConConfig(), {"labels": None}, r"SupCon needs labels in the batch, found keys .*a source with labels"),
        (XCLRConfig(), {"text_embedding": None}, r"X-CLR needs a similarity between samples.*give a relation"),
        (MoCoConfig(), {"views": 3}, r"MoCo takes exactly 2 views of each image, found 3; set ViewsConfig\.count"),
        (SimCLRConfig(), {"views": 1}, r"SimCLR takes at least two views of each image, found 1"),
        (CACRConfig(), {"views": 1}, r"CACR takes at least two views"),
        (SupConConfig(), {"views": 1}, r"SupCon takes at least two views"),
        (XCLRConfig(), {"views": 1}, r"X-CLR takes at least two views"),
    ],
    ids=str,
)  # fmt: skip
def test_unfit_batches_are_explained(config, change, message, digits, build):
    batch = digits(0, n=6, views=change.pop("views", 2)) | change
    for found in (batch, {name: value for name, value in batch.items() if value is not None}):
        with pytest.raises(ValueError, match=message):
            build(config)(found)


def test_views_must_be_there_and_alike(source, digits, build):
    batch = digits(0, n=6)
    with pytest.raises(ValueError, match=r"SimCLR needs a batch with views.*found keys \['ids'\]"):
        build(SimCLRConfig())({"ids": batch["ids"]})
    with pytest.raises(ValueError, match=r"views of equal shapes, found \[\(6, 1, 8, 8\), \(5, 1, 8, 8\)\]"):
        build(SimCLRConfig())({"views": [batch["views"][0], batch["views"][1][:5]]})
    with pytest.raises(ValueError, match="looks samples up in its relation by ids"):
        build(XCLRConfig(), relation=SideEmbeddings(source.ids, torch.rand(len(source), 2), 0.1))(
            {"views": batch["views"]}
        )


def test_positive_cosine_is_the_mean_over_ordered_pairs():
    views = torch.randn(4, 7, 3) * torch.rand(4, 7, 1)
    pairs = [torch.cosine_similarity(a, b).mean() for a, b in combinations(views, 2)]
    torch.testing.assert_close(positive_cosine(views), sum(pairs) / len(pairs))


def test_participation_ratio_counts_directions():
    axes = torch.cat([torch.eye(6)[:3], -torch.eye(6)[:3]])
    assert participation_ratio(axes).item() == pytest.approx(3.0)
    assert participation_ratio(5 * axes).item() == pytest.approx(3.0)
    assert participation_ratio(torch.ones(8, 6)).item() == pytest.approx(0.0, abs=1e-6)
    rows = torch.nn.functional.normalize(torch.randn(50, 5, dtype=torch.float64))
    eigenvalues = torch.linalg.eigvalsh(rows.T.cov(correction=0))
    shares = eigenvalues / eigenvalues.sum()
    assert participation_ratio(rows).item() == pytest.approx(1 / shares.square().sum().item())
    assert participation_ratio(rows) <= torch.special.entr(shares).sum().exp()
    assert participation_ratio(torch.full((3, 2), torch.nan)).isnan()


def test_relative_entropy_of_known_weights():
    uniform = (1 - torch.eye(5)) / 4
    assert relative_entropy(uniform).item() == pytest.approx(1.0)
    assert relative_entropy(torch.eye(5).roll(1, 0)).item() == 0.0
    assert relative_entropy(torch.stack([uniform, torch.eye(5).roll(1, 0)])).item() == pytest.approx(0.5)
    assert relative_entropy(torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item() == 1.0
