"""How much of an accuracy is the background's: the same objects on other backgrounds (after ImageNet-9's sets)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

import torch

from kinfolk.data.derived import CompositeConfig
from kinfolk.data.derived.classes import class_count, required_labels
from kinfolk.data.derived.composites import Variant
from kinfolk.data.derived.cutout import has_saliency
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.data.sources.base import Source, Splits
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from torch import Tensor

    from kinfolk.evals.subject import Subject

_GAPS: tuple[tuple[str, Variant, Variant], ...] = (
    ("background gap", "mixed-same", "mixed-rand"),
    ("original - mixed-rand", "original", "mixed-rand"),
    ("original - only-fg", "original", "only-fg"),
)


@dataclass(frozen=True)
class BackgroundShift(SubjectEvaluator):
    """Accuracy of the linear probe on the test objects, put on other backgrounds.

    The probe is fitted on the training samples as they are. The test samples are composed anew as each of `variants`;
    `kinfolk.data.derived.CompositeConfig` says what each is. One measurement per variant is its accuracy, and three
    more are gaps, where both of their variants are measured:

    ======================= ===========================================================================================
    `background gap`        mixed-same minus mixed-rand: what knowing the class's backgrounds is worth (BG-Gap)
    `original - mixed-rand` what is lost on a background that says nothing about the class
    `original - only-fg`    what is lost without any background
    ======================= ===========================================================================================

    A gap's details hold its `standard_error`, over the samples that both variants share. Unlabelled test samples are
    left out, and classes that the training samples lack are errors.

    Foregrounds are what the column `saliency` shows, so the pictures must be RGB and have masks; without, nothing is
    measured. A test part that is a composite already is one such: its objects lie where they lay, every pixel that the
    mask covers wholly as it was. Where a mask is soft, as on an object's rim, at most a quarter of the former
    background shines through: on emoji on textures that moves accuracies and gaps by about 0.01 against sets made of
    the emoji themselves.

    Without `backgrounds`, those of other test pictures are used, and a class without a test picture lends none.

    Args:
        backgrounds: a folder of textures with a subfolder per family, None for the test pictures' own. To measure
            what training on a composite did, give the folder and the seed of that composite: the families of the
            classes, and which textures training never saw, follow from them.
        variants: the sets to measure, each once.
        seed: of all choices.
        probe: the linear probe on the training features.

    Raises:
        ValueError: for unknown or repeated variants, or none; with `backgrounds`, for fewer families than classes.
        FileNotFoundError: when there is no such folder.

    Reference: Xiao, Engstrom, Ilyas, Madry (2021), Noise or signal: the role of image backgrounds in object
        recognition.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> labels, saliency = torch.arange(8) % 2, torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
        >>> images = (labels * 100).byte()[:, None, None, None].repeat(1, 3, 2, 2)  # grounds and objects tell the class
        >>> saliency[:, :, 0, 0] = 255
        >>> source = ArraySource(images, labels, columns={"saliency": saliency})
        >>> subject = Subject.of("raw", RawPixels(channels=3, image_size=(2, 2)), train=source, test=source)
        >>> {m.name: m.value for m in BackgroundShift(variants=("original", "mixed-rand")).run(subject)}
        {'original': 1.0, 'mixed-rand': 0.5, 'original - mixed-rand': 0.5}
    """

    backgrounds: str | None = None
    variants: tuple[Variant, ...] = ("original", "mixed-same", "mixed-rand", "only-fg")
    seed: int = 0
    probe: LinearProbe = field(default_factory=LinearProbe)

    protocol: ClassVar[str] = "background shift"
    needs_labels: ClassVar[bool] = True
    sees_pretraining: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", tuple(self.variants))  # as YAML reads it
        known = get_args(Variant)
        if not self.variants or len(set(self.variants)) < len(self.variants) or set(self.variants) - set(known):
            raise ValueError(f"variants must be some of {', '.join(known)}, each once; found {self.variants}.")

    def missing(self, subject: Subject) -> str | None:
        """Say that there are no masks or no RGB pictures; None when both are there."""
        if not has_saliency(subject.test):
            return "no masks"
        return None if subject.test.channels == 3 else "no RGB pictures"

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield the accuracy on every variant, then the gaps."""
        if self.missing(subject) is not None:
            return
        head = subject.head(self.probe)
        right: dict[Variant, Float64[Tensor, " n"]] = {}
        for variant, source, classes in self.sets(subject):
            found = subject.extract(source)
            assert found.labels is not None
            right[variant] = (head.predict(found.rows) == classes[found.labels]).double()
            details = {"n_test": len(found), **head.details}
            yield Measurement(variant, right[variant].mean().item(), better="higher", details=details)
        for name, first, second in _GAPS:
            if first in right and second in right:
                yield _gap(name, right[first] - right[second])

    def sets(self, subject: Subject) -> Iterator[tuple[Variant, Source, Int64[Tensor, " C"]]]:
        """Compose the labelled test samples as every variant.

        Args:
            subject: whose test part has RGB pictures and masks.

        Yields:
            The variant, its samples, and the class of each of their labels: pictures that lend one another
            backgrounds have their classes numbered without gaps.
        """
        labels = required_labels(subject.test, needed_for="background shift", complete=False)
        test, labels = subject.test.subset((labels >= 0).nonzero().flatten()), labels[labels >= 0]
        classes = torch.arange(class_count(subject.pretraining, subject.train, test))
        if self.backgrounds is None:
            classes, numbered = labels.unique(return_inverse=True)
            test = with_columns(test, {"labels": numbered}, class_names=tuple(str(c) for c in classes.tolist()))
        # A part that trains has to be there, and shows how many classes there are; the head is fitted already.
        witness = with_columns(test.subset(torch.tensor([0])), {"labels": torch.tensor([len(classes) - 1])})
        config = CompositeConfig(self.backgrounds, train="original", seed=self.seed)
        made = config.with_tests(Splits(witness, test), self.variants)
        for variant, composed in zip(self.variants, made, strict=True):
            yield variant, composed.test, classes


def _gap(name: str, differences: Float64[Tensor, " n"]) -> Measurement:
    """The mean difference of paired samples."""
    n = len(differences)
    error = differences.std().item() / math.sqrt(n) if n > 1 else None
    return Measurement(name, differences.mean().item(), better="lower", details={"n_test": n, "standard_error": error})
