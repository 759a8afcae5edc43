"""Every protocol on the trained encoder and, under the same protocol, on the baselines beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinfolk.data.sources.table import is_table
from kinfolk.evals.baselines import CentredRawPixels, RawPixels
from kinfolk.evals.config import EvaluationConfig
from kinfolk.evals.extraction import extract_views
from kinfolk.evals.feature_cache import FeatureCache
from kinfolk.evals.geometry import subset_of
from kinfolk.evals.protocol import FeatureEvaluator, SubjectEvaluator
from kinfolk.evals.records import LabelsUsed, Record
from kinfolk.evals.subject import Subject

if TYPE_CHECKING:
    from kinfolk.data.sources import Source, Splits
    from kinfolk.data.views import ViewMaker
    from kinfolk.data.views.table import TableViewMaker

_LAYERS = {"raw pixels": "pixels", "centred raw pixels": "pixels", "raw features": "features of the table"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and what it left out.

    Args:
        records: encoder by encoder, in the order of the protocols.
        notes: what was left out for want of labels, views, masks or other things, and why; one line each.
    """

    records: list[Record]
    notes: tuple[str, ...]


def evaluate(
    encoder: nn.Module | None,
    splits: Splits,
    config: EvaluationConfig,
    *,
    untrained: nn.Module,
    view_maker: ViewMaker | TableViewMaker | None = None,
    labels_used: LabelsUsed,
    device: torch.device | str | None = None,
    cache: FeatureCache | None = None,
    classifier: nn.Module | None = None,
    towers: nn.Module | None = None,
) -> Evaluation:
    """Run every protocol on the encoder, raw pixels, centred raw pixels and an untrained encoder.

    For a table the raw baseline is its features as they are, "raw features". What the data cannot answer is left out,
    logged as a warning and noted.

    Args:
        encoder: the trained encoder, from float images `[b, C, H, W]` in [0, 1], or a table's rows `[b, F, 1, 1]`, to
            `[b, d]`; its state is not changed. None measures the baselines alone.
        splits: training and test source, and a part for probes where there is one. An id that stands in both names
            the same sample.
        config: protocols and parameters.
        untrained: a fresh encoder of the same kind.
        view_maker: the augmentation of pretraining, for alignment; with fewer than two views, or None, alignment is
            left out.
        labels_used: which labels pretraining of `encoder` saw.
        device: where features are computed; None stays where each encoder is.
        cache: features on disk, which spare the encoders' work a second time; None keeps nothing.
        classifier: of the trained encoder, from images to logits, where its training made one.
        towers: that the trained encoder is one of, with images and texts in one space, where it is.

    Raises:
        ValueError: for an empty split, or an encoder that does not give finite `[b, d]` features.
    """
    train_rows, test_rows = _chosen(splits, config)
    train, test = splits.reference.subset(train_rows), splits.test.subset(test_rows)
    who = {} if encoder is None else {"trained": encoder}
    if config.baselines or encoder is None:
        who |= {**_raw(splits.reference, config, train_rows), "untrained": untrained}
    records: list[Record] = []
    notes = _notes(train, test, config, view_maker)
    lacking: dict[tuple[str, str], list[str]] = {}
    for name, module in who.items():
        subject = Subject.of(
            name, module, train=train, test=test, pretraining=splits.train, view_maker=view_maker,
            batch_size=config.batch_size, device=device, cache=cache,
            classifier=classifier if name == "trained" else None, towers=towers if name == "trained" else None,
        )  # fmt: skip
        if _two_views(view_maker) and "geometry" in config.protocols:
            subject = _with_view_pair(subject, config)
        found = list(_records(subject, config, labels_used if name == "trained" else "none"))
        records.extend(found)
        for what in _lacking(subject, config, measured={record.protocol for record in found}):
            lacking.setdefault(what, []).append(name)
    for (reason, protocol), names in lacking.items():
        whose = "" if len(names) == len(who) else f" of {', '.join(names)}"
        notes.append(f"left out, since there are {reason}: {protocol}{whose}.")
    for note in notes:
        _log.warning(note)
    return Evaluation(records, tuple(notes))


def _notes(
    train: Source, test: Source, config: EvaluationConfig, view_maker: ViewMaker | TableViewMaker | None
) -> list[str]:
    """What labels, columns and views leave out, before anything is encoded."""
    notes = []
    needy = [evaluator.protocol for evaluator in config.evaluators() if evaluator.needs_labels]
    for part, source in (("training", train), ("test", test)):
        known = 0 if source.labels is None else int((source.labels >= 0).sum())
        if known == 0 and needy:
            notes.append(f"left out, since the {part} split has no labels: {', '.join(needy)}.")
        elif known < len(source) and needy:
            dropped = len(source) - known
            notes.append(
                f"{dropped} of {len(source)} {part} samples have no label and are dropped from: {', '.join(needy)}."
            )
    for evaluator in config.evaluators():
        if missing := [column for column in evaluator.needs_columns if column not in test.columns]:
            notes.append(f"left out, since the test split has no {' and no '.join(missing)}: {evaluator.protocol}.")
    if "geometry" in config.protocols and not _two_views(view_maker):
        notes.append("left out, since there are no two views of a sample: alignment.")
    return notes


def _lacking(subject: Subject, config: EvaluationConfig, *, measured: set[str]) -> Iterator[tuple[str, str]]:
    """What this subject's data lack and for which protocol, beside what `_notes` says."""
    for evaluator in config.evaluators():
        if _can_run(evaluator, subject) and evaluator.protocol not in measured:
            reason = evaluator.missing(subject) if isinstance(evaluator, SubjectEvaluator) else None
            yield reason or "too few samples to compare", evaluator.protocol


def _can_run(evaluator: FeatureEvaluator | SubjectEvaluator, subject: Subject) -> bool:
    if evaluator.needs_labels and not subject.features.has_labels:
        return False
    return all(getattr(subject.features.test, column) is not None for column in evaluator.needs_columns)


def _raw(source: Source, config: EvaluationConfig, rows: Tensor) -> dict[str, nn.Module]:
    """The baselines without an encoder; a table's features have mean 0 already, so centring would change nothing."""
    raw = RawPixels(channels=source.channels, image_size=source.image_size)
    if is_table(source):
        return {"raw features": raw}
    return {
        "raw pixels": raw,
        "centred raw pixels": CentredRawPixels.fit(source, batch_size=config.batch_size, indices=rows),
    }


def _two_views(view_maker: ViewMaker | TableViewMaker | None) -> bool:
    return view_maker is not None and view_maker.config.count >= 2


def _chosen(splits: Splits, config: EvaluationConfig) -> tuple[Tensor, Tensor]:
    train_limit = config.max_train_rows or len(splits.reference)
    test_limit = config.max_test_rows or len(splits.test)
    return (
        subset_of(splits.reference.ids, train_limit, seed=config.subset_seed),
        subset_of(splits.test.ids, test_limit, seed=config.subset_seed),
    )


def _with_view_pair(subject: Subject, config: EvaluationConfig) -> Subject:
    assert subject.view_maker is not None
    aligned = subset_of(subject.test.ids, config.geometry.alignment_samples, seed=config.geometry.seed)
    pair = extract_views(
        subject.encoder, subject.test, subject.view_maker, indices=aligned,
        batch_size=subject.batch_size, device=subject.device, cache=subject.cache,
    )  # fmt: skip
    return replace(subject, features=replace(subject.features, view_pair=pair))


def _records(subject: Subject, config: EvaluationConfig, labels_used: LabelsUsed) -> Iterator[Record]:
    features = subject.features
    for evaluator in config.evaluators():
        if not _can_run(evaluator, subject):
            continue
        used = features.labelled() if evaluator.needs_labels else features
        shared = {
            "layer": _LAYERS.get(subject.name, "encoder output"),
            "feature_dim": features.train.dim,
            "normalisation": evaluator.normalisation,
            "n_train": len(used.train),
            "n_test": len(used.test),
            "unlabelled_dropped": len(features.train) + len(features.test) - len(used.train) - len(used.test),
            "subset_seed": config.subset_seed,
            **_settings(evaluator),
        }
        found = evaluator.run(subject) if isinstance(evaluator, SubjectEvaluator) else evaluator.run(used)
        for one in found:
            yield Record(
                encoder=subject.name,
                protocol=evaluator.protocol,
                metric=one.name,
                value=one.value,
                sd=one.sd,
                low=one.low,
                high=one.high,
                draws=one.draws,
                labels_used=labels_used,
                better=one.better,
                parameters={**shared, **one.details},
            )


def _settings(evaluator: Any) -> dict[str, Any]:
    """The evaluator's fields as JSON values."""
    return {f.name: _plain(getattr(evaluator, f.name)) for f in fields(evaluator)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}
        return {**kind, **_settings(value)}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
