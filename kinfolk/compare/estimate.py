"""How long the runs of a comparison will take: from finished ones, or by timing a few steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from kinfolk.compare.plan import PlannedRun, load_once
from kinfolk.data import Splits
from kinfolk.data.views.table import make_views
from kinfolk.train import Run, TrainConfig
from kinfolk.train.batches import make_batch, make_sampler
from kinfolk.train.device import resolve_device
from kinfolk.train.runs import build_method

_PROBE_SECONDS = 2.0


def expected_seconds(runs: Sequence[PlannedRun], steps: Mapping[str, int]) -> dict[tuple[str, str], tuple[float, bool]]:
    """Expected seconds of a run, by contender and setting, and whether evaluation is in them.

    From a finished run where there is one; otherwise a few steps are timed here and now, and evaluation is left out.

    Args:
        runs: the runs.
        steps: total steps by key.
    """
    found: dict[tuple[str, str], tuple[float, bool]] = {}
    for run in runs:
        ends = [event for event in Run(run.folder).metrics if event["event"] == "end"]
        if ends and (run.contender, run.setting) not in found:
            found[run.contender, run.setting] = (ends[-1]["seconds"] + ends[-1].get("evaluation_seconds", 0.0), True)
    data: dict[str, Splits] = {}
    for run in runs:
        if (run.contender, run.setting) not in found:
            splits = load_once(run.config, data)
            found[run.contender, run.setting] = (seconds_per_step(run.config, splits) * steps[run.key], False)
    return found


def seconds_per_step(config: TrainConfig, splits: Splits) -> float:
    """Time some steps of a run, forward and backward, after one that warms up; about two seconds."""
    method = build_method(config, splits.train).to(resolve_device(config.device)).train()
    sampler = make_sampler(config, splits.train, rank=0, world_size=1)
    views = make_views(config.views, splits.train, seed=config.seed)
    device = next(method.parameters()).device
    times: list[float] = []
    while len(times) < 2 or sum(times) < _PROBE_SECONDS:
        begun = time.perf_counter()
        indices = sampler.batch(0, len(times) % sampler.steps_per_epoch)
        batch = make_batch(splits.train.fetch(indices), views, epoch=0, device=device)
        method(batch)["loss"].backward()
        method.zero_grad()
        method.after_step()
        times.append(time.perf_counter() - begun)
    return sum(times[1:]) / len(times[1:])
