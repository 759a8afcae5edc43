"""The labelled samples alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kinfolk.data.derived.classes import required_labels
from kinfolk.data.sources.base import Splits


@dataclass(frozen=True)
class LabelledPartConfig:
    """Train on the labelled samples of the part that probes are fitted on, and on nothing else.

    What was derived for pretraining alone is undone: an imbalanced set becomes the whole set again, and a set of which
    a few samples are labelled becomes those.

    Example:
        >>> from kinfolk.data import DigitsConfig, FewLabelsConfig
        >>> few = FewLabelsConfig(per_class=2).apply(DigitsConfig().load())
        >>> len(few.train), len(LabelledPartConfig().apply(few).train)
        (1437, 20)
    """

    kind: ClassVar[str] = "labelled-part"

    def apply(self, splits: Splits) -> Splits:
        """Replace the training part; the test part stays as it is.

        Raises:
            ValueError: when no sample is labelled.
        """
        labels = required_labels(splits.reference, needed_for="the labelled part", complete=False)
        if bool((labels >= 0).all()):
            return Splits(splits.reference, splits.test)
        return Splits(splits.reference.subset((labels >= 0).nonzero().flatten()), splits.test)
