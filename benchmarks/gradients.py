"""What a step on several ranks learns: the gradient after DDP's mean against one process on the joined batch.

gloo, CPU, float64, a two-layer encoder under DistributedDataParallel. A right scheme has ratio 1 and cosine 1. A ratio
of 1 / ranks is hidden by Adam and by tuned learning rates, a cosine below 1 by nothing. Unequal batches occur at the
end of an epoch, an empty rank where a data set ends. What raises or hangs is recorded as what happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import machine, peers
from benchmarks.probe import OK
from benchmarks.ranks import Outcome, Step, distributed, joined
from benchmarks.schemes import Scheme, schemes
from benchmarks.table import Row, Table

TOTAL = 16
BATCHES: dict[str, tuple[tuple[int, ...], ...]] = {
    "equal": ((16,), (8, 8), (4, 4, 4, 4)),
    "unequal": ((5, 11), (2, 7, 3, 4)),
    "one rank empty": ((16, 0), (6, 0, 7, 3)),
}
COLUMNS = (
    *("loss", "library", "version", "form", "processes", "batch", "sizes", "status", "value", "value ratio"),
    *("gradient ratio", "gradient cosine", "relative error", "temperature gradient ratio", *machine.COLUMNS),
)


@dataclass(frozen=True)
class Settings:
    """Which schemes and batches, and how long one may take."""

    names: tuple[str, ...] | None = None
    batches: tuple[str, ...] = tuple(BATCHES)
    largest: int = 4
    folder: Path | None = None
    limit: float = 30.0


def measure(settings: Settings, path: Path) -> list[Row]:
    """Run every scheme and write rows as they come."""
    table, about = Table(path, COLUMNS), machine.describe("cpu")
    for name, scheme in schemes().items():
        if settings.names is not None and name not in settings.names:
            continue
        known: Row = {"loss": scheme.loss, "library": scheme.library, "form": scheme.form}
        known["version"] = peers.version(scheme.distribution, settings.folder) if scheme.distribution else ""
        for row in _scheme(scheme, settings):
            table.add(known | row | about)
            print(_line(name, table.rows[-1]), flush=True)
    return table.rows


def _scheme(scheme: Scheme, s: Settings) -> Iterable[Row]:
    single = joined(scheme, TOTAL, s.folder)
    if single.failure:
        yield {"status": single.failure}
        return
    for batch in s.batches:
        for sizes in BATCHES[batch]:
            if len(sizes) <= s.largest:
                outcome = distributed(scheme, sizes, s.folder, limit=s.limit)
                known: Row = {"processes": len(sizes), "batch": batch, "sizes": " ".join(map(str, sizes))}
                yield known | against(outcome, single.steps[0])


def against(outcome: Outcome, single: Step) -> Row:
    """Compare the ranks' mean value and their common gradient with the single process's."""
    if outcome.failure:
        return {"status": outcome.failure}
    found = [torch.tensor(step.gradient, dtype=torch.float64) for step in outcome.steps]
    if any(not torch.equal(gradient, found[0]) for gradient in found):
        return {"status": "ranks disagree about the gradient after DDP"}
    expected = torch.tensor(single.gradient, dtype=torch.float64)
    value = sum(step.value for step in outcome.steps) / len(outcome.steps)
    row: Row = {
        "status": OK,
        "value": value,
        "value ratio": value / single.value,
        "gradient ratio": (found[0].norm() / expected.norm()).item(),
        "gradient cosine": torch.cosine_similarity(found[0], expected, 0).item(),
        "relative error": ((found[0] - expected).norm() / expected.norm()).item(),
    }
    if single.scale_gradient is not None and outcome.steps[0].scale_gradient is not None:
        row["temperature gradient ratio"] = outcome.steps[0].scale_gradient / single.scale_gradient
    return row


def _line(name: str, row: Row) -> str:
    where = f"{name:<78}{row.get('processes', '')!s:<3}{row.get('batch', '')!s:<16}"
    if row["status"] != OK:
        return f"{where}{row['status']}"
    ratio, cosine, error = (row[c] for c in ("gradient ratio", "gradient cosine", "relative error"))
    return f"{where}ratio {ratio:.4f}  cosine {cosine:.4f}  error {error:.1e}"


def smoke(names: Sequence[str] = ()) -> Settings:
    """Return settings that take seconds: two ranks, two schemes."""
    default = ("NTXentLoss: as people write it, no gathering", "NTXentLoss: kinfolk")
    return Settings(tuple(names) or default, batches=("equal",), largest=2, limit=30.0)
