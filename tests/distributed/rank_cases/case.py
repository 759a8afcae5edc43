"""A row of the table: how a model's views become a loss on a rank's slice of one joined batch.

A batch is a dictionary of tensors with one row per sample, so that a rank's batch is a slice of the joined one. What a
case makes of it (stacked views, graphs, masks) is made on the rank from its own slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

Batch = dict[str, Tensor]
N = 12

PARTITIONS: dict[int, dict[str, tuple[int, ...]]] = {
    1: {"equal": (12,)},
    2: {"equal": (6, 6), "unequal": (9, 3), "one empty": (12, 0)},
    4: {"unequal, one empty": (0, 6, 2, 4)},  # equal sizes are the simpler case, and two processes have it
}
LOCAL = 2, (9, 3)
"""World and sizes for gather=False, where every rank needs enough samples of its own."""


def joined_batch() -> Batch:
    """Twelve samples: a duplicate across ranks, labels of -1, anchors gathered on the first ranks."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ids = torch.tensor([40, 41, 42, 43, 44, 45, 41, 47, 48, -1, 40, -1])
    weights = torch.rand(N, N, generator=generator, dtype=torch.float64)
    return {
        "x": noise(N, 3, 5),
        "ids": ids,
        "own_ids": 40 + torch.arange(N),
        "labels": torch.tensor([0, 0, 1, 0, 1, 0, -1, 2, 3, -1, 1, 4]),
        "no_pairs": torch.arange(N),
        "side": noise(N, 3),
        "weights": weights * (torch.rand(N, N, generator=generator) < 0.5),
        "kept": torch.rand(N, N, generator=generator) < 0.7,
        "edges": torch.stack([ids.roll(-1), ids.roll(5)], 1),
        "columns": torch.randint(0, N, (N, 2), generator=generator),
        "bias": noise(N),
        "second_labels": torch.tensor([0, 1, 1, 0, 0, 1, 1, 0, -1, 1, 0, 0]),
        "pseudo_labels": torch.tensor([0, 0, 1, 0, 1, 0, 2, 2, 3, 3, 1, 3]),
        "novel": torch.tensor([0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0]).bool(),
        "other": noise(N, 4),
    }


def part(batch: Batch, sizes: tuple[int, ...], rank: int) -> Batch:
    start = sum(sizes[:rank])
    return {name: values[start : start + sizes[rank]] for name, values in batch.items()}


def constants() -> Batch:
    """What every rank holds alike: a queue, a table."""
    generator = torch.Generator().manual_seed(4)
    table = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    return {
        "queue": torch.randn(9, 4, generator=generator, dtype=torch.float64),
        "queue_labels": torch.tensor([0, 1, 2, 0, 1, 2, -1, 3, 4]),
        "prototypes": torch.randn(5, 4, generator=generator, dtype=torch.float64),
        "table": table,
    }


@dataclass(frozen=True)
class Case:
    """A loss, and how it is called on a list of views, a batch, a temperature and options.

    Attributes:
        build: the class.
        run: ``run(views, batch, temperature, **options)``; with ``parameters``, also ``own={name: tensor}``, to be
            passed through ``torch.func.functional_call``.
        views: values of ``reduction="none"`` per sample, samples of a view following one another.
        tempered: whether the temperature enters.
        pooled: no value per anchor.
        parameters: the loss's own parameters, which DDP then averages with the encoder's.
    """

    build: type[nn.Module]
    run: Callable[..., Tensor]
    views: int = 1
    tempered: bool = True
    pooled: bool = False
    parameters: Callable[[Generator], dict[str, Tensor]] | None = None


class Model(nn.Module):
    """A small encoder and a learnable temperature; ``forward`` returns the loss, as DDP and FSDP want it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.encoder = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
        self.log_temperature = nn.Parameter(torch.tensor([-1.2], dtype=torch.float64), requires_grad=case.tempered)
        with torch.no_grad():
            for p in self.encoder.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        own = case.parameters(generator) if case.parameters else {}
        self.names = list(own)
        self.own = nn.ParameterList(nn.Parameter(p) for p in own.values())
        self.case = case

    def forward(self, batch: Batch, **options: Any) -> Tensor:
        views = list(self.encoder(batch["x"]).unbind(1))
        if self.names:
            options["own"] = dict(zip(self.names, self.own, strict=True))
        return self.case.run(views, batch, self.log_temperature.exp(), **options)
