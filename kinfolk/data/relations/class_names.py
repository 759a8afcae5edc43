"""Class names relate: the cosine of what a frozen sentence encoder makes of "a photo of a {name}"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from kinfolk.data.relations.base import check_perplexity, check_temperature
from kinfolk.data.relations.class_table import ClassTable
from kinfolk.data.relations.known import known_column
from kinfolk.data.sources.base import Source
from kinfolk.data.text import TextEncoderConfig, encode_texts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class ClassNamesConfig:
    """Two samples relate as the names of their classes mean the same, ``exp(cosine / temperature)``.

    Args:
        encoder: the frozen text encoder.
        template: the sentence around a name, with ``{}`` in its place. Underscores in names become spaces.
        temperature: of the target; choose it by `perplexity`.
        perplexity: the wanted perplexity at the batch size of training, instead of a temperature. It cannot be smaller
            than the number of a class's rows in a batch.

    Raises:
        ValueError: for a template without ``{}``, or a temperature or perplexity out of range.

    Example:
        >>> ClassNamesConfig(template="a drawing of a {}").template.format("cat")
        'a drawing of a cat'
    """

    kind: ClassVar[str] = "class-names"
    labels_used: ClassVar[str] = "all"
    encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    template: str = "a photo of a {}"
    temperature: float = 0.1
    perplexity: float | None = None

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ValueError(f"template must have one {{}} for the class name; found {self.template!r}")
        check_temperature(self.temperature)
        check_perplexity(self.perplexity)

    def build(self, source: Source) -> ClassTable:
        """Build the relation over a source's samples; no image is read.

        Raises:
            TypeError: for a stream, which has no samples to look up.
            ValueError: when the source has no labels or no class names.
            ImportError: when no text encoder is installed.
        """
        labels = known_column(source, "labels", needed_for="a class-name graph")
        if source.class_names is None:
            raise ValueError(f"a class-name graph needs class names, and {source.name!r} has labels without names")
        table = name_similarities(source.class_names, self.encoder, template=self.template)
        relation = ClassTable(source.ids, labels, table, self.temperature)
        relation.about = f"class names as {self.template!r}"
        return relation.with_perplexity(self.perplexity)


def name_similarities(
    class_names: Sequence[str], encoder: TextEncoderConfig, *, template: str = "a photo of a {}"
) -> Float[Tensor, "C C"]:
    """Return the cosines between the sentences that the names make.

    Raises:
        ValueError: for an empty name.
        ImportError: when no text encoder is installed.
    """
    if any(not name.strip() for name in class_names):
        empty = [i for i, name in enumerate(class_names) if not name.strip()]
        raise ValueError(f"class names must not be empty; those of classes {empty[:5]} are")
    sentences = [template.replace("{}", " ".join(name.replace("_", " ").split())) for name in class_names]
    rows = torch.nn.functional.normalize(encode_texts(sentences, encoder).expanded().float(), dim=1)
    return (rows @ rows.T).fill_diagonal_(1.0)
