"""Icons of some two hundred sets: hundreds of thousands of small drawings, named in words, in tar shards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.concepts import hold_out_concepts
from kinfolk.data.sources.encoded import EncodedSource
from kinfolk.data.sources.hold_out import hold_out, limited
from kinfolk.data.sources.prepared import prepared_folder
from kinfolk.data.sources.renderings import with_renderings
from kinfolk.data.sources.shards import ShardsConfig

_TRAIN, _TEST = 1, 2  # what a draw of samples is for, so that the two draws are unrelated


@dataclass(frozen=True)
class IconsConfig:
    """More than 300,000 icons of permissively licensed sets, by default split by concept.

    A concept is an icon's name without its words for a style: "heart-outline" of one set and "heart" of another show
    the same thing. `groups` is the concept, `bias_labels` the set, `text` the
    name in words. Pictures are drawn in black, or their own colours, on white and scaled to `image_size` by bicubic
    resampling. Ids are a number in the shuffled order of all icons, the same in a slice and in the whole.

    Args:
        root: folder that ``kinfolk data prepare icons`` filled; by default ``$KINFOLK_DATA/icons`` or ``.data/icons``.
        image_size: ``(H, W)``.
        channels: 1 (grey) or 3.
        labels: `category` is what three or more sets call it (about 180 classes; 37 % of the icons have one, the rest
            is -1), `concept` numbers the concepts that are left.
        split: `concept` puts all icons of a concept into one part, so that what is tested is what training never saw;
            `set` all icons of a set, so that the styles are new; `picture` holds out icons of every concept, so that
            concepts can be recognised.
        min_hands: only concepts that at least so many sets draw, at least 1.
        concepts: only the so many concepts with the most icons, ties in alphabetical order; None takes all.
        limit: this many training pictures, a seeded choice; None takes all.
        test_limit: likewise, for the test part.
        test_fraction: share of the concepts, of the sets, or of each concept's icons that is held out, in [0, 1).
        seed: of the hold-out and of both choices.
        renderings: whether batches carry the same concept as other sets draw it; see `with_renderings`.
        most_renderings: how many, the own picture counted.

    Raises:
        ValueError: for a choice that does not exist, or numbers out of range.

    Example:
        >>> IconsConfig(min_hands=5, limit=20_000).labels
        'category'
    """

    kind: ClassVar[str] = "icons"
    root: str | None = None
    image_size: tuple[int, int] = (32, 32)
    channels: Literal[1, 3] = 3
    labels: Literal["category", "concept"] = "category"
    split: Literal["concept", "set", "picture"] = "concept"
    min_hands: int = 1
    concepts: int | None = None
    limit: int | None = None
    test_limit: int | None = 10_000
    test_fraction: float = 0.05
    seed: int = 0
    renderings: bool = False
    most_renderings: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.labels not in ("category", "concept") or self.channels not in (1, 3):
            raise ValueError(
                f"labels must be 'category' or 'concept' and channels 1 or 3; found {self.labels!r} and {self.channels}"
            )
        if self.split not in ("concept", "set", "picture"):
            raise ValueError(f"split must be 'concept', 'set' or 'picture'; found {self.split!r}")
        for name in ("min_hands", "concepts", "limit", "test_limit", "most_renderings"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; found {value}")

    def load(self) -> Splits:
        """Read what is known about the icons; pictures are decoded when they are fetched.

        Raises:
            FileNotFoundError: when the data set is not there; the message says how to get it.
            ValueError: when no concept has `min_hands` sets, or a shard is damaged.
        """
        root = prepared_folder("icons") if self.root is None else Path(self.root)
        concepts, _ = icon_names(root)
        shards = ShardsConfig(str(root), image_size=self.image_size, channels=self.channels, test_fraction=0.0)
        whole = cast(EncodedSource, shards.load().train)
        groups = cast(Tensor, whole.columns["groups"])
        kept = _hands_per_group(groups, cast(Tensor, whole.bias_labels))[groups] >= self.min_hands
        if not bool(kept.any()):
            raise ValueError(f"no concept of {root} is drawn by {self.min_hands} sets; ask for fewer min_hands")
        if self.concepts is not None:
            kept &= _largest_groups(groups, kept, self.concepts)[groups]
        present = groups[kept].unique().tolist()
        if self.labels == "concept":
            _label_by_concept(whole, present, concepts)
        in_test = self._held_out(whole, kept)
        return Splits(
            self._part(whole, kept & ~in_test, self.limit, _TRAIN),
            self._part(whole, kept & in_test, self.test_limit, _TEST),
        )

    def _held_out(self, whole: Source, kept: Tensor) -> Tensor:
        groups = cast(Tensor, whole.columns["groups"])
        if self.split == "picture":
            held = torch.zeros(len(groups), dtype=torch.bool)
            where = kept.nonzero().flatten()
            _, test = hold_out(len(where), fraction=self.test_fraction, seed=self.seed, labels=groups[where])
            held[where[test]] = True
            return held
        together = groups if self.split == "concept" else cast(Tensor, whole.bias_labels)
        names = [str(number) for number in together[kept].unique().tolist()]
        chosen = hold_out_concepts(names, strata=[0] * len(names), fraction=self.test_fraction, seed=self.seed)
        return torch.isin(together, torch.tensor([int(name) for name in chosen], dtype=torch.int64))

    def _part(self, whole: Source, wanted: Tensor, limit: int | None, purpose: int) -> Source:
        part = whole.subset(limited(wanted.nonzero().flatten(), limit, seed=self.seed, purpose=purpose), name="icons")
        return with_renderings(part, most=self.most_renderings) if self.renderings else part


def icon_names(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the concepts, by group, and of the sets, by bias label.

    Raises:
        FileNotFoundError: when the folder was not prepared as icons.
    """
    path = root / "names.json"
    if not path.is_file():
        raise FileNotFoundError(f"{root} has no names.json; `kinfolk data prepare icons` writes such a folder")
    names = json.loads(path.read_text(encoding="utf-8"))
    return names["concepts"], names["sets"]


def _hands_per_group(groups: Tensor, hands: Tensor) -> Tensor:
    """How many sets draw each concept, by its number."""
    pairs = torch.unique(torch.stack([groups, hands], dim=1), dim=0)
    return torch.bincount(pairs[:, 0], minlength=int(groups.max()) + 1)


def _largest_groups(groups: Tensor, kept: Tensor, count: int) -> Tensor:
    """Which groups are among the so many with the most samples kept, ties to the lower number; one entry per group."""
    sizes = torch.bincount(groups[kept], minlength=int(groups.max()) + 1)
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    chosen[sizes.argsort(descending=True, stable=True)[:count]] = True
    return chosen


def _label_by_concept(source: Source, present: list[int], concepts: list[str]) -> None:
    """Make the concepts the classes; those that are not present become unlabelled."""
    number = torch.full((len(concepts),), -1, dtype=torch.int64)
    number[torch.tensor(present)] = torch.arange(len(present))
    source.columns["labels"] = number[cast(Tensor, source.columns["groups"])]
    source.class_names = tuple(concepts[group] for group in present)
