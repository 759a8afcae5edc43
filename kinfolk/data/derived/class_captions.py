"""Captions for data that has class names only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kinfolk.data.derived.classes import required_labels
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Source, Splits


@dataclass(frozen=True)
class ClassCaptionsConfig:
    """Give every sample a caption made of its class's name, so that methods of two modalities can train on labels.

    Samples of a class share their caption: let CLIP know (`same_caption="known"`), or most of a batch are false
    negatives.

    Args:
        template: the caption; ``{}`` stands for the name.

    Raises:
        ValueError: for a template without ``{}``.

    Reference: Yang, Li, Zhang, Xiao, Liu, Yuan, Gao (2022), Unified Contrastive Learning in Image-Text-Label Space.

    Example:
        >>> import torch
        >>> from kinfolk.data.sources.base import ArraySource
        >>> pictures = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
        >>> source = ArraySource(pictures, torch.tensor([0, 1, 0]), class_names=["cat", "dog"])
        >>> ClassCaptionsConfig().apply(Splits(source, source)).train.text
        ['a picture of a cat', 'a picture of a dog', 'a picture of a cat']
    """

    kind: ClassVar[str] = "class-captions"
    labels_used: ClassVar[str] = "all"
    template: str = "a picture of a {}"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise ValueError(f"template must say with {{}} where the class's name goes; found {self.template!r}")

    def apply(self, splits: Splits) -> Splits:
        """Caption all parts.

        Raises:
            ValueError: without class names, or with samples that have no class.
        """
        probe = None if splits.probe is None else self._captioned(splits.probe)
        return Splits(self._captioned(splits.train), self._captioned(splits.test), probe=probe)

    def _captioned(self, source: Source) -> Source:
        labels = required_labels(source, needed_for="captions of class names")
        names = source.class_names
        if names is None:
            raise ValueError(f"captions of class names need names; source {source.name!r} has labels without")
        texts = [self.template.replace("{}", names[label]) for label in labels.tolist()]
        return with_columns(source, {"text": texts}, name=f"{source.name}, captions of class names")
