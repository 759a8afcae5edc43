"""Everything that a comparison's page and pictures are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kinfolk.evals import Record
from kinfolk.evals.protocol import Direction


@dataclass(frozen=True)
class Result:
    """One number of one finished run.

    Args:
        contender: whose run.
        setting: value of the varied field as text, empty where nothing is varied.
        seed: of the run.
        protocol: how it was measured, such as "kNN".
        metric: what was measured, such as "accuracy".
        better: "higher", "lower", or None for a diagnostic.
        value: the number; a fraction for accuracies.
    """

    contender: str
    setting: str
    seed: int
    protocol: str
    metric: str
    better: Direction | None
    value: float


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Args:
        image_views: augmented views seen in training.
        steps: optimiser steps.
        batch_size: samples in a step.
        seconds: of training.
        peak_memory_mb: the most memory in use, of the process on a CPU; None where it is not known.
        labels_used: "none" or "all".
    """

    image_views: int
    steps: int
    batch_size: int
    seconds: float
    peak_memory_mb: float | None
    labels_used: str


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison with what one must know to read them.

    Args:
        name: title of the page.
        baseline: the contender that others are compared with.
        contenders: all names, in order.
        settings: values of the varied field, or one empty text.
        varied: the varied field, or None.
        seeds: of the runs.
        results: of all finished runs.
        references: raw pixels and an untrained encoder, each with the setting that it belongs to.
        costs: by contender, setting and seed.
        differing: fields in which contenders differ, beside the varied one, with every contender's value.
        shared: what is the same everywhere, as text by name.
        machine: what it ran on.
        failed: why runs failed, by the run's name.
        command: what made it, or None.
        configs: every run's config as YAML, by the run's name.
    """

    name: str
    baseline: str
    contenders: tuple[str, ...]
    settings: tuple[str, ...]
    varied: str | None
    seeds: tuple[int, ...]
    results: tuple[Result, ...]
    references: tuple[tuple[str, Record], ...] = ()
    costs: Mapping[tuple[str, str, int], Cost] = field(default_factory=dict)
    differing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    configs: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write everything as JSON that `from_json` reads.

        Example:
            >>> result = Result("a", "", 0, "kNN", "accuracy", "higher", 0.5)
            >>> comparison = Comparison("c", "a", ("a",), ("",), None, (0,), (result,))
            >>> Comparison.from_json(comparison.to_json()) == comparison
            True
        """
        data: dict[str, Any] = asdict(self)
        data["costs"] = [[*key, asdict(cost)] for key, cost in self.costs.items()]
        return json.dumps(data, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        data["results"] = tuple(Result(**result) for result in data["results"])
        data["references"] = tuple((setting, Record.from_dict(record)) for setting, record in data["references"])
        data["costs"] = {(one, setting, seed): Cost(**cost) for one, setting, seed, cost in data["costs"]}
        for name in ("contenders", "settings", "seeds"):
            data[name] = tuple(data[name])
        return cls(**data)
