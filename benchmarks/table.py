"""CSV files that hold what is known so far, and the numbers of their cells."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

Cell = str | int | float | None
Row = dict[str, Cell]


class Table:
    """A CSV file with fixed columns; every row is on disk as soon as it is added, so an interrupted run keeps them."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, tuple(columns)
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(self.columns)

    def add(self, row: Row) -> None:
        """Append a row; cells it does not name stay empty, and one that has no column is a mistake."""
        if unknown := set(row) - set(self.columns):
            raise ValueError(
                f"no such columns: {', '.join(sorted(unknown))}; this table has {', '.join(self.columns)}."
            )
        self.rows.append(row)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(["" if row.get(c) is None else _text(row[c]) for c in self.columns])


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file as text, by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | None:
    """Return a cell's number, None where it is empty."""
    return float(text) if text else None


def _text(cell: Cell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
