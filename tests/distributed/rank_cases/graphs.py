"""Losses of a given or side-embedded similarity graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinfolk import graphs, losses
from kinfolk.ops import PairMask
from rank_cases.case import Batch, Case, N, constants


def _x_sample(relations: Callable[[Batch], Any]) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.XSampleLoss(temperature=tau, graph_temperature=0.3, **options)
        return loss(torch.cat(z[:2]), relations({k: torch.cat([v, v]) for k, v in batch.items()}))

    return Case(losses.XSampleLoss, run, views=2)


def _graph(
    graph: Callable[[Batch], Any],
    mask: Callable[[Batch], Any] = lambda batch: None,
    *,
    target_mask: Callable[[Batch], Any] = lambda batch: None,
    ids: bool = False,
    itself: bool = False,
) -> Case:
    def run(z: list[Tensor], batch: Batch, tau: Tensor, **options: Any) -> Tensor:
        loss = losses.GraphContrastiveLoss(temperature=tau, **options)
        keys = z[0] if itself else z[1]
        masks = {"mask": mask(batch), "target_mask": target_mask(batch)}
        return loss(z[0], keys, graph(batch), ids=batch["ids"] if ids else None, **masks)

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


CASES = {
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
    "GraphContrastive kernel, decoupled": _graph(
        _kernel, lambda batch: PairMask.exclude(batch["ids"], batch["ids"]), target_mask=_others, itself=True
    ),
    "GraphContrastive mixture": _graph(_mixture),
    "GraphContrastive mixture, self": _graph(_mixture, _others, itself=True),
    "GraphContrastive sparse by id": _graph(_sparse_by_id, ids=True),
    "GraphContrastive sparse numbered": _graph(_sparse_numbered),
    "GraphContrastive dense": _graph(lambda batch: graphs.DenseGraph(batch["weights"])),
    "GraphContrastive dense, masked": _graph(lambda batch: batch["weights"], lambda batch: batch["kept"]),
    "GraphContrastive normalised": _graph(_normalised),
    "GraphContrastive ids and bias": _graph(_kernel, _ids_and_bias),
}
