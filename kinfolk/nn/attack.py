"""The attack by projected gradient descent: the worst image near an image, for a classifier or any other judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from kinfolk.nn.modes import evaluating

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Judge = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images [k, C, H, W] and their rows [k] in the batch to whether each is fooled [k] and its harm [k]."""


@dataclass(frozen=True)
class Attack:
    """How far an attack may go, and in which steps.

    Raises:
        ValueError: for a field outside its range.

    Example:
        >>> Attack(eps=0.1).length
        0.025
    """

    eps: float = 8 / 255
    """Largest change of a pixel, in [0, 1], where 1 is the range of a pixel."""
    steps: int = 20
    """Gradient steps from every start, at least 1."""
    step: float | None = None
    """Length of one, 0 or more; None takes a quarter of eps."""

    def __post_init__(self) -> None:
        if not 0 <= self.eps <= 1:
            raise ValueError(
                f"eps must lie in [0, 1], where 1 is the range of a pixel, got {self.eps}; 8 / 255 is usual."
            )
        if self.steps < 1 or self.length < 0:
            raise ValueError(
                f"an attack needs one step or more, of a length of at least 0; got steps {self.steps}, step "
                f"{self.step}."
            )

    @property
    def length(self) -> float:
        """Length of a step."""
        return self.eps / 4 if self.step is None else self.step


class Attacked(NamedTuple):
    """What an attack found: images in the ball around the given ones, detached, and whether each of them is fooled.

    Example:
        >>> Attacked(torch.zeros(1, 1, 2, 2), torch.tensor([False])).fooled.tolist()
        [False]
    """

    images: Float[Tensor, "b c h w"]
    fooled: Bool[Tensor, " b"]


def worst_in_ball(
    judge: Judge,
    images: Float[Tensor, "b c h w"],
    attack: Attack,
    *,
    starts: Iterable[Float[Tensor, "b c h w"]],
    until_fooled: bool = False,
) -> Attacked:
    """Find the image within `attack.eps` of each image, pixel by pixel, that a judge finds worst.

    Ascent of the harm by signed gradients from each start:
    ``x <- clip(x + step * sign(gradient), max(image - eps, 0), min(image + eps, 1))``. The best of all iterates is
    given back, the image itself among them: one that is fooled where there is one, and of those the one that is harmed
    most. Hence ``eps=0`` gives the images back, and no image that was fooled comes out right.

    Every image is attacked by itself, as long as the judge looks at each by itself. No parameter receives a gradient;
    whoever calls puts what the judge uses in evaluation mode.

    Args:
        judge: harm must have a gradient to the images, 0 where there is nothing to gain.
        images: in [0, 1].
        attack: how far, and in which steps.
        starts: for every start, how far from the images it lies, in [-1, 1] as a share of eps; at least one.
        until_fooled: whether an image is left alone once it is fooled: all that accuracy needs, and cheaper.

    Raises:
        ValueError: for pixels outside [0, 1], no start, a harm that is not finite, or one without gradient.

    Reference: Madry, Makelov, Schmidt, Tsipras, Vladu (2018), Towards Deep Learning Models Resistant to Adversarial
        Attacks.

    Example:
        >>> images = torch.tensor([[0.5, 0.9]]).reshape(1, 1, 1, 2)
        >>> brightness = lambda x, rows: (torch.zeros(len(x), dtype=torch.bool), x.flatten(1).sum(1))
        >>> found = worst_in_ball(brightness, images, Attack(eps=0.25), starts=[torch.zeros_like(images)])
        >>> found.images.flatten()
        tensor([0.7500, 1.0000])
    """
    _check(images)
    found = images.detach().clone()
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if len(images) == 0:
        return Attacked(found, fooled)
    everything = torch.arange(len(images), device=images.device)
    low, high = (found - attack.eps).clamp(min=0), (found + attack.eps).clamp(max=1)
    fooled, harm, _ = _judged(judge, found, everything, gradient=False)
    started = False
    for start in starts:
        started, rows = True, everything
        x = (images.detach() + start * attack.eps).clamp(low, high)
        for taken in range(attack.steps + 1):
            if until_fooled:
                keep = ~fooled[rows]
                rows, x = rows[keep], x[keep]
            if len(rows) == 0:
                break
            now_fooled, now, gradient = _judged(judge, x, rows, gradient=taken < attack.steps)
            worse = (now_fooled & ~fooled[rows]) | ((now_fooled == fooled[rows]) & (now > harm[rows]))
            at = rows[worse]
            found[at], fooled[at], harm[at] = x[worse], now_fooled[worse], now[worse]
            if taken < attack.steps:
                x = (x + attack.length * gradient.sign()).clamp(low[rows], high[rows])
    if not started:
        raise ValueError("an attack needs at least one start, found none; zeros start it at the images themselves.")
    return Attacked(found, fooled)


def pgd_attack(
    classifier: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    attack: Attack,
    *,
    starts: Iterable[Float[Tensor, "b c h w"]],
    until_fooled: bool = False,
) -> Attacked:
    """Find the image within `attack.eps` of each image on which a classifier does worst; see `worst_in_ball`.

    Fooled is who is misclassified. The ascent is on `log sum_{j != y} exp z_j - z_y`, of which the cross-entropy is an
    increasing function (softplus): its gradient has the same signs and does not vanish where the classifier is sure of
    itself. With a single class nothing can be found, and the images come back. The classifier computes in evaluation
    mode; every mode, every buffer and every parameter's `.grad` are as before afterwards.

    Args:
        classifier: from images to logits `[b, C]`; what it normalises, it normalises inside.
        images: in [0, 1], on the classifier's device.
        labels: column of the true class, in 0 to C - 1.
        attack, starts, until_fooled: as in `worst_in_ball`.

    Raises:
        ValueError: for pixels outside [0, 1], labels that are no columns, logits that are not finite, or through which
            no gradient flows to the images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).requires_grad_(False)
        >>> _ = model[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> images = torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2)
        >>> found = pgd_attack(model, images, torch.tensor([0]), Attack(eps=0.125), starts=[torch.zeros(1, 1, 1, 2)])
        >>> found.images.flatten(), model(images).argmax(1), model(found.images).argmax(1)
        (tensor([0.4750, 0.6250]), tensor([0]), tensor([1]))
    """
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"an attack needs images [b, C, H, W] and one label each: images {tuple(images.shape)}, labels "
            f"{tuple(labels.shape)}."
        )
    columns = labels.long()

    def margin(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = classifier(x).float()
        own, classes = columns[rows][:, None], logits.shape[1]
        if int(own.min()) < 0 or int(own.max()) >= classes:
            raise ValueError(
                f"labels must be columns of the logits, 0 to {classes - 1}; found {int(own.min())} to "
                f"{int(own.max())}. Leave out classes that the classifier does not know."
            )
        fooled = logits.detach().argmax(1) != own[:, 0]
        if classes == 1:
            return fooled, 0 * logits[:, 0]
        others = logits.scatter(1, own, float("-inf")).logsumexp(1)
        return fooled, others - logits.gather(1, own)[:, 0]

    with evaluating(classifier):
        return worst_in_ball(margin, images, attack, starts=starts, until_fooled=until_fooled)


def _judged(
    judge: Judge, x: Tensor, rows: Tensor, *, gradient: bool
) -> tuple[Bool[Tensor, " k"], Float[Tensor, " k"], Tensor]:
    """Whether each image is fooled, its harm, and the gradient of that; zeros where none is asked for."""
    with torch.set_grad_enabled(gradient):
        x = x.detach().requires_grad_(gradient)
        fooled, harm = judge(x, rows)
        total = harm.sum()
    if not bool(harm.isfinite().all()):
        raise ValueError("what is attacked must give finite numbers, and does not on some attacked image; look there.")
    if not gradient:
        return fooled, harm, torch.zeros_like(x)
    if not total.requires_grad:
        raise ValueError(
            "no gradient flows from what is attacked to the images, so that an attack would find nothing; remove "
            "no_grad and detach from its forward pass."
        )
    (slope,) = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)
    return fooled, harm.detach(), slope


def _check(images: Tensor) -> None:
    if images.ndim != 4:
        raise ValueError(f"an attack needs images [b, C, H, W], found {tuple(images.shape)}.")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images must lie in [0, 1], found {float(images.min()):.3g} to {float(images.max()):.3g}; normalise "
            "inside the model."
        )
