"""A run read once for its report: what its folder holds, its data, and the images that pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from kinfolk.data import Splits
from kinfolk.methods import Method
from kinfolk.report.sample import Sample, take_sample
from kinfolk.report.table import Row, evaluation_rows
from kinfolk.train import Run, TrainConfig, checkpoints, load_encoder, load_method

SHOWN_AT_MOST = 800  # a map of 800 images takes t-SNE about four seconds on one core


@dataclass(frozen=True)
class Material:
    """What the sections of a report read.

    Args:
        run: the run's folder.
        config: its config.
        splits: its data.
        events: the records of `metrics.jsonl`, none where it is missing.
        rows: the evaluation, none where it is missing.
        encoder: the exported encoder in eval mode, None where there is none yet.
        sample: the test images that pictures show; None without an encoder or without test images.
        seed: of everything that the report draws at random.
    """

    run: Run
    config: TrainConfig
    splits: Splits
    events: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    encoder: nn.Module | None
    sample: Sample | None
    seed: int

    @property
    def folder(self) -> Path:
        """Where the page and its pictures go."""
        return self.run.folder / "report"

    @cached_property
    def method(self) -> Method | None:
        """The whole method of the newest checkpoint in eval mode, None where there is no checkpoint."""
        return load_method(self.run) if checkpoints(self.run.checkpoints) else None

    def last(self, kind: str) -> Mapping[str, Any]:
        """Return the last event of a kind, empty where there is none."""
        return next((event for event in reversed(self.events) if event.get("event") == kind), {})

    def no_sample(self) -> str:
        """Say why there are no images to show."""
        if self.encoder is None:
            return "The run has not exported an encoder yet (encoder.yaml is missing); it does so when training ends."
        return "The source has no test images."


def read_material(folder: Path, *, seed: int) -> Material:
    """Read a run and encode the test images that its report shows.

    Raises:
        FileNotFoundError: the folder is not a run, or its data is no longer there.
    """
    run = Run(folder)
    config = run.config
    splits = config.load()
    encoder = load_encoder(run) if (folder / "encoder.yaml").is_file() else None
    sample = None
    if encoder is not None and len(splits.test):
        sample = take_sample(splits.test, encoder, count=SHOWN_AT_MOST, seed=seed)
    return Material(run, config, splits, run.metrics, evaluation_rows(run.records), encoder, sample, seed)
