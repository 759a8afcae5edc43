"""A relation looked at before training: how sharp its targets are, whom it relates, which temperature to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator
from kinfolk.data.relations.base import Relation
from kinfolk.data.relations.known import check_source
from kinfolk.data.relations.perplexity import BatchSimilarities, batch_similarities, temperature_at, typical_batches
from kinfolk.data.relations.sharpness import mean_of_targets
from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PERPLEXITIES = (5.0, 10.0, 20.0, 30.0)
_SAMPLES = 2048  # whose pairs are looked at
_ROWS = 512  # of a batch


@dataclass(frozen=True)
class Sharpness:
    """How sharp the targets are at one temperature, over the rows of typical batches.

    Attributes:
        temperature: None for a relation without one.
        perplexity: mean number of rows that a row is pulled to, e^H.
        low: its 5 % quantile.
        median: of the perplexity.
        high: its 95 % quantile.
        own_sample_mass: share of the target on other views of the same sample.
        own_class_mass: share on rows of the same class; None without labels.
        without_target: share of rows that relate to no other row.
    """

    temperature: float | None
    perplexity: float
    low: float
    median: float
    high: float
    own_sample_mass: float
    own_class_mass: float | None
    without_target: float


@dataclass(frozen=True)
class Suggestion:
    """The temperature for a wanted perplexity; `found` is None where no temperature gives it.

    Attributes:
        perplexity: wanted.
        found: the temperature, with the masses there.
        why_not: why there is none.
    """

    perplexity: float
    found: Sharpness | None
    why_not: str = ""


@dataclass(frozen=True)
class Pair:
    """Two samples and how strongly they relate.

    Attributes:
        positions: in the source.
        ids: of the samples.
        below_own: how much weaker the relation is than a sample's relation to itself, in units of the similarity that
            the temperature divides; 0 = as strong, infinite = unrelated.
        captions: where the source has them.
    """

    positions: tuple[int, int]
    ids: tuple[int, int]
    below_own: float
    captions: tuple[str, str] | None = None


@dataclass(frozen=True)
class GraphInspection:
    """What `inspect_graph` found.

    Attributes:
        name: of the source.
        about: what the relation was made from.
        samples: of the source.
        batch_size: of the batches looked at, smaller where the source is.
        views: of each sample.
        unrelated: share of pairs of different samples whose weight is 0.
        now: sharpness as the relation is.
        curve: sharpness at several temperatures, ascending; empty for a relation without one.
        suggestions: temperatures for good perplexities; empty for a relation without one.
        perplexities: of the single rows, as the relation is.
        most_related: pairs of different samples, strongest first, each sample or caption at most once.
        least_related: weakest first, each sample or caption at most once.
        repeated_captions: caption -> ids, the most frequent first; those that occur once are left out.
        captions: distinct ones, or None without captions.
    """

    name: str
    about: str
    samples: int
    batch_size: int
    views: int
    unrelated: float
    now: Sharpness
    curve: tuple[Sharpness, ...]
    suggestions: tuple[Suggestion, ...]
    perplexities: Float[np.ndarray, " r"]
    most_related: tuple[Pair, ...]
    least_related: tuple[Pair, ...]
    repeated_captions: dict[str, tuple[int, ...]]
    captions: int | None


def inspect_graph(
    source: Source,
    relation: Relation,
    *,
    batch_size: int = 256,
    views: int = 2,
    temperatures: Sequence[float] | None = None,
    pairs: int = 8,
    seed: int = 0,
) -> GraphInspection:
    """Look at a relation as training with these batches would see it; no image is read.

    Args:
        source: that the relation was built over.
        relation: one that waits for a perplexity is settled first.
        batch_size: samples in a batch of training, over all ranks.
        views: of each sample.
        temperatures: where to look; by default the suggestions and twelve more, from a quarter to four times theirs.
        pairs: how many of the most and least related pairs to list.
        seed: of the batches and of the 2,048 samples among which pairs are looked for.

    Raises:
        TypeError: for a stream.
        ValueError: when the relation was built over other samples.

    Example:
        >>> from kinfolk.data import ClassTableConfig, DigitsConfig
        >>> source = DigitsConfig().load().train
        >>> found = inspect_graph(source, ClassTableConfig(temperature=0.3).build(source))
        >>> round(found.now.own_class_mass, 1), [s.found is None for s in found.suggestions]
        (0.8, [True, True, True, True])
    """
    check_source(source, needed_for="the inspection of a graph")
    relation = relation.settled(batch_size=batch_size, views=views, seed=seed)
    drawn = typical_batches(source.ids, batch_size, seed=seed)
    batches = [batch_similarities(relation, ids, views, rows=_ROWS) for ids in drawn]
    perplexities, now = _sharpness(relation, batches)
    suggestions: tuple[Suggestion, ...] = ()
    curve: tuple[Sharpness, ...] = ()
    if relation.has_temperature:
        words = f"{len(drawn[0])} samples with {views} views"
        suggestions = tuple(_suggestion(relation, batches, wanted, words) for wanted in PERPLEXITIES)
        grid = _grid(relation, suggestions) if temperatures is None else sorted(temperatures)
        curve = tuple(_sharpness(relation.with_temperature(t), batches)[1] for t in grid)
    unrelated, most, least = _pairs(source, relation, count=pairs, seed=seed)
    repeated, distinct = _captions(source)
    return GraphInspection(
        name=source.name,
        about=relation.about or type(relation).__name__,
        samples=len(source),
        batch_size=len(drawn[0]),
        views=views,
        unrelated=unrelated,
        now=now,
        curve=curve,
        suggestions=suggestions,
        perplexities=perplexities,
        most_related=most,
        least_related=least,
        repeated_captions=repeated,
        captions=distinct,
    )


def _sharpness(relation: Relation, batches: Sequence[BatchSimilarities]) -> tuple[Float[np.ndarray, " r"], Sharpness]:
    """Perplexities of the rows that have a target, and the summary of all rows."""
    found = [batch.sharpness(relation.unit) for batch in batches]
    rows = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    empty = rows["perplexity"].isnan()
    known = rows["perplexity"][~empty].numpy()
    low, median, high = np.quantile(known, [0.05, 0.5, 0.95]).tolist() if len(known) else [0.0] * 3
    return known, Sharpness(
        relation.temperature if relation.has_temperature else None,
        mean_of_targets(rows["perplexity"]),
        low,
        median,
        high,
        own_sample_mass=mean_of_targets(rows["own_sample_mass"]),
        own_class_mass=mean_of_targets(rows["own_class_mass"]) if "own_class_mass" in rows else None,
        without_target=float(empty.double().mean()) if len(empty) else 0.0,
    )


def _suggestion(relation: Relation, batches: Sequence[BatchSimilarities], perplexity: float, words: str) -> Suggestion:
    try:
        found = temperature_at(relation, batches, perplexity=perplexity, batch=words)
    except ValueError as error:
        return Suggestion(perplexity, None, str(error))
    return Suggestion(perplexity, _sharpness(relation.with_temperature(found), batches)[1])


def _grid(relation: Relation, suggestions: Sequence[Suggestion]) -> list[float]:
    """Temperatures around those that are suggested, where the targets change from one-hot to flat."""
    useful = [s.found.temperature for s in suggestions if s.found is not None and s.found.temperature is not None]
    low, high = (min(useful), max(useful)) if useful else (relation.temperature, relation.temperature)
    return sorted({*np.geomspace(low / 4, high * 4, 12).tolist(), *useful})


def _pairs(
    source: Source, relation: Relation, *, count: int, seed: int
) -> tuple[float, tuple[Pair, ...], tuple[Pair, ...]]:
    """Share of unrelated pairs, and the ends of the list of pairs, among a draw of samples."""
    order = torch.randperm(len(source), generator=counter_generator(seed, len(source)))[:_SAMPLES]
    if len(order) < 2:
        return 0.0, (), ()
    ids = source.ids[order]
    n = len(ids)
    graph = relation.for_batch(ids, 1).resolve(ids)
    logs = graph.log_weights((0, n), (0, n)).double()
    below = logs.diagonal()[:, None] - logs  # weights are known up to a factor per row
    below = torch.where(logs == -torch.inf, torch.inf, below * relation.unit)
    upper = torch.ones(n, n, dtype=torch.bool).triu(1)
    unrelated = float((below[upper] == torch.inf).double().mean())
    text = source.text
    number = {} if text is None else {text[i]: place for place, i in enumerate(order.tolist())}
    kinds = torch.arange(n) if text is None else torch.tensor([number[text[i]] for i in order.tolist()])
    different = upper & (kinds[:, None] != kinds)
    most = _ends(below.where(different & (below < torch.inf), torch.nan), kinds, count, largest=False)
    least = _ends(below.where(upper, torch.nan), kinds, count, largest=True)

    def pair(i: int, j: int) -> Pair:
        a, b = int(order[i]), int(order[j])
        said = None if text is None else (text[a], text[b])
        return Pair((a, b), (int(ids[i]), int(ids[j])), float(below[i, j]), said)

    return unrelated, tuple(pair(*p) for p in most), tuple(pair(*p) for p in least)


def _ends(
    values: Float[Tensor, "n n"], kinds: Int[Tensor, " n"], count: int, *, largest: bool
) -> list[tuple[int, int]]:
    """Pairs with the largest or smallest values, each kind of sample once; NaN leaves a pair out."""
    flat = values.flatten()
    listed = (~flat.isnan()).numpy()
    flat = flat.nan_to_num(nan=-1.0 if largest else torch.inf, posinf=torch.finfo(flat.dtype).max)
    kind = kinds.tolist()
    found: list[tuple[int, int]] = []
    taken: set[int] = set()
    for place in flat.argsort(descending=largest, stable=True).tolist():
        if len(found) == count:
            break
        i, j = divmod(place, len(values))
        if listed[place] and not {kind[i], kind[j]} & taken:
            found.append((i, j))
            taken |= {kind[i], kind[j]}
    return found


def _captions(source: Source) -> tuple[dict[str, tuple[int, ...]], int | None]:
    if source.text is None:
        return {}, None
    by_caption: dict[str, list[int]] = {}
    for caption, sample in zip(source.text, source.ids.tolist(), strict=True):
        by_caption.setdefault(caption, []).append(sample)
    repeated = sorted((item for item in by_caption.items() if len(item[1]) > 1), key=lambda item: -len(item[1]))
    return {caption: tuple(ids) for caption, ids in repeated}, len(by_caption)
