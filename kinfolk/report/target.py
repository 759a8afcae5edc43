"""The target graph that a run's method matched, on a few test images, beside what the encoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kinfolk.data import Splits, ViewMaker
from kinfolk.graphs import KernelGraph, LabelGraph, SimilarityGraph
from kinfolk.methods import XCLRConfig
from kinfolk.report.embedding_map import unit_rows
from kinfolk.report.sample import PIXELS, TRAINED, Sample, by_class, choose
from kinfolk.train import TrainConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """A target and the learnt similarities of the same rows in the same order.

    Args:
        name: what the target is.
        target: `[n, n]`, rows normalised, zero diagonal.
        learnt: who -> cosines `[n, n]`.
        labels: `[n]` of the rows, or None.
    """

    name: str
    target: Float[np.ndarray, "n n"]
    learnt: dict[str, Float[np.ndarray, "n n"]]
    labels: Int[np.ndarray, " n"] | None


def compare_with_target(
    config: TrainConfig, splits: Splits, sample: Sample, encoder: nn.Module, *, rows: int = 60, seed: int = 0
) -> Comparison:
    """Build the target over about `rows` rows of the sample, and the cosines of the encoder and of raw pixels.

    A run with a relation has its graph over test images; a method that learns from labels has equal labels; any other
    method knows own views only, so that half as many images come in two augmented views each.
    """
    graph = _graph(config, splits, sample, by_class(choose(len(sample), rows, seed=seed), sample.labels))
    if graph is None:
        return _own_views(config, sample, encoder, images=rows // 2, seed=seed)
    name, places, relation = graph
    others = ~torch.eye(len(places), dtype=torch.bool)
    target = relation.row_normalised(others).to_dense().detach().numpy()
    learnt = {f"{who}, cosine": _cosines(features[places]) for who, features in sample.features.items()}
    return Comparison(name, target, learnt, None if sample.labels is None else sample.labels[places])


def _graph(
    config: TrainConfig, splits: Splits, sample: Sample, places: Int[np.ndarray, " k"]
) -> tuple[str, np.ndarray, SimilarityGraph] | None:
    if config.relation is not None:
        relation = config.relation.build(splits.test)
        return f"the run's relation ({config.relation.kind})", places, relation.for_batch(sample.ids[places], 1)
    if isinstance(config.method, XCLRConfig) and sample.text_embedding is not None:
        side = sample.text_embedding[places].float()
        return "similar texts", places, KernelGraph(side, temperature=config.method.graph_temperature)
    if config.method.labels_used == "all" and sample.labels is not None:
        return "equal labels", places, LabelGraph(torch.from_numpy(sample.labels[places]))
    return None


def _own_views(config: TrainConfig, sample: Sample, encoder: nn.Module, *, images: int, seed: int) -> Comparison:
    places = by_class(choose(len(sample), images, seed=seed), sample.labels)
    views = ViewMaker(config.views, seed=seed)(sample.images[places], sample.ids[places], epoch=0)[:2]
    pairs = torch.stack(views, dim=1).flatten(0, 1)  # the views of one image stand side by side
    owner = np.repeat(np.arange(len(places)), len(views))
    target = (owner[:, None] == owner).astype(np.float64) - np.eye(len(owner))
    with torch.no_grad():
        learnt = {f"{TRAINED}, cosine": _cosines(encoder(pairs)), f"{PIXELS}, cosine": _cosines(pairs)}
    labels = None if sample.labels is None else sample.labels[places][owner]
    return Comparison("own views", target, learnt, labels)


def _cosines(features: Tensor) -> Float[np.ndarray, "n n"]:
    rows = unit_rows(features)
    return rows @ rows.T
