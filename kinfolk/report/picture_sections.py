"""The report's sections about images: map, neighbours, target graph, and the weights of a CACR loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kinfolk.data.sources.table import is_table
from kinfolk.data.views.table import make_views
from kinfolk.methods import CACR
from kinfolk.report.embedding_map import draw_map, embed_2d
from kinfolk.report.material import Material
from kinfolk.report.neighbours import block_title, draw_neighbours, nearest, same_class
from kinfolk.report.page import Section, figure_html, missing_html, paragraph_html
from kinfolk.report.reliability import write_reliability
from kinfolk.report.sample import Sample, by_class, choose, neighbour_agreement
from kinfolk.report.similarities import draw_similarities, rank_agreement
from kinfolk.report.target import OWN_VIEWS, compare_with_target
from kinfolk.report.text_sections import plain_value
from kinfolk.report.weights import draw_weights

if TYPE_CHECKING:
    from jaxtyping import Float

_QUERIES, _NEIGHBOURS, _GRAPH_ROWS = 10, 8, 60
_WEIGHT_QUERIES, _WEIGHT_SAMPLES = 5, 256


def calibration_section(material: Material) -> Section | None:
    """How often the linear head is right by how sure it is; None where calibration was not measured."""
    records = [record for row in material.rows for record in row.records.values()]
    if not any(record["protocol"] == "calibration" for record in records):
        return None
    png = write_reliability(records, material.folder / "reliability.png")
    caption = "Accuracy by confidence of the linear head, as fitted and with one temperature."
    return Section("calibration", "Calibration", figure_html(png, alt="Reliability diagram.", caption=caption))


def map_section(material: Material) -> Section:
    """The test images where t-SNE places the trained encoder's features, beside raw pixels."""
    title, sample = "Map of the test set", material.sample
    if sample is None:
        return Section("map", title, missing_html(material.no_sample()))
    points = {map_title(sample, name): embed_2d(rows, seed=material.seed) for name, rows in sample.features.items()}
    png = draw_map(
        points,
        None if sample.is_table else sample.images,
        material.folder / "map.png",
        labels=sample.labels,
        class_names=sample.class_names,
        seed=material.seed,
    )
    kind = "row" if sample.is_table else "image"
    alt = f"{len(sample)} test {kind}s placed by t-SNE, one map each: {'; '.join(points)}."
    caption = (
        f"{len(sample):,} of {len(material.splits.test):,} test {kind}s, drawn by seed, placed by t-SNE of their"
        f" unit-length features. Each dot is {'a row' if sample.is_table else 'an image'}"
        f"{'' if sample.is_table else '; thumbnails stand where there is room'}."
    )
    return Section("map", title, figure_html(png, alt=alt, caption=caption))


def map_title(sample: Sample, name: str, *, between: str = ": ") -> str:
    """Return a map's title with the share of images whose nearest neighbour has their class, where that is known."""
    share = neighbour_agreement(sample, name)
    return name if share is None else f"{name}{between}same-class nearest neighbour {100 * share:.1f} %"


def neighbours_section(material: Material) -> Section:
    """Queries and their nearest test images, by the trained encoder and by raw pixels."""
    title, sample = "Nearest neighbours", material.sample
    if sample is None:
        return Section("neighbours", title, missing_html(material.no_sample()))
    if len(sample) < 2:
        return Section("neighbours", title, missing_html("The test set has one sample, so it has no neighbour."))
    if sample.is_table:
        shares = ", ".join(map_title(sample, name) for name in sample.features)
        words = f"Rows of a table have no picture to show. Over {len(sample):,} test rows, by cosine: {shares}."
        return Section("neighbours", title, paragraph_html(words))
    queries = by_class(choose(len(sample), _QUERIES, seed=material.seed + 1), sample.labels)
    found = {name: nearest(rows, queries, k=_NEIGHBOURS) for name, rows in sample.features.items()}
    png = draw_neighbours(
        sample.images,
        found,
        material.folder / "neighbours.png",
        queries=queries,
        labels=sample.labels,
        class_names=sample.class_names,
    )
    labels = sample.labels
    right = {name: None if labels is None else same_class(rows, queries, labels) for name, rows in found.items()}
    counts = "; ".join(block_title(name, hits) for name, hits in right.items())
    caption = (
        f"{len(queries)} queries drawn by seed and their {_NEIGHBOURS} nearest of {len(sample):,} test images, by"
        " cosine. A few rows illustrate; the evaluation counts all of them."
    )
    return Section("neighbours", title, figure_html(png, alt=f"Rows of neighbours. {counts}.", caption=caption))


def graph_section(material: Material) -> Section:
    """What the method asked for between test images, beside the similarities that came out."""
    title, sample = "Target graph and learnt similarities", material.sample
    if sample is None or material.encoder is None:
        return Section("graph", title, missing_html(material.no_sample()))
    if len(sample) < 2:
        return Section("graph", title, missing_html("The test set has one sample, so it has no pair to compare."))
    try:
        found = compare_with_target(
            material.config, material.splits, sample, _modules(material), rows=_GRAPH_ROWS, seed=material.seed
        )
    except ValueError as error:  # side embeddings may cover the training images alone
        return Section("graph", title, missing_html(f"The target cannot be built over test images: {error}"))
    png = draw_similarities(
        found.target,
        found.learnt,
        material.folder / "graph.png",
        target_name=found.name,
        labels=found.labels,
        class_names=sample.class_names,
    )
    ranks = {name: rank_agreement(found.target, matrix) for name, matrix in found.learnt.items()}
    said = "; ".join(f"{name} {'not defined' if rank is None else f'{rank:+.2f}'}" for name, rank in ranks.items())
    caption = (
        f"Left, what the method asks for between {len(found.target)} rows ({found.name}); right, the cosines that came"
        f" out, beside those of {sample.raw}. Rank correlation with the target off the diagonal: {said}."
    )
    if found.name == OWN_VIEWS:
        caption += (
            " The target knows pairs of views only, so that this number is small by nature; blocks along the diagonal"
            " are classes that it never named."
        )
    alt = f"Matrices of the target graph and of similarities. Rank correlation with the target: {said}."
    return Section("graph", title, figure_html(png, alt=alt, caption=caption) + _logged_relation(material))


def _modules(material: Material) -> dict[str, nn.Module]:
    """Who is asked for similarities: the projections that the loss compares, or else the encoder, and raw pixels."""
    assert material.encoder is not None
    assert material.sample is not None
    pixels: dict[str, nn.Module] = {f"{material.sample.raw}, cosine": nn.Flatten()}
    head = getattr(material.method, "head", None)
    if material.method is None or not isinstance(head, nn.Module):
        return {"encoder output, cosine": material.encoder, **pixels}
    return {"learnt projections, cosine": nn.Sequential(material.method.encoder, head), **pixels}


def _logged_relation(material: Material) -> str:
    logged = {name: value for name, value in material.last("relation").items() if name not in ("event", "step")}
    if not logged:
        return ""
    values = ", ".join(f"{name.replace('_', ' ')} {plain_value(value)}" for name, value in logged.items())
    return paragraph_html(f"The target over the first training batch: {values}.")


def weights_section(material: Material) -> Section:
    """What pulls and what pushes some training images in a CACR run, by the loss of its newest checkpoint."""
    title, source, config = "What attracts and what repels", material.splits.train, material.config
    if (method := material.method) is None:
        return Section("weights", title, missing_html("The run has no checkpoint to compute the weights from."))
    assert isinstance(method, CACR)
    if is_table(source):
        return Section("weights", title, paragraph_html("Rows of a table have no picture to show with their weights."))
    count = min(_WEIGHT_SAMPLES, config.batch_size, len(source))
    batch = source.fetch(choose(len(source), count, seed=material.seed))
    views = make_views(config.views, source, seed=material.seed).of_batch(batch, epoch=0)
    with torch.no_grad():
        attraction, repulsion = method.loss.weights([method.head(method.encoder(view)) for view in views])
    queries = choose(count, _WEIGHT_QUERIES, seed=material.seed + 2)
    png = draw_weights(views, attraction[0], repulsion[0], material.folder / "weights.png", queries=queries)
    caption = (
        f"{len(queries)} of {count} training images, drawn by seed, in {len(views)} augmented views. Attraction should"
        " fall on the farthest views, repulsion on the nearest other images. Mean entropy of the repulsion weights:"
        f" {_relative_entropy(repulsion[0]):.2f} of uniform weights'."
    )
    alt = "Queries, their positives with attraction weights, and the most and least repelling images with theirs."
    return Section("weights", title, figure_html(png, alt=alt, caption=caption))


def _relative_entropy(weights: Float[Tensor, "n n"]) -> float:
    return float(torch.special.entr(weights.double()).sum(1).mean()) / math.log(max(len(weights) - 1, 2))
