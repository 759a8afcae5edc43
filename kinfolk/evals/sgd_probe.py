"""The linear probe as most papers train it: SGD on augmented images, the learning rate by validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from kinfolk.data.derived.wrapper import DerivedSource
from kinfolk.data.sources.table import is_table
from kinfolk.data.views import ViewMaker, ViewsConfig
from kinfolk.evals.class_accuracy import accuracies
from kinfolk.evals.linear_probe import cut_by_class
from kinfolk.evals.protocol import Measurement, SubjectEvaluator, accuracy

_ROWS = 8192  # rows that heads predict at a time

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.evals.features import Features
    from kinfolk.evals.subject import Subject


@dataclass(frozen=True)
class SGDProbe(SubjectEvaluator):
    """A linear classifier by SGD on frozen features of cropped and mirrored training images.

    Every epoch encodes one view of every training image, in evaluation mode. On these features a head per learning
    rate is trained side by side, twice: on the training set without a validation part, to choose the rate by the
    accuracy on that part's unaugmented images (the lower rate on a tie), and on all of it, to be tested. A head starts
    at zero and is the one of the last epoch. So all learning rates and both stages cost one encoder pass per epoch, and
    the test set is seen once. The rows of a table are not augmented and encoded once, and so are images with
    `crop_scale=(1, 1)` and `flip=0`.

    Features are taken as they are, which is why the rates span three decades: what is right for one encoder is too
    small for another. A head whose weights overflow predicts the most frequent class, and the record lists its rate as
    `diverged`. Where no class has enough rows to set one aside, the middle rate is taken. A test class without
    training rows counts as errors. `LinearProbe` answers the same question without an augmentation in a fraction of
    the time.

    Args:
        learning_rates: to choose from, each > 0.
        epochs: passes over the training images, at least 1.
        batch_size: rows per step; the last batch of an epoch is smaller.
        schedule: `step` divides the rate by ten at every drop, `cosine` lets it fall to zero along half a wave; both
            change it between epochs.
        drops: when it is divided, as shares of the epochs in [0, 1]: 60 and 80 of 100.
        momentum: of SGD, in [0, 1).
        crop_scale: share of the image's area that a crop covers.
        flip: probability of a mirror image; 0 for digits and letters.
        validation_fraction: share of each class that selects the rate, in (0, 1).
        seed: of the views, the order of the rows and the cut.

    Raises:
        ValueError: for values out of range.

    Reference: He, Fan, Wu, Xie, Girshick (2020), Momentum Contrast for Unsupervised Visual Representation Learning.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> images = (torch.arange(20).reshape(20, 1, 1, 1) // 10 * 200).byte()
        >>> source = ArraySource(images, torch.arange(20) // 10)
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(1, 1)), train=source, test=source)
        >>> [(m.name, m.value) for m in SGDProbe(epochs=10).run(subject)]
        [('accuracy', 1.0), ('balanced accuracy', 1.0)]
    """

    learning_rates: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    epochs: int = 100
    batch_size: int = 256
    schedule: Literal["step", "cosine"] = "step"
    drops: tuple[float, ...] = (0.6, 0.8)
    momentum: float = 0.9
    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    validation_fraction: float = 0.2
    seed: int = 0

    protocol: ClassVar[str] = "linear probe, SGD"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        for name in ("learning_rates", "drops", "crop_scale"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # as YAML reads them
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise ValueError(f"learning_rates must be at least one rate, each positive, got {self.learning_rates}.")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1, got epochs={self.epochs}, batch_size={self.batch_size}."
            )
        if self.schedule not in ("step", "cosine"):
            raise ValueError(f"schedule must be 'step' or 'cosine', got {self.schedule!r}.")
        if not all(0 <= drop <= 1 for drop in self.drops):
            raise ValueError(f"drops must be shares of the epochs in [0, 1], got {self.drops}; 60 of 100 is 0.6.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie in (0, 1), got {self.validation_fraction}.")
        self._views  # noqa: B018  (its ranges are checked here and not in the middle of a run)

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield accuracy and balanced accuracy on the unaugmented test images, the latter with that of every class."""
        train, test = subject.features.train.labelled(), subject.features.test.labelled()
        assert train.labels is not None
        assert test.labels is not None
        classes, y = torch.unique(train.labels, return_inverse=True)
        fit, validation = cut_by_class(y, held_out=self.validation_fraction, seed=self.seed)
        everything = torch.arange(len(y))
        trial, final = self._trained(subject, train, y, parts=(fit, everything))
        scores = [accuracy(predicted, y[validation]) for predicted in trial.predict(train.rows[validation])]
        chosen = scores.index(max(scores)) if len(validation) else len(scores) // 2
        details = {
            "learning_rate_used": final.learning_rates[chosen],
            "validation_accuracies": [*scores] if len(validation) else None,
            "diverged": sorted({*trial.diverged, *final.diverged}),
        }
        yield from accuracies(classes[final.predict(test.rows)[chosen]], test.labels, details=details)

    def rate_factor(self, epoch: int) -> float:
        """What the learning rate is multiplied by in an epoch, counted from 0.

        Example:
            >>> [SGDProbe().rate_factor(epoch) for epoch in (0, 59, 60, 79, 80, 99)]
            [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
        """
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 1 / 10 ** sum(epoch >= round(drop * self.epochs) for drop in self.drops)

    @property
    def _views(self) -> ViewsConfig:
        """One view per image, cropped as the papers' code does."""
        return ViewsConfig(count=1, crop_scale=self.crop_scale, crop_form="rejected", flip=self.flip)

    def _trained(self, subject: Subject, train: Features, y: Tensor, *, parts: Sequence[Tensor]) -> list[Heads]:
        """For each part of the training rows, one head per learning rate, all trained on the same views."""
        device, rates = _device(subject), sorted(self.learning_rates)
        classes = int(y.max()) + 1
        heads = [Heads(train.dim, classes, rates, momentum=self.momentum, device=device) for _ in parts]
        labels = y.to(device)
        for epoch in range(self.epochs):
            x = self._augmented(subject, train, epoch).to(device)
            for some, part in zip(heads, parts, strict=True):
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = part[torch.randperm(len(part), generator=generator)].to(device)
                for rows in order.split(self.batch_size):
                    some.step(x[rows], labels[rows], factor=self.rate_factor(epoch))
        for some in heads:
            some.replace_diverged(y.bincount())
        return heads

    def _augmented(self, subject: Subject, train: Features, epoch: int) -> Float[Tensor, "n d"]:
        """Features of this epoch's views, one row for each of the training rows."""
        views = self._views
        if is_table(subject.train) or not (views.resamples or views.flip):
            return train.rows
        maker, device = ViewMaker(views, seed=self.seed), _device(subject)

        def change(batch: dict[str, Any], _: Tensor) -> dict[str, Any]:
            there = {**batch, "images": batch["images"].to(device)}
            return {"images": maker.of_batch(there, epoch=epoch)[0]}

        known = torch.isin(subject.train.ids, train.ids).nonzero().flatten()
        found = subject.extract(DerivedSource(subject.train.subset(known), change=change))
        place = found.positions(train.ids)
        assert bool((place >= 0).all()), "the training features and images of a subject are of the same samples"
        return found.rows[place]


class Heads:
    """Linear classifiers on the same features, one per learning rate, that SGD with momentum trains side by side.

    The loss of each is mean cross-entropy, and all start at zero. The gradient is written out, so that a step is two
    matrix products for all heads together.

    Args:
        dim: features per row, d.
        classes: number of classes, c.
        learning_rates: r rates.
        momentum: in [0, 1).
        device: where the heads are.

    Attributes:
        weight: float32 `[d, r, c]`.
        bias: float32 `[r, c]`.
        diverged: learning rates of the heads that `replace_diverged` replaced.

    Example:
        >>> heads = Heads(1, 2, (1.0, 2.0), momentum=0.0)
        >>> heads.step(torch.ones(1, 1), torch.tensor([1]), factor=0.5)
        >>> heads.weight[0].tolist()
        [[-0.25, 0.25], [-0.5, 0.5]]
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        learning_rates: Sequence[float],
        *,
        momentum: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.learning_rates, self.momentum = tuple(learning_rates), momentum
        self.weight = torch.zeros(dim, len(self.learning_rates), classes, device=device)
        self.bias = torch.zeros(len(self.learning_rates), classes, device=device)
        self.diverged: list[float] = []
        self._rates = self.weight.new_tensor(self.learning_rates)[:, None]
        self._speed = (torch.zeros_like(self.weight), torch.zeros_like(self.bias))

    def step(self, x: Float[Tensor, "b d"], y: Int64[Tensor, " b"], *, factor: float) -> None:
        """Take one SGD step with every head on one batch, its rate times the factor."""
        residual = self._logits(x).softmax(dim=2)
        residual[torch.arange(len(y), device=y.device), :, y] -= 1
        residual /= len(y)
        gradients = (x.T @ residual.flatten(1)).view_as(self.weight), residual.sum(dim=0)
        for values, speed, gradient in zip((self.weight, self.bias), self._speed, gradients, strict=True):
            speed.mul_(self.momentum).add_(gradient)
            values.sub_(factor * self._rates * speed)

    def predict(self, x: Float[Tensor, "n d"]) -> Int64[Tensor, "r n"]:
        """The most probable class by every head, ties to the lower one; on the CPU."""
        parts = x.split(_ROWS)
        return torch.cat([self._logits(part.to(self.weight.device)).argmax(dim=2).T.cpu() for part in parts], dim=1)

    def replace_diverged(self, class_sizes: Int64[Tensor, " c"]) -> None:
        """Make heads with weights that are not finite predict the most frequent class."""
        finite = self.weight.isfinite().all(2).all(0) & self.bias.isfinite().all(1)
        self.weight[:, ~finite], self.bias[~finite] = 0.0, class_sizes.to(self.bias)
        self.diverged = [rate for rate, fine in zip(self.learning_rates, finite.tolist(), strict=True) if not fine]

    def _logits(self, x: Tensor) -> Tensor:
        """`[b, r, c]`."""
        return (x @ self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias


def _device(subject: Subject) -> torch.device:
    """Where the subject's encoder computes."""
    held = next(chain(subject.encoder.parameters(), subject.encoder.buffers()), None)
    home = torch.device("cpu") if held is None else held.device
    return home if subject.device is None else torch.device(subject.device)
