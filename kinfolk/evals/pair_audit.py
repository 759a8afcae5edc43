"""Which captions do not belong to their images, and which other captions fit as well: what training mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kinfolk.evals.neighbours import nearest, normalised

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
        suspected: pairs on the far side of a mixture of two normals fitted to the suspicion [n].
        alike: pairs of rows ``(i, j)`` with different captions of which each fits the other's image as well as its own
            does, most alike first [p, 2]: to a contrast they are false negatives.
    """

    similarity: Float64[Tensor, " n"]
    agreement: Float64[Tensor, " n"]
    suspicion: Float64[Tensor, " n"]
    suspected: Bool[Tensor, " n"]
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

    Args:
        images: rows of the images in the common space, such as `CLIP.encode_images` gives them.
        texts: rows of their captions.
        captions: the captions themselves.
        neighbours: images that are asked about a caption.
        most_alike: pairs of false negatives to list at most.

    Raises:
        ValueError: for fewer than three pairs, or numbers of rows that differ.

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
    pictures, words = normalised(images), normalised(texts)
    similarity = (pictures * words).sum(1)
    _, near = nearest(pictures, pictures, k=neighbours, exclude=torch.arange(n))
    beside = torch.where((near >= 0)[..., None], words[near.clamp_min(0)], 0.0).sum(1) / (near >= 0).sum(1)[:, None]
    agreement = (words * (beside - words.mean(0))).sum(1)
    suspicion = -(_standardised(similarity) + _standardised(agreement)) / 2
    return PairAudit(
        similarity,
        agreement,
        suspicion,
        _far_side(suspicion),
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


def _standardised(values: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    return (values - values.mean()) / values.std().clamp_min(1e-12)


def _far_side(values: Float64[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """The values that more probably belong to the upper of two normals, where two describe them better than one."""
    from sklearn.mixture import GaussianMixture

    rows = values.numpy()[:, None]
    if float(values.std()) < 1e-9:
        return torch.zeros(len(values), dtype=torch.bool)
    start = np.quantile(rows, [[0.5], [0.98]], axis=0).reshape(2, 1)
    one, two = (
        GaussianMixture(count, random_state=0, reg_covar=1e-4, means_init=start if count == 2 else None).fit(rows)
        for count in (1, 2)
    )
    if two.bic(rows) >= one.bic(rows):
        return torch.zeros(len(values), dtype=torch.bool)
    upper = int(two.means_[:, 0].argmax())
    likely = torch.from_numpy(two.predict_proba(rows)[:, upper] > 0.5)
    return likely & (values > float(two.means_[1 - upper, 0]))  # a wide normal claims the other far end too


def _alike(
    pictures: Float64[Tensor, "n d"],
    words: Float64[Tensor, "n d"],
    similarity: Float64[Tensor, " n"],
    captions: Sequence[str],
    most: int,
) -> Int64[Tensor, "p 2"]:
    """Mutual fits of different captions, the first pair of every two captions."""
    near, which = nearest(pictures, words, k=min(50, len(words)))
    found: dict[tuple[str, str], tuple[float, int, int]] = {}
    fits = {
        (i, j): value
        for i, (values, columns) in enumerate(zip(near.tolist(), which.tolist(), strict=True))
        for value, j in zip(values, columns, strict=True)
        if j >= 0 and captions[i] != captions[j] and value >= float(similarity[i])
    }
    for (i, j), value in fits.items():
        if i < j and (j, i) in fits:
            names = (min(captions[i], captions[j]), max(captions[i], captions[j]))
            both = min(value, fits[j, i])
            if names not in found or both > found[names][0]:
                found[names] = (both, i, j)
    best = sorted(found.values(), key=lambda one: (-one[0], one[1], one[2]))[:most]
    return torch.tensor([[i, j] for _, i, j in best], dtype=torch.int64).reshape(-1, 2)
