"""Three settings that methods share: a decoupled denominator, false negatives that leave, a relation as the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kinfolk.data.relations import ClassTable, EqualLabels, KNNConfig, Mixed, SideEmbeddings
from kinfolk.graphs import SimilarityGraph
from kinfolk.losses import DCLLoss
from kinfolk.methods import (
    AdversarialConfig,
    FalseNegativesConfig,
    IFNDConfig,
    InterCLRConfig,
    MoCHiConfig,
    MoCoConfig,
    QueueContrast,
    SCEConfig,
    SimCLRConfig,
    ViewContrast,
    XCLRConfig,
)
from kinfolk.methods.false_negatives import Dropped
from kinfolk.nn import Attack, HeadConfig, QueueSnapshot

_HEAD = HeadConfig(hidden=32, out_dim=16)
_QUEUE = {"queue_size": 64, "batch_norm_splits": 1, "head": _HEAD}
ORACLE = FalseNegativesConfig(detector="labels", start=0.0)
NEAREST = FalseNegativesConfig(detector="similarity", share=0.1, start=0.0)
METHODS = {
    "simclr": SimCLRConfig(head=_HEAD),
    "adversarial": AdversarialConfig(attack=Attack(0.05, 1, 0.03), head=_HEAD),
    "moco": MoCoConfig(**_QUEUE),
    "moco-symmetric": MoCoConfig(symmetric=True, **_QUEUE),
    "mochi": MoCHiConfig(hardest=8, mixed=4, query_mixed=4, warmup=0.0, **_QUEUE),
    "sce": SCEConfig(predictor=_HEAD, **_QUEUE),
    "inter-clr": InterCLRConfig(clusters=12, negatives=16, **_QUEUE),
}
RELATED = ["simclr", "adversarial", "moco", "moco-symmetric", "inter-clr"]


@pytest.fixture
def rows():
    """Return `rows(count, seed)`: unit rows of width 5 in float64."""

    def make(count: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return F.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=1)

    return make


def relation_of(source) -> SideEmbeddings:
    return SideEmbeddings(source.ids, F.one_hot(source.labels, 10).double(), temperature=0.3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "fields", [{"decoupled": True}, {"false_negatives": NEAREST}, {"decoupled": True, "false_negatives": ORACLE}]
)
def test_every_setting_trains_and_resumes_bitwise(name, fields, digits, build, tmp_path):
    def train(method, optimizer, steps):
        for step in steps:
            terms = method(digits(step, n=24))
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            method.after_step()
        return terms

    def optimizer_of(method):
        return torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)

    config = replace(METHODS[name], **fields)
    method = build(config)
    optimizer = optimizer_of(method)
    terms = train(method, optimizer, range(4))
    assert all(torch.isfinite(term) for term in terms.values())
    assert ("excluded_share" in terms) == ("false_negatives" in fields)
    torch.save(method.state_dict(), tmp_path / "method")
    train(method, optimizer, range(4, 6))
    resumed = build(config, seed=9)
    resumed.load_state_dict(torch.load(tmp_path / "method", weights_only=True))
    train(resumed, optimizer_of(resumed), range(4, 6))
    assert [k for k, v in method.state_dict().items() if not torch.equal(v, resumed.state_dict()[k])] == []


@pytest.mark.parametrize("name", METHODS)
def test_what_is_off_is_not_there(name, build):
    method = build(METHODS[name])
    assert not [key for key in method.state_dict() if "false_negatives" in key]
    assert METHODS[name].labels_used == "none"
    assert replace(METHODS[name], false_negatives=ORACLE).labels_used == "all"


@pytest.mark.parametrize("name", RELATED)
def test_a_relation_changes_what_is_learnt_and_is_kept_for_the_page(name, digits, build, source):
    method, plain = (build(METHODS[name], norm="group", relation=r) for r in (relation_of(source), None))
    for step in range(3):
        for one in (method, plain):
            one(digits(step, n=24))["loss"].backward()
            one.after_step()
    terms = [one(digits(9, n=24))["loss"].item() for one in (method, plain)]
    assert abs(terms[0] - terms[1]) > 0.01
    assert method.relation is not None
    assert plain.relation is None


def test_simclr_with_a_relation_is_x_clr(digits, build, source):
    relation, batch = relation_of(source), digits(0)
    simclr, xclr = SimCLRConfig(temperature=0.1, head=_HEAD), XCLRConfig(temperature=0.1, head=_HEAD)
    losses = [build(config, relation=relation)(batch)["loss"] for config in (simclr, xclr)]
    assert torch.equal(*losses)


def definition_of_views(a, b, *, temperature, target, dropped, decoupled):
    """The loss of every row against all others, as loops; `target(i, j)` between samples, `dropped(i, j)` likewise."""
    rows, n = torch.cat([a, b]), len(a)
    values = []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        own = {j for j in others if j % n == i % n}
        kept = [j for j in others if not dropped(i % n, j % n) and not (decoupled and j in own)]
        weights = {j: target(i % n, j % n) for j in others if j in own or not dropped(i % n, j % n)}
        scores = {j: rows[i] @ rows[j] / temperature for j in others}
        pull = sum(w * scores[j] for j, w in weights.items()) / sum(weights.values())
        values.append(torch.logsumexp(torch.stack([scores[j] for j in kept]), 0) - pull)
    return torch.stack(values).mean()


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("related", [False, True])
def test_views_follow_the_definition(decoupled, listed, related, rows):
    a, b, ids = rows(6, 0), rows(6, 1), torch.tensor([3, 8, 5, 1, 9, 4])
    found = torch.tensor([[1, -1], [2, 5], [-1, -1], [0, 4], [5, 3], [1, -1]]) if listed else None
    similarity = torch.rand(10, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    relation = ClassTable(torch.arange(10), torch.arange(10), similarity, temperature=0.5) if related else None
    contrast = ViewContrast(temperature=0.3, decoupled=decoupled, relation=relation)

    def target(i, j):
        return torch.exp(similarity[ids[i], ids[j]] / 0.5) if related else torch.tensor(float(i == j))

    expected = definition_of_views(
        a, b, temperature=0.3, target=target, decoupled=decoupled,
        dropped=lambda i, j: listed and j in found[i].tolist(),
    )  # fmt: skip
    assert contrast(a, b, ids, found).item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("related", [False, True])
def test_a_queue_follows_the_definition(decoupled, dropping, related, rows):
    queries, keys, queue = rows(4, 0), rows(4, 1), rows(7, 2)
    ids, queue_ids = torch.tensor([3, 8, 5, 1]), torch.tensor([8, -1, 2, 3, 6, -1, 1])
    similarity = torch.rand(10, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    relation = ClassTable(torch.arange(10), torch.arange(10), similarity, temperature=0.5) if related else None
    listed = torch.tensor([[0, 2], [2, -1], [-1, -1], [4, 5]])
    dropped = Dropped(equal=((ids, queue_ids),)) | Dropped(columns=listed) if dropping else Dropped()
    contrast = QueueContrast(temperature=0.3, decoupled=decoupled, relation=relation)

    values = []
    for i in range(4):
        kept = [j for j in range(7) if not (dropping and (queue_ids[j] == ids[i] or j in listed[i].tolist()))]
        scores = {j: queries[i] @ queue[j] / 0.3 for j in kept}
        scores[-1] = queries[i] @ keys[i] / 0.3
        weights = {-1: torch.ones((), dtype=torch.float64)}
        if related:
            weights = {j: torch.exp(similarity[ids[i], queue_ids[j]] / 0.5) for j in kept if queue_ids[j] >= 0}
            weights[-1] = torch.exp(similarity[ids[i], ids[i]] / 0.5)
        pull = sum(w * scores[j] for j, w in weights.items()) / sum(weights.values())
        partition = torch.stack([scores[j] for j in scores if j >= 0 or not decoupled])
        values.append(torch.logsumexp(partition, 0) - pull)
    snapshot = QueueSnapshot(queue, queue_ids, torch.full((7,), -1))
    found = contrast(queries, keys, snapshot, ids, dropped)
    assert found.item() == pytest.approx(torch.stack(values).mean().item(), abs=1e-9)


@pytest.mark.parametrize("kind", ["labels", "table", "side", "neighbours", "mixed"])
def test_every_relation_goes_over_a_queue_as_over_a_batch(kind, source, rows):
    part = source.subset(torch.arange(30))
    labels = part.labels
    relations = {
        "labels": EqualLabels(part.ids, labels),
        "table": ClassTable(part.ids, labels, torch.rand(10, 10).double(), temperature=0.4),
        "side": SideEmbeddings(part.ids, torch.rand(30, 6).double(), temperature=0.4),
        "neighbours": KNNConfig(k=4).build(part),
    }
    relations["mixed"] = Mixed([relations["side"], relations["labels"]], [0.5, 0.5])
    relation, ids = relations[kind], part.ids[[4, 0, 17, 9, 22, 4]]
    whole: SimilarityGraph = relation.for_batch(ids, 1).resolve(ids)
    among = relation.between(ids[:2], ids)
    expected, found = (g.row_normalised().to_dense() for g in (whole, among))
    torch.testing.assert_close(found, expected[:2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["mochi", "sce"])
def test_own_earlier_keys_leave_if_asked(name, digits, build):
    """A batch met again, each sample against a queue without its own row."""
    fields = {"warmup": 1.0} if name == "mochi" else {}
    method, batch = build(replace(METHODS[name], exclude_own=True, **fields), norm="group"), digits(0, n=64)
    method(batch)["loss"].backward()
    method.after_step()
    assert torch.equal(method.queue.row_ids, batch["ids"])
    (queries,), (keys,), queue = method.embed(batch), method.embed_keys(batch), method.queue.snapshot().features
    loss = method.plain_loss if name == "mochi" else method.loss
    others = [torch.cat([queue[:i], queue[i + 1 :]]) for i in range(64)]
    expected = torch.stack([loss(queries[i : i + 1], keys[i : i + 1], others[i]) for i in range(64)]).mean()
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_an_oracle_drops_what_has_the_label_and_only_that(digits, build):
    config = replace(METHODS["moco"], false_negatives=ORACLE, exclude_own=False)
    method, batch = build(config, norm="group"), digits(0, n=24)
    method(batch)["loss"].backward()
    method.after_step()
    queue = method.queue.snapshot()
    keys = method.embed_keys(batch)
    dropped, health = method.false_negatives.in_queue(keys, queue, batch["ids"], batch["labels"])
    expected = (batch["labels"][:, None] == queue.labels) & (batch["labels"][:, None] >= 0)
    assert torch.equal(~dropped.mask(64).to_dense(), expected)
    assert health["excluded_share"].item() == pytest.approx(expected.float().mean().item())


def test_the_search_begins_when_it_should_and_counts_training_steps_only(digits, build):
    late = replace(METHODS["simclr"], false_negatives=replace(NEAREST, start=0.5))
    method, batch = build(late, steps=4), digits(0, n=24)
    shares = []
    for _ in range(4):
        method.eval()
        method(batch)
        method.after_step()
        method.train()
        terms = method(batch)
        terms["loss"].backward()
        method.after_step()
        shares.append(terms["excluded_share"].item())
    assert shares[:2] == [0, 0]
    assert min(shares[2:]) == pytest.approx(int(0.1 * 23) / 24)


def test_decoupled_simclr_with_nothing_to_eliminate_is_dcl(digits, build):
    config = replace(METHODS["simclr"], decoupled=True, false_negatives=replace(NEAREST, share=0.0))
    method, batch = build(config, norm="group").double(), digits(0, n=16)
    batch["views"] = [view.double() for view in batch["views"]]
    first, second = method.embed(batch)
    expected = DCLLoss(temperature=0.2)(first, second, ids=batch["ids"])
    assert method(batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FalseNegativesConfig(detector="clusters"), "one of none, similarity, labels, found 'clusters'"),
        (lambda: FalseNegativesConfig(share=1.0), "share must be at least 0 and less than 1, found 1.0"),
        (lambda: FalseNegativesConfig(start=-0.1), "start must be at least 0 and less than 1, found -0.1"),
        (lambda: SimCLRConfig(decoupled=True, sigma=1.0, false_negatives=ORACLE), "leave it or false_negatives out"),
        (lambda: IFNDConfig(false_negatives=NEAREST), "IFND finds false negatives by its clusters"),
    ],
)
def test_what_does_not_go_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_relation_and_weights_of_positives_do_not_go_together(build, source):
    with pytest.raises(ValueError, match="sigma = 1 weighs own views"):
        build(SimCLRConfig(decoupled=True, sigma=1.0), relation=relation_of(source))


def test_a_relation_over_a_queue_asks_for_ids(digits, build, source):
    batch = {k: v for k, v in digits(0, n=8).items() if k != "ids"}
    with pytest.raises(ValueError, match="a relation is looked up by ids, and the batch has none"):
        build(METHODS["moco"], relation=relation_of(source))(batch)
