"""The page of a run: read its folder, draw its pictures, write them down in order."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kinfolk.data import Splits, ViewMaker
from kinfolk.methods import CACRConfig
from kinfolk.report.curves import draw_curves, series_of
from kinfolk.report.embedding_map import draw_map, embed_2d
from kinfolk.report.neighbours import block_title, draw_neighbours, nearest, same_class
from kinfolk.report.page import (
    Section,
    details_html,
    evaluation_html,
    figure_html,
    missing_html,
    page_html,
    paragraph_html,
    settings_html,
)
from kinfolk.report.sample import Sample, by_class, choose, neighbour_agreement, take_sample
from kinfolk.report.similarities import draw_similarities, rank_agreement
from kinfolk.report.table import Row, evaluation_rows, verdict
from kinfolk.report.target import compare_with_target
from kinfolk.report.weights import draw_weights
from kinfolk.train import Run, TrainConfig, load_encoder, load_method, to_yaml
from kinfolk.train.evaluation import labels_used, left_out
from kinfolk.train.files import write_text

_MAP_AT_MOST, _QUERIES, _NEIGHBOURS, _GRAPH_ROWS, _WEIGHT_QUERIES, _BATCH = 800, 10, 8, 60, 5, 256


@dataclass(frozen=True)
class _Material:
    """What the sections read; `encoder` and `sample` are None where the run has not exported an encoder."""

    run: Run
    folder: Path
    config: TrainConfig
    events: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    splits: Splits
    encoder: nn.Module | None
    sample: Sample | None
    seed: int


def write_report(run: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write `RUN/report/index.html`, one self-contained page about a run, and its pictures as PNGs beside it.

    What a run lacks (no encoder yet, no evaluation, no log, no labels) is said in its section; the rest is written all the same.

    Args:
        run: the run's folder; its source must still be readable.
        seed: of which test images are shown, of the map, and of the views that are drawn. Nothing is chosen by its looks.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: `run` is not the folder of a run.

    Example:
        >>> write_report("runs/simclr-digits")  # doctest: +SKIP
        PosixPath('runs/simclr-digits/report/index.html')
    """
    material = _read(Path(run), seed=seed)
    sections = [
        _summary(material),
        _evaluation(material),
        _curves(material),
        _map(material),
        _neighbours(material),
        _graph(material),
    ]
    if isinstance(material.config.method, CACRConfig):
        sections.append(_weights(material))
    sections.append(_settings(material))
    page = material.folder / "index.html"
    write_text(page, page_html(f"{material.config.name}: what the encoder learnt", _lead(material), sections))
    return page


def _read(folder: Path, *, seed: int) -> _Material:
    run = Run(folder)
    config, splits = run.config, run.config.source.load()
    encoder = load_encoder(run) if (folder / "encoder.yaml").is_file() else None
    sample = (
        None
        if encoder is None or not len(splits.test)
        else take_sample(splits.test, encoder, count=_MAP_AT_MOST, seed=seed)
    )
    rows = evaluation_rows(run.records)
    return _Material(run, folder / "report", config, run.metrics, rows, splits, encoder, sample, seed)


def _lead(material: _Material) -> str:
    config, train = material.config, material.splits.train
    colours = {1: "grey", 3: "RGB", 4: "RGBA"}[train.channels]
    height, width = train.image_size
    seen = "no labels" if labels_used(config) == "none" else "all training labels"
    return (
        f"A {config.encoder.kind} encoder trained with {config.method.kind} on {len(train):,} {colours} images of {width}×{height}"
        f" pixels ({train.name}). Pretraining used {seen}."
    )


def _summary(material: _Material) -> Section:
    config, splits = material.config, material.splits
    start = _last(material.events, "start") | _last(material.events, "resume")
    steps = int(_last(material.events, "train").get("step", 0))
    seconds = _last(material.events, "end").get("seconds", _last(material.events, "train").get("seconds"))
    versions = ", ".join(f"{name} {start[name]}" for name in ("kinfolk", "torch") if name in start)
    settings = {
        "data": f"{splits.train.name}: {len(splits.train):,} training and {len(splits.test):,} test images",
        "method": brief(config.method),
        "encoder": brief(config.encoder),
        "optimizer": brief(config.optimizer),
        "steps": f"{steps:,} of batch size {config.batch_size} ({config.epochs} epochs planned)",
        "image views": f"{steps * config.batch_size * config.views.count:,} ({config.views.count} views of an image per step)",
        "labels in pretraining": labels_used(config),
        "training time": "not recorded" if seconds is None else duration(float(seconds)),
        "device": f"{start.get('device', 'not recorded')}, {start.get('precision', config.precision)}",
        "versions": versions or "not recorded",
        "seed": config.seed,
    }
    state = []
    if failed := _last(material.events, "failed"):
        state.append(
            missing_html(f"Training stopped at step {failed.get('step')}: the loss or its gradient was not finite.")
        )
    elif not _last(material.events, "end"):
        state.append(missing_html("This run has not finished; `kinfolk train --resume` continues it."))
    return Section("summary", "What was trained", settings_html(settings) + "".join(state))


def _evaluation(material: _Material) -> Section:
    title = "Evaluation beside honest baselines"
    if not material.rows:
        return Section(
            "evaluation",
            title,
            missing_html(f"evals.json is missing or empty; `kinfolk eval {material.run.folder}` writes it."),
        )
    notes = [paragraph_html(f"Note: {note}") for note in left_out(material.config, material.splits)]
    parameters = "\n".join(_parameters(row) for row in material.rows)
    body = [
        paragraph_html(verdict(material.rows)),
        evaluation_html(material.rows),
        *notes,
        details_html("Every protocol parameter (of the trained encoder's records)", parameters),
    ]
    return Section("evaluation", title, "".join(body))


def _parameters(row: Row) -> str:
    record = row.records.get("trained") or next(iter(row.records.values()))
    values = ", ".join(f"{name}={value}" for name, value in (record.get("parameters") or {}).items())
    return f"{row.protocol} {row.metric}: draws={record.get('draws', 1)}, {values}"


def _curves(material: _Material) -> Section:
    title, series = "Training curves", series_of(material.events)
    if not series:
        return Section(
            "curves", title, missing_html("metrics.jsonl has no training record, so there is no curve to draw.")
        )
    resumed = [event["step"] for event in material.events if event.get("event") == "resume"]
    png = draw_curves(series, material.folder / "curves.png", resumed_at=resumed)
    ends = [f"{name.replace('_', ' ')} from {v[0]:.3g} to {v[-1]:.3g}" for name, (_, v) in series.items()]
    broken = [f"{name} ({int(np.isnan(v).sum())} times)" for name, (_, v) in series.items() if np.isnan(v).any()]
    body = figure_html(png, alt=f"Curves over steps: {'; '.join(ends)}.", caption=_CURVES_CAPTION)
    if broken:
        body += missing_html(f"Values that were not finite, marked at the foot of their panel: {', '.join(broken)}.")
    return Section("curves", title, body)


_CURVES_CAPTION = "The loss and the numbers that show whether a run is healthy. They tell whether training went well, not which method is better."


def _map(material: _Material) -> Section:
    title, sample = "Map of the test set", material.sample
    if sample is None:
        return Section("map", title, missing_html(_no_encoder(material)))
    points = {map_title(sample, name): embed_2d(rows, seed=material.seed) for name, rows in sample.features.items()}
    png = draw_map(
        points,
        sample.images,
        material.folder / "map.png",
        labels=sample.labels,
        class_names=sample.class_names,
        seed=material.seed,
    )
    alt = f"{len(sample)} test images placed by t-SNE, one map each: {'; '.join(points)}."
    caption = (
        f"{len(sample):,} of {len(material.splits.test):,} test images, drawn by seed, placed by t-SNE of their unit-length features,"
        " the trained encoder's beside raw pixels. Each dot is an image; thumbnails stand where there is room."
    )
    return Section("map", title, figure_html(png, alt=alt, caption=caption))


def map_title(sample: Sample, name: str, *, between: str = ": ") -> str:
    """Return a map's title with the share of images whose nearest neighbour has their class, where that is known."""
    share = neighbour_agreement(sample, name)
    return name if share is None else f"{name}{between}same-class nearest neighbour {100 * share:.1f} %"


def _neighbours(material: _Material) -> Section:
    title, sample = "Nearest neighbours", material.sample
    if sample is None:
        return Section("neighbours", title, missing_html(_no_encoder(material)))
    if len(sample) < 2:
        return Section(
            "neighbours", title, missing_html("The test set has a single image, so there is no neighbour to show.")
        )
    queries = by_class(choose(len(sample), _QUERIES, seed=material.seed + 1), sample.labels)
    found = {name: nearest(rows, queries, k=_NEIGHBOURS) for name, rows in sample.features.items()}
    png = draw_neighbours(
        sample.images, found, material.folder / "neighbours.png",
        queries=queries, labels=sample.labels, class_names=sample.class_names,
    )  # fmt: skip
    counts = [
        block_title(name, None if sample.labels is None else same_class(k, queries, sample.labels))
        for name, k in found.items()
    ]
    caption = (
        f"{len(queries)} queries drawn by seed and their {_NEIGHBOURS} nearest of the same {len(sample):,} test images, by cosine."
        " A few rows are an illustration; the evaluation above counts all of them."
    )
    return Section(
        "neighbours", title, figure_html(png, alt=f"Rows of neighbours. {'; '.join(counts)}.", caption=caption)
    )


def _graph(material: _Material) -> Section:
    title, sample = "Target graph and learnt similarities", material.sample
    if sample is None or material.encoder is None:
        return Section("graph", title, missing_html(_no_encoder(material)))
    if len(sample) < 2:
        return Section("graph", title, missing_html("The test set has a single image, so there is no pair to compare."))
    found = compare_with_target(
        material.config, material.splits, sample, material.encoder, rows=_GRAPH_ROWS, seed=material.seed
    )
    png = draw_similarities(
        found.target, found.learnt, material.folder / "graph.png",
        target_name=found.name, labels=found.labels, class_names=sample.class_names,
    )  # fmt: skip
    ranks = {name: rank_agreement(found.target, matrix) for name, matrix in found.learnt.items()}
    said = "; ".join(f"{name}: {'not defined' if rank is None else f'{rank:+.2f}'}" for name, rank in ranks.items())
    own = found.name == "own views"
    caption = (
        f"Left, what the method asked for between {len(found.target)} rows ({found.name}); right, the cosines of the encoder's output"
        f" and of raw pixels. Spearman's rank correlation with the target off the diagonal: {said}."
    )
    if own:
        caption += " The target knows pairs of views only, so its correlation is small by nature; blocks along the diagonal are classes that it never named."
    alt = f"Matrices of the target graph and of similarities. Rank correlation with the target: {said}."
    relation = _last(material.events, "relation")
    body = figure_html(png, alt=alt, caption=caption)
    if relation:
        logged = ", ".join(
            f"{name.replace('_', ' ')} {_plain(v)}" for name, v in relation.items() if name not in ("event", "step")
        )
        body += paragraph_html(f"The target over the first training batch: {logged}.")
    return Section("graph", title, body)


def _weights(material: _Material) -> Section:
    title = "What attracts and what repels"
    if not any(material.run.checkpoints.glob("*")):
        return Section(
            "weights", title, missing_html("The run has no checkpoint, so the loss's weights cannot be computed.")
        )
    config, source = material.config, material.splits.train
    method = load_method(material.run)
    batch = source.fetch(choose(len(source), min(_BATCH, config.batch_size), seed=material.seed))
    views = ViewMaker(config.views, seed=material.seed)(batch["images"], batch["ids"], epoch=0)
    with torch.no_grad():
        attraction, repulsion = method.loss.weights([method.head(method.encoder(view)) for view in views])
    queries = choose(len(views[0]), _WEIGHT_QUERIES, seed=material.seed + 2)
    png = draw_weights(views, attraction[0], repulsion[0], material.folder / "weights.png", queries=queries)
    n = len(views[0])
    entropy = float(torch.special.entr(repulsion[0].double()).sum(1).mean()) / max(math.log(max(n - 1, 1)), 1e-12)
    caption = (
        f"{len(queries)} of {n} training images, drawn by seed, in {len(views)} augmented views. Attraction should fall on the farthest"
        f" views, repulsion on the nearest other images. Mean entropy of the repulsion weights: {entropy:.2f} of uniform."
    )
    alt = "Query views, their positives with attraction weights, and the most and least repelled other images with theirs."
    return Section("weights", title, figure_html(png, alt=alt, caption=caption))


def _settings(material: _Material) -> Section:
    text = (
        f"Pictures were made with seed {material.seed}: test images, queries and views are drawn by it and chosen by nothing else."
        " The config below is complete; `kinfolk train` repeats the run from it."
    )
    return Section(
        "settings", "Complete settings", paragraph_html(text) + details_html("config.yaml", to_yaml(material.config))
    )


def _no_encoder(material: _Material) -> str:
    if not len(material.splits.test):
        return "The source has no test images."
    return "The run has not exported an encoder yet (encoder.safetensors is missing); it does when training ends."


def _last(events: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    return next((dict(event) for event in reversed(events) if event.get("event") == kind), {})


def brief(config: Any) -> str:
    """Return a config's kind and its plain fields in one line; nested configs and unset fields are left to the YAML.

    Example:
        >>> from kinfolk.train import SGDConfig
        >>> brief(SGDConfig()).startswith("sgd (learning rate ")
        True
    """
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    plain = [
        f"{name.replace('_', ' ')} {_plain(v)}" for name, v in values.items() if v is not None and not is_dataclass(v)
    ]
    return f"{config.kind} ({', '.join(plain)})" if plain else str(config.kind)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    Example:
        >>> duration(8.42), duration(312), duration(7300)
        ('8.4 s', '5 min 12 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
