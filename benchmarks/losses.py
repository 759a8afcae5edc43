"""Forward plus backward of each loss against the same loss as dense PyTorch, and against its own matmul floor.

Times are medians over repeats taken in turns; only the ratios are meant to be quoted. Memory is not measured here.
"""

from __future__ import annotations

import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kinfolk.losses import CLIPLoss, InfoNCELoss, NTXentLoss, SupConLoss, XSampleLoss

D, TEMPERATURE = 128, 0.1

Row = dict[str, str | int | float]


def measure(*, sizes: tuple[int, ...], repeats: int) -> list[Row]:
    """Time every loss at every number of rows and print a table."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'loss':<9}{'rows':>7}{'kinfolk ms':>12}{'dense ms':>10}{'dense / kinfolk':>17}{'kinfolk / floor':>17}")
    rows = []
    for rows_total in sizes:
        for name, (ours, dense) in _cases(rows_total).items():
            times = _medians({"kinfolk": ours, "dense": dense, "floor": _floor(rows_total)}, repeats)
            row: Row = {"loss": name, "rows": rows_total, **{f"{k} ms": 1e3 * v for k, v in times.items()}}
            row["dense / kinfolk"] = times["dense"] / times["kinfolk"]
            row["kinfolk / floor"] = times["kinfolk"] / times["floor"]
            print(
                f"{name:<9}{rows_total:>7}{row['kinfolk ms']:>12.1f}{row['dense ms']:>10.1f}"
                f"{row['dense / kinfolk']:>17.2f}{row['kinfolk / floor']:>17.2f}",
                flush=True,
            )
            rows.append(row)
    return rows


def write_csv(rows: list[Row], path: Path) -> None:
    """Write the table to a file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _cases(m: int) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    n = m // 2
    z0, z1 = (torch.randn(n, D, generator=generator, requires_grad=True) for _ in range(2))
    queue, side = torch.randn(m, D, generator=generator), torch.randn(m, 64, generator=generator)
    labels = torch.randint(0, 10, (m,), generator=generator)
    other = torch.arange(m).roll(n)
    return {
        "NT-Xent": (
            lambda: NTXentLoss(temperature=TEMPERATURE)(z0, z1),
            lambda: torch.nn.functional.cross_entropy(_self_scores(z0, z1), other),
        ),
        "SupCon": (
            lambda: SupConLoss(temperature=TEMPERATURE)(torch.cat([z0, z1]), labels),
            lambda: _dense_soft(z0, z1, _without_self(labels[:, None] == labels[None]).float()),
        ),
        "X-CLR": (
            lambda: XSampleLoss(temperature=TEMPERATURE)(torch.cat([z0, z1]), side),
            lambda: _dense_soft(z0, z1, torch.softmax(_self_scores(side[:n], side[n:]), 1)),
        ),
        "InfoNCE": (
            lambda: InfoNCELoss(temperature=TEMPERATURE)(z0, z1, queue),
            lambda: _dense_info_nce(z0, z1, queue),
        ),
        "CLIP": (
            lambda: CLIPLoss()(z0, z1, 1 / TEMPERATURE),
            lambda: _dense_clip(z0, z1),
        ),
    }


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def _self_scores(z0: Tensor, z1: Tensor) -> Tensor:
    rows = _unit(torch.cat([z0, z1]))
    return (rows @ rows.T / TEMPERATURE).masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)


def _without_self(pairs: Tensor) -> Tensor:
    return pairs & ~torch.eye(len(pairs), dtype=torch.bool)


def _dense_soft(z0: Tensor, z1: Tensor, weights: Tensor) -> Tensor:
    log_p = torch.log_softmax(_self_scores(z0, z1), 1).masked_fill(torch.eye(len(weights), dtype=torch.bool), 0.0)
    return -((weights / weights.sum(1, keepdim=True)) * log_p).sum(1).mean()


def _dense_info_nce(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    q, k = _unit(queries), _unit(keys.detach())
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ _unit(queue).T], 1) / TEMPERATURE
    return torch.nn.functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))


def _dense_clip(image: Tensor, text: Tensor) -> Tensor:
    logits, own = _unit(image) @ _unit(text).T / TEMPERATURE, torch.arange(len(image))
    return (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2


def _floor(m: int) -> Callable[[], Tensor]:
    """The products of the symmetric form: 4 m^2 d multiply-adds and nothing else."""
    rows = _unit(torch.randn(m, D, generator=torch.Generator().manual_seed(0)))

    def products() -> Tensor:
        rows @ rows.T
        return rows @ rows.T

    return products


def _medians(functions: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Run all functions in turns, so that a drift of the machine meets each of them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            result = function()
            if result.requires_grad:
                result.backward()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
