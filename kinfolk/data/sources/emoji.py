"""Emoji by several hands: the same concepts in several styles, with captions, categories and skin tones."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.data.sources.concepts import hold_out_concepts, merge_small_classes
from kinfolk.data.sources.decode import read_image
from kinfolk.data.sources.hold_out import limited
from kinfolk.data.sources.prepared import prepared_folder
from kinfolk.data.sources.renderings import with_renderings

if TYPE_CHECKING:
    from jaxtyping import UInt8

EMOJI_HANDS = ("google", "twitter", "openmoji")
_SIZE = (64, 64)
_CHUNK = 512


@dataclass(frozen=True)
class EmojiConfig:
    """1,911 concepts drawn by up to three hands, with their skin tones 11,358 pictures, split by concept.

    The test part holds whole concepts: a seeded share of every subcategory, all hands and skin tones of a concept
    together, and so are concepts that some hand draws alike (some flags). `bias_labels` is the hand, `groups` the
    concept, `attributes` the skin tones of the first and the second person (0 = as drawn by default, 1 light to 5
    dark), `hierarchy` is ``category/subcategory/concept`` and `text` the name with its keywords in brackets. No text
    names the skin tone. Ids count the lines of ``metadata.jsonl``.

    Pixels are pinned, since nearest neighbours on raw pixels depend on them: pictures of 64x64 are laid on white and
    averaged over areas down to `image_size`.

    A natural long tail: subcategories have 259 concepts down to 1. Of each category the smallest class is joined with
    the next smallest until all have `min_concepts`.

    Args:
        root: folder that ``kinfolk data prepare emoji`` filled; by default ``$KINFOLK_DATA/emoji`` or ``.data/emoji``.
        hands: of ``google``, ``twitter`` and ``openmoji``; the numbers in `bias_labels` follow this order.
        image_size: ``(H, W)``, from 1 to 64 pixels each.
        labels: which classes, `subcategory` (about 90) or `category` (10).
        caption: `keywords` writes "waving hand (wave, hello, palm)", `name` "waving hand".
        skin_tones: whether skin tones other than the default are there; they are 59 % of the pictures.
        min_concepts: fewest concepts of a subcategory, at least 1.
        test_fraction: share of each subcategory's concepts that is held out, in [0, 1).
        limit: this many training pictures, a seeded choice; None takes all.
        seed: of the hold-out and of the choice.
        renderings: whether batches carry the same emoji by the other hands; see `with_renderings`.
        saliency: whether `saliency` holds what the pictures cover, from their transparency.

    Raises:
        ValueError: for an unknown hand or choice, or numbers out of range.

    Example:
        >>> EmojiConfig(hands=("google", "twitter")).image_size
        (32, 32)
    """

    kind: ClassVar[str] = "emoji"
    root: str | None = None
    hands: tuple[str, ...] = EMOJI_HANDS
    image_size: tuple[int, int] = (32, 32)
    labels: Literal["subcategory", "category"] = "subcategory"
    caption: Literal["keywords", "name"] = "keywords"
    skin_tones: bool = True
    min_concepts: int = 4
    test_fraction: float = 0.2
    limit: int | None = None
    seed: int = 0
    renderings: bool = False
    saliency: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hands", tuple(self.hands))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if not self.hands or len(set(self.hands)) < len(self.hands) or set(self.hands) - set(EMOJI_HANDS):
            raise ValueError(f"hands must be some of {', '.join(EMOJI_HANDS)}, each once; found {self.hands}")
        if len(self.image_size) != 2 or not all(1 <= side <= 64 for side in self.image_size):
            raise ValueError(f"image_size must be (H, W), from 1 to 64 pixels each; found {self.image_size}")
        if self.labels not in ("subcategory", "category") or self.caption not in ("keywords", "name"):
            raise ValueError(
                "labels must be 'subcategory' or 'category' and caption 'keywords' or 'name'; found"
                f" {self.labels!r} and {self.caption!r}"
            )
        if self.min_concepts < 1:
            raise ValueError(f"min_concepts must be at least 1; found {self.min_concepts}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, or None for all; found {self.limit}")

    def load(self) -> Splits:
        """Read the pictures; what is decoded is kept beside them for the next time.

        Raises:
            FileNotFoundError: when the data set is not there; the message says how to get it.
            ValueError: when a line of the metadata cannot be read.
            ImportError: without Pillow.
        """
        root = prepared_folder("emoji") if self.root is None else Path(self.root)
        records = _read_metadata(root)
        held = self._test_concepts(records)
        # chosen before anything is split, so that neither ids nor parts depend on it
        chosen = [i for i, record in enumerate(records) if self._wanted(record)]
        if not chosen:
            raise ValueError(f"{root} has no picture by {', '.join(self.hands)}")
        whole = self._source(root, records, chosen)
        in_test = torch.tensor([records[i]["concept"] in held for i in chosen])
        return Splits(self._part(whole, ~in_test, self.limit), self._part(whole, in_test))

    def _part(self, whole: ArraySource, wanted: Tensor, limit: int | None = None) -> Source:
        part = whole.subset(limited(wanted.nonzero().flatten(), limit, seed=self.seed, purpose=1))
        if not self.renderings:
            return part
        attributes = part.columns["attributes"]
        assert isinstance(attributes, Tensor)
        tones = attributes.long() @ torch.tensor([6, 1])
        return with_renderings(part, alike=tones, most=len(self.hands))

    def _wanted(self, record: dict[str, Any]) -> bool:
        return record["hand"] in self.hands and (self.skin_tones or not record["skin_tone"])

    def _test_concepts(self, records: Sequence[dict[str, Any]]) -> set[str]:
        return hold_out_concepts(
            [record["concept"] for record in records],
            strata=self._subcategories(records),
            alike=[record["pixels"] for record in records],
            fraction=self.test_fraction,
            seed=self.seed,
        )

    def _subcategories(self, records: Sequence[dict[str, Any]]) -> list[str]:
        return merge_small_classes(
            [record["subcategory"] for record in records],
            within=[record["category"] for record in records],
            concepts=[record["concept"] for record in records],
            least=self.min_concepts,
        )

    def _source(self, root: Path, records: list[dict[str, Any]], chosen: list[int]) -> ArraySource:
        classes = self._subcategories(records) if self.labels == "subcategory" else [r["category"] for r in records]
        names = sorted(set(classes))
        number = {name: i for i, name in enumerate(names)}
        concept_number = {name: i for i, name in enumerate(dict.fromkeys(record["concept"] for record in records))}
        pictures = _read_pictures(root, records, self.image_size)[torch.tensor(chosen)]
        kept = [records[i] for i in chosen]
        return ArraySource(
            pictures[:, :3].contiguous(),
            torch.tensor([number[classes[i]] for i in chosen]),
            ids=torch.tensor(chosen),
            class_names=names,
            text=[_caption(record, self.caption) for record in kept],
            bias_labels=torch.tensor([self.hands.index(record["hand"]) for record in kept]),
            columns={
                "groups": torch.tensor([concept_number[record["concept"]] for record in kept]),
                "hierarchy": [f"{r['category']}/{r['subcategory']}/{r['concept']}" for r in kept],
                "attributes": torch.tensor([_tones(record["skin_tone"]) for record in kept]),
                **({"saliency": pictures[:, 3:].contiguous()} if self.saliency else {}),
            },
            name="emoji",
        )


def _read_metadata(root: Path) -> list[dict[str, Any]]:
    path = root / "metadata.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{root} has no metadata.jsonl; `kinfolk data prepare emoji` writes such a folder")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            missing = sorted(_FIELDS - set(record))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no JSON object: {error}") from error
        if missing:
            raise ValueError(f"{path}, line {number} has no {', '.join(missing)}; prepare the data set anew")
        records.append(record)
    return records


_FIELDS = {"file_name", "text", "keywords", "category", "subcategory", "hand", "concept", "skin_tone", "pixels"}


def _caption(record: dict[str, Any], form: str) -> str:
    keywords = record["keywords"] if form == "keywords" else ()
    return f"{record['text']} ({', '.join(keywords)})" if keywords else str(record["text"])


def _tones(code: str) -> list[float]:
    """``"1F3FB-1F3FF"``, the modifiers of two persons, as ``[1, 5]``."""
    tones = [float(int(part, 16) - 0x1F3FA) for part in code.split("-") if part]
    return [*tones, 0.0, 0.0][:2]


def _read_pictures(root: Path, records: Sequence[dict[str, Any]], size: tuple[int, int]) -> UInt8[Tensor, "n 4 h w"]:
    """Colours on white, and what is covered; from the folder's cache where it has them at this size."""
    cache = root / ".cache" / f"on-white-{size[0]}x{size[1]}.npy"
    try:
        if cache.stat().st_mtime >= (root / "metadata.jsonl").stat().st_mtime:
            stored = torch.from_numpy(np.load(cache, allow_pickle=False))
            if stored.shape == (len(records), 4, *size) and stored.dtype == torch.uint8:
                return stored
    except (OSError, ValueError):
        pass  # absent or damaged: decode again
    parts = []
    for start in range(0, len(records), _CHUNK):
        files = [root / record["file_name"] for record in records[start : start + _CHUNK]]
        parts.append(_on_white(torch.stack([read_image(file, channels=4, size=_SIZE) for file in files]), size))
    pictures = torch.cat(parts)
    try:
        cache.parent.mkdir(exist_ok=True)
        partial = cache.with_suffix(f".{os.getpid()}.partial")
        with open(partial, "wb") as file:
            np.save(file, pictures.numpy())
        os.replace(partial, cache)
    except OSError:
        pass  # a folder that cannot be written to is read as slowly every time
    return pictures


def _on_white(pictures: UInt8[Tensor, "b 4 s t"], size: tuple[int, int]) -> UInt8[Tensor, "b 4 h w"]:
    colours, alpha = pictures[:, :3].double(), pictures[:, 3:].double()
    laid = colours * (alpha / 255) + (255 - alpha)
    return F.adaptive_avg_pool2d(torch.cat([laid, alpha], dim=1), size).round().to(torch.uint8)
