"""Which runs a comparison needs, whether they may be compared, and how long they will take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kinfolk.compare.config import ComparisonConfig, folder_name
from kinfolk.data import Splits
from kinfolk.data.views.table import TableViewsConfig
from kinfolk.train import Run, TrainConfig
from kinfolk.train.batches import make_sampler, training_length, views_per_step
from kinfolk.train.config import differences
from kinfolk.train.serialization import encode, flatten

Status = Literal["finished", "measured otherwise", "begun", "missing"]

# What must be the same for all contenders at one setting; everything else is what a method may need of its own.
_SHARED = ("source", "derived", "encoder", "evaluation", "precision")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Args:
        contender: whose.
        setting: the varied field's value, empty where nothing is varied.
        seed: of the run.
        config: complete.
        folder: where it lies.
    """

    contender: str
    setting: str
    seed: int
    config: TrainConfig
    folder: Path

    @property
    def key(self) -> str:
        """A name that is unique within the comparison."""
        return "-".join(filter(None, (folder_name(self.contender), folder_name(self.setting), f"seed-{self.seed}")))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.contender, self.setting, f"seed {self.seed}")))


@dataclass(frozen=True)
class PlannedReference:
    """Raw pixels and an untrained encoder, measured once for all runs on the same data.

    Args:
        settings: the settings that share them.
        config: of one run on these data.
        file: where their records lie.
    """

    settings: tuple[str, ...]
    config: TrainConfig
    file: Path

    @property
    def key(self) -> str:
        """A name that is unique within the comparison."""
        return f"reference-{self.file.stem}"

    def __str__(self) -> str:
        return "references" if self.settings == ("",) else f"references for {', '.join(self.settings)}"


def planned_runs(config: ComparisonConfig, folder: Path) -> tuple[PlannedRun, ...]:
    """All runs, in the order in which they are run: a whole comparison for one seed before the next."""
    runs = []
    for seed in config.seeds:
        for setting in config.settings:
            for one in config.contenders:
                place = folder / "runs" / folder_name(one.name) / folder_name(setting) / f"seed-{seed}"
                runs.append(PlannedRun(one.name, setting, seed, config.run_config(one, setting, seed), place))
    return tuple(runs)


def planned_references(config: ComparisonConfig, folder: Path) -> tuple[PlannedReference, ...]:
    """The references of every kind of data that the comparison trains on; none for evaluations without baselines."""
    settings: dict[str, list[str]] = {}
    configs: dict[str, TrainConfig] = {}
    baseline = next(one for one in config.contenders if one.name == config.reference_name)
    if not baseline.config.evaluation.baselines:
        return ()
    for setting in config.settings:
        run = config.run_config(baseline, setting, config.seeds[0])
        name = hashlib.sha256(repr(_what_references_see(run)).encode()).hexdigest()[:12]
        settings.setdefault(name, []).append(setting)
        configs.setdefault(name, run)
    return tuple(
        PlannedReference(tuple(settings[name]), configs[name], folder / "references" / f"{name}.json")
        for name in settings
    )


def _what_references_see(run: TrainConfig) -> list[Any]:
    """All that raw pixels and an untrained encoder depend on.

    What changes the pretraining set alone is no part of it, as long as nothing looks at that set. Only the end of
    `derived` can be left out: what comes later may act on what came before.
    """
    asked, derived = run.evaluation, list(run.derived)
    # A view of a table's row borrows values of other pretraining rows.
    hidden = not any(one.sees_pretraining for one in asked.evaluators()) and not isinstance(run.views, TableViewsConfig)
    while hidden and derived and getattr(derived[-1], "leaves_probes", False):
        derived.pop()
    views = [run.views] if "geometry" in asked.protocols else []  # for the alignment of two views
    parts = [encode(part) for part in (run.source, *derived, run.encoder, *asked.evaluators(), *views)]
    return [*parts, asked.batch_size, asked.max_train_rows, asked.max_test_rows, asked.subset_seed]


def status(run: PlannedRun) -> Status:
    """How far a run has come; "measured otherwise" when only its evaluation has other settings by now.

    Raises:
        ValueError: when its folder holds a run with another config; the message names the fields.
    """
    there = Run(run.folder)
    if not there.config_file.is_file():
        return "missing"
    changed = differences(there.config_file.read_text(encoding="utf-8"), run.config)
    if not changed:
        return "finished" if there.is_finished else "begun"
    if there.is_finished and all(line.startswith("evaluation.") for line in changed):
        return "measured otherwise"
    raise ValueError(
        f"{run.folder} holds a run with other settings: {'; '.join(changed)}. Give the comparison another folder,"
        " or the settings that it was begun with."
    )


def check_comparable(config: ComparisonConfig, runs: Sequence[PlannedRun], steps: Mapping[str, int]) -> None:
    """Refuse runs that differ in data, encoder, protocol or budget.

    Args:
        config: the comparison.
        runs: all of its runs.
        steps: total steps by key.

    Raises:
        ValueError: naming the fields that differ and between whom.
    """
    first = [run for run in runs if run.seed == config.seeds[0]]
    for setting in config.settings:
        here = {run.contender: run.config for run in first if run.setting == setting}
        for name, other in here.items():
            if found := _differing(here[config.reference_name], other):
                listed = "; ".join(f"{field}: {one!r} and {two!r}" for field, (one, two) in found.items())
                raise ValueError(
                    f"{config.reference_name} and {name} cannot be compared, since these fields differ: {listed}."
                    " Give both the same values."
                )
    views = {run.key: steps[run.key] * views_per_step(run.config) for run in first}
    least, most = min(first, key=lambda run: views[run.key]), max(first, key=lambda run: views[run.key])
    # Whole steps cannot hit every budget, so up to one step of difference is rounding.
    if views[most.key] - views[least.key] > max(views_per_step(run.config) for run in first):
        raise ValueError(
            f"budgets differ: {least} sees {views[least.key]:,} image views ({_budget(least, steps)}) and {most} sees"
            f" {views[most.key]:,} ({_budget(most, steps)}). Give all the same number with image_views (--views)."
        )


def differing_fields(config: ComparisonConfig) -> dict[str, dict[str, str]]:
    """Fields in which contenders differ at the first setting, each with every contender's value as text.

    Parts of different kinds, whose fields would be missing here and there, are one field: kind and settings beside the
    defaults; of the first contender's kind, those that differ from the first contender's.
    """
    configs = {one.name: config.run_config(one, config.settings[0], 0) for one in config.contenders}
    encoded = {name: encode(replace(one, name="")) for name, one in configs.items()}
    words: dict[str, dict[str, str]] = {}
    for part in dict.fromkeys(name for one in encoded.values() for name in one):
        kinds = {name: one[part].get("kind") for name, one in encoded.items() if isinstance(one[part], dict)}
        if len(set(kinds.values())) > 1 or 0 < len(kinds) < len(encoded):
            words[part] = _in_words({name: getattr(one, part) for name, one in configs.items()})
            for one in encoded.values():
                del one[part]
    flat = {name: flatten(one) for name, one in encoded.items()}
    names = list(dict.fromkeys(field for values in flat.values() for field in values))
    found = {}
    for field in names:
        if field == "epochs" and config.image_views is not None:  # which then counts for nothing
            continue
        values = {name: values.get(field) for name, values in flat.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            found[field] = {name: "none" if value is None else str(value) for name, value in values.items()}
    return words | found


def _in_words(parts: Mapping[str, Any]) -> dict[str, str]:
    """Parts of several kinds as one line each, such as ``mochi temperature=0.2``."""
    first = next(iter(parts.values()))
    found = {}
    for name, part in parts.items():
        if part is None:
            found[name] = "none"
            continue
        known = first if part is not first and type(part) is type(first) else _made_by_default(type(part))
        found[name] = " ".join([part.kind, *_told(part, known)])
    return found


def _told(part: Any, known: Any) -> list[str]:
    """The settings of a part that are not those of another one, as ``name=value``; all where there is none."""
    found = []
    for one in fields(part):
        value, usual = getattr(part, one.name), getattr(known, one.name, None)
        if known is not None and encode(value) == encode(usual):
            continue
        if is_dataclass(value):
            usual = usual if type(usual) is type(value) else _made_by_default(type(value))
            found += [f"{one.name}.{told}" for told in _told(value, usual)]
        elif isinstance(value, tuple) and value and all(map(is_dataclass, value)):
            several = (" ".join([v.kind, *_told(v, _made_by_default(type(v)))]) for v in value)
            found.append(f"{one.name}=({'; '.join(several)})")
        else:
            found.append(f"{one.name}={encode(value)}")
    return found


def _made_by_default(kind: type) -> Any:
    try:
        return kind()
    except TypeError:  # it has settings without a default
        return None


def total_steps(runs: Sequence[PlannedRun]) -> dict[str, int]:
    """Optimiser steps of every run, by its key.

    Raises:
        ValueError: when a run's training set is too small for its sampler.
    """
    data: dict[str, Splits] = {}
    found: dict[tuple[str, str], int] = {}
    for run in runs:
        if (run.contender, run.setting) in found:
            continue
        sampler = make_sampler(run.config, load_once(run.config, data).train, rank=0, world_size=1)
        found[run.contender, run.setting] = training_length(run.config, sampler).total_steps
    return {run.key: found[run.contender, run.setting] for run in runs}


def load_once(config: TrainConfig, data: dict[str, Splits]) -> Splits:
    """Load a run's data, or take them from what was loaded before for another run."""
    key = repr((config.source, config.derived))
    if key not in data:
        data[key] = config.load()
    return data[key]


def _budget(run: PlannedRun, steps: Mapping[str, int]) -> str:
    return f"{steps[run.key]} steps x {run.config.batch_size} samples x {run.config.views.count} views"


def _differing(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    left, right = ({name: encode(getattr(config, name)) for name in _SHARED} for config in (one, other))
    flat_left, flat_right = flatten(left), flatten(right)
    names = [name for name in {**flat_left, **flat_right} if flat_left.get(name) != flat_right.get(name)]
    return {name: (flat_left.get(name), flat_right.get(name)) for name in names}
