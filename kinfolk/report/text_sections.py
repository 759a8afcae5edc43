"""The report's sections that are words, numbers and curves: settings, evaluation, training."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from kinfolk.data import Source
from kinfolk.data.sources.table import is_table
from kinfolk.report.curves import draw_curves, series_of
from kinfolk.report.material import Material
from kinfolk.report.page import (
    Section,
    details_html,
    evaluation_html,
    figure_html,
    missing_html,
    paragraph_html,
    settings_html,
)
from kinfolk.report.table import Row, verdict
from kinfolk.train import to_yaml
from kinfolk.train.evaluation import labels_used

# Outcomes too long to read as text; evals.json has them.
_NO_SETTINGS = ("bin_", "accuracy_by_", "by_")


def lead(material: Material) -> str:
    """Say in two sentences what was trained on what."""
    config, train = material.config, material.splits.train
    seen = "no labels" if labels_used(config) == "none" else "all training labels"
    return (
        f"A {config.encoder.kind} encoder trained with {config.method.kind} on {len(train):,} {_shape(train)}"
        f" ({train.name}). Pretraining used {seen}."
    )


def _shape(source: Source) -> str:
    if is_table(source):
        return f"rows of {source.channels} features"
    colours = {1: "grey ", 3: "RGB ", 4: "RGBA "}.get(source.channels, "")
    height, width = source.image_size
    return f"{colours}images of {width}×{height} pixels"


def summary_section(material: Material) -> Section:
    """The settings in one short table, how long it took, on what, and whether it ended well."""
    config, splits = material.config, material.splits
    start = {**material.last("start"), **material.last("resume")}
    steps = int(material.last("train").get("step", 0))
    seconds = material.last("end").get("seconds", material.last("train").get("seconds"))
    versions = ", ".join(f"{name} {start[name]}" for name in ("kinfolk", "torch") if name in start)
    views = steps * config.batch_size * config.views.count
    kind = "row" if is_table(splits.train) else "image"
    planned = f"{config.epochs} epochs" if config.image_views is None else f"{config.image_views:,} image views"
    settings = {
        "data": f"{splits.train.name}: {len(splits.train):,} training and {len(splits.test):,} test {kind}s",
        "method": brief(config.method),
        "encoder": brief(config.encoder),
        "optimizer": brief(config.optimizer),
        "steps": f"{steps:,} of batch size {config.batch_size} ({planned} planned)",
        f"{kind} views": f"{views:,} ({config.views.count} per {kind} and epoch)",
        "labels in pretraining": labels_used(config),
        "training time": "not recorded" if seconds is None else duration(float(seconds)),
        "device": f"{start.get('device', 'not recorded')}, {start.get('precision', config.precision)}",
        "versions": versions or "not recorded",
        "seed": config.seed,
    }
    return Section("summary", "What was trained", settings_html(settings) + _ending(material))


def _ending(material: Material) -> str:
    if failed := material.last("failed"):
        return missing_html(f"Training stopped at step {failed['step']}: the loss or its gradient was not finite.")
    if not material.last("end"):
        return missing_html("metrics.jsonl has no end of training: the run has not finished, or its log is missing.")
    return ""


def evaluation_section(material: Material) -> Section:
    """The table of every protocol, which encoder is best where, and every protocol parameter."""
    title = "Evaluation beside baselines"
    if not material.rows:
        hint = f"evals.json is missing or empty; `kinfolk eval {material.run.folder}` writes it."
        return Section("evaluation", title, missing_html(hint))
    notes = [paragraph_html(f"Note: {note}") for note in material.run.notes]
    parameters = "\n".join(_parameters(row) for row in material.rows)
    body = [paragraph_html(verdict(material.rows)), evaluation_html(material.rows), *notes]
    return Section("evaluation", title, "".join([*body, details_html("Every protocol parameter", parameters)]))


def _parameters(row: Row) -> str:
    """One line of the trained encoder's record; the baselines differ from it in the feature dimension alone."""
    record = row.records.get("trained") or next(iter(row.records.values()))
    parameters = (record.get("parameters") or {}).items()
    values = ", ".join(f"{name}={value}" for name, value in parameters if not name.startswith(_NO_SETTINGS))
    return f"{row.protocol} {row.metric}: draws={record.get('draws', 1)}, {values}"


def curves_section(material: Material) -> Section:
    """One picture of everything that was logged, and a warning where a value was not finite."""
    title, series = "Training curves", series_of(material.events)
    if not series:
        missing = "metrics.jsonl is missing or has no training record, so there is no curve to draw."
        return Section("curves", title, missing_html(missing))
    resumed = [event["step"] for event in material.events if event.get("event") == "resume"]
    png = draw_curves(series, material.folder / "curves.png", resumed_at=resumed)
    ends = [f"{name.replace('_', ' ')} from {v[0]:.3g} to {v[-1]:.3g}" for name, (_, v) in series.items()]
    broken = [f"{name} ({int(np.isnan(v).sum())} times)" for name, (_, v) in series.items() if np.isnan(v).any()]
    caption = (
        "The loss, and numbers that show whether a run is healthy. They tell whether training went well, not which"
        " method is better."
    )
    body = figure_html(png, alt=f"Curves over training steps: {'; '.join(ends)}.", caption=caption)
    if broken:
        body += missing_html(f"Values that were not finite, marked at the foot of their panel: {', '.join(broken)}.")
    return Section("curves", title, body)


def settings_section(material: Material) -> Section:
    """The complete config, and what decided which images are shown."""
    text = (
        f"Images, queries and views in the pictures were drawn with seed {material.seed}, never chosen by their looks."
        " The config below is complete: a run can be repeated from it."
    )
    yaml = details_html("config.yaml", to_yaml(material.config))
    return Section("settings", "Complete settings", paragraph_html(text) + yaml)


def brief(config: Any) -> str:
    """Return a config's kind and its plain fields in one line; nested configs and unset fields are left to the YAML.

    Example:
        >>> from kinfolk.train import SGDConfig
        >>> brief(SGDConfig()).startswith("sgd (learning rate ")
        True
    """
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    shown = {name: value for name, value in values.items() if value is not None and not is_dataclass(value)}
    plain = ", ".join(f"{name.replace('_', ' ')} {plain_value(value)}" for name, value in shown.items())
    return f"{config.kind} ({plain})" if plain else str(config.kind)


def plain_value(value: Any) -> str:
    """Return a number, truth value or text as a sentence would say it.

    Example:
        >>> plain_value(0.0123456), plain_value(True), plain_value((64, 128))
        ('0.01235', 'yes', '64, 128')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(plain_value(part) for part in value)
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
