"""Transfer: what a frozen encoder is worth on data it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, cat, nn
from torch.nn import functional as F

from kinfolk.data import TableConfig, TableSource
from kinfolk.data.sources.catalogue import SourceConfig
from kinfolk.data.sources.table import is_table
from kinfolk.data.views.jitter import luma
from kinfolk.evals.baselines import CentredRawPixels
from kinfolk.evals.features import FeatureSplits
from kinfolk.evals.geometry import subset_of
from kinfolk.evals.knn import KNN
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.sources import Source, Splits
    from kinfolk.evals.subject import Subject


class FittedImages(nn.Module):
    """Images of another source in the form that an encoder takes: its number of channels, its size.

    Grey becomes three equal channels, colours their luma (ITU-R BT.601, as PIL's mode L). Transparency is laid on
    white, and where an encoder wants it everything is opaque. Then images are resampled bilinearly with a low-pass
    filter, the aspect ratio giving way.

    Args:
        channels: 1, 3 or 4.
        image_size: height and width in pixels.

    Example:
        >>> import torch
        >>> FittedImages(channels=3, image_size=(8, 8))(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, *, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.channels, self.image_size = channels, image_size

    def extra_repr(self) -> str:
        """The settings, of which no weight tells."""
        return f"channels={self.channels}, image_size={self.image_size}"

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b channels out_h out_w"]:
        """Convert float images in [0, 1] with 1, 3 or 4 channels."""
        fitted = _with_channels(images, self.channels)
        if fitted.shape[2:] == self.image_size:
            return fitted
        # In float32: the filter knows no half precision, in which an encoder may want its images.
        resampled = F.interpolate(fitted.float(), size=self.image_size, mode="bilinear", antialias=True)
        return resampled.clamp(0, 1).to(fitted.dtype)


@dataclass(frozen=True)
class Transfer(SubjectEvaluator):
    """Linear probe and kNN on other sources, the encoder frozen.

    For every target the encoder reads its images, fitted to what it was trained on (`FittedImages`), and both probes
    are fitted on the target's labelled part and scored on its test part, as on the encoder's own data. Baselines see
    the same fitted images; centred raw pixels are centred by the target's own training mean. An encoder of tables takes
    other tables with the columns it knows. Every record says how many images were used and how they were converted.

    Args:
        targets: configs of the other sources; none yield nothing.
        probe: the linear probe.
        knn: the nearest neighbours.
        max_train_rows: training samples in use of every target, a seeded subset; None takes all.
        max_test_rows: test samples in use, likewise.
        seed: of both subsets.

    Raises:
        ValueError: for a target given twice, or sizes below 1.

    Reference: Kornblith, Shlens, Le (2019), Do better ImageNet models transfer better?

    Example:
        >>> from kinfolk.data import ArraySource, DigitsConfig
        >>> from kinfolk.evals import RawPixels, Subject
        >>> import torch
        >>> own = ArraySource(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.arange(2))
        >>> subject = Subject.of("raw pixels", RawPixels(channels=3, image_size=(4, 4)), train=own, test=own)
        >>> transfer = Transfer((DigitsConfig(),), probe=LinearProbe(l2=(0.1,)), max_train_rows=200)
        >>> [(m.name, m.value > 0.6) for m in transfer.run(subject)]
        [('linear probe, digits', True), ('kNN, digits', True)]
    """

    targets: tuple[SourceConfig, ...] = ()
    probe: LinearProbe = field(default_factory=LinearProbe)
    knn: KNN = field(default_factory=KNN)
    max_train_rows: int | None = None
    max_test_rows: int | None = None
    seed: int = 0

    protocol: ClassVar[str] = "transfer"
    needs_labels: ClassVar[bool] = False
    normalisation: ClassVar[str] = "linear probe: standardised by training statistics; kNN: l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets or ()))  # as YAML reads them
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must differ from one another, got {self.targets}.")
        for name in ("max_train_rows", "max_test_rows"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, or None for all, got {size}.")

    def missing(self, subject: Subject) -> str | None:
        """Say so where there is no target."""
        return None if self.targets else "no other sources (give them as `targets`)"

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield both accuracies on every target, in order.

        Raises:
            FileNotFoundError: when a target's data are not there; the message says how to get them.
            ValueError: for images where the encoder takes a table's rows, or the other way round, and for a target
                without labels.
        """
        names: list[str] = []
        for target in self.targets:
            splits = _load(target, subject.test)
            name = _common_name(splits)
            names.append(name)
            times = names.count(name)
            yield from self.measure(subject, splits, name=name if times == 1 else f"{name} ({times})")

    def measure(self, subject: Subject, splits: Splits, *, name: str) -> Iterator[Measurement]:
        """Yield both accuracies on one loaded source.

        Args:
            subject: the encoder, and the data that say which images it takes.
            splits: the other source.
            name: what the measurements call it.

        Raises:
            ValueError: when a part has no labels.
        """
        train, test = (
            source.subset(subset_of(source.ids, len(source) if limit is None else limit, seed=self.seed))
            for source, limit in ((splits.reference, self.max_train_rows), (splits.test, self.max_test_rows))
        )
        for part in (train, test):
            if part.labels is None or not bool((part.labels >= 0).any()):
                raise ValueError(f"transfer needs labels, and {part.name!r} has none; leave it out of `targets`.")
        everything = self._features(subject, train, test)
        features = everything.labelled()
        assert features.train.labels is not None
        details = {
            "n_train": len(features.train),
            "n_test": len(features.test),
            "target_classes": len(features.train.labels.unique()),
            "unlabelled_dropped": sum(
                len(whole) - len(known)
                for whole, known in ((everything.train, features.train), (everything.test, features.test))
            ),
            "images": _conversion(test, subject.test),
        }
        for probe in (self.probe, self.knn):
            found = {one.name: one for one in probe.run(features)}
            balanced = found["balanced accuracy"].value
            yield replace(
                found["accuracy"],
                name=f"{probe.protocol}, {name}",
                details={**details, "balanced_accuracy": balanced, **found["accuracy"].details},
            )

    def _features(self, subject: Subject, train: Source, test: Source) -> FeatureSplits:
        """Features of both parts; a pixel baseline is centred anew, since it knows another source's mean image."""
        reader = subject
        if not is_table(subject.test):
            fitted = FittedImages(channels=subject.test.channels, image_size=subject.test.image_size)
            reader = replace(subject, encoder=nn.Sequential(fitted, subject.encoder))
        of_train, of_test = reader.extract(train), reader.extract(test)
        if isinstance(subject.encoder, CentredRawPixels):
            mean = of_train.rows.double().mean(dim=0).float()
            of_train, of_test = (replace(part, rows=part.rows - mean) for part in (of_train, of_test))
        return FeatureSplits(of_train, of_test)


def _load(target: SourceConfig, own: Source) -> Splits:
    """Load a target; another table's rows become the features that the encoder knows."""
    if is_table(own) != isinstance(target, TableConfig):
        takes, given = ("a table's rows", "images") if is_table(own) else ("images", "a table's rows")
        raise ValueError(
            f"the encoder takes {takes}, and the transfer target {target.kind!r} has {given}; leave it out of"
            " `targets`."
        )
    if not isinstance(target, TableConfig):
        return target.load()
    while not isinstance(own, TableSource) and hasattr(own, "source"):  # subsets and derived sets wrap a table
        own = own.source
    return target.load(like=own.features if isinstance(own, TableSource) else None)


def _common_name(splits: Splits) -> str:
    """The words with which the names of both parts begin, such as "cifar-100" of "cifar-100 train"."""
    pairs = zip(splits.train.name.split(), splits.test.name.split(), strict=False)
    return " ".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) or splits.test.name


def _with_channels(images: Tensor, channels: int) -> Tensor:
    found = images.shape[1]
    if found == channels:
        return images
    if found == 4:
        colours, alpha = images[:, :3], images[:, 3:]
        images = colours * alpha + (1 - alpha)
    if channels == 1:
        return luma(images)
    colours = images.expand(-1, 3, -1, -1)
    return colours if channels == 3 else cat([colours, colours.new_ones(len(colours), 1, *colours.shape[2:])], dim=1)


def _conversion(found: Source, wanted: Source) -> str:
    """How images were converted, for the record."""
    if is_table(wanted):
        return "none: rows of a table, in the features of the encoder's own"
    before, after = (f"{one.channels}x{one.image_size[0]}x{one.image_size[1]}" for one in (found, wanted))
    steps = []
    if found.channels != wanted.channels:
        on_white = "on white, then " if found.channels == 4 else ""
        steps.append(on_white + {1: "luma", 3: "colours", 4: "opaque colours"}[wanted.channels])
    if found.image_size != wanted.image_size:
        steps.append("bilinear with a low-pass filter, stretched")
    return f"{before} to {after}: {', '.join(steps)}" if steps else f"{before}, as they are"
