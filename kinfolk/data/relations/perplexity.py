"""The temperature at which targets pull to a wanted number of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kinfolk.data.counter import counter_generator
from kinfolk.data.relations.sharpness import mean_of_targets, same_rows, sharpness_of_rows
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from kinfolk.data.relations.base import Relation

_BATCHES = 4


@dataclass(frozen=True)
class BatchSimilarities:
    """What a relation says about a batch's rows, before a temperature makes weights of it.

    Attributes:
        values: float64 ``[r, n]``, up to a constant per row; -inf at a row's own place and where nothing relates.
        same: name -> ``[r, n]``, which columns are of the own sample, and of the own class where classes are known.
    """

    values: Float[Tensor, "r n"]
    same: dict[str, Bool[Tensor, "r n"]]

    def perplexity(self, unit: float) -> float:
        """Return the mean perplexity of the targets that ``exp(values / unit)`` gives."""
        return mean_of_targets(sharpness_of_rows(self.values / unit, {})["perplexity"])

    def sharpness(self, unit: float) -> dict[str, Float[Tensor, " r"]]:
        """Describe the targets that ``exp(values / unit)`` gives, row by row; see `sharpness_of_rows`."""
        return sharpness_of_rows(self.values / unit, self.same)


@torch.no_grad()
def batch_similarities(
    relation: Relation, ids: Int[Tensor, " b"], views: int, *, rows: int | None = None
) -> BatchSimilarities:
    """Return a batch's similarities, as a relation sees them at any temperature.

    Args:
        relation: one whose weights are ``exp(similarity / relation.unit)``, or one without a temperature.
        ids: of the batch.
        views: as in training.
        rows: how many rows to look at, from the first; None takes all.

    Example:
        >>> from kinfolk.data.relations import SideEmbeddings
        >>> relation = SideEmbeddings(torch.arange(2), torch.eye(2), temperature=0.1)
        >>> batch_similarities(relation, torch.arange(2), 1).values
        tensor([[-inf, 0.],
                [0., -inf]], dtype=torch.float64)
    """
    samples = ids.repeat(views)
    n = len(samples)
    span = (0, n if rows is None else min(rows, n))
    graph = relation.for_batch(ids, views).resolve(samples)
    # The target without the row itself: a mixture's parts are normalised over the other rows before they are added.
    logs = graph.row_normalised(PairMask.exclude_self(n)).log_weights(span, (0, n)).double()
    return BatchSimilarities(logs * relation.unit, same_rows(samples, relation.classes_of(samples), span))


def temperature_for_perplexity(
    relation: Relation, ids: Int[Tensor, " b"], views: int, *, perplexity: float, steps: int = 60
) -> float:
    """Find the temperature at which a batch's targets have a wanted perplexity.

    The perplexity grows with the temperature, from the number of a row's nearest rows to the number of all others, so
    bisection finds it. It also grows with the batch: ask with a batch of the size that training uses. Good targets
    have 5 to 30.

    Args:
        relation: at any temperature.
        ids: a typical batch.
        views: as in training.
        perplexity: the wanted one.
        steps: of the bisection.

    Returns:
        A temperature in the relation's range, 1e-4 to 1e4 unless it says otherwise.

    Raises:
        ValueError: when no temperature gives that perplexity; the message says what is possible.

    Example:
        >>> from kinfolk.data.relations import SideEmbeddings
        >>> angles = torch.linspace(0, 3, 40)
        >>> relation = SideEmbeddings(torch.arange(40), torch.stack([angles.cos(), angles.sin()], 1), temperature=1.0)
        >>> temperature = temperature_for_perplexity(relation, torch.arange(40), 2, perplexity=10)
        >>> round(relation.with_temperature(temperature).summary(torch.arange(40), 2)["perplexity"], 3)
        10.0
    """
    batch = batch_similarities(relation, ids, views)
    return temperature_at(
        relation, [batch], perplexity=perplexity, steps=steps, batch=f"{len(ids)} samples with {views} views"
    )


def temperature_at(
    relation: Relation, batches: Sequence[BatchSimilarities], *, perplexity: float, batch: str, steps: int = 20
) -> float:
    """Find the temperature at which several batches' targets have a wanted perplexity in the mean.

    Args:
        relation: whose similarities they are; its `temperatures` are the range that is searched.
        batches: from `batch_similarities`.
        perplexity: the wanted one.
        batch: what a batch is, in words, for the message.
        steps: of the bisection, on the logarithm of the temperature; 20 find it to a part in 50,000.

    Raises:
        ValueError: when no temperature gives that perplexity; the message says what is possible.

    Example:
        >>> from kinfolk.data.relations import SideEmbeddings
        >>> relation = SideEmbeddings(torch.arange(6), torch.eye(6), temperature=1.0)
        >>> batch = batch_similarities(relation, torch.arange(6), 2)
        >>> softer = temperature_at(relation, [batch], perplexity=5, batch="6 samples")
        >>> temperature_at(relation, [batch], perplexity=3, batch="6 samples") < softer
        True
    """

    def at(log_temperature: float) -> float:
        unit = relation.with_temperature(10.0**log_temperature).unit
        return sum(batch.perplexity(unit) for batch in batches) / len(batches)

    low, high = (math.log10(end) for end in relation.temperatures)
    least, most = at(low), at(high)
    if not least <= perplexity <= most:
        raise ValueError(
            f"perplexity {perplexity:g} cannot be reached: {batch} give {least:.3g} to {most:.3g};"
            " take another batch size, or another value"
        )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < perplexity else (low, middle)
    return 10.0 ** ((low + high) / 2)


def typical_batches(
    ids: Int[Tensor, " N"], batch_size: int, *, seed: int, count: int = _BATCHES
) -> list[Int[Tensor, " b"]]:
    """Draw batches by seed, each without repeats; a data set smaller than a batch gives itself, once.

    Example:
        >>> [len(batch) for batch in typical_batches(torch.arange(9), 4, seed=0)], len(
        ...     typical_batches(torch.arange(3), 4, seed=0)
        ... )
        ([4, 4, 4, 4], 1)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; found {batch_size}")
    if batch_size >= len(ids):
        return [ids]
    orders = (torch.randperm(len(ids), generator=counter_generator(seed, i)) for i in range(count))
    return [ids[order[:batch_size].to(ids.device)] for order in orders]


def check_temperature(temperature: float) -> None:
    """Validate a temperature: a number above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; found {temperature}")


def check_perplexity(perplexity: float | None) -> None:
    """Validate a wanted perplexity: None, or a number above 1."""
    if perplexity is not None and not perplexity > 1:
        raise ValueError(f"perplexity counts the rows that a row is pulled to, above 1; found {perplexity}")
