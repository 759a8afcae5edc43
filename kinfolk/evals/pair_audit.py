"""Which captions do not belong to their images, and which other captions fit as well: what training mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinfolk.evals.neighbours import GRID, nearest, normalised

_CHANCE = 10_000

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64


@dataclass(frozen=True)
class PairAudit:
    """What is known about every pair of an image and its caption; rows in the order they were given.

    Attributes:
        similarity: cosine of the pair in the common space [n].
        agreement: how much the caption resembles those of the images that look most alike, less how much a caption
            resembles any other, as cosines of texts [n].
        suspicion: of not belonging together [n]: by how many standard deviations similarity and agreement lie below
            their means, on average of the two.
        suspected: pairs that are more probably a chance pairing than not [n].
        wrong_share: share of the pairs that is estimated to be no better than chance pairings.
        alike: pairs of rows ``(i, j)`` with different captions of which each fits the other's image as well as its own
            does, most alike first [p, 2]: to a contrast they are false negatives.
    """

    similarity: Float64[Tensor, " n"]
    agreement: Float64[Tensor, " n"]
    suspicion: Float64[Tensor, " n"]
    suspected: Bool[Tensor, " n"]
    wrong_share: float
    alike: Int64[Tensor, "p 2"]

    @property
    def order(self) -> Int64[Tensor, " n"]:
        """Rows, most suspicious first."""
        return self.suspicion.argsort(descending=True, stable=True)


def audit_pairs(
    images: Float[Tensor, "n d"],
    texts: Float[Tensor, "n d"],
    captions: Sequence[str],
    *,
    neighbours: int = 10,
    most_alike: int = 100,
) -> PairAudit:
    """Look for captions that belong elsewhere and for captions that fit each other's images.

    A model that has learnt from many pairs gives a wrong one a low similarity. It has seen that pair too, so a second
    witness is asked: the images that look most alike, by the model's image side, and whether their captions say the
    same. Neither needs to know which pairs are wrong.

    How suspicious a wrong pair is, the data themselves tell: every image is given captions of other images by chance,
    and the same two witnesses are asked. Twice the share of pairs beyond the median of those is the share of wrong
    ones (at most: what the model has not understood looks wrong too), and by the ratio of the two densities, rising in
    suspicion, every pair has a probability of being one of them.

    Args:
        images: rows of the images in the common space, such as `CLIP.encode_images` gives them.
        texts: rows of their captions.
        captions: the captions themselves.
        neighbours: images that are asked about a caption.
        most_alike: pairs of false negatives to list at most.

    Raises:
        ValueError: for fewer than three pairs, numbers of rows that differ, rows that are not finite, or no neighbours.

    Example:
        >>> rows = torch.eye(4).repeat_interleave(5, 0)
        >>> texts = rows.clone()
        >>> texts[0] = rows[-1]
        >>> audit_pairs(rows, texts, [str(i) for i in range(20)], neighbours=3).order[0]
        tensor(0)
    """
    n = len(captions)
    if n < 3 or images.shape != texts.shape or len(images) != n:
        raise ValueError(
            "an audit needs at least three pairs and a row for each image and caption; found "
            f"{tuple(images.shape)}, {tuple(texts.shape)} and {n} captions."
        )
    if neighbours < 1 or most_alike < 0:
        raise ValueError(
            f"neighbours must be at least 1 and most_alike at least 0; found {neighbours} and {most_alike}."
        )
    for side, rows in (("images", images), ("texts", texts)):
        if not bool(rows.isfinite().all()):
            raise ValueError(
                f"rows of {side} must be finite; found {int((~rows.isfinite().all(1)).sum())} that are not."
            )
    pictures, words = normalised(images), normalised(texts)
    similarity = (pictures * words).sum(1)
    _, near = nearest(pictures, pictures, k=neighbours, exclude=torch.arange(n))
    beside = torch.where((near >= 0)[..., None], words[near.clamp_min(0)], 0.0).sum(1) / (near >= 0).sum(1)[:, None]
    likely = beside - words.mean(0)
    agreement = (words * likely).sum(1)

    def suspicious(by_towers: Float64[Tensor, " m"], by_neighbours: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
        return -(_standardised(by_towers, similarity) + _standardised(by_neighbours, agreement)) / 2

    suspicion = suspicious(similarity, agreement)
    i, j = _chance_pairings(captions)
    chance = suspicious((pictures[i] * words[j]).sum(1), (likely[i] * words[j]).sum(1))
    suspected, share = _as_by_chance(suspicion, chance)
    return PairAudit(
        similarity,
        agreement,
        suspicion,
        suspected,
        share,
        _alike(pictures, words, similarity, captions, most_alike),
    )


def detection(found: Bool[Tensor, " n"], suspicion: Float[Tensor, " n"], wrong: Bool[Tensor, " n"]) -> dict[str, float]:
    """How well suspicion finds the pairs that are wrong.

    Args:
        found: which pairs were suspected.
        suspicion: of every pair.
        wrong: which pairs are wrong in truth.

    Returns:
        `precision` and `recall` of those suspected, the `average precision` of the order, and the precision among as
        many of the first as are wrong, `precision at the true number`; NaN where nothing is suspected, or wrong.

    Example:
        >>> wrong = torch.tensor([True, False, False])
        >>> detection(wrong, torch.tensor([0.9, 0.1, 0.2]), wrong)["recall"]
        1.0
    """
    right = (found & wrong).sum().item()
    order = wrong[suspicion.argsort(descending=True, stable=True)].double()
    total = int(wrong.sum())
    hits = order.cumsum(0) / torch.arange(1, len(order) + 1)
    return {
        "precision": right / int(found.sum()) if found.any() else float("nan"),
        "recall": right / total if total else float("nan"),
        "average precision": float((hits * order).sum() / total) if total else float("nan"),
        "precision at the true number": float(order[:total].mean()) if total else float("nan"),
    }


def _standardised(values: Float64[Tensor, " m"], known: Float64[Tensor, " n"]) -> Float64[Tensor, " m"]:
    return (values - known.mean()) / known.std().clamp_min(1e-12)


def _chance_pairings(captions: Sequence[str]) -> tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]]:
    """Rows of images and of other captions than theirs, some ten thousand or five for each image."""
    n = len(captions)
    number = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    said = torch.tensor([number[caption] for caption in captions])
    generator = torch.Generator().manual_seed(0)
    rounds = max(5, -(-_CHANCE // n))
    i = torch.arange(n).repeat(rounds)
    j = torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])
    other = said[i] != said[j]
    return i[other], j[other]


def _as_by_chance(suspicion: Float64[Tensor, " n"], chance: Float64[Tensor, " m"]) -> tuple[Bool[Tensor, " n"], float]:
    """Which pairs are more probably one of the chance pairings than not, and what share of all pairs is."""
    from sklearn.isotonic import IsotonicRegression

    if not len(chance):  # one caption for all
        return torch.zeros(len(suspicion), dtype=torch.bool), 0.0
    share = min(1.0, 2 * (suspicion > chance.median()).double().mean().item())
    pooled = torch.cat([suspicion, chance]).numpy()
    by_chance = np.repeat([0.0, 1.0], [len(suspicion), len(chance)])
    of_pooled = torch.from_numpy(IsotonicRegression().fit(pooled, by_chance).predict(suspicion.numpy()))
    ratio = of_pooled / (1 - of_pooled).clamp_min(1e-12) * len(suspicion) / len(chance)
    return share * ratio > 0.5, share


def _alike(
    pictures: Float64[Tensor, "n d"],
    words: Float64[Tensor, "n d"],
    similarity: Float64[Tensor, " n"],
    captions: Sequence[str],
    most: int,
) -> Int64[Tensor, "p 2"]:
    """Mutual fits of different captions, the first pair of every two captions."""
    near, which = nearest(pictures, words, k=min(50, len(words)))
    least = ((similarity / GRID).round() * GRID).tolist()  # ties count, and neighbours' cosines are on that grid
    found: dict[tuple[str, str], tuple[float, int, int]] = {}
    fits = {
        (i, j): value
        for i, (values, columns) in enumerate(zip(near.tolist(), which.tolist(), strict=True))
        for value, j in zip(values, columns, strict=True)
        if j >= 0 and captions[i] != captions[j] and value >= least[i]
    }
    for (i, j), value in fits.items():
        if i < j and (j, i) in fits:
            names = (min(captions[i], captions[j]), max(captions[i], captions[j]))
            both = min(value, fits[j, i])
            if names not in found or both > found[names][0]:
                found[names] = (both, i, j)
    best = sorted(found.values(), key=lambda one: (-one[0], one[1], one[2]))[:most]
    return torch.tensor([[i, j] for _, i, j in best], dtype=torch.int64).reshape(-1, 2)
