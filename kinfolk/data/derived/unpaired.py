"""Two modalities of which only a part is paired: the rest are images without captions and captions without images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kinfolk.data.derived.classes import check_share, seeded_order
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.columns import Column, check_ids, take_columns

if TYPE_CHECKING:
    from jaxtyping import Int

_PAIRED, _SHARED, _TEXTS = 1, 2, 3
_OF_THE_IMAGE = ("labels", "bias_labels", "true_labels", "saliency")


class TextPart(Dataset):
    """Captions without images; a source's counterpart.

    Args:
        ids: int64 ``[M]``, unique.
        columns: `text`, and `text_embedding` where there is one.
        name: what the log calls it.

    Raises:
        ValueError: for ids that repeat, or too few of them.

    Example:
        >>> part = TextPart(torch.tensor([8, 9]), {"text": ["a cat", "a dog"]}, name="captions")
        >>> part.fetch(torch.tensor([1]))
        {'ids': tensor([9]), 'text': ['a dog']}
    """

    def __init__(self, ids: Int[Tensor, " M"], columns: dict[str, Column], *, name: str) -> None:
        self.ids = check_ids(ids, count=len(columns["text"]))
        self.columns, self.name = columns, name

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Return captions by position: ``"ids"``, ``"text"`` and, where known, ``"text_embedding"``."""
        return {"ids": self.ids[indices], **take_columns(self.columns, indices)}

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"TextPart({self.name!r}, {len(self)} captions)"


@dataclass(frozen=True)
class UnpairedSplits:
    """A data set of which only a part is paired.

    Attributes:
        paired: images with their captions.
        images: images without captions; ids are new.
        texts: captions without images, in an order of their own; ids are new, and none is an image's.
        test: the test part as it was.
        truth: int64, one entry per sample of `images`: the position in `texts` of its own caption, -1 where that is
            not among them. For scoring only; nothing that training sees leads to it.
    """

    paired: Source
    images: Source
    texts: TextPart
    test: Source
    truth: Tensor

    def __post_init__(self) -> None:
        if self.truth.shape != (len(self.images),):
            raise ValueError(
                f"truth must have one entry per image without caption: {len(self.images)} images, truth"
                f" {tuple(self.truth.shape)}"
            )


@dataclass(frozen=True)
class UnpairedConfig:
    """Break up a captioned training part into pairs, images alone and captions alone.

    Of N samples with a caption, round(paired N) stay pairs. The M others give n images and n captions without one
    another, n being M / (2 - overlap) rounded down; round(overlap n) of these images have their caption among the
    captions. Pairs are disjoint from both. Images and captions are shuffled independently and get new ids beyond all
    old ones, and of an image only `labels`, `bias_labels`, `true_labels` and `saliency` stay known, of a caption only
    its words and its embedding: neither position nor id nor any column leads from one to the other.

    Args:
        paired: share of the samples that stay pairs, from 0 to 1.
        overlap: share of the single images whose caption is among the single captions: 1 breaks the pairs up, 0 uses
            different samples for the two.
        alone: whether images and captions alone are there to train on; False leaves the pairs only, to compare with.
        seed: of all choices and orders.

    Raises:
        ValueError: for shares out of range.

    Reference: Nakada, Gulluk, Deng, Ji, Zou, Zhang (2023), Understanding multimodal contrastive learning and
        incorporating unpaired data.

    Example:
        >>> from kinfolk.data.sources.base import ArraySource
        >>> images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 4, 4)
        >>> pairs = ArraySource(images, text=[f"number {i}" for i in range(10)])
        >>> parts = UnpairedConfig(paired=0.4).parts(Splits(pairs, pairs))
        >>> len(parts.paired), len(parts.images), len(parts.texts)
        (4, 6, 6)
        >>> first = parts.images.read(torch.tensor([0]))[0, 0, 0, 0].item()
        >>> parts.texts.columns["text"][parts.truth[0]] == f"number {first}"
        True
        >>> train = UnpairedConfig(paired=0.4).apply(Splits(pairs, pairs)).train
        >>> len(train), train.text.count(""), len(train.loose_captions)
        (10, 6, 6)
    """

    kind: ClassVar[str] = "unpaired"
    paired: float = 0.1
    overlap: float = 1.0
    alone: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("paired", self.paired)
        check_share("overlap", self.overlap)

    def apply(self, splits: Splits) -> Splits:
        """Break the training part up, and give what is left as one part, for a method that looks for partners.

        An image alone has the caption ``""``, and its own one in `true_text`, which is for scoring only; the captions
        alone are the part's `loose_captions`. With ``alone=False`` the pairs are all there is to train on; probes are
        fitted on the whole part as before.

        Raises:
            ValueError: without captions, or when too few samples are left to break up.
        """
        whole = splits.train
        paired, image_of, text_of = self._chosen(whole)
        if not self.alone:
            if not len(paired):
                raise ValueError(f"alone=False leaves the pairs, and paired={self.paired} makes none; raise paired")
            return Splits(self._pairs(whole, paired), splits.test, probe=splits.reference)
        texts = whole.text
        assert texts is not None
        both = torch.cat([paired, image_of])
        captions = [texts[i] for i in paired.tolist()] + [""] * len(image_of)
        joined = with_columns(
            whole.subset(both),
            {
                **dict.fromkeys(set(whole.columns) - set(_OF_THE_IMAGE)),
                "text": captions,
                "true_text": [texts[i] for i in both.tolist()],
            },
            ids=torch.cat([whole.ids[paired], _new_ids(splits, len(image_of))]),
            name=f"{whole.name}, {len(paired)} pairs and {len(image_of)} images alone",
        )
        joined.loose_captions = [texts[i] for i in text_of.tolist()]
        return Splits(joined, splits.test, probe=splits.reference)

    def parts(self, splits: Splits) -> UnpairedSplits:
        """Break the training part up into sources of their own.

        Raises:
            ValueError: without captions, or when too few samples are left to break up.
        """
        whole = splits.train
        paired, image_of, text_of = self._chosen(whole)
        new = _new_ids(splits, len(image_of) + len(text_of))
        images = whole.subset(image_of, name=f"{whole.name}, images alone")
        return UnpairedSplits(
            paired=self._pairs(whole, paired),
            images=with_columns(
                images, dict.fromkeys(set(images.columns) - set(_OF_THE_IMAGE)), ids=new[: len(image_of)]
            ),
            texts=_text_part(whole, text_of, ids=new[len(image_of) :]),
            test=splits.test,
            truth=_positions(text_of, image_of),
        )

    def _pairs(self, whole: Source, paired: Tensor) -> Source:
        return whole.subset(paired, name=f"{whole.name}, pairs")

    def _chosen(self, whole: Source) -> tuple[Int[Tensor, " p"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Positions of the pairs, ascending, of the images alone and of the captions alone, in orders of their own."""
        if whole.text is None:
            raise ValueError(f"an unpaired set needs captions; source {whole.name!r} has none")
        told = torch.tensor([i for i, text in enumerate(whole.text) if text.strip()], dtype=torch.int64)
        order = told[seeded_order((self.seed, _PAIRED), whole.ids[told])]
        paired, rest = order.split([round(self.paired * len(told)), len(told) - round(self.paired * len(told))])
        count = int(len(rest) / (2 - self.overlap) + 1e-9)
        shared = round(self.overlap * count)
        if count == 0 or (self.overlap > 0 and shared == 0):
            raise ValueError(
                f"{len(rest)} of {len(told)} samples are left to break up, too few for overlap {self.overlap}; lower"
                " paired"
            )
        rest = rest[seeded_order((self.seed, _SHARED), whole.ids[rest])]
        text_of = torch.cat([rest[:shared], rest[count : 2 * count - shared]])
        text_of = text_of[seeded_order((self.seed, _TEXTS), whole.ids[text_of])]
        return paired.sort().values, rest[:count], text_of


def _new_ids(splits: Splits, count: int) -> Int[Tensor, " k"]:
    """Ids beyond all that are there."""
    first = 1 + max(int(part.ids.max()) for part in (splits.train, splits.test, splits.reference) if len(part))
    return torch.arange(first, first + count)


def _text_part(whole: Source, positions: Tensor, *, ids: Tensor) -> TextPart:
    known: dict[str, Column] = {
        name: whole.columns[name] for name in ("text", "text_embedding") if name in whole.columns
    }
    return TextPart(ids, take_columns(known, positions), name=f"{whole.name}, captions alone")


def _positions(where: Tensor, what: Tensor) -> Int[Tensor, " k"]:
    """Position in `where` of every entry of `what`, -1 for those that are not there."""
    position = {value: i for i, value in enumerate(where.tolist())}
    return torch.tensor([position.get(value, -1) for value in what.tolist()], dtype=torch.int64)
