"""Cheap numbers that show whether a run is healthy; detached, and not comparable between methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk import distributed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64


@torch.no_grad()
def projection_health(views: Sequence[Float[Tensor, "n d"]]) -> dict[str, Float[Tensor, ""]]:
    """Return the terms that every method reports about its projections.

    Args:
        views: the projections of each view, two views or more.

    Returns:
        `positive_cosine`, see `positive_cosine`; `participation_ratio`, see `participation_ratio`, over all rows.

    Example:
        >>> terms = projection_health([torch.eye(4), torch.eye(4)])
        >>> {name: round(float(value), 3) for name, value in terms.items()}
        {'positive_cosine': 1.0, 'participation_ratio': 3.0}
    """
    stacked = torch.stack([view.float() for view in views])
    return {
        "positive_cosine": positive_cosine(stacked),
        "participation_ratio": participation_ratio(stacked.flatten(0, 1)),
    }


@torch.no_grad()
def positive_cosine(views: Float[Tensor, "v n d"]) -> Float[Tensor, ""]:
    """Return the mean cosine between two different views of the same sample, in [-1, 1].

    It rises towards 1 in training; at 1 from the start the augmentation does nothing, or everything has collapsed.

    Example:
        >>> positive_cosine(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])).item()
        0.0
    """
    count = len(views)
    unit = F.normalize(views, dim=2)
    # sum over v != u of <z_v, z_u> = |sum_v z_v|^2 - sum_v |z_v|^2
    pairs = unit.sum(0).square().sum(1) - unit.square().sum((0, 2))
    return pairs.mean() / (count * (count - 1))


@torch.no_grad()
def participation_ratio(rows: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Return how many directions the unit rows occupy: `(tr C)^2 / tr C^2` of their covariance C, from 1 to d.

    The order-2 form of the effective rank: it costs one product, takes no eigenvalues and lets NaN through. Close to
    1 the projections have collapsed onto a line; rows that are all equal give 0.

    Example:
        >>> participation_ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).item()
        2.0
    """
    unit = F.normalize(rows, dim=1)
    centred = unit - unit.mean(0)
    covariance = centred.T @ centred / len(rows)
    spread = covariance.trace()
    # Below this, what is left of equal unit rows is rounding.
    return torch.where(spread < 1e-10, torch.zeros_like(spread), spread.square() / covariance.square().sum())


@torch.no_grad()
def labelled_accuracy(logits: Float[Tensor, "m k"], labels: Int64[Tensor, " m"]) -> Float[Tensor, ""]:
    """Return the share of labelled rows whose largest logit is their class's, 0 where there are none.

    Over several processes the mean of what they return is the share in the whole batch.

    Args:
        logits: of every row.
        labels: of every row, -1 being none.

    Example:
        >>> labelled_accuracy(torch.eye(4), torch.tensor([0, 1, 0, -1]))
        tensor(0.6667)
    """
    known = labels >= 0
    return share((logits.argmax(1) == labels) & known, known)


@torch.no_grad()
def share(part: Bool[Tensor, " m"], whole: Bool[Tensor, " m"]) -> Float[Tensor, ""]:
    """Return the share of the rows of `whole` that are in `part`, 0 where there are none.

    Over several processes the mean of what they return is the share in the whole batch.

    Example:
        >>> share(torch.tensor([True, False, False]), torch.tensor([True, True, False]))
        tensor(0.5000)
    """
    rows = distributed.all_reduce(whole.sum()) / distributed.world_size()
    return part.sum() / torch.where(rows > 0, rows, 1.0)


@torch.no_grad()
def same_label_share(
    labels: Int64[Tensor, " n"] | None, found: Int64[Tensor, " n"] | Int64[Tensor, "n k"]
) -> dict[str, Float[Tensor, ""]]:
    """Return the term ``same_label``: how often what was found for a sample has its label; nothing without labels.

    Only pairs with two labels count, -1 being none; with no such pair the share is 0.

    Args:
        labels: of the samples, or None.
        found: labels of one or several rows that were found for each of them.

    Example:
        >>> same_label_share(torch.tensor([0, 1]), torch.tensor([[0, 2, -1], [1, 1, 0]]))
        {'same_label': tensor(0.6000)}
    """
    if labels is None:
        return {}
    own = labels if found.ndim == 1 else labels[:, None]
    known = (own >= 0) & (found >= 0)
    return {"same_label": ((own == found) & known).sum() / known.sum().clamp_min(1)}


@torch.no_grad()
def relative_entropy(weights: Float[Tensor, "... n n"]) -> Float[Tensor, ""]:
    """Return the mean entropy of weights over the n - 1 other samples, divided by `log(n - 1)`: in [0, 1].

    1 means that all others weigh the same, 0 that one has all the weight.

    Args:
        weights: rows sum to 1; the diagonal is 0. With n = 2 there is one other, and the value is 1.

    Example:
        >>> relative_entropy((1 - torch.eye(3)) / 2).item()
        1.0
    """
    n = weights.shape[-1]
    if n < 3:
        return weights.new_ones(())
    return torch.special.entr(weights).sum(-1).mean() / math.log(n - 1)
