"""What is looked up beside a data set's own columns: foreground masks, and other hands' drawings of the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kinfolk.data.saliency import attach_saliency
from kinfolk.data.sources.base import Splits
from kinfolk.data.sources.renderings import with_renderings


@dataclass(frozen=True)
class SaliencyConfig:
    """Foreground masks that `compute_saliency` wrote, as the column `saliency` of every part.

    Args:
        path: the folder of the masks.

    Example:
        >>> SaliencyConfig("masks").path
        'masks'
    """

    kind: ClassVar[str] = "saliency"
    path: str

    def apply(self, splits: Splits) -> Splits:
        """Attach the masks; see `attach_saliency`."""
        return attach_saliency(splits, self.path)


@dataclass(frozen=True)
class RenderingsConfig:
    """Batches of the training part carry what other hands drew of the same thing, for views by another hand.

    Args:
        most: how many pictures a sample has at most, its own counted.

    Example:
        >>> RenderingsConfig().most
        4
    """

    kind: ClassVar[str] = "renderings"
    most: int = 4

    def apply(self, splits: Splits) -> Splits:
        """Let every fetch bring them; see `with_renderings`."""
        return Splits(with_renderings(splits.train, most=self.most), splits.test, splits.probe)
