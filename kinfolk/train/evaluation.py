"""What is done with a trained encoder: measuring it, and writing its features."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kinfolk.data import Splits, TableConfig
from kinfolk.data.sources.table import TableSource
from kinfolk.data.views.groups import of_whole_images
from kinfolk.data.views.table import make_views
from kinfolk.evals import Evaluation, EvaluationConfig, FeatureCache, Record, evaluate, extract
from kinfolk.train.calibration import load_classifier
from kinfolk.train.config import SourceConfig, TrainConfig, load_config
from kinfolk.train.device import resolve_device
from kinfolk.train.files import atomic_path, write_text
from kinfolk.train.runs import Run, build_encoder, describe_encoder, load_encoder
from kinfolk.train.towers import load_towers


def evaluate_run(
    run: str | os.PathLike[str],
    *,
    source: SourceConfig | None = None,
    evaluation: EvaluationConfig | None = None,
    cache: FeatureCache | None = None,
) -> list[Record]:
    """Evaluate a run's exported encoder beside raw pixels and an untrained encoder, and write the records.

    Args:
        run: A finished run.
        source: Other data than the run was trained on; its records go to ``evals-KIND.json`` instead of ``evals.json``.
        evaluation: Other protocols, or other settings, than the run's own. Their records take the place of those of
            the same protocols; the others stay.
        cache: Features on disk, which spare the encoder's work a second time; None keeps nothing.

    Returns:
        The records, encoder by encoder.

    Raises:
        FileNotFoundError: If there is no finished run.
        ValueError: If the other data's images have another number of channels.
    """
    folder, encoder, config = Path(run), load_encoder(run), load_config(Path(run))
    if evaluation is not None:
        config = replace(config, evaluation=evaluation)
    splits = config.load() if source is None else _load_other(config, source)
    _check_channels(run, splits)
    classifier, towers = load_classifier(run, config), load_towers(run, config)
    found = measure(config, encoder, splits, cache=cache, classifier=classifier, towers=towers)
    file = Run(folder).evals_file if source is None else folder / f"evals-{source.kind}.json"
    kept = [] if evaluation is None else _of_other_protocols(file, found)
    write_evaluation(file, Evaluation([*kept, *found.records], found.notes))
    return found.records


def measure(
    config: TrainConfig,
    encoder: nn.Module | None,
    splits: Splits,
    *,
    cache: FeatureCache | None = None,
    classifier: nn.Module | None = None,
    towers: nn.Module | None = None,
) -> Evaluation:
    """Run the config's protocols on an encoder and the baselines; the untrained one has the run's initial weights.

    `classifier` is what the method learnt to tell classes apart, from images to logits; see `load_classifier`. `towers`
    have images and texts in one space; see `load_towers`.
    """
    return evaluate(
        encoder,
        splits,
        config.evaluation,
        untrained=build_encoder(config, splits.train).eval(),
        view_maker=make_views(of_whole_images(config.views), splits.train, seed=config.seed),
        labels_used=labels_used(config),
        device=resolve_device(config.device),
        cache=cache,
        classifier=classifier,
        towers=towers,
    )


def labels_used(config: TrainConfig) -> Any:
    """Which labels pretraining sees: through the method, its relation, captions made of them, or its sampler."""
    parts = (config.method, config.relation, *config.derived)
    seen = [getattr(part, "labels_used", "none") for part in parts]
    return "all" if "all" in seen or config.sampler.uses_labels else "none"


def write_evaluation(file: Path, found: Evaluation) -> None:
    """Write ``{"records": [...], "notes": [...]}``."""
    data = {"records": [record.to_dict() for record in found.records], "notes": list(found.notes)}
    write_text(file, json.dumps(data, indent=1) + "\n")


def _of_other_protocols(file: Path, found: Evaluation) -> list[Record]:
    measured = {record.protocol for record in found.records}
    there = json.loads(file.read_text(encoding="utf-8"))["records"] if file.is_file() else []
    return [record for record in map(Record.from_dict, there) if record.protocol not in measured]


def embed_run(run: str | os.PathLike[str], *, source: SourceConfig, out: str | Path) -> Path:
    """Write the encoder's features of every image of a source to an ``.npz`` file.

    The file holds ``features`` float32 ``[N, d]``, ``ids`` and, where known, ``labels`` and ``class_names`` of the
    training part, and the same names with ``test_`` before them for the test part.

    Args:
        run: A finished run.
        source: The images.
        out: The file; it is replaced if it exists.

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: If there is no finished run.
        ValueError: If the images have another number of channels than the encoder was trained on.
    """
    encoder, config = load_encoder(run), load_config(Path(run))
    splits = _load_other(config, source)
    _check_channels(run, splits)
    arrays: dict[str, np.ndarray] = {}
    for prefix, part in (("", splits.train), ("test_", splits.test)):
        if len(part) == 0:
            continue
        features = extract(encoder, part, batch_size=config.evaluation.batch_size, device=resolve_device(config.device))
        arrays |= {f"{prefix}features": features.rows.numpy(), f"{prefix}ids": features.ids.numpy()}
        if features.labels is not None:
            arrays[f"{prefix}labels"] = features.labels.numpy()
    if splits.train.class_names is not None:
        arrays["class_names"] = np.array(splits.train.class_names)
    path = Path(out) if Path(out).suffix == ".npz" else Path(f"{out}.npz")
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return path


def _load_other(config: TrainConfig, source: SourceConfig) -> Splits:
    """Load other data; rows of a table become the features that the encoder knows, not standardised by themselves."""
    if not isinstance(source, TableConfig) or not isinstance(config.source, TableConfig):
        return source.load()
    known = config.source.load().train
    assert isinstance(known, TableSource)
    return source.load(like=known.features)


def _check_channels(run: str | os.PathLike[str], splits: Splits) -> None:
    """The encoder takes images with as many channels as it was trained on."""
    trained_on, found = describe_encoder(run).channels, splits.train.channels
    if trained_on != found:
        raise ValueError(
            f"the encoder of {Path(run)} takes images with {trained_on} channel(s),"
            f" and {splits.train.name} has {found}; convert the images, or train on them"
        )
