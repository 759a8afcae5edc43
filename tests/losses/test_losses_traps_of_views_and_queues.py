"""Bounds and known mistakes in losses of views, labels and queues: what a wrong form gives, and that ours does not."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slope
from torch import Tensor

from kinfolk import graphs, losses
from kinfolk.losses.fnc import false_negatives
from kinfolk.losses.mochi import Mixing, mochi

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, Z2, QUEUE = fixture.z(0), fixture.z(1), fixture.z(2), fixture.queue()
STACKED, LABELS = torch.cat([Z0, Z1]), fixture.labels().repeat(2)
NOT_SELF = ~torch.eye(12, dtype=torch.bool)
PER_ANCHOR = {"reduction": "none"}


def other_scores(temperature: float) -> Tensor:
    """Scores of all rows with all others, -inf for themselves."""
    return (STACKED @ STACKED.T / temperature).masked_fill(~NOT_SELF, -math.inf)


VALUES = {
    "NTXentLoss": (12, lambda o: losses.NTXentLoss(**o)(Z0, Z1)),
    "DCLLoss": (12, lambda o: losses.DCLLoss(**o)(Z0, Z1)),
    "SupConLoss": (12, lambda o: losses.SupConLoss(**o)(STACKED, LABELS)),
    "XSampleLoss": (12, lambda o: losses.XSampleLoss(**o)(STACKED, fixture.side_embeddings())),
    "FNCLoss": (18, lambda o: losses.FNCLoss(**o)([Z0, Z1, Z2])),
    "CACRLoss": (6, lambda o: losses.CACRLoss(**o)([Z0, Z1, Z2])),
    "CMCLoss": (6, lambda o: losses.CMCLoss(**o)([Z0, Z1, Z2])),
    "InfoNCELoss": (6, lambda o: losses.InfoNCELoss(**o)(Z0, Z1, QUEUE)),
    "MoCHiLoss": (6, lambda o: losses.MoCHiLoss(hardest=4, **o)(Z0, Z1, QUEUE)),
    "InterCLRLoss": (6, lambda o: losses.InterCLRLoss(**o)(Z0, Z1, QUEUE)),
    "SCELoss": (6, lambda o: losses.SCELoss(**o)(Z0, Z1, QUEUE)),
    "NNCLRLoss": (6, lambda o: losses.NNCLRLoss(**o)([Z0, Z1], [Z1, Z0], QUEUE)),
}


@pytest.mark.parametrize("name", VALUES)
def test_number_of_values_without_reduction(name: str) -> None:
    count, call = VALUES[name]
    assert call(PER_ANCHOR).shape == (count,)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_ids_and_cluster_names_of_any_integer_type(dtype: torch.dtype) -> None:
    ids, queue_labels = torch.tensor([0, 0, 1, 2, 3, 200 % torch.iinfo(dtype).max]), fixture.queue_labels()
    views, infonce = [Z0, Z1], losses.InfoNCELoss()
    for loss in (losses.CACRLoss(), losses.CMCLoss(), losses.FNCLoss(top_k=3, threshold=0.0)):
        assert torch.equal(loss(views, ids=ids.to(dtype)), loss(views, ids=ids))
    for loss in (losses.NTXentLoss(), losses.DCLLoss()):
        assert torch.equal(loss(Z0, Z1, ids=ids.to(dtype)), loss(Z0, Z1, ids=ids))
    expected = infonce(Z0, Z1, QUEUE, exclude=(ids, queue_labels))
    assert torch.equal(infonce(Z0, Z1, QUEUE, exclude=(ids.to(dtype), queue_labels.to(dtype))), expected)


# NT-Xent and its decoupled form


@pytest.mark.identity("NTXentLoss")
@pytest.mark.parametrize("flip", [0.0, 0.3])
@pytest.mark.parametrize("tau", [0.2, 0.5, 1.0])
def test_ntxent_bounds_mutual_information(tau: float, flip: float) -> None:
    """``log(2n - 1) - E L <= I(view 0; view 1)``, the expectation over every batch of 3 pairs of noisy symbols."""
    symbols, batches = torch.eye(2, dtype=torch.float64), list(product(range(2), repeat=3))
    joint = [[(1 - flip) / 2 + flip / 4, flip / 4], [flip / 4, (1 - flip) / 2 + flip / 4]]
    information = sum(p * math.log(4 * p) for row in joint for p in row if p)
    loss, mean = losses.NTXentLoss(temperature=tau), 0.0
    for a, b in product(batches, batches):
        chance = math.prod(joint[i][j] for i, j in zip(a, b, strict=True))
        mean += chance * float(loss(symbols[list(a)], symbols[list(b)])) if chance else 0.0
    assert -0.1 < math.log(5) - mean < information


@pytest.mark.identity("NTXentLoss")
@EVERY_IMPL
def test_self_is_masked_and_not_subtracted(impl: str) -> None:
    """Of unit rows, subtracting ``e^{1/tau}`` gives the right value, but self pairs still send gradient."""
    x, y, z = (STACKED.clone().requires_grad_() for _ in range(3))
    ours = losses.NTXentLoss(temperature=0.5, normalize=False, impl=impl)(x[:6], x[6:])
    subtracted = torch.log(torch.exp(y @ y.T / 0.5).sum(1) - math.exp(1 / 0.5)) - (y * y.roll(6, 0)).sum(1) / 0.5
    masked = torch.logsumexp((z @ z.T / 0.5).masked_fill(~NOT_SELF, -math.inf), 1) - (z * z.roll(6, 0)).sum(1) / 0.5
    close(ours, subtracted.mean())
    close(slope(ours, x), slope(masked.mean(), z))
    assert (slope(ours, x) - slope(subtracted.mean(), y)).abs().max() > 0.1


@pytest.mark.identity("NTXentLoss", "DCLLoss", "SupConLoss")
@EVERY_IMPL
def test_self_does_not_leak_at_tiny_temperature(impl: str) -> None:
    """Self scores 1e5 here, positives -1e5 and all others 0: any finite number added in place of a mask would show."""
    x = torch.eye(2, dtype=torch.float64)
    sharp: dict[str, Any] = {"temperature": 1e-5, "impl": impl}
    ids = torch.arange(2).repeat(2)
    for loss in (losses.NTXentLoss(**sharp)(x, -x), losses.DCLLoss(**sharp)(x, -x)):
        close(loss, 1e5 + math.log(2), atol=1e-8)
    close(losses.SupConLoss(**sharp)(torch.cat([x, -x]), ids), 1e5 + math.log(2), atol=1e-8)


@pytest.mark.identity("DCLLoss")
@EVERY_IMPL
def test_positive_does_not_leak_into_the_decoupled_partition(impl: str) -> None:
    """Adding log(1e-45) = -103.6 would leave the positive, at 100, above negatives at -100. Nor is -200 a bound."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    for temperature in (0.01, 1e-3):
        found = losses.DCLLoss(temperature=temperature, impl=impl)(x, x)
        close(found, math.log(2) - 2 / temperature, atol=1e-8)


@pytest.mark.identity("NTXentLoss", "DCLLoss")
@EVERY_IMPL
def test_gap_between_ntxent_and_dcl_is_what_the_positive_adds(impl: str) -> None:
    positive = torch.exp((STACKED * STACKED.roll(6, 0)).sum(1) / 0.1)
    negatives = torch.exp(other_scores(0.1)).sum(1) - positive
    ntxent, dcl = (build(impl=impl, **PER_ANCHOR)(Z0, Z1) for build in (losses.NTXentLoss, losses.DCLLoss))
    close(ntxent - dcl, torch.log1p(positive / negatives))
    close(torch.sigmoid(dcl), negatives / (negatives + positive))


@pytest.mark.identity("DCLLoss")
@EVERY_IMPL
def test_dclw_weights_may_be_negative(impl: str) -> None:
    """The closest pair takes the whole softmax, so its weight is 2 - n; the others' is 2."""
    cosine = (Z0 * Z1).sum(1)
    dcl, dclw = (losses.DCLLoss(sigma=sigma, impl=impl, **PER_ANCHOR)(Z0, Z1) for sigma in (None, 1e-4))
    weights = torch.where(cosine == cosine.max(), 2.0 - 6, 2.0).double()
    close(dclw, dcl + ((1 - weights) * cosine / 0.1).repeat(2))


# Labels


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_supcon_forms_agree_just_where_the_positives_do(impl: str) -> None:
    """Three rows at equal angles of one another, beside three others; then one of them moves."""
    corners = F.normalize(torch.eye(3, 5, dtype=torch.float64) + 0.4, dim=1)
    labels = torch.tensor([4, 4, 4, -1, -1, -1])
    for moved in (0.0, 0.1):
        x = torch.cat([corners[:2], F.normalize(corners[2:] + moved * Z1[:1], dim=1), Z0[:3]])
        out, inside = (losses.SupConLoss(form=form, impl=impl, **PER_ANCHOR)(x, labels)[:3] for form in ("out", "in"))
        if moved:
            assert (inside < out - 1e-6).all()
        else:
            close(inside, out)


@pytest.mark.identity("SupConLoss")
@EVERY_IMPL
def test_supcon_in_has_the_mean_over_positives_inside(impl: str) -> None:
    """A third form in use leaves 1 / |P| out, and so is lower by log |P|."""
    scores = other_scores(0.1)
    positives = scores.masked_fill(LABELS[:, None] != LABELS, -math.inf)
    without = torch.logsumexp(scores, 1) - torch.logsumexp(positives, 1)
    out, inside = (losses.SupConLoss(form=form, impl=impl, **PER_ANCHOR)(STACKED, LABELS) for form in ("out", "in"))
    close(inside - without, torch.full_like(without, math.log(3)))
    assert (out > inside).all()


# Soft targets


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
@pytest.mark.parametrize("graph_temperature", [0.1, 0.5])
def test_xsample_above_the_entropy_is_a_divergence(graph_temperature: float, impl: str) -> None:
    side = F.normalize(fixture.side_embeddings(), dim=1)
    target = torch.log_softmax((side @ side.T / graph_temperature).masked_fill(~NOT_SELF, -math.inf), 1)
    model = torch.log_softmax(other_scores(0.1), 1)
    kept = [t.masked_fill(~NOT_SELF, 0.0) for t in (target, model)]
    weight = target.exp()
    entropy, divergence = -(weight * kept[0]).sum(1), (weight * (kept[0] - kept[1])).sum(1)
    loss = losses.XSampleLoss(graph_temperature=graph_temperature, impl=impl, **PER_ANCHOR)
    close(loss(STACKED, side) - entropy, divergence)
    assert (divergence >= 0).all()


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
def test_xsample_has_self_in_neither_distribution(impl: str) -> None:
    side = F.normalize(fixture.side_embeddings(), dim=1)
    weights, loss = torch.exp(side @ side.T / 0.1), losses.XSampleLoss(impl=impl)
    expected = loss(STACKED, side)
    for itself in (0.0, 1.0, 1e6):
        changed = weights.masked_fill(~NOT_SELF, itself)
        close(loss(STACKED, graphs.DenseGraph(changed)), expected)
    both = losses.GraphContrastiveLoss(temperature=0.1, impl=impl)(STACKED, STACKED, graphs.DenseGraph(weights))
    dense = weights / weights.sum(1, keepdim=True)
    target_only = torch.logsumexp(other_scores(0.1), 1) - (dense * (STACKED @ STACKED.T / 0.1)).sum(1)
    assert abs(both - expected) > 0.1
    assert abs(target_only.mean() - expected) > 0.1


@pytest.mark.identity("XSampleLoss")
@EVERY_IMPL
def test_xsample_with_the_embeddings_as_relations_takes_them_for_constants(impl: str) -> None:
    loss = losses.XSampleLoss(graph_temperature=0.3, impl=impl)
    x, y = (STACKED.clone().requires_grad_() for _ in range(2))
    assert torch.equal(slope(loss(x, x), x), slope(loss(y, y.detach()), y))


# Costs


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_far_negatives_are_pulled_in_unless_weights_are_detached(impl: str) -> None:
    """Beyond the mean cost plus 1 / t_neg, moving away costs more weight than it gains distance."""

    def push(angle: Tensor, detach: bool) -> Tensor:
        still = torch.tensor([1.0, 0.2], dtype=torch.float64)
        keys = torch.cat([still, angle[None]])
        views = [Z0[:3, :2], torch.stack([keys.cos(), keys.sin()], 1)]
        return losses.CACRLoss(alpha=0.0, detach_weights=detach, impl=impl, **PER_ANCHOR)(views)[0]

    start = float(torch.atan2(*Z0[0, :2].flip(0)))
    for turn, detach, away in ((2.9, False, False), (2.9, True, True), (0.1, False, True), (0.1, True, True)):
        angle = torch.tensor(start + turn, dtype=torch.float64, requires_grad=True)
        moves_away = slope(push(angle, detach), angle) < 0
        assert bool(moves_away) is away
    far = torch.tensor(start + 2.9, dtype=torch.float64)
    assert torch.equal(push(far, True), push(far, False))


@pytest.mark.identity("CACRLoss")
@EVERY_IMPL
def test_near_positives_are_pushed_away_unless_weights_are_detached(impl: str) -> None:
    """Below the mean cost minus 1 / t_pos; turning about the far view leaves the near one's cost to that as it is."""

    def pull(turn: Tensor, t_pos: float, detach: bool) -> Tensor:
        near = torch.stack([math.sqrt(0.75) * turn.cos(), math.sqrt(0.75) * turn.sin(), torch.full_like(turn, -0.5)])
        query, far = near.new_tensor([math.sqrt(0.75), 0.0, -0.5]), near.new_tensor([0.0, 0.0, 1.0])
        views = [torch.stack([row, far]) for row in (query, near, far)]
        return losses.CACRLoss(t_pos=t_pos, beta=0.0, detach_weights=detach, impl=impl, **PER_ANCHOR)(views)[0]

    for t_pos, detach, away in ((2.0, False, True), (2.0, True, False), (0.1, False, False), (0.1, True, False)):
        turn = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        moves_away = slope(pull(turn, t_pos, detach), turn) < 0
        assert bool(moves_away) is away


# Queues


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_enqueueing_first_makes_the_own_key_a_negative(impl: str) -> None:
    loss, enqueued = losses.InfoNCELoss(impl=impl, **PER_ANCHOR), torch.cat([QUEUE, Z1])
    assert (loss(Z0, Z1, enqueued) > math.log(2)).all()
    own, names = torch.arange(6), torch.cat([torch.full((8,), -1), torch.arange(6)])
    without = loss(Z0, Z1, enqueued, exclude=(own, names))
    for i in range(6):
        others = torch.cat([QUEUE, Z1[own != i]])
        close(without[i], loss(Z0[[i]], Z1[[i]], others)[0])


@pytest.mark.identity("InfoNCELoss", "CMCLoss")
@EVERY_IMPL
def test_own_entries_among_sampled_negatives_are_dropped_by_id(impl: str) -> None:
    drawn, loss = torch.tensor([3, 0, 0, 5, 1, 1, 3, 2]), losses.InfoNCELoss(temperature=0.07, impl=impl, **PER_ANCHOR)
    found = loss(Z0, Z1, Z1[drawn], exclude=(torch.arange(6), drawn))
    for i in range(6):
        close(found[i], loss(Z0[[i]], Z1[[i]], Z1[drawn[drawn != i]])[0])


@pytest.mark.identity("InfoNCELoss")
@EVERY_IMPL
def test_names_of_clusters_do_not_matter_but_must_be_of_one_clustering(impl: str) -> None:
    loss, labels, queue_labels = losses.InfoNCELoss(impl=impl), fixture.labels(), fixture.queue_labels()
    renamed, expected = torch.tensor([7, 0, 3]), loss(Z0, Z1, QUEUE, exclude=(labels, queue_labels))
    close(loss(Z0, Z1, QUEUE, exclude=(renamed[labels], renamed[queue_labels])), expected, atol=1e-12)
    stale = loss(Z0, Z1, QUEUE, exclude=(labels.roll(2), queue_labels))
    assert abs(stale - expected) > 1e-2
    one_cluster = loss(Z0, Z1, QUEUE, exclude=(torch.zeros(6).long(), torch.zeros(8).long()))
    assert one_cluster.item() == 0


@pytest.mark.identity("MoCHiLoss", "InfoNCELoss")
@EVERY_IMPL
def test_mixing_a_row_with_itself_counts_it_again_and_leaves_the_queue(impl: str) -> None:
    queue, none = QUEUE.clone(), torch.zeros(6, 0, dtype=torch.int64)
    drawn = Mixing(torch.full((6, 1), 2), torch.full((6, 1), 2), torch.full((6, 1), 0.3), none, none.float())
    found = mochi(Z0, Z1, queue, drawn, hardest=3, impl=impl)[0]  # type: ignore[arg-type]
    assert torch.equal(queue, QUEUE)
    third = (Z0 @ QUEUE.T).topk(3, 1)[1][:, 2]
    for i in range(6):
        again = torch.cat([QUEUE, QUEUE[third[i]][None]])
        close(found[i], losses.InfoNCELoss(impl=impl)(Z0[[i]], Z1[[i]], again))


@pytest.mark.identity("SCELoss")
@EVERY_IMPL
def test_sce_relations_leave_the_own_pair_out_and_are_the_targets(impl: str) -> None:
    """A code path in use keeps a logit of 0 for the own pair, which takes mass from the queue."""
    scores = torch.cat([(Z0 * Z1).sum(1, keepdim=True), Z0 @ QUEUE.T], 1) / 0.1

    def value(relations: Tensor) -> Tensor:
        target = 0.5 * relations
        target[:, 0] += 0.5
        return -(target * torch.log_softmax(scores, 1)).sum(1)

    found = losses.SCELoss(target_temperature=0.3, impl=impl, **PER_ANCHOR)(Z0, Z1, QUEUE)
    logits, of_queries = Z1 @ QUEUE.T / 0.3, Z0 @ QUEUE.T / 0.3
    close(found, value(F.pad(torch.softmax(logits, 1), (1, 0))))
    assert ((found - value(torch.softmax(F.pad(logits, (1, 0)), 1))).abs() > 1e-2).any()
    assert ((found - value(F.pad(torch.softmax(of_queries, 1), (1, 0)))).abs() > 1e-2).any()


# False negatives


@pytest.mark.identity("FNCLoss")
@EVERY_IMPL
def test_collapsed_features_meet_any_threshold(impl: str) -> None:
    """Detection then finds as many as it may: nothing is left to repel, or log of what is left."""
    views = [Z0[:1].repeat(6, 1), Z0[:1].repeat(6, 1)]
    assert (false_negatives(views, top_k=4, threshold=0.99, impl=impl) >= 0).all()
    for top_k in (0, 4, 10):
        close(losses.FNCLoss(top_k=top_k, mode="eliminate", impl=impl)(views), math.log(11 - top_k))
        close(losses.FNCLoss(top_k=top_k, mode="attract", impl=impl)(views), math.log(11))
