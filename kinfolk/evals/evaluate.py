"""Every protocol on the trained encoder and, under the same protocol, on the baselines beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kinfolk.data.sources.table import is_table
from kinfolk.evals.baselines import CentredRawPixels, RawPixels
from kinfolk.evals.cross_retrieval import CrossRetrieval
from kinfolk.evals.features import extract_views
from kinfolk.evals.few_label_probe import FewLabelProbe
from kinfolk.evals.geometry import Geometry, subset
from kinfolk.evals.knn import KNN
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import FeatureEvaluator, SubjectEvaluator
from kinfolk.evals.records import LabelsUsed, Record
from kinfolk.evals.retrieval import Retrieval
from kinfolk.evals.subject import Subject

if TYPE_CHECKING:
    from kinfolk.data.sources import Source, Splits
    from kinfolk.data.views import ViewMaker
    from kinfolk.data.views.table import TableViewMaker

Protocol = Literal["knn", "linear_probe", "few_label_probe", "retrieval", "cross_retrieval", "geometry"]
_LAYERS = {"raw pixels": "pixels", "centred raw pixels": "pixels", "raw features": "features of the table"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationConfig:
    """Which protocols run, with which parameters, on how much of the data.

    Args:
        protocols: the protocols to run, in the order of the table.
        knn: parameters of weighted kNN.
        linear_probe: parameters of the linear probe.
        few_label_probe: parameters of the probe on few labels.
        retrieval: parameters of retrieval by class.
        cross_retrieval: parameters of retrieval across hands, for sources with groups and bias labels.
        geometry: parameters of the geometric diagnostics.
        batch_size: images per forward pass.
        baselines: whether raw pixels and an untrained encoder are measured beside the trained one.
        max_train_rows: training samples in use, a seeded subset; None takes all.
        max_test_rows: test samples in use, a seeded subset; None takes all.
        subset_seed: of both subsets.

    Raises:
        ValueError: for an unknown or repeated protocol, or sizes below 1.

    Example:
        >>> EvaluationConfig(protocols=("knn",), knn=KNN(k=20)).evaluators()
        (KNN(k=20, temperature=0.07),)
    """

    protocols: tuple[Protocol, ...] = ("knn", "linear_probe", "few_label_probe", "retrieval", "geometry")
    knn: KNN = field(default_factory=KNN)
    linear_probe: LinearProbe = field(default_factory=LinearProbe)
    few_label_probe: FewLabelProbe = field(default_factory=FewLabelProbe)
    retrieval: Retrieval = field(default_factory=Retrieval)
    cross_retrieval: CrossRetrieval = field(default_factory=CrossRetrieval)
    geometry: Geometry = field(default_factory=Geometry)
    batch_size: int = 256
    baselines: bool = True
    max_train_rows: int | None = None
    max_test_rows: int | None = None
    subset_seed: int = 0

    def __post_init__(self) -> None:
        known = tuple(self._by_name())
        if not set(self.protocols) <= set(known) or len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols must name each of {', '.join(known)} at most once, got {self.protocols}.")
        for name in ("batch_size", "max_train_rows", "max_test_rows"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")

    @classmethod
    def smoke(cls) -> EvaluationConfig:
        """Every protocol on a few hundred samples, in about a second: enough to show that evaluation runs."""
        return cls(
            knn=KNN(k=20),
            linear_probe=LinearProbe(l2=(1e-3, 1e-1), max_steps=50),
            few_label_probe=FewLabelProbe(labels_per_class=(1, 5), seeds=(0, 1)),
            geometry=Geometry(alignment_samples=64),
            batch_size=64,
            max_train_rows=300,
            max_test_rows=150,
        )

    def evaluators(self) -> tuple[FeatureEvaluator | SubjectEvaluator, ...]:
        """The chosen evaluators, in order."""
        return tuple(self._by_name()[name] for name in self.protocols)

    def _by_name(self) -> dict[Protocol, FeatureEvaluator | SubjectEvaluator]:
        return {
            "knn": self.knn,
            "linear_probe": self.linear_probe,
            "few_label_probe": self.few_label_probe,
            "retrieval": self.retrieval,
            "cross_retrieval": self.cross_retrieval,
            "geometry": self.geometry,
        }


def evaluate(
    encoder: nn.Module | None,
    splits: Splits,
    config: EvaluationConfig,
    *,
    untrained: nn.Module,
    view_maker: ViewMaker | TableViewMaker | None = None,
    labels_used: LabelsUsed,
    device: torch.device | str | None = None,
) -> list[Record]:
    """Run every protocol on the encoder, raw pixels, centred raw pixels and an untrained encoder.

    For a table the raw baseline is its features as they are, "raw features".

    What is left out for want of labels or views is logged as a warning; `evaluation_notes` returns the same lines.

    Args:
        encoder: the trained encoder, from float images `[b, C, H, W]` in [0, 1], or a table's rows `[b, F, 1, 1]`, to
            `[b, d]`; its state is not changed. None measures the baselines alone.
        splits: training and test source, and a part for probes where there is one. An id that stands in both names
            the same sample.
        config: protocols and parameters.
        untrained: a fresh encoder of the same kind.
        view_maker: the augmentation of pretraining, for alignment; with fewer than two
            views, or None, alignment is left out.
        labels_used: which labels pretraining of `encoder` saw.
        device: where features are computed; None stays where each encoder is.

    Returns:
        Records, encoder by encoder, in the order of the protocols.

    Raises:
        ValueError: for an empty split, or an encoder that does not give finite `[b, d]` features.
    """
    for note in evaluation_notes(splits, config, view_maker=view_maker):
        _log.warning(note)
    train_rows, test_rows = _chosen(splits, config)
    who = {} if encoder is None else {"trained": encoder}
    if config.baselines or encoder is None:
        who |= {**_raw(splits.reference, config, train_rows), "untrained": untrained}
    records: list[Record] = []
    for name, module in who.items():
        subject = _subject(name, module, splits, config, train_rows, test_rows, view_maker, device)
        records.extend(_records(subject, config, labels_used if name == "trained" else "none"))
    return records


def evaluation_notes(
    splits: Splits, config: EvaluationConfig, *, view_maker: ViewMaker | TableViewMaker | None = None
) -> tuple[str, ...]:
    """What `evaluate` will leave out of these splits, and why; empty when nothing.

    Args:
        splits: training and test source.
        config: protocols and parameters.
        view_maker: as `evaluate` gets it.
    """
    notes = []
    needy = [evaluator.protocol for evaluator in config.evaluators() if evaluator.needs_labels]
    for part, source, rows in zip(
        ("training", "test"), (splits.reference, splits.test), _chosen(splits, config), strict=True
    ):
        known = 0 if source.labels is None else int((source.labels[rows] >= 0).sum())
        if known == 0 and needy:
            notes.append(f"left out, since the {part} split has no labels: {', '.join(needy)}.")
        elif known < len(rows) and needy:
            dropped = len(rows) - known
            notes.append(
                f"{dropped} of {len(rows)} {part} samples have no label and are dropped from: {', '.join(needy)}."
            )
    for evaluator in config.evaluators():
        if missing := [column for column in evaluator.needs_columns if column not in splits.test.columns]:
            notes.append(f"left out, since the test split has no {' and no '.join(missing)}: {evaluator.protocol}.")
    if "geometry" in config.protocols and not _two_views(view_maker):
        notes.append("left out, since there are no two views of a sample: alignment.")
    return tuple(notes)


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
        subset(len(splits.reference), train_limit, seed=config.subset_seed),
        subset(len(splits.test), test_limit, seed=config.subset_seed),
    )


def _subject(
    name: str,
    module: nn.Module,
    splits: Splits,
    config: EvaluationConfig,
    train_rows: Tensor,
    test_rows: Tensor,
    view_maker: ViewMaker | TableViewMaker | None,
    device: torch.device | str | None,
) -> Subject:
    how: dict[str, Any] = {"batch_size": config.batch_size, "device": device}
    train, test = splits.reference.subset(train_rows), splits.test.subset(test_rows)
    subject = Subject.of(name, module, train=train, test=test, pretraining=splits.train, **how)
    if view_maker is None or not _two_views(view_maker) or "geometry" not in config.protocols:
        return subject
    geometry = config.geometry
    aligned = test_rows[subset(len(test_rows), geometry.alignment_samples, seed=geometry.seed)]
    pair = extract_views(module, splits.test, view_maker, indices=aligned, **how)
    return replace(subject, view_maker=view_maker, features=replace(subject.features, view_pair=pair))


def _records(subject: Subject, config: EvaluationConfig, labels_used: LabelsUsed) -> Iterator[Record]:
    features = subject.features
    for evaluator in config.evaluators():
        if evaluator.needs_labels and not features.has_labels:
            continue
        if any(getattr(features.test, column) is None for column in evaluator.needs_columns):
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
