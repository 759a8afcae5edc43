"""Whether a classifier looks at the object: attribution maps against masks, and what removing pixels does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_uniform
from kinfolk.data.derived.classes import required_labels
from kinfolk.data.derived.cutout import has_saliency
from kinfolk.data.sources.columns import take_columns
from kinfolk.data.views.filters import gaussian_blur
from kinfolk.data.views.unaugmented import to_float
from kinfolk.evals.attribution_maps import Attribution
from kinfolk.evals.attribution_scores import mass_inside, overlap, pixel_ranks, pointing, removal_area
from kinfolk.evals.geometry import subset
from kinfolk.evals.linear_probe import LinearProbe
from kinfolk.evals.protocol import Direction, Measurement, SubjectEvaluator
from kinfolk.nn import evaluating

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

    from kinfolk.evals.subject import Subject

Replacement = Literal["mean", "black", "blur"]

_ORDER = 12
_CHUNK = 1024
_BETTER: dict[str, Direction | None] = {
    "pointing": "higher",
    "mass inside": "higher",
    "overlap": "higher",
    "mask area": None,
    "deletion": "lower",
    "insertion": "higher",
    "random deletion": None,
}
_BLUR_SHARE = 1 / 8


@dataclass(frozen=True)
class AttributionQuality(SubjectEvaluator):
    """Attribution of the linear probe's logits to the pixels of test images, scored against their masks.

    ================= ============================================================================= ====================
    measurement       what it is, averaged over images                                              by chance
    ================= ============================================================================= ====================
    `pointing`        whether the pixel of highest attribution lies on the object; among equal        `mask area`
                      highest ones, the share that does
    `mass inside`     share of the positive attribution that lies on the object                       `mask area`
    `overlap`         intersection over union of the mask and as many pixels of highest attribution   in its details
    `mask area`       share of the image that the object covers
    `deletion`        area under the curve of the class's probability against the share of removed    `random deletion`
                      pixels, highest attribution first; lower is better
    `insertion`       the same where pixels come back, highest attribution first; higher is better    `random deletion`
    `random deletion` the same where pixels are removed, or come back, in a random order
    ================= ============================================================================= ====================

    Deletion and insertion depend on how confident the classifier is, so they compare with its own random order before
    they compare with another classifier's. Equal pixels are taken in a random order too. A map that is flat, or not
    finite, says nothing and scores as chance does; the details count those.

    Only labelled test samples count whose mask covers a part of the image and not the whole; without any, nothing is
    measured.

    Args:
        attribution: how maps are made; the default needs no other package.
        target: the class whose logit is attributed: the `predicted` one, which shows what decided, right or wrong, or
            the `true` one, which leaves out test samples of a class that the training samples lack.
        replacement: what a removed pixel shows: its image's `mean` colour, `black`, or the image under a strong `blur`
            (standard deviation an eighth of the shorter side). Integrated gradients start there, too.
        removal_steps: in how many steps pixels are removed.
        max_rows: test samples in use, a seeded subset; None takes all.
        seed: of the subset, the random orders, and the noise of `smooth_grad`.
        probe: the linear probe on the training features.

    Raises:
        ValueError: for a target or replacement that does not exist, or numbers below 1.

    Reference: Zhang, Bargal, Lin, Brandt, Shen, Sclaroff (2016), Top-down neural attention by excitation backprop
        (pointing game); Petsiuk, Das, Saenko (2018), RISE: randomized input sampling for explanation of black-box
        models (deletion and insertion).

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels, Subject
        >>> images, saliency = torch.zeros(40, 1, 2, 2, dtype=torch.uint8), torch.zeros(40, 1, 2, 2, dtype=torch.uint8)
        >>> images[:20, :, 0, 0] = images[20:, :, 0, 1] = 200  # of the two pixels of the object, which one is light
        >>> saliency[:, :, 0] = 255
        >>> source = ArraySource(images, torch.arange(40) // 20, columns={"saliency": saliency})
        >>> subject = Subject.of("raw", RawPixels(channels=1, image_size=(2, 2)), train=source, test=source)
        >>> found = {m.name: m.value for m in AttributionQuality(replacement="black").run(subject)}
        >>> found["pointing"], found["mass inside"], found["mask area"]
        (1.0, 1.0, 0.5)
    """

    attribution: Attribution = field(default_factory=Attribution)
    target: Literal["predicted", "true"] = "predicted"
    replacement: Replacement = "mean"
    removal_steps: int = 20
    max_rows: int | None = 256
    seed: int = 0
    probe: LinearProbe = field(default_factory=LinearProbe)

    protocol: ClassVar[str] = "attribution"
    needs_labels: ClassVar[bool] = True
    normalisation: ClassVar[str] = "standardised by training statistics"

    def __post_init__(self) -> None:
        if self.target not in ("predicted", "true"):
            raise ValueError(f"target must be 'predicted' or 'true'; found {self.target!r}.")
        if self.replacement not in ("mean", "black", "blur"):
            raise ValueError(f"replacement must be 'mean', 'black' or 'blur'; found {self.replacement!r}.")
        if self.removal_steps < 1:
            raise ValueError(f"removal_steps must be at least 1, got {self.removal_steps}.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {self.max_rows}.")

    def missing(self, subject: Subject) -> str | None:
        """Say that there are no masks, none that covers a part of a picture, or no layer to look at."""
        if not has_saliency(subject.test):
            return "no masks"
        if self.attribution.method == "grad_cam" and self.attribution.convolution(subject.encoder) is None:
            return "no convolution"
        if len(self._rows(subject)[0]) == 0:
            return "no usable masks (a part of the picture, of a labelled sample)"
        return None

    def run(self, subject: Subject) -> Iterator[Measurement]:
        """Yield the scores against masks, then those by removal, each with its chance value beside it."""
        if self.missing(subject) is not None:
            return
        required_labels(subject.test, needed_for="attribution", complete=False)
        rows, left_out = self._rows(subject)
        head = subject.head(self.probe)
        with evaluating(subject.encoder, device=subject.device) as place:
            model = subject.classifier(self.probe).to(place)
            parts = [self._scores(model, batch, head.classes) for batch in _batches(subject, rows)]
        scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        flat, by_chance = int(scores.pop("flat").sum()), scores.pop("random overlap").mean().item()
        details = {"rows": len(scores["mask area"]), **left_out, "flat_maps": flat, **head.details}
        for name, values in scores.items():
            more = {"by_chance": by_chance} if name == "overlap" else {}
            yield Measurement(name, values.mean().item(), better=_BETTER[name], details={**details, **more})

    def _rows(self, subject: Subject) -> tuple[Int64[Tensor, " r"], dict[str, int]]:
        """Positions in the test source, in ascending order of id, and how many samples are left out for what."""
        test = subject.test
        keep = torch.ones(len(test), dtype=torch.bool) if test.labels is None else test.labels >= 0
        left_out = {}
        if self.target == "true" and test.labels is not None and subject.features.train.labels is not None:
            unknown = keep & ~torch.isin(test.labels, subject.features.train.labels)
            keep, left_out["rows_of_unknown_classes"] = keep & ~unknown, int(unknown.sum())
        chunks = torch.arange(len(test)).split(_CHUNK)
        areas = torch.cat([_inside(test.describe(part)["saliency"]).double().mean((1, 2)) for part in chunks])
        partial = (areas > 0) & (areas < 1)
        left_out["rows_without_object_or_background"] = int((keep & ~partial).sum())
        positions = test.ids.argsort()
        positions = positions[(keep & partial)[positions]]
        return positions[subset(len(positions), self.max_rows or len(positions), seed=self.seed)], left_out

    def _scores(self, model: nn.Sequential, batch: dict[str, Any], classes: Tensor) -> dict[str, Tensor]:
        """Every score of every image of a batch."""
        place = next(model.parameters()).device
        images, ids = to_float(batch["images"].to(place)), batch["ids"].to(place)
        inside, hidden = _inside(batch["saliency"].to(place)), self._replaced(images)
        if self.target == "true":
            columns = torch.searchsorted(classes, batch["labels"]).to(place)
        else:
            with torch.no_grad():
                columns = model(images).argmax(1)
        maps = self.attribution.maps(model, images, columns, replacement=hidden, ids=ids, seed=self.seed)
        maps = torch.where(maps.isfinite().all(2).all(1)[:, None, None], maps, 0.0)
        shuffled = counter_uniform((self.seed, _ORDER), ids, count=maps[0].numel()).reshape(maps.shape)
        ranks, random_ranks = pixel_ranks(maps, shuffled), pixel_ranks(shuffled, shuffled)
        scores = {
            "pointing": pointing(maps, inside),
            "mass inside": mass_inside(maps, inside),
            "overlap": overlap(ranks, inside),
            "random overlap": overlap(random_ranks, inside),
            "mask area": inside.double().mean((1, 2)),
            "flat": maps.flatten(1).amax(1) == maps.flatten(1).amin(1),
        }
        for name, shown, removed, order in (
            ("deletion", images, hidden, ranks),
            ("insertion", hidden, images, ranks),
            ("random deletion", images, hidden, random_ranks),
        ):
            scores[name] = removal_area(model, shown, removed, order, columns, steps=self.removal_steps)
        return {name: values.cpu() for name, values in scores.items()}

    def _replaced(self, images: Tensor) -> Tensor:
        if self.replacement == "black":
            return torch.zeros_like(images)
        if self.replacement == "mean":
            return images.mean((2, 3), keepdim=True).expand_as(images)
        sigma = _BLUR_SHARE * min(images.shape[2:])
        return gaussian_blur(images, images.new_full((len(images),), sigma), max_sigma=sigma)


def _inside(saliency: Tensor) -> Bool[Tensor, "b h w"]:
    return saliency[:, 0] >= 128


def _batches(subject: Subject, rows: Tensor) -> Iterator[dict[str, Any]]:
    """The samples at these positions, without those that stand in for unreadable ones."""
    for part in rows.split(subject.batch_size):
        batch = subject.test.fetch(part)
        own = (batch["ids"] == subject.test.ids[part]).nonzero().flatten()
        if batch.pop("skipped", None) is None:
            yield batch
        elif len(own):
            yield take_columns(batch, own)
