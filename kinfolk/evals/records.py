"""One number in one row of one table, as a run's `evals.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from kinfolk.evals.protocol import Direction

LabelsUsed = Literal["none", "all"]


@dataclass(frozen=True)
class Record:
    """A measurement with everything one must know to compare it.

    Args:
        encoder: who made the features: "trained", "raw pixels", "centred raw pixels" or "untrained".
        protocol: how they were judged, such as "kNN".
        metric: what was measured, such as "accuracy".
        value: the number, a fraction for accuracies; the mean over draws where there are several.
        sd: sample standard deviation over draws, or None.
        low: lower end of the 95 % interval of the mean over draws, or None.
        high: upper end of it, or None.
        draws: how many seeded draws the value averages.
        labels_used: which labels pretraining saw: "none" or "all".
        better: "higher", "lower", or None for a diagnostic without a direction.
        parameters: every protocol parameter, sizes, seeds, feature dimension and normalisation; plain JSON values.

    Example:
        >>> record = Record("trained", "kNN", "accuracy", 0.978, labels_used="none", better="higher")
        >>> Record.from_dict(record.to_dict()) == record
        True
    """

    encoder: str
    protocol: str
    metric: str
    value: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    draws: int = 1
    labels_used: LabelsUsed = "none"
    better: Direction | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: for missing or unknown keys.
        """
        known = {f.name for f in fields(cls)}
        if set(data) != known:
            raise ValueError(
                f"an evaluation record must have the keys {sorted(known)}: missing {sorted(known - set(data))}, "
                f"unknown {sorted(set(data) - known)}; write it again with `kinfolk eval`."
            )
        return cls(**data)
