"""What a single process finds on the joined batch, and how far every rank is from it.

``python tests/distributed/rank_table.py`` prints the table loss x ranks.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rank_cases import CASES, LOCAL, PARTITIONS, Batch, Model, cases, joined_batch, part, ways
from rank_worker import gradient, key
from torch import Tensor

Answers = list[dict[str, Any]]


@functools.cache
def joined(name: str) -> dict[str, Tensor]:
    """Value, gradient, values per anchor and a step of SGD of one process on the joined batch."""
    return single(name, joined_batch())


def single(name: str, batch: Batch) -> dict[str, Tensor]:
    model = Model(CASES[name])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no anchor in this batch")
        found: dict[str, Tensor] = {} if model.case.pooled else {"none": model(batch, reduction="none").detach()}
        for reduction, what in (("sum", "gradient of sum"), ("mean", "gradient")):
            model.zero_grad()
            value = model(batch, reduction=reduction)
            value.backward()
            found |= {reduction: value.detach(), what: gradient(model)}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    found["stepped"] = torch.cat([p.detach().flatten() for p in model.parameters()])
    return found


def local_mean(name: str) -> dict[str, Tensor]:
    """What ``gather=False`` must give: the mean of the ranks' own losses."""
    found = [single(name, part(joined_batch(), LOCAL[1], rank)) for rank in range(LOCAL[0])]
    return {what: torch.stack([f[what] for f in found]).mean(0) for what in ("mean", "gradient")}


def in_joined_order(parts: list[Tensor], views: int) -> Tensor:
    """Values per anchor of all ranks, each of them view after view, as one process orders them."""
    return torch.cat([p.view(views, -1) for p in parts], 1).flatten()


class Row(NamedTuple):
    """How DDP's mean gradient compares with the single process's."""

    loss: str
    partition: str
    gather: Any
    ratio: float
    cosine: float
    error: float

    @classmethod
    def of(cls, name: str, partition: str, gather: Any, found: dict[str, Any]) -> Row:
        ours, theirs = found["gradient"], joined(name)["gradient"]
        error = float((ours - theirs).abs().max())
        if not theirs.any():
            return cls(name, partition, gather, float(not ours.any()), float(not ours.any()), error)
        ratio, cosine = float(ours.norm() / theirs.norm()), float(torch.cosine_similarity(ours, theirs, 0))
        return cls(name, partition, gather, ratio, cosine, error)


def rows(world: int, answers: Answers) -> list[Row]:
    """One row per case, partition and way of gathering."""
    return [
        Row.of(name, partition, gather, answers[0][key(name, partition, gather)])
        for name in cases(world)
        for partition in PARTITIONS[world]
        for gather in ways(name)
    ]


def table(answers: dict[int, Answers]) -> str:
    """Return the worst partition of every loss and number of ranks as a table in Markdown."""
    lines = ["| loss | keys | ranks | ratio | cosine | max abs difference |", "|---|---|---|---|---|---|"]
    for name in CASES:
        for gather in ways(name):
            for world, found in answers.items():
                some = [r for r in rows(world, found) if r.loss == name and r.gather == gather]
                worst = max(some, key=lambda r: r.error)
                keys = "ring" if gather == "ring" else "gathered"
                lines.append(
                    f"| {name} | {keys} | {world} | {worst.ratio:.10f} | {worst.cosine:.10f} | {worst.error:.1e} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    from rank_launch import launch_once

    with tempfile.TemporaryDirectory() as folder:
        print(table({world: launch_once(world, Path(folder) / str(world)) for world in PARTITIONS}))
