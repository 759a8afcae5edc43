"""One row per loss and form: how a model's views become a loss. The battery runs over this table on every rank.

A batch is a dictionary of tensors with one row per sample, so that a rank's batch is a slice of the joined one. What a
case makes of it (stacked views, graphs, masks) is made on the rank from its own slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinfolk import graphs, losses
from kinfolk.ops import PairMask

Batch = dict[str, Tensor]
N = 12

PARTITIONS: dict[int, dict[str, tuple[int, ...]]] = {
    1: {"equal": (12,)},
    2: {"unequal": (9, 3), "one empty": (12, 0)},
    4: {"equal": (3, 3, 3, 3), "unequal, one empty": (0, 6, 2, 4)},
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
        "table": table,
    }


@dataclass(frozen=True)
class Case:
    """A loss, and how it is called on a list of views, a batch, a temperature and options."""

    build: type[nn.Module]
    run: Callable[..., Tensor]
    views: int = 1
    tempered: bool = True


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
        self.case = case

    def forward(self, batch: Batch, **options: Any) -> Tensor:
        views = list(self.encoder(batch["x"]).unbind(1))
        return self.case.run(views, batch, self.log_temperature.exp(), **options)


def _two_views(build: type[nn.Module], **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, *, ids: str | None = None, **options: Any) -> Tensor:
        return build(temperature=tau, **fixed, **options)(z[0], z[1])

    return Case(build, run, views=2)


def _two_views_with_ids(build: type[nn.Module], **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return build(temperature=tau, **fixed, **options)(z[0], z[1], ids=batch["ids"])

    return Case(build, run, views=2)


def _queue(exclude: bool) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        fixed = constants()
        drop = (batch["labels"], fixed["queue_labels"]) if exclude else None
        return losses.InfoNCELoss(temperature=tau, **options)(z[0], z[1], fixed["queue"], exclude=drop)

    return Case(losses.InfoNCELoss, run)


def _sup_con(form: Any, labels: str = "labels", ids: str | None = None, views: int = 2, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        own = None if ids is None else batch[ids].repeat(views)
        loss = losses.SupConLoss(temperature=tau, form=form, **{**fixed, **options})
        return loss(torch.cat(z[:views]), batch[labels].repeat(views), ids=own)

    return Case(losses.SupConLoss, run, views=views)


def _x_sample(relations: Callable[[Batch], Any]) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.XSampleLoss(temperature=tau, graph_temperature=0.3, **options)
        return loss(torch.cat(z[:2]), relations({k: torch.cat([v, v]) for k, v in batch.items()}))

    return Case(losses.XSampleLoss, run, views=2)


def _graph(
    graph: Callable[[Batch], Any],
    mask: Callable[[Batch], Any] = lambda batch: None,
    *,
    ids: bool = False,
    itself: bool = False,
) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.GraphContrastiveLoss(temperature=tau, **options)
        keys = z[0] if itself else z[1]
        return loss(z[0], keys, graph(batch), mask=mask(batch), ids=batch["ids"] if ids else None)

    return Case(losses.GraphContrastiveLoss, run)


def _sparse_by_id(batch: Batch) -> graphs.SparseGraph:
    return graphs.SparseGraph(2 * torch.arange(len(batch["edges"]) + 1), batch["edges"].flatten())


def _sparse_numbered(batch: Batch) -> graphs.SparseGraph:
    return graphs.SparseGraph(2 * torch.arange(len(batch["columns"]) + 1), batch["columns"].flatten(), m=N)


def _classes(batch: Batch) -> graphs.ClassGraph:
    return graphs.ClassGraph(batch["labels"], constants()["table"])


def _kernel(batch: Batch) -> graphs.KernelGraph:
    return graphs.KernelGraph(batch["side"], temperature=0.3)


def _mixture(batch: Batch) -> graphs.MixtureGraph:
    parts = [graphs.PairGraph(len(batch["x"])), graphs.LabelGraph(batch["labels"]), _kernel(batch)]
    return graphs.MixtureGraph(parts, [0.5, 0.2, 0.3])


def _normalised(batch: Batch) -> graphs.SimilarityGraph:
    return graphs.LabelGraph(batch["labels"], batch["ids"]).row_normalised(_others(batch))


def _others(batch: Batch) -> PairMask:
    return PairMask.exclude_self(len(batch["x"]))


def _ids_and_bias(batch: Batch) -> PairMask:
    margin = PairMask.bias_on_equal(batch["labels"], batch["labels"], 0.7)
    return PairMask.exclude(batch["ids"], batch["ids"]) & PairMask.bias(batch["bias"]) & margin


def _clip(ids: bool) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CLIPLoss(**options)(z[0], z[1], 1 / tau, ids=batch["ids"] if ids else None)

    return Case(losses.CLIPLoss, run)


def _cacr(ids: bool = False, **fixed: Any) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        return losses.CACRLoss(**fixed, **options)(z, ids=batch["ids"] if ids else None)

    return Case(losses.CACRLoss, run, tempered=False)


CASES: dict[str, Case] = {
    "NTXent": _two_views(losses.NTXentLoss),
    "NTXent, ids": _two_views_with_ids(losses.NTXentLoss),
    "DCL": _two_views(losses.DCLLoss),
    "DCL, ids": _two_views_with_ids(losses.DCLLoss),
    "DCLW": _two_views(losses.DCLLoss, sigma=0.4),
    "DCLW, attached": _two_views(losses.DCLLoss, sigma=0.4, detach_weights=False),
    "InfoNCE": _queue(exclude=False),
    "InfoNCE, excluded labels": _queue(exclude=True),
    "SupCon out": _sup_con("out"),
    "SupCon in": _sup_con("in"),
    "SupCon out, one view": _sup_con("out", views=1),
    "SupCon out, ids": _sup_con("out", ids="ids"),
    "SupCon in, ids": _sup_con("in", ids="ids"),
    "SupCon out, no anchor": _sup_con("out", labels="no_pairs", views=1),
    "XSample": _x_sample(lambda batch: batch["side"]),
    "XSample, labels": _x_sample(lambda batch: graphs.LabelGraph(batch["labels"], batch["own_ids"])),
    "XSample, classes": _x_sample(_classes),
    "GraphContrastive pairs": _graph(lambda batch: graphs.PairGraph(len(batch["x"]))),
    "GraphContrastive labels": _graph(lambda batch: graphs.LabelGraph(batch["labels"], batch["ids"])),
    "GraphContrastive labels, self": _graph(lambda batch: graphs.LabelGraph(batch["labels"]), _others, itself=True),
    "GraphContrastive classes": _graph(_classes),
    "GraphContrastive classes, self": _graph(_classes, _others, itself=True),
    "GraphContrastive kernel": _graph(_kernel),
    "GraphContrastive kernel, self": _graph(_kernel, _others, itself=True),
    "GraphContrastive mixture": _graph(_mixture),
    "GraphContrastive mixture, self": _graph(_mixture, _others, itself=True),
    "GraphContrastive sparse by id": _graph(_sparse_by_id, ids=True),
    "GraphContrastive sparse numbered": _graph(_sparse_numbered),
    "GraphContrastive dense": _graph(lambda batch: graphs.DenseGraph(batch["weights"])),
    "GraphContrastive dense, masked": _graph(lambda batch: batch["weights"], lambda batch: batch["kept"]),
    "GraphContrastive normalised": _graph(_normalised),
    "GraphContrastive ids and bias": _graph(_kernel, _ids_and_bias),
    "CLIP": _clip(ids=False),
    "CLIP, ids": _clip(ids=True),
    "CACR": _cacr(),
    "CACR, ids": _cacr(ids=True),
    "CACR, detached": _cacr(detach_weights=True),
    "CACR, uniform": _cacr(attraction="uniform", repulsion="uniform"),
}

RING = ["NTXent", "NTXent, ids", "DCL", "DCL, ids", "DCLW", "DCLW, attached", "CLIP", "CLIP, ids"]
RING += ["SupCon out", "SupCon out, one view", "SupCon out, no anchor", "SupCon in", "SupCon in, ids"]


def ways(name: str) -> list[Any]:
    """The values of ``gather`` that a case is tried with."""
    return [True, "ring"] if name in RING else [True]


def classes_without_a_case(module: Any, cases: dict[str, Case]) -> set[str]:
    """Public loss classes of a module that no row of the table builds."""
    public = {name for name in module.__all__ if isinstance(getattr(module, name), type)}
    modules = {name for name in public if issubclass(getattr(module, name), nn.Module)}
    return modules - {case.build.__name__ for case in cases.values()}
