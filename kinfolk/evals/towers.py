"""What two-tower protocols ask of a method: images and texts in one space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from kinfolk.evals.extraction import extract
from kinfolk.evals.neighbours import normalised
from kinfolk.nn.modes import evaluating

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from kinfolk.data.sources import Source
    from kinfolk.evals.features import Features


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


def image_rows(
    towers: nn.Module, source: Source, *, batch_size: int = 256, device: torch.device | str | None = None
) -> Features:
    """Return where a source's images lie in the common space."""
    return extract(_Images(towers), source, batch_size=batch_size, device=device)


def text_rows(
    towers: nn.Module, texts: Sequence[str], *, batch_size: int = 256, device: torch.device | str | None = None
) -> Float[Tensor, "n d"]:
    """Return where texts lie in the common space, normalised, in float64 on the CPU.

    Raises:
        ValueError: for rows that are not finite; the message has the first such text.
    """
    encode: Callable[[Sequence[str]], Tensor] = towers.encode_text  # type: ignore[assignment]
    with evaluating(towers, device=device), torch.no_grad():
        parts = [encode(texts[start : start + batch_size]).cpu() for start in range(0, len(texts), batch_size)]
    rows = torch.cat(parts)
    finite = rows.isfinite().all(1)
    if not bool(finite.all()):
        first = texts[int((~finite).nonzero()[0])]
        raise ValueError(
            f"the text tower's rows must be finite, but {int((~finite).sum())} of {len(rows)} are not, first {first!r};"
            " training has diverged, or its half precision has overflowed."
        )
    return normalised(rows)
