"""What methods that learn a classifier beside the encoder have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk import distributed
from kinfolk.data.derived.classes import class_count, required_labels
from kinfolk.data.sources import Source
from kinfolk.methods.base import Method

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@dataclass(frozen=True)
class ClassesConfig:
    """Settings of a method that must know how many classes there are.

    Raises:
        ValueError: for fewer than one class.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> ClassesConfig().settled(DigitsConfig().load().train).classes
        10
    """

    labels_used: ClassVar[str] = "all"
    classes: int | None = None
    """Number of classes; None takes the training set's, see `settled`."""

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes must be at least 1, or None for the training set's; found {self.classes}")

    def settled(self, source: Source) -> Self:
        """Return the config with what was left open filled in from a training set; training calls it.

        Raises:
            ValueError: when the number of classes is open and the source has no labels.
        """
        if self.classes is not None:
            return self
        required_labels(source, needed_for=type(self).__name__.removesuffix("Config"), complete=False)
        return replace(self, classes=class_count(source))

    def known_classes(self) -> int:
        """Return the number of classes.

        Raises:
            ValueError: when it is still open.

        Example:
            >>> ClassesConfig(classes=3).known_classes()
            3
        """
        if self.classes is None:
            name = type(self).__name__
            raise ValueError(
                f"the number of classes is open; give {name}(classes=...), or take it from a training set with"
                " config.settled(source)."
            )
        return self.classes


@dataclass(frozen=True)
class ClassCountsConfig(ClassesConfig):
    """Settings of a method that must know how frequent each class is.

    Raises:
        ValueError: for counts of another number than the classes, negative ones, or none above 0.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> sum(ClassCountsConfig().settled(DigitsConfig().load().train).known_counts())
        1437
    """

    class_counts: tuple[int, ...] | None = None
    """Labelled training samples of every class; None counts the training set's, see `settled`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = self.class_counts
        if counts is not None and (len(counts) != self.classes or min(counts) < 0 or not sum(counts)):
            raise ValueError(
                f"class_counts must be one whole number per class, not all 0: classes = {self.classes}, found {counts}"
            )

    def settled(self, source: Source) -> Self:
        """Return the config with classes and counts filled in from a training set; training calls it.

        Raises:
            ValueError: when something is open and the source has no labels, or labels beyond the classes.
        """
        settled = super().settled(source)
        if settled.class_counts is not None:
            return settled
        required_labels(source, needed_for=type(self).__name__.removesuffix("Config"), complete=False)
        classes, labels = settled.known_classes(), torch.as_tensor(source.labels)
        if int(labels.max()) >= classes:
            raise ValueError(f"there are {classes} classes, and the training set has the label {int(labels.max())}")
        counts = labels[labels >= 0].bincount(minlength=classes)
        return replace(settled, class_counts=tuple(counts.tolist()))

    def known_counts(self) -> tuple[int, ...]:
        """Return the samples of every class.

        Raises:
            ValueError: when they are still open.

        Example:
            >>> ClassCountsConfig(classes=2, class_counts=(9, 1)).known_counts()
            (9, 1)
        """
        if self.class_counts is None:
            name = type(self).__name__
            raise ValueError(
                f"the classes are not counted; give {name}(classes=..., class_counts=...), or count a training set"
                " with config.settled(source)."
            )
        return self.class_counts


class PredictingMethod(Method):
    """A training method that learns a classifier: it can say which class an image has, and how sure it is.

    Attributes:
        calibration: what logits are divided by before they become probabilities, 1 until `kinfolk.train.calibrate` has
            fitted it on samples that training did not see. A buffer: checkpoints hold it.
    """

    calibration: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calibration", torch.ones(()))

    @abstractmethod
    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return one logit per class and image, with gradient, in the mode that the module is in.

        What stands in the loss only, such as the logarithms of class frequencies, is not in them.

        Args:
            images: float, in [0, 1].
        """

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "b c h w"]) -> Int64[Tensor, " b"]:
        """Return the most likely class of each image; call `eval()` first, as `kinfolk.train.load_method` does.

        Args:
            images: float, in [0, 1].
        """
        return self.logits(images).argmax(1)

    @torch.no_grad()
    def probabilities(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return how likely each class is, calibrated as far as `calibration` was fitted; call `eval()` first.

        Args:
            images: float, in [0, 1].
        """
        return (self.logits(images).float() / self.calibration).softmax(1)


def labelled_cross_entropy(
    logits: Float[Tensor, "m k"], labels: Int64[Tensor, " m"], *, label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over the labelled rows, 0 with a graph where there are none.

    With several processes the sum over this one's rows is divided by the mean number per process, so that the mean over
    processes is the mean over all labelled rows, however they are spread. The precision is float32 at least.

    Args:
        logits: of every row.
        labels: of every row, -1 being none.
        label_smoothing: share of the target that is spread evenly over all classes.

    Example:
        >>> labelled_cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, -1]))
        tensor(0.6931)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing)
    rows = distributed.all_reduce((labels >= 0).sum().to(logits.dtype)) / distributed.world_size()
    return total / torch.where(rows > 0, rows, 1.0)


def check_classes(labels: Int64[Tensor, " n"], classes: int, *, config: str) -> None:
    """Raise `ValueError` for a label that a classifier has no class for; `config` names where classes are set.

    Example:
        >>> check_classes(torch.tensor([0, 2, -1]), 3, config="FineTuneConfig")
    """
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(
            f"the classifier has {classes} classes, and the batch has the label {int(labels.max())};"
            f" set {config}.classes to one more than the largest label."
        )
