"""Retrieval between two modalities: does an image find its caption, and a caption its image?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from kinfolk.evals.cross_retrieval import first_hit_ranks
from kinfolk.evals.neighbours import normalised
from kinfolk.evals.protocol import Measurement, SubjectEvaluator
from kinfolk.evals.towers import image_rows, text_rows

if TYPE_CHECKING:
    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class TextRetrieval(SubjectEvaluator):
    """R@k and median rank of the test images among the test captions, and of the captions among the images.

    The gallery of an image is every distinct caption, so images with the very same caption share their answer; a
    caption is answered by any image that has it. The rank of a query is that of its first hit by cosine, ties to the
    lower id. Images without a caption (``""``) are left out.

    Args:
        recall_at: the k of R@k, each at least 1.

    Raises:
        ValueError: for a k below 1.

    Reference: Karpathy, Fei-Fei (2015), Deep Visual-Semantic Alignments for Generating Image Descriptions (recall at k
        and median rank, both ways).

    Example:
        >>> TextRetrieval(recall_at=(1, 10)).protocol
        'text retrieval'
    """

    recall_at: tuple[int, ...] = (1, 5, 10)

    protocol: ClassVar[str] = "text retrieval"
    needs_labels: ClassVar[bool] = False
    normalisation: ClassVar[str] = "l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "recall_at", tuple(self.recall_at))  # as YAML reads it
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at must be at least one k, each at least 1, got {self.recall_at}.")

    def missing(self, subject: Subject) -> str | None:
        """Say that there is no text tower, or that the test samples have no captions."""
        if subject.towers is None:
            return "no text towers"
        return "no captions" if not any(text.strip() for text in subject.test.text or ()) else None

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield R@k and the median rank of both directions."""
        captions = subject.test.text
        if subject.towers is None or captions is None:
            return
        size, device, test = subject.batch_size, subject.device, subject.test
        told = torch.tensor([bool(text.strip()) for text in captions], dtype=torch.bool)
        if not bool(told.all()):
            test = test.subset(told.nonzero().flatten())
        images = image_rows(subject.towers, test, batch_size=size, device=device)
        by_id = dict(zip(subject.test.ids.tolist(), captions, strict=True))
        shown = [by_id[number] for number in images.ids.tolist()]
        distinct = sorted(set(shown))
        number = {caption: place for place, caption in enumerate(distinct)}
        own = torch.tensor([number[caption] for caption in shown])
        every = torch.arange(len(distinct))
        rows, texts = normalised(images.rows), text_rows(subject.towers, distinct, batch_size=size, device=device)
        details = {"images": len(shown), "captions": len(distinct)}
        for name, ranks in (
            ("image to text", first_hit_ranks(rows, texts, own, every)),
            ("text to image", first_hit_ranks(texts, rows, every, own)),
        ):
            for k in self.recall_at:
                found = (ranks <= k).double().mean().item()
                yield Measurement(f"R@{k}, {name}", found, better="higher", details=details)
            median = ranks.double().quantile(0.5).item()
            yield Measurement(f"median rank, {name}", median, better="lower", details=details)
