"""Losses of rows with labels."""

from __future__ import annotations

from collections.abc import Callable

import fixture
import torch
from definitions import labels as definitions
from torch import Generator, Tensor

from cases.case import Call, Case, Golden, Keywords
from cases.inputs import labelled, labelled_with_ids, some_labels, vectors
from kinfolk import losses


def _supcon_case(inputs: Callable[[int, int, Generator], Call], form: str) -> Case:
    return Case(losses.SupConLoss, {"temperature": 0.15, "form": form}, inputs, definitions.supcon, (0,))


def _with_universum(n: int, d: int, generator: Generator) -> Call:
    rows, labels = labelled(n, d, generator).args
    return Call([rows, vectors(n, d, generator), labels])


def _with_universum_and_ids(n: int, d: int, generator: Generator) -> Call:
    rows, labels = labelled(n, d, generator).args
    ids = torch.randint(0, max(1, n // 2), (n,), generator=generator)
    return Call([rows, vectors(n, d, generator), labels], {"ids": ids})


def _unicon_case(inputs: Callable[[int, int, Generator], Call]) -> Case:
    return Case(losses.UniConLoss, {"temperature": 0.15}, inputs, definitions.unicon, (0, 1))


def _eps_case(inputs: Callable[[int, int, Generator], Call], form: str, *, con: bool = False) -> Case:
    build, define = (
        (losses.EpsSupConLoss, definitions.eps_sup_con)
        if con
        else (losses.EpsSupInfoNCELoss, definitions.eps_sup_info_nce)
    )
    return Case(build, {"temperature": 0.15, "epsilon": 0.4, "form": form}, inputs, define, (0,))


def _logits(n: int, d: int, generator: Generator) -> Call:
    """d classes, of which class 2 never occurs."""
    labels = torch.randint(-1, min(d, 2), (n,), generator=generator)
    labels[:1] = 0
    return Call([3 * vectors(n, d, generator), labels])


def _counts(call: Call) -> Keywords:
    return {"class_counts": [[50, 7, 0, 1][c % 4] for c in range(call.args[0].shape[1])]}


def _with_queue(n: int, d: int, generator: Generator) -> Call:
    rows, labels = labelled(n, d, generator).args
    return Call([rows, labels, vectors(11, d, generator), some_labels(11, generator)])


def _with_queue_and_ids(n: int, d: int, generator: Generator) -> Call:
    ids = torch.randint(0, max(1, n // 2), (n,), generator=generator)
    return Call(_with_queue(n, d, generator).args, {"ids": ids})


def _permute_rows(call: Call, order: Tensor) -> Call:
    """Rows, labels and ids move, the queue stays."""
    rows, labels, *queue = call.args
    return Call([rows[order], labels[order], *queue], {k: v[order] for k, v in call.kwargs.items()})


def _rescom_case(inputs: Callable[[int, int, Generator], Call], **options: float) -> Case:
    return Case(
        losses.ResComLoss,
        {"class_counts": [30, 4, 1], "temperature": 0.15, **options},
        inputs,
        definitions.rescom,
        (0,),
        constant=(2,),
        permute=_permute_rows,
        unit=(0, 2),
    )


def _biased(n: int, d: int, generator: Generator) -> Call:
    """Two classes and two biases in all combinations; from seven rows on, some are not known."""
    row = torch.arange(n)
    labels, bias = row % 2, row // 2 % 2
    labels[8::9], bias[5::7] = -1, -1
    return Call([vectors(n, d, generator), labels, bias])


def _fairkl_case(form: str) -> Case:
    return Case(losses.FairKLLoss, {"form": form}, _biased, definitions.fair_kl, (0,), pooled=True)


CASES = {
    "SupCon out": _supcon_case(labelled, "out"),
    "SupCon in": _supcon_case(labelled, "in"),
    "SupCon out, ids": _supcon_case(labelled_with_ids, "out"),
    "SupCon in, ids": _supcon_case(labelled_with_ids, "in"),
    "UniCon": _unicon_case(_with_universum),
    "UniCon, ids": _unicon_case(_with_universum_and_ids),
    "EpsSupInfoNCE out": _eps_case(labelled, "out"),
    "EpsSupInfoNCE in": _eps_case(labelled, "in"),
    "EpsSupInfoNCE out, ids": _eps_case(labelled_with_ids, "out"),
    "EpsSupInfoNCE in, ids": _eps_case(labelled_with_ids, "in"),
    "EpsSupCon out": _eps_case(labelled, "out", con=True),
    "EpsSupCon in": _eps_case(labelled, "in", con=True),
    "EpsSupCon out, ids": _eps_case(labelled_with_ids, "out", con=True),
    "EpsSupCon in, ids": _eps_case(labelled_with_ids, "in", con=True),
    "BalancedSoftmax": Case(
        losses.BalancedSoftmaxLoss, {}, _logits, definitions.balanced_softmax, (0,), sized=_counts, unit=()
    ),
    "ResCom": _rescom_case(_with_queue, beta=0.9, positives=1, negatives=1),
    "ResCom, many mined": _rescom_case(_with_queue, beta=0.5, positives=3, negatives=20),
    "ResCom, ids": _rescom_case(_with_queue_and_ids, beta=0.9, positives=2, negatives=2),
    "FairKL": _fairkl_case("kl"),
    "FairKL, moments": _fairkl_case("moments"),
}

_Z0, _STACKED, _LABELS = fixture.z(0), torch.cat([fixture.z(0), fixture.z(1)]), fixture.labels().repeat(2)
_ONE_CLASS = torch.zeros(6, dtype=torch.int64)
_SINGLETONS = torch.tensor([0, 0, 1, 1, 2, 3])
_PARTIAL = torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
_UNIVERSUM, _BIAS = torch.cat([fixture.rows(5), fixture.rows(6)]), torch.tensor([0, 1, 0, 1, 0, 1])
_COUNTS, _LOGITS = [100, 10, 1], 3 * fixture.rows(12)[:, :3]
_QUEUE = (fixture.queue(), fixture.queue_labels())


def _eps_golden(expected: float, form: str, *, con: bool = False) -> Golden:
    case = _eps_case(labelled, form, con=con)
    return Golden(
        expected,
        lambda **options: case.build(form=form, **options)(_STACKED, _LABELS),
        lambda: case.define(_STACKED, _LABELS, temperature=0.1, epsilon=0.25, form=form),
    )


def _fairkl_golden(expected: float, form: str) -> Golden:
    return Golden(
        expected,
        lambda **options: losses.FairKLLoss(form=form, **options)(_Z0, fixture.labels(), _BIAS),
        lambda: definitions.fair_kl(_Z0, fixture.labels(), _BIAS, form=form),
    )


GOLDEN = {
    "SupCon out": Golden(
        6.2600584823,
        lambda **options: losses.SupConLoss(**options)(_STACKED, _LABELS),
        lambda: definitions.supcon(_STACKED, _LABELS, temperature=0.1),
    ),
    "SupCon in": Golden(
        1.1050155506,
        lambda **options: losses.SupConLoss(form="in", **options)(_STACKED, _LABELS),
        lambda: definitions.supcon(_STACKED, _LABELS, temperature=0.1, form="in"),
    ),
    "SupCon out, one class": Golden(
        4.6211064730,
        lambda **options: losses.SupConLoss(**options)(_Z0, _ONE_CLASS),
        lambda: definitions.supcon(_Z0, _ONE_CLASS, temperature=0.1),
    ),
    "SupCon out, singletons": Golden(
        6.0453903660,
        lambda **options: losses.SupConLoss(**options)(_Z0, _SINGLETONS),
        lambda: definitions.supcon(_Z0, _SINGLETONS, temperature=0.1),
    ),
    "SupCon out, unlabelled rows with ids": Golden(
        6.2913172944,
        lambda **options: losses.SupConLoss(**options)(_STACKED, _PARTIAL, ids=fixture.ids()),
        lambda: definitions.supcon(_STACKED, _PARTIAL, temperature=0.1, ids=fixture.ids()),
    ),
    "SupCon out, unlabelled rows": Golden(
        8.5724432320,
        lambda **options: losses.SupConLoss(**options)(_STACKED, _PARTIAL),
        lambda: definitions.supcon(_STACKED, _PARTIAL, temperature=0.1),
    ),
    "UniCon": Golden(
        5.9795284080,
        lambda **options: losses.UniConLoss(**options)(_STACKED, _UNIVERSUM, _LABELS),
        lambda: definitions.unicon(_STACKED, _UNIVERSUM, _LABELS, temperature=0.1),
    ),
    "EpsSupInfoNCE out": _eps_golden(3.0539439428, "out"),
    "EpsSupInfoNCE in": _eps_golden(-1.3244618534, "in"),
    "EpsSupCon out": _eps_golden(6.0118594433, "out", con=True),
    "EpsSupCon in": _eps_golden(0.8568165117, "in", con=True),
    "BalancedSoftmax": Golden(
        2.2610716915,
        lambda **options: losses.BalancedSoftmaxLoss(_COUNTS, **options)(_LOGITS, fixture.labels()),
        lambda: definitions.balanced_softmax(_LOGITS, fixture.labels(), class_counts=_COUNTS),
    ),
    "ResCom": Golden(
        13.6753941950,
        lambda **options: losses.ResComLoss(_COUNTS, beta=0.9, **options)(_STACKED, _LABELS, *_QUEUE),
        lambda: definitions.rescom(
            _STACKED, _LABELS, *_QUEUE, class_counts=_COUNTS, temperature=0.1, beta=0.9, positives=1, negatives=1
        ),
    ),
    "FairKL": _fairkl_golden(0.4249722095, "kl"),
    "FairKL, moments": _fairkl_golden(0.0153306237, "moments"),
}

_ROWS = "torch.cat([a, b])"
_TEN_CLASSES = "torch.arange(len(a)).repeat(2) % 10"

MEMORY = {
    "SupConLoss": f"losses.SupConLoss(impl=impl)({_ROWS}, {_TEN_CLASSES})",
    "UniConLoss": f"losses.UniConLoss(impl=impl)({_ROWS}, torch.cat([b, a]), {_TEN_CLASSES})",
    "EpsSupInfoNCELoss": f"losses.EpsSupInfoNCELoss(impl=impl)({_ROWS}, {_TEN_CLASSES})",
    "EpsSupConLoss": f"losses.EpsSupConLoss(impl=impl)({_ROWS}, {_TEN_CLASSES})",
    "BalancedSoftmaxLoss": f"losses.BalancedSoftmaxLoss([1] * 64, impl=impl)({_ROWS}, {_TEN_CLASSES})",
    "ResComLoss": f"losses.ResComLoss([1] * 10, positives=2, negatives=8, impl=impl)({_ROWS}, {_TEN_CLASSES}, "
    f"torch.cat([b, a]), {_TEN_CLASSES})",
    "FairKLLoss": f"losses.FairKLLoss(impl=impl)({_ROWS}, {_TEN_CLASSES}, torch.arange(len(a)).repeat(2) % 3)",
}

TRACED = dict.fromkeys(
    [
        "SupCon out",
        "SupCon in",
        "UniCon",
        "EpsSupInfoNCE out",
        "EpsSupInfoNCE in",
        "EpsSupCon out",
        "EpsSupCon in",
        "BalancedSoftmax",
        "ResCom",
        "FairKL",
        "FairKL, moments",
    ],
    "",
)

_EPS = {"temperature": 0.1, "epsilon": 0.25, "form": "out"}

DEFAULTS = {
    losses.SupConLoss: {"temperature": 0.1, "form": "out"},
    losses.UniConLoss: {"temperature": 0.1},
    losses.EpsSupInfoNCELoss: _EPS,
    losses.EpsSupConLoss: _EPS,
    losses.BalancedSoftmaxLoss: {"normalize": False},
    losses.ResComLoss: {"temperature": 0.1, "beta": 0.0, "positives": 1, "negatives": 1},
    losses.FairKLLoss: {"form": "kl"},
}
