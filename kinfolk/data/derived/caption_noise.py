"""Captions that belong to another sample, an exact number of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kinfolk.data.derived.classes import check_share, seeded_order
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Source, Splits

if TYPE_CHECKING:
    from jaxtyping import Int

_WHO, _ORDER = 1, 2


@dataclass(frozen=True)
class CaptionNoiseConfig:
    """Exchange the captions of a share of the training samples among them; the right ones stay in `true_text`.

    round(share N) samples are chosen by seed and id, and each gets the caption of another one of them, none its own
    and none the same words. Rows of `text_embedding` move with their captions. The test part stays as it is.

    Args:
        share: share of the samples whose caption is wrong afterwards, from 0 to 1.
        seed: which samples, and who gets whose.

    Raises:
        ValueError: for a share outside [0, 1].

    Reference: Huang et al. (2021), Learning with noisy correspondence for cross-modal matching.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> right = ArraySource(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), text=["a", "b", "c", "d"])
        >>> wrong = CaptionNoiseConfig(share=0.5).apply(Splits(right, right)).train
        >>> sum(now != then for now, then in zip(wrong.text, right.text))
        2
    """

    kind: ClassVar[str] = "caption-noise"
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("share", self.share)

    def apply(self, splits: Splits) -> Splits:
        """Exchange captions of the training part; probes keep the right ones only where the splits have such a part.

        Raises:
            ValueError: without captions, or when one caption is so frequent that it cannot be exchanged for others.
        """
        train = splits.train
        if train.text is None:
            raise ValueError(f"caption noise needs captions; source {train.name!r} has none")
        count = round(self.share * len(train))
        if count == 0:
            giver = torch.arange(len(train))
        elif count == 1:
            raise ValueError(f"share {self.share} of {len(train)} captions is one, which cannot be exchanged; raise it")
        else:
            giver = self._exchange(train, train.text, count)
        columns: dict[str, Tensor | list] = {
            "text": [train.text[i] for i in giver.tolist()],
            "true_text": train.columns.get("true_text", train.text),
        }
        if train.text_embedding is not None:
            columns["text_embedding"] = train.text_embedding[giver]
        noisy = with_columns(train, columns, name=f"{train.name}, {self.share:.0%} wrong captions")
        return Splits(noisy, splits.test, probe=splits.probe)

    def _exchange(self, source: Source, text: list[str], count: int) -> Int[Tensor, " N"]:
        """Whose caption every sample gets: the chosen, in random order but equal captions together, are rotated by the
        number of the most frequent one, so that none meets its own words."""
        chosen = seeded_order((self.seed, _WHO), source.ids)[:count]
        chosen = chosen[seeded_order((self.seed, _ORDER), source.ids[chosen])]
        place: dict[str, int] = {}
        rank = torch.tensor([place.setdefault(text[i], len(place)) for i in chosen.tolist()])
        ring = chosen[rank.argsort(stable=True)]
        caption, most = Counter(text[i] for i in chosen.tolist()).most_common(1)[0]
        if 2 * most > count:
            raise ValueError(
                f"{most} of the {count} captions to exchange are {caption!r}: more than half, so some would get the"
                " same words again. Choose another share or seed, or leave repeated captions out."
            )
        giver = torch.arange(len(source))
        giver[ring] = ring.roll(-most)
        return giver
