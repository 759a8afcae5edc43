"""Losses of several views beyond their loops: identities, limits, what gets gradient, what is refused."""

from __future__ import annotations

import math
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from cases.views import linear_networks
from closeness import close, slope, slopes
from definitions import views as definitions
from torch import Tensor

from kinfolk import losses
from kinfolk.losses.fnc import false_negatives, fnc_given
from kinfolk.ops import row_topk

EVERY_IMPL = pytest.mark.parametrize("impl", ["reference", "chunked"])
Z0, Z1, Z2 = fixture.z(0), fixture.z(1), fixture.z(2)
P0, P1 = fixture.rows(3), fixture.rows(4)
CLASSES = fixture.labels().repeat(2)
SAMPLES = torch.arange(6).repeat(2)
SAME = Z0[:1].repeat(4, 1)


def same_class_rows() -> Tensor:
    """Rows of the other samples of a sample's class [6, 2]."""
    rows = [(label == CLASSES) & (i != SAMPLES) for i, label in enumerate(fixture.labels())]
    return torch.stack([row.nonzero().flatten() for row in rows])


# Contrastive multiview coding.


@pytest.mark.identity("CMCLoss", "CLIPLoss")
@EVERY_IMPL
@pytest.mark.parametrize("core", [None, 0, 1])
def test_cmc_of_two_views_is_twice_clip(core: int | None, impl: str) -> None:
    clip = losses.CLIPLoss(reduction="none", impl=impl)(Z0, Z1, 1 / 0.07)
    close(losses.CMCLoss(core=core, reduction="none", impl=impl)([Z0, Z1]), 2 * clip)


@pytest.mark.identity("CMCLoss")
@EVERY_IMPL
def test_cmc_over_all_pairs_is_half_the_sum_over_all_cores(impl: str) -> None:
    views = [Z0, Z1, Z2, P0]
    cores = [losses.CMCLoss(core=c, reduction="none", impl=impl)(views) for c in range(4)]
    close(losses.CMCLoss(reduction="none", impl=impl)(views), torch.stack(cores).sum(0) / 2)


@pytest.mark.identity("CMCLoss")
@EVERY_IMPL
@pytest.mark.parametrize("views", [2, 3, 5])
def test_cmc_of_constant_features(views: int, impl: str) -> None:
    close(losses.CMCLoss(impl=impl)([SAME] * views), views * (views - 1) * math.log(4))


@pytest.mark.identity("CMCLoss", "InfoNCELoss")
@EVERY_IMPL
def test_cmc_against_a_bank_is_infonce_without_the_own_entry(impl: str) -> None:
    """A bank that holds all samples' other view, the own one excluded, is the full softmax over that view."""
    own = torch.arange(6)
    infonce = losses.InfoNCELoss(temperature=0.07, reduction="none", impl=impl)
    both = [infonce(q, bank, bank, exclude=(own, own)) for q, bank in ((Z0, Z1), (Z1, Z0))]
    close(losses.CMCLoss(reduction="none", impl=impl)([Z0, Z1]), both[0] + both[1])


# False negative cancellation.


@pytest.mark.identity("FNCLoss", "NTXentLoss")
@EVERY_IMPL
@pytest.mark.parametrize("mode", ["attract", "eliminate"])
@pytest.mark.parametrize("off", [{"top_k": 0}, {"threshold": 1.0}, {"threshold": 2.0}])
def test_fnc_that_finds_nothing_is_ntxent(off: dict[str, Any], mode: Any, impl: str) -> None:
    ntxent = losses.NTXentLoss(reduction="none", impl=impl)
    fnc = losses.FNCLoss(mode=mode, reduction="none", impl=impl, **off)
    close(fnc([Z0, Z1]), ntxent(Z0, Z1))
    twice = [torch.cat([Z0, Z0]), torch.cat([Z1, Z1])]  # cosines of 1 between samples: not above a threshold of 1
    close(fnc(twice), ntxent(*twice))


@pytest.mark.identity("FNCLoss", "SupConLoss")
@EVERY_IMPL
def test_fnc_with_an_oracle_attracts_as_supcon_does(impl: str) -> None:
    values, valid = fnc_given([Z0, Z1], same_class_rows(), impl=impl)
    assert valid.all()
    close(values, losses.SupConLoss(reduction="none", impl=impl)(torch.cat([Z0, Z1]), CLASSES))


@pytest.mark.identity("FNCLoss")
@EVERY_IMPL
def test_fnc_with_an_oracle_eliminates_the_terms_of_the_class(impl: str) -> None:
    rows = torch.cat([Z0, Z1])
    scores = rows @ rows.T / 0.1
    kept = (CLASSES[:, None] != CLASSES) | (SAMPLES[:, None] == SAMPLES)
    kept = kept & ~torch.eye(12, dtype=torch.bool)
    expected = torch.logsumexp(scores.masked_fill(~kept, -torch.inf), 1) - scores.roll(6, 1).diagonal()
    close(fnc_given([Z0, Z1], same_class_rows(), mode="eliminate", impl=impl)[0], expected)


@pytest.mark.identity("FNCLoss", "NTXentLoss")
@EVERY_IMPL
@pytest.mark.parametrize("top_k", [1, 4, 10])
def test_eliminating_never_raises_a_value(top_k: int, impl: str) -> None:
    fnc = losses.FNCLoss(top_k=top_k, threshold=0.0, mode="eliminate", reduction="none", impl=impl)
    assert (fnc([Z0, Z1]) <= losses.NTXentLoss(reduction="none", impl=impl)(Z0, Z1) + 1e-12).all()
    assert (fnc([Z0, Z1]) < losses.NTXentLoss(reduction="none", impl=impl)(Z0, Z1) - 1e-6).any()


@EVERY_IMPL
@pytest.mark.parametrize("supports", [0, 2])
@pytest.mark.parametrize(("top_k", "threshold"), [(1, -1.0), (3, 0.5), (10, 0.0), (40, 0.3)])
def test_detection_is_its_definition(top_k: int, threshold: float, supports: int, impl: str) -> None:
    views, support = [Z0, Z1], [Z2, P0][:supports]
    ids = torch.tensor([3, 4, 3, -1, -1, 9])
    found = false_negatives(views, support, top_k=top_k, threshold=threshold, ids=ids, impl=impl)
    expected = definitions.fnc_found(views, support, top_k=top_k, threshold=threshold, ids=ids)
    assert [[j for j in row if j >= 0] for row in found.tolist()] == expected
    assert all(j % 6 != i for i, row in enumerate(expected) for j in row)


def test_detection_takes_the_best_view() -> None:
    """One candidate resembles only the second view of sample 0, another only its support view."""
    e = torch.eye(6, dtype=torch.float64)
    first, second = torch.stack([e[0], e[1], e[2]]), torch.stack([e[1], e[3], e[4]])
    support = torch.stack([e[2], e[5], e[5]])
    assert sorted(false_negatives([first, second], top_k=5).tolist()[0]) == [-1] * 4 + [1]
    assert sorted(false_negatives([first, second], [support], top_k=5).tolist()[0]) == [-1] * 3 + [1, 2]


def test_threshold_is_strict() -> None:
    views = 2 * [torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)]
    score = (views[0][0] * views[0][1]).sum().item()
    unit = {"top_k": 4, "normalize": False}
    assert (false_negatives(views, threshold=score, **unit) == -1).all()
    assert (false_negatives(views, threshold=score - 1e-12, **unit) >= 0).any(1).all()


@EVERY_IMPL
def test_support_views_and_the_selection_get_no_gradient(impl: str) -> None:
    z0, support = Z0.clone().requires_grad_(), Z2.clone().requires_grad_()
    options = {"top_k": 4, "threshold": 0.2}
    loss = losses.FNCLoss(impl=impl, **options)([z0, Z1], [support])
    found = false_negatives([z0, Z1], [support], impl=impl, **options)
    given = fnc_given([z0, Z1], found, impl=impl)[0].mean()
    assert not found.requires_grad
    gradient, none = torch.autograd.grad(loss, [z0, support], allow_unused=True, retain_graph=True)
    assert none is None
    close(gradient, slope(given, z0), atol=1e-12)


@EVERY_IMPL
def test_an_eliminated_row_is_no_positive_and_an_attracted_one_stays_a_candidate(impl: str) -> None:
    found = torch.tensor([[1], [-1], [-1], [-1], [-1], [-1]])
    rows = torch.cat([Z0, Z1])
    scores = rows[0] @ rows.T / 0.1
    others = [j for j in range(12) if j]
    attract = torch.logsumexp(scores[others], 0) - (scores[6] + scores[1]) / 2
    eliminate = torch.logsumexp(scores[[j for j in others if j != 1]], 0) - scores[6]
    close(fnc_given([Z0, Z1], found, impl=impl)[0][0], attract)
    close(fnc_given([Z0, Z1], found, mode="eliminate", impl=impl)[0][0], eliminate)


def test_detection_takes_its_candidates_from_row_topk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No n x m matrix: k candidates per view are enough, also where the views agree on all of them."""
    widest: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        values, columns = row_topk(*args, **kwargs)
        widest.append(columns.shape[1])
        return values, columns

    monkeypatch.setattr("kinfolk.losses.fnc.row_topk", watched)
    found = false_negatives([Z0, Z0], [Z0], top_k=2, threshold=-1.0)
    assert widest == [2]
    assert all(abs(a - b) == 6 for a, b in found.tolist())  # both views of the sample that is nearest


# ReLIC.


@pytest.mark.identity("ReLICLoss", "CLIPLoss")
@EVERY_IMPL
def test_relic_without_divergence_is_clip(impl: str) -> None:
    relic = losses.ReLICLoss(beta=0.0, reduction="none", impl=impl)([Z0, Z1], [Z0, Z1])
    close(relic, losses.CLIPLoss(reduction="none", impl=impl)(Z0, Z1, 10.0))


@pytest.mark.identity("ReLICLoss")
@EVERY_IMPL
def test_equal_views_do_not_diverge(impl: str) -> None:
    online, target = [P0, P0], [Z0, Z0]
    with_divergence = losses.ReLICLoss(beta=5.0, reduction="none", impl=impl)(online, target)
    close(with_divergence, losses.ReLICLoss(beta=0.0, reduction="none", impl=impl)(online, target))


@pytest.mark.identity("ReLICLoss")
@EVERY_IMPL
def test_divergence_is_not_negative(impl: str) -> None:
    each = losses.ReLICLoss(alpha=0.0, reduction="none", impl=impl)([P0, P1, Z2], [Z0, Z1])
    assert (each > 1e-6).all()


@pytest.mark.identity("ReLICLoss")
@EVERY_IMPL
def test_divergence_of_constant_targets_is_zero(impl: str) -> None:
    target = [fixture.z(0)[:1].repeat(6, 1), fixture.z(1)[:1].repeat(6, 1)]
    close(losses.ReLICLoss(alpha=0.0, reduction="none", impl=impl)([P0, P1], target), torch.zeros(6))


@EVERY_IMPL
def test_first_argument_of_the_divergence_learns(impl: str) -> None:
    """KL(P_01 || sg P_10) + KL(P_10 || sg P_01), each with gradient to its own rows only."""
    p0, p1 = P0.clone().requires_grad_(), P1.clone().requires_grad_()
    unit = [F.normalize(p, dim=1) for p in (p0, p1)]
    a, b = (torch.log_softmax(x @ y.T / 0.1, 1) for x, y in ((unit[0], Z1), (unit[1], Z0)))
    terms = [(x.exp() * (x - y.detach())).sum(1).mean() for x, y in ((a, b), (b, a))]
    loss = losses.ReLICLoss(alpha=0.0, impl=impl)([p0, p1], [Z0, Z1])
    close(loss, sum(terms) / 2)
    for ours, theirs in zip(slopes(loss, [p0, p1]), slopes(sum(terms) / 2, [p0, p1]), strict=True):
        close(ours, theirs, atol=1e-8)


# What all of them refuse, and the smallest batch.


@EVERY_IMPL
def test_one_sample_alone(impl: str) -> None:
    x, y = Z0[:1].clone().requires_grad_(), Z1[:1].clone().requires_grad_()
    found = [
        losses.CMCLoss(impl=impl)([x, y]),
        losses.FNCLoss(impl=impl)([x, y]),
        losses.ReLICLoss(impl=impl)([x, y], [y, x]),
        linear_networks(impl=impl)(x, y),
    ]
    for loss in found:
        close(loss, 0.0)
        for gradient in slopes(loss, [x, y]):
            close(gradient, torch.zeros_like(gradient), atol=1e-12)


REFUSED = {
    "one view": (lambda: losses.CMCLoss()([Z0]), r"CMCLoss.*2 views.*found 1"),
    "a tensor of views": (lambda: losses.FNCLoss()(torch.stack([Z0, Z1])), r"FNCLoss.*\(2, 6, 5\)"),
    "views of two shapes": (lambda: losses.CMCLoss()([Z0, Z1[:4]]), r"\(6, 5\), \(4, 5\)"),
    "core that is no view": (lambda: losses.CMCLoss(core=2)([Z0, Z1]), r"core.*2 views.*found 2"),
    "core below 0": (lambda: losses.CMCLoss(core=-1), r"core.*-1"),
    "mode": (lambda: losses.FNCLoss(mode="ignore"), r"(?s)mode.*attract, eliminate.*ignore"),  # type: ignore[arg-type]
    "top_k": (lambda: losses.FNCLoss(top_k=-1), "top_k.*-1"),
    "top_k in part": (lambda: losses.FNCLoss(top_k=0.05), "top_k.*0.05"),  # type: ignore[arg-type]
    "support of another shape": (lambda: losses.FNCLoss()([Z0, Z1], [Z2[:4]]), r"support\[0\].*\(6, 5\), \(4, 5\)"),
    "found of another length": (lambda: fnc_given([Z0, Z1], torch.zeros(4, 2).long()), r"6 samples.*\(4, 2\)"),
    "found outside": (lambda: fnc_given([Z0, Z1], torch.full((6, 1), 12)), r"\[.*11\].*12"),
    "one target": (lambda: losses.ReLICLoss()([P0, P1], [Z0]), r"ReLICLoss.*2 target.*found 1"),
    "targets without online": (lambda: losses.ReLICLoss()([P0, P1], [Z0, Z1, Z2]), "2 online and 3 target"),
    "target of another shape": (lambda: losses.ReLICLoss()([P0, P1], [Z0[:4], Z1[:4]]), r"\(6, 5\), \(4, 5\)"),
    "negative weight": (lambda: losses.ReLICLoss(beta=-1.0), "beta.*-1"),
    "one query": (lambda: losses.RenyiCLLoss()([P0], [Z0]), r"RenyiCLLoss.*2 queries.*found 1"),
    "no key": (lambda: losses.RenyiCLLoss()([P0, P1], []), r"RenyiCLLoss.*1 keys.*found 0"),
    "gamma": (lambda: losses.RenyiCLLoss(gamma=0.5), "gamma.*0.5"),
    "alpha": (lambda: losses.RenyiCLLoss(alpha=1.5), "alpha.*1.5"),
    "one sample": (lambda: losses.RenyiCLLoss()([P0[:1], P1[:1]], [Z0[:1]]), "RenyiCLLoss.*n = 1"),
    "width": (lambda: losses.BregmanLoss(4, networks=2, hidden=2)(Z0, Z1), r"4.*\(12, 5\)"),
    "sigma": (lambda: losses.BregmanLoss(5, sigma=0.0), "sigma"),
    "dropout": (lambda: losses.BregmanLoss(5, dropout=1.0), "dropout.*1.0"),
    "networks": (lambda: losses.BregmanLoss(5, networks=0), "networks.*0"),
    "weight": (lambda: losses.BregmanLoss(5, weight=-1.0), "weight.*-1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        call()


def test_found_rows_are_integers() -> None:
    with pytest.raises(TypeError, match=r"found.*integers"):
        fnc_given([Z0, Z1], torch.zeros(6, 2))
