"""Comparisons with results made up for a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinfolk.compare import Comparison, Cost, Result
from kinfolk.evals import Record

# Protocol, metric, better.
ACCURACY = ("kNN", "accuracy", "higher")
RANK = ("retrieval", "median rank", "lower")
DIAGNOSTIC = ("geometry", "effective rank", None)


def comparison_of(
    values: Mapping[tuple[Any, ...], float], *, references: Mapping[str, float] | None = None, **changes: Any
) -> Comparison:
    """A comparison from values by (contender, seed), (contender, setting, seed), either with a metric behind.

    Args:
        values: the baseline's first.
        references: accuracies of the references, the same at every setting.
        changes: other fields.
    """
    results = []
    for key, value in values.items():
        own, metric = (key[:-1], key[-1]) if isinstance(key[-1], tuple) else (key, ACCURACY)
        contender, setting, seed = own if len(own) == 3 else (own[0], "", own[1])
        results.append(Result(contender, setting, seed, *metric, value))
    contenders, settings, seeds = (
        tuple(dict.fromkeys(getattr(result, name) for result in results)) for name in ("contender", "setting", "seed")
    )
    fields = {
        "name": "made",
        "baseline": contenders[0],
        "contenders": contenders,
        "settings": settings,
        "varied": "batch_size" if settings != ("",) else None,
        "seeds": seeds,
        "results": tuple(results),
        "references": tuple(
            (setting, Record(name, "kNN", "accuracy", value, better="higher"))
            for setting in settings
            for name, value in (references or {}).items()
        ),
        "costs": {(r.contender, r.setting, r.seed): Cost(1280, 10, 64, 5.0 + r.seed, 100.0, "none") for r in results},
        "differing": {"method.decoupled": {one: str(one != contenders[0]) for one in contenders}},
        "shared": {"source": "digits"},
        "machine": "a made machine",
        "command": "kinfolk compare simclr-digits",
    }
    return Comparison(**{**fields, **changes})
