"""One comparison from plan to page: run what is missing, gather what there is, show it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from kinfolk import distributed
from kinfolk.compare.config import ComparisonConfig
from kinfolk.compare.estimate import expected_seconds
from kinfolk.compare.plan import (
    PlannedRun,
    check_comparable,
    differing_fields,
    planned_references,
    planned_runs,
    status,
    total_steps,
)
from kinfolk.compare.results import Comparison, Cost, Result
from kinfolk.compare.runner import Task, is_done, perform_here, perform_in_processes, read_records
from kinfolk.evals import Record
from kinfolk.train import Run, TrainConfig, from_yaml, to_yaml
from kinfolk.train.batches import views_per_step
from kinfolk.train.device import join_processes
from kinfolk.train.evaluation import labels_used
from kinfolk.train.files import write_text
from kinfolk.train.processes import from_first_rank, on_first_rank
from kinfolk.train.serialization import encode, flatten

CONFIG_FILE = "comparison.yaml"
_SIZES = ("n_train", "n_test", "unlabelled_dropped", "subset_seed")


def compare(
    config: ComparisonConfig,
    *,
    out: str | Path,
    jobs: int = 1,
    command: str | None = None,
    report: Callable[[str], None] = print,
) -> Comparison:
    """Run what is missing of a comparison and write its page.

    The folder holds ``comparison.yaml``, ordinary runs under ``runs/CONTENDER/[SETTING/]seed-S``, and at the end
    ``README.md``, pictures and ``results.json``. A run that is finished there is never repeated, one that was begun is
    continued from its checkpoint, and one that was measured by other protocols is measured again. So an interrupted
    comparison is started again with the same call, and a larger one runs only the seeds, contenders or values that are
    new.

    Args:
        config: what is compared.
        out: the comparison's folder.
        jobs: runs at a time, each in a process of its own with its share of the cores; 0 runs all of them in this
            process, one after the other. Under ``torchrun`` every run takes all ranks.
        command: what the page says it was made with.
        report: gets a line for every run that ends.

    Returns:
        All results. Its `failed` are the runs that diverged or broke off; they are missing from the results.

    Raises:
        ValueError: when runs could not be compared (other data, encoders, protocols or budgets), or the folder holds
            runs with other settings; the message names the fields.

    Example:
        >>> import tempfile
        >>> from dataclasses import replace
        >>> from kinfolk.compare import Contender, ComparisonConfig
        >>> from kinfolk.recipes import recipe, smoke
        >>> names = ("simclr", "supcon")
        >>> contenders = tuple(Contender(name, smoke(recipe(f"{name}-digits"))) for name in names)
        >>> config = ComparisonConfig("smoke", contenders, seeds=(0,), image_views=256)
        >>> found = compare(config, out=tempfile.mkdtemp(), jobs=0, report=lambda line: None)
        >>> {result.contender for result in found.results if result.metric == "accuracy"} == set(names)
        True
    """
    from kinfolk.compare.page import write_page  # it draws; a worker that only trains need not import that

    folder = Path(out)
    runs = planned_runs(config, folder)
    join_processes(runs[0].config.device, runs[0].config.precision)
    steps = total_steps(runs)
    check_comparable(config, runs, steps)
    tasks: list[Task] = [*runs, *planned_references(config, folder)]
    left = [task for task in tasks if not from_first_rank(lambda task=task: is_done(task))]  # type: ignore[misc]
    on_first_rank(lambda: write_text(folder / CONFIG_FILE, to_yaml(config)))
    report(f"{len(runs)} runs, {len(runs) - sum(isinstance(task, PlannedRun) for task in left)} of them finished")
    if jobs == 0 or distributed.world_size() > 1:
        failed = perform_here(folder, left, report=report)
    else:
        failed = perform_in_processes(folder, left, jobs=jobs, report=report)
    found = gather(config, folder, failed=failed, command=command)
    on_first_rank(lambda: write_page(found, folder))
    return found


def describe_plan(config: ComparisonConfig, *, out: str | Path) -> str:
    """Say what `compare` would do, run by run, and how long it would take on this machine; trains nothing.

    Args:
        config: what is compared.
        out: the comparison's folder; runs that are finished there count as done.

    Raises:
        ValueError: as `compare`.
    """
    runs = planned_runs(config, Path(out))
    steps = total_steps(runs)
    check_comparable(config, runs, steps)
    seconds = expected_seconds(runs, steps)
    states = {run.key: status(run) for run in runs}
    header = ("contender", "setting", "seeds", "batch", "views", "steps", "image views", "finished", "each takes")
    rows = [header]
    for contender, setting in dict.fromkeys((run.contender, run.setting) for run in runs):
        own = [run for run in runs if (run.contender, run.setting) == (contender, setting)]
        first = own[0]
        expected, complete = seconds[contender, setting]
        rows.append((
            contender, setting or "-", ", ".join(str(run.seed) for run in own), str(first.config.batch_size),
            str(first.config.views.count), f"{steps[first.key]:,}",
            f"{steps[first.key] * views_per_step(first.config):,}",
            f"{sum(states[run.key] == 'finished' for run in own)} of {len(own)}",
            f"{expected:.0f} s" + ("" if complete else " *"),
        ))  # fmt: skip
    left = [run for run in runs if states[run.key] != "finished"]
    total = sum(seconds[run.contender, run.setting][0] for run in left)
    lines = [
        _aligned(rows),
        "",
        f"{len(left)} of {len(runs)} runs are left: about {total / 60:.0f} minutes one by one.",
    ]
    if any(not complete for _, complete in seconds.values()):
        lines.append("* training only, from a few steps timed now; evaluation comes on top.")
    return "\n".join(lines)


def read_config(folder: Path) -> ComparisonConfig:
    """Read a comparison's config from its folder.

    Raises:
        FileNotFoundError: when the folder holds none.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is not a comparison: it has no {CONFIG_FILE}")
    return from_yaml(file.read_text(encoding="utf-8"), ComparisonConfig)


def gather(
    config: ComparisonConfig, folder: Path, *, failed: dict[str, str] | None = None, command: str | None = None
) -> Comparison:
    """Read the results of all finished runs.

    Args:
        config: what is compared.
        folder: where its runs lie.
        failed: why runs failed, by key.
        command: what made it.

    Raises:
        ValueError: when runs were measured on different numbers of samples.
    """
    runs = planned_runs(config, folder)
    results: list[Result] = []
    costs: dict[tuple[str, str, int], Cost] = {}
    sizes: dict[tuple[str, str, str], tuple[PlannedRun, dict[str, Any]]] = {}
    for run in runs:
        if status(run) != "finished":
            continue
        records = [Record.from_dict(record) for record in Run(run.folder).records]
        for record in records:
            _check_sizes(run, record, sizes)
            results.append(Result(run.contender, run.setting, run.seed, record.protocol, record.metric,
                                  record.better, record.value))  # fmt: skip
        end = Run(run.folder).metrics[-1]
        costs[run.contender, run.setting, run.seed] = Cost(
            image_views=end["image_views"], steps=end["step"], batch_size=run.config.batch_size,
            seconds=end["seconds"], peak_memory_mb=end["peak_memory_mb"], labels_used=labels_used(run.config),
        )  # fmt: skip
    references = tuple(
        (setting, Record.from_dict(record))
        for reference in planned_references(config, folder)
        if reference.file.is_file()
        for setting in reference.settings
        for record in read_records(reference.file)
    )
    return Comparison(
        name=config.name,
        baseline=config.reference_name,
        contenders=tuple(one.name for one in config.contenders),
        settings=config.settings,
        varied=None if config.varied is None else config.varied.field,
        seeds=config.seeds,
        results=tuple(results),
        references=references,
        costs=costs,
        differing=differing_fields(config),
        shared=_shared([run.config for run in runs]),
        machine=_machine(),
        failed=failed or {},
        command=command,
        configs={run.key: to_yaml(run.config) for run in runs},
    )


def _check_sizes(
    run: PlannedRun, record: Record, sizes: dict[tuple[str, str, str], tuple[PlannedRun, dict[str, Any]]]
) -> None:
    """All runs at one setting must have been measured on as many samples."""
    own = {name: record.parameters.get(name) for name in _SIZES}
    other, theirs = sizes.setdefault((run.setting, record.protocol, record.metric), (run, own))
    if own != theirs:
        changed = "; ".join(f"{name}: {theirs[name]} and {own[name]}" for name in _SIZES if own[name] != theirs[name])
        raise ValueError(
            f"{other} and {run} were measured on different samples ({record.protocol}, {changed}): the data have"
            f" changed between them. Remove the older of {other.folder} and {run.folder}, and start again."
        )


def _shared(configs: Sequence[TrainConfig]) -> dict[str, str]:
    """What all runs have in common, as the page says it."""
    first, *others = (_parts(config) for config in configs)
    return {name: text for name, text in first.items() if all(other[name] == text for other in others)}


def _parts(config: TrainConfig) -> dict[str, str]:
    evaluation = config.evaluation
    limits = (("train", evaluation.max_train_rows), ("test", evaluation.max_test_rows))
    rows = [f"{name} {size:,}" for name, size in limits if size]
    parts = {"source": config.source, "encoder": config.encoder, "views": config.views, "optimizer": config.optimizer}
    return {
        **{name: one_line(part) for name, part in parts.items()},
        "derived": "; ".join(map(one_line, config.derived)) or "nothing",
        "protocols": ", ".join(evaluation.protocols) + (f" (at most {', '.join(rows)} rows)" if rows else ""),
    }


def one_line(part: Any) -> str:
    """A part of a config as ``kind name=value``, only what differs from its defaults.

    Example:
        >>> from kinfolk.methods import SimCLRConfig
        >>> one_line(SimCLRConfig(temperature=0.5))
        'simclr temperature=0.5'
    """
    own = flatten(encode(part))
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(part)}
    usual = flatten({name: encode(value) for name, value in defaults.items() if value is not MISSING})
    changed = [f"{name}={value}" for name, value in own.items() if name != "kind" and usual.get(name, MISSING) != value]
    return " ".join([getattr(part, "kind", type(part).__name__), *changed])


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return f"{device}, {os.cpu_count()} cores, torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
