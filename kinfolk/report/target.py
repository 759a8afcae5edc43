"""The target graph that a run's method matched, on a few test images, beside what the model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kinfolk.data import ClassNamesConfig, ClassTable, ClassTableConfig, Relation, Splits
from kinfolk.data.views.groups import of_images_alone, of_whole_images
from kinfolk.data.views.table import make_views, unaugmented
from kinfolk.graphs import KernelGraph, LabelGraph, SimilarityGraph
from kinfolk.methods import XCLRConfig
from kinfolk.report.embedding_map import unit_rows
from kinfolk.report.sample import Sample, by_class, choose
from kinfolk.train import TrainConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

OWN_VIEWS = "own views"


@dataclass(frozen=True)
class Comparison:
    """A target and the learnt similarities of the same rows in the same order.

    Args:
        name: what the target is.
        target: `[n, n]`, the graph's weights relative to the largest, zero diagonal. Rows are not normalised, since
            ranks are compared across rows and a small class would outweigh a large one.
        learnt: who -> cosines `[n, n]`.
        labels: `[n]` of the rows, or None.
    """

    name: str
    target: Float[np.ndarray, "n n"]
    learnt: dict[str, Float[np.ndarray, "n n"]]
    labels: Int[np.ndarray, " n"] | None


def compare_with_target(
    config: TrainConfig,
    splits: Splits,
    sample: Sample,
    modules: Mapping[str, nn.Module],
    *,
    rows: int = 60,
    seed: int = 0,
) -> Comparison:
    """Build the target over about `rows` rows of the sample, and each module's cosines between them.

    A run with a relation has its graph over test images; a method that learns from labels has equal labels; any other
    method knows own views only, so that half as many images come in two augmented views each.

    Args:
        config: of the run.
        splits: its data.
        sample: test images.
        modules: who -> a module in eval mode from float images to `[n, d]`.
        rows: how many rows, fewer where the sample is smaller.
        seed: of the choice and of the views.

    Raises:
        ValueError: the run's relation does not know the test images.
    """
    places = by_class(choose(len(sample), rows, seed=seed), sample.labels)
    found = _graph(config, splits, sample, places)
    if found is None:
        places = by_class(choose(len(sample), rows // 2, seed=seed), sample.labels)
        images, places = _pairs_of_views(config, splits, sample, places, seed=seed)
        found = OWN_VIEWS, LabelGraph(torch.from_numpy(places))  # rows of one image relate
    else:
        images = unaugmented(sample.images[places])
    name, graph = found
    with torch.no_grad():
        learnt = {who: _cosines(module(images)) for who, module in modules.items()}
    return Comparison(name, _weights(graph), learnt, None if sample.labels is None else sample.labels[places])


def _graph(
    config: TrainConfig, splits: Splits, sample: Sample, places: Int[np.ndarray, " k"]
) -> tuple[str, SimilarityGraph] | None:
    if config.relation is not None:
        relation = _relation_over_test(config, splits)
        return f"{config.relation.kind} relation", relation.for_batch(sample.ids[places], 1).resolve(sample.ids[places])
    if isinstance(config.method, XCLRConfig) and sample.text_embedding is not None:
        side = sample.text_embedding[places].float()
        return "similar texts", KernelGraph(side, temperature=config.method.graph_temperature)
    if config.method.labels_used == "all" and sample.labels is not None:
        return "equal labels", LabelGraph(torch.from_numpy(sample.labels[places]))
    return None


def _relation_over_test(config: TrainConfig, splits: Splits) -> Relation:
    assert config.relation is not None
    trained = config.relation.build(splits.train)
    trained = trained.settled(batch_size=min(config.batch_size, len(splits.train)), views=config.views.count)
    of_classes = isinstance(config.relation, ClassTableConfig | ClassNamesConfig) or _by_synsets(config.relation)
    if of_classes and isinstance(trained, ClassTable) and splits.test.labels is not None:
        # the table may be made of the training images
        return ClassTable(splits.test.ids, splits.test.labels, trained.similarities, trained.temperature)
    over_test = config.relation.build(splits.test)
    if over_test.has_temperature:
        return over_test.with_temperature(trained.temperature)
    return over_test.settled(batch_size=min(config.batch_size, len(splits.test)), views=config.views.count)


def _by_synsets(relation: object) -> bool:
    return getattr(relation, "wordnet", None) is not None


def _pairs_of_views(
    config: TrainConfig, splits: Splits, sample: Sample, places: Int[np.ndarray, " k"], *, seed: int
) -> tuple[Float[Tensor, "n c h w"], Int[np.ndarray, " n"]]:
    """Two views of every image that the whole encoder takes, side by side, and which image each row shows."""
    maker = make_views(of_whole_images(of_images_alone(config.views)), splits.train, seed=seed)
    views = maker(sample.images[places], sample.ids[places], epoch=0)[:2]
    return torch.stack(views, dim=1).flatten(0, 1), np.repeat(places, len(views))


@torch.no_grad()
def _weights(graph: SimilarityGraph) -> Float[np.ndarray, "n n"]:
    n, m = graph.shape
    logs = graph.log_weights((0, n), (0, m)).double().clone().fill_diagonal_(-torch.inf)
    return (logs - logs.max().clamp(min=torch.finfo(logs.dtype).min)).exp().numpy()


def _cosines(features: Tensor) -> Float[np.ndarray, "n n"]:
    rows = unit_rows(features)
    return rows @ rows.T
