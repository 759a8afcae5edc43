"""Projected gradient descent: how much accuracy is left when every pixel may move a little in the worst direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_uniform
from kinfolk.data.views.table import unaugmented
from kinfolk.evals.corruption import no_pictures, scored_samples
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Measurement, SubjectEvaluator
from kinfolk.nn import Attack, evaluating, pgd_attack

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from kinfolk.evals.subject import Subject

_COLOUR_EPS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
_GREY_EPS = (2 / 255, 4 / 255, 8 / 255, 16 / 255)


@dataclass(frozen=True)
class PGD(SubjectEvaluator):
    """Accuracy of encoder and linear head when an attacker may change every pixel by at most eps.

    The head is fitted on clean features. A row counts as robust when the head has its class and every iterate of the
    attack, the image itself included, is classified right. Rows that are wrong at one eps are not attacked at a larger
    one, whose ball contains the smaller: accuracy never rises with eps, and at every eps but the smallest the number
    is that of a slightly stronger attack than one run at this eps alone. A class that the training set does not have
    counts as errors, clean and attacked. Robust / clean is left out where clean is 0.

    The attack is only as good as its gradients. So a part of the rows is attacked at the smallest eps once more, with
    more steps and starts, the first of which continues the short attack; what only that finds is reported. More than a
    few per cent says that the numbers above flatter the encoder.

    Args:
        eps: largest changes of a pixel, ascending, in (0, 1]; None takes 1, 2, 4 and 8 of 255, for grey images twice
            that.
        steps: of length eps / 4, from one random start.
        max_rows: labelled test rows in use, a seeded subset, at least 1.
        sanity_rows: so many of these are attacked again; 0 switches it off.
        sanity_steps: steps of the second attack.
        sanity_restarts: random starts of the second attack.
        seed: of the subset and of the starts.
        probe: of the linear head, fitted once for all protocols with these settings.

    Raises:
        ValueError: for eps that are not ascending in (0, 1], or sizes out of range.

    Reference: Madry, Makelov, Schmidt, Tsipras, Vladu (2018), Towards Deep Learning Models Resistant to Adversarial
        Attacks.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> labels = torch.arange(20) % 2
        >>> source = ArraySource((labels * 20).byte()[:, None, None, None].repeat(1, 1, 2, 2), labels)
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(2, 2)), train=source, test=source)
        >>> for found in PGD(eps=(8 / 255, 12 / 255), sanity_rows=0).run(subject):  # the classes are 20 / 255 apart
        ...     print(found.name, found.value)
        clean accuracy 1.0
        robust accuracy, eps 8/255 1.0
        robust / clean, eps 8/255 1.0
        robust accuracy, eps 12/255 0.0
        robust / clean, eps 12/255 0.0
    """

    eps: tuple[float, ...] | None = None
    steps: int = 20
    max_rows: int = 1000
    sanity_rows: int = 100
    sanity_steps: int = 100
    sanity_restarts: int = 3
    seed: int = 0
    probe: LinearProbe = field(default_factory=LinearProbe)

    protocol: ClassVar[str] = "PGD"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        if self.eps is not None:
            eps = tuple(self.eps)
            object.__setattr__(self, "eps", eps)  # as YAML reads it
            if not eps or any(b <= a for a, b in zip((0.0, *eps), eps, strict=False)) or eps[-1] > 1:
                raise ValueError(f"eps must be ascending, in (0, 1], such as 8 / 255, got {eps}.")
        for name in ("steps", "max_rows", "sanity_rows", "sanity_steps", "sanity_restarts"):
            least = 0 if name == "sanity_rows" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    def eps_for(self, channels: int) -> tuple[float, ...]:
        """The eps in use on images with so many channels."""
        if self.eps is not None:
            return self.eps
        return _GREY_EPS if channels == 1 else _COLOUR_EPS

    def missing(self, subject: Subject) -> str | None:
        """Say that the samples are no pictures, as in a table; None when they are."""
        return no_pictures(subject)

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield clean accuracy, robust accuracy and its ratio to clean for every eps, what a longer attack adds."""
        if self.missing(subject) is not None:
            return
        with evaluating(subject.encoder, device=subject.device) as place:
            found = list(self._measured(subject, _Target.of(subject, self, place)))  # whoever reads may stop halfway
        yield from found

    def _measured(self, subject: Subject, target: _Target) -> Iterator[Measurement]:
        details = {**target.details, "step": "eps / 4", **subject.head(self.probe).details}
        standing = target.right()
        clean = _share(standing)
        yield Measurement("clean accuracy", clean, better="higher", details=details)
        for i, eps in enumerate(self.eps_for(subject.test.channels)):
            standing = target.attacked(standing, Attack(eps, self.steps), restarts=1, seed=self.seed)
            shared = {**details, "eps_used": eps}
            name = f"eps {eps * 255:.4g}/255"
            yield Measurement(f"robust accuracy, {name}", _share(standing), better="higher", details=shared)
            if clean > 0:
                yield Measurement(f"robust / clean, {name}", _share(standing) / clean, better="higher", details=shared)
            if i == 0:
                smallest = eps, standing
        if self.sanity_rows > 0:
            yield self._sanity(target, *smallest, details)

    def _sanity(self, target: _Target, eps: float, standing: Tensor, details: dict[str, Any]) -> Measurement:
        """What share of the first rows only the longer attack gets wrong."""
        chosen = torch.arange(len(standing), device=standing.device) < self.sanity_rows
        attack = Attack(eps, self.sanity_steps)
        longer = target.attacked(standing & chosen, attack, restarts=self.sanity_restarts, seed=self.seed)
        before, after = _share(standing[chosen]), _share(longer[chosen])
        facts = {"eps_used": eps, "rows_used": int(chosen.sum()), "robust_before": before, "robust_after": after}
        name = f"lost to {self.sanity_steps} steps x {self.sanity_restarts}, eps {eps * 255:.4g}/255"
        return Measurement(name, before - after, details={**details, **facts})


@dataclass(frozen=True, eq=False)
class _Target:
    """A classifier and the rows it is attacked on, in a seeded order; -1 is the column of a class it does not know."""

    classifier: nn.Module
    images: Tensor
    columns: Int64[Tensor, " n"]
    ids: Int64[Tensor, " n"]
    batch_size: int
    place: torch.device

    @classmethod
    def of(cls, subject: Subject, settings: PGD, place: torch.device) -> _Target:
        samples = scored_samples(subject, at_most=settings.max_rows, seed=settings.seed)
        assert samples.labels is not None
        classes = subject.head(settings.probe).classes.cpu()
        at = torch.searchsorted(classes, samples.labels).clamp(max=len(classes) - 1)
        columns = torch.where(classes[at] == samples.labels, at, -1)
        # The sanity run takes the first rows, and ids may be in order of class.
        order = torch.randperm(len(columns), generator=torch.Generator().manual_seed(settings.seed))
        classifier = subject.classifier(settings.probe).to(place)
        return cls(classifier, samples.images[order], columns[order], samples.ids[order], subject.batch_size, place)

    @property
    def details(self) -> dict[str, Any]:
        return {"n_test": len(self.columns), "rows_of_unknown_classes": int((self.columns < 0).sum())}

    def right(self) -> Bool[Tensor, " n"]:
        """Which rows are classified right as they are."""
        with torch.no_grad():
            parts = [
                self.classifier(unaugmented(part.to(self.place))).argmax(1).cpu()
                for part in self.images.split(self.batch_size)
            ]
        return torch.cat(parts) == self.columns

    def attacked(self, standing: Bool[Tensor, " n"], attack: Attack, *, restarts: int, seed: int) -> Bool[Tensor, " n"]:
        """Which of the standing rows are still classified right on all iterates of an attack."""
        left = standing.clone()
        for rows in standing.nonzero().squeeze(1).split(self.batch_size):
            images, columns, ids = (x[rows].to(self.place) for x in (self.images, self.columns, self.ids))
            pixels = unaugmented(images)
            starts = (_start((seed, restart), ids, like=pixels) for restart in range(restarts))
            found = pgd_attack(self.classifier, pixels, columns, attack, starts=starts, until_fooled=True)
            left[rows] = ~found.fooled.cpu()
        return left


def _start(key: tuple[int, int], ids: Tensor, *, like: Tensor) -> Tensor:
    """A uniform start in the ball, as a function of seed, number of the restart and id."""
    return 2 * counter_uniform(key, ids, count=like[0].numel()).view_as(like) - 1


def _share(rows: Bool[Tensor, " n"]) -> float:
    return rows.double().mean().item()
