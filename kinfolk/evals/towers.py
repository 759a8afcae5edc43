"""What two-tower protocols ask of a method: images and texts in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from kinfolk.evals.extraction import extract
from kinfolk.evals.neighbours import normalised
from kinfolk.nn.modes import evaluating

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from kinfolk.evals.features import Features
    from kinfolk.evals.subject import Subject


@runtime_checkable
class Towers(Protocol):
    """A module with a tower for images and one for texts, such as a trained `kinfolk.methods.CLIP`."""

    def encode_images(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Encode float images in [0, 1]."""

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Encode texts."""


class _Images(nn.Module):
    """The image side as an encoder."""

    def __init__(self, towers: nn.Module) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.towers.encode_images(images)  # type: ignore[operator]


def image_rows(subject: Subject) -> Features:
    """Return where the test images lie in the common space."""
    assert isinstance(subject.towers, nn.Module)
    return extract(_Images(subject.towers), subject.test, batch_size=subject.batch_size, device=subject.device)


def text_rows(subject: Subject, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Return where texts lie in the common space, normalised, in float64 on the CPU."""
    assert isinstance(subject.towers, nn.Module)
    size = subject.batch_size
    with evaluating(subject.towers, device=subject.device), torch.no_grad():
        parts = [subject.towers.encode_text(texts[i : i + size]).cpu() for i in range(0, len(texts), size)]  # type: ignore[operator]
    return normalised(torch.cat(parts))
