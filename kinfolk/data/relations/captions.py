"""Captions relate: the cosine of what a frozen sentence encoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.relations.base import check_perplexity, check_temperature
from kinfolk.data.relations.known import known_column
from kinfolk.data.relations.side_embeddings import SideEmbeddings
from kinfolk.data.sources.base import Source
from kinfolk.data.text import TextEncoderConfig, encode_texts
from kinfolk.data.text.progress import say

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class CaptionsConfig:
    """Two samples relate as their captions mean the same, ``exp(cosine / temperature)``.

    Captions are encoded once and kept on disk, see `encode_texts`. Samples that share a caption share a row.

    Args:
        encoder: the frozen text encoder.
        temperature: of the target. With sentence encoders its useful range is narrow (0.05 is one-hot, 0.2 hundreds of
            neighbours): choose it by `perplexity`.
        perplexity: the wanted perplexity at the batch size of training, instead of a temperature; 5 to 30 work.
        empty: what an empty caption does: ``"raise"`` names the samples; ``"mean"`` gives them the mean of all
            distinct captions' vectors, which is as near to everything as the data allow, and says how many they are.

    Raises:
        ValueError: for a temperature or perplexity out of range, or an unknown `empty`.

    Reference: Sobal, Ibrahim, Balestriero, Cabannes, Bouchacourt, Astolfi, Cho, LeCun (2024), X-Sample Contrastive
    Loss: Improving Contrastive Learning with Sample Similarity Graphs.

    Example:
        >>> CaptionsConfig(TextEncoderConfig("wordllama"), perplexity=15).encoder.name
        'wordllama'
    """

    kind: ClassVar[str] = "captions"
    labels_used: ClassVar[str] = "none"
    encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    temperature: float = 0.1
    perplexity: float | None = None
    empty: Literal["raise", "mean"] = "raise"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_perplexity(self.perplexity)
        if self.empty not in ("raise", "mean"):
            raise ValueError(f"empty must be 'raise' or 'mean'; found {self.empty!r}")

    def build(self, source: Source) -> SideEmbeddings:
        """Build the relation over a source's samples; no image is read.

        Raises:
            TypeError: for a stream, which has no samples to look up.
            ValueError: when the source has no captions, or some are empty and `empty` is ``"raise"``.
            ImportError: when no text encoder is installed.
        """
        captions: list[str] = known_column(
            source, "text", needed_for="a caption graph", instead="class names relate too, see the class-names relation"
        )
        empty = torch.tensor([not caption.strip() for caption in captions], dtype=torch.bool)
        if bool(empty.any()):
            self._speak_of(source.ids[empty], len(captions))
        encoded = encode_texts([c for c in captions if c.strip()], self.encoder)
        rows, places = _with_mean(encoded.rows, encoded.places, empty) if bool(empty.any()) else (
            encoded.rows, encoded.places)  # fmt: skip
        relation = SideEmbeddings(source.ids, rows, self.temperature, labels=source.labels, places=places)
        relation.about = f"captions by {encoded.encoder}"
        return relation.with_perplexity(self.perplexity)

    def _speak_of(self, ids: Int[Tensor, " k"], count: int) -> None:
        found = f"{len(ids)} of {count} captions are empty, such as those of ids {ids[:5].tolist()}"
        if self.empty == "raise" or len(ids) == count:
            raise ValueError(
                f"{found}. Write them, leave these samples out with subset, or give them the mean with empty='mean'"
            )
        say(f"{found}; they take the mean of the others")


def _with_mean(rows: Tensor, places: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Add the mean direction as a last row and give it to the samples without a caption."""
    mean = torch.nn.functional.normalize(rows.float().mean(0, keepdim=True), dim=1).to(rows.dtype)
    everyone = torch.full(empty.shape, len(rows), dtype=torch.int64)
    everyone[~empty] = places
    return torch.cat([rows, mean]), everyone
