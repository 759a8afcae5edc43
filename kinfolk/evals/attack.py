"""The attack by projected gradient descent: the worst image near an image, for a differentiable classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_uniform

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def pgd_attack(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    *,
    eps: float,
    steps: int = 20,
    step: float | None = None,
    restarts: int = 1,
    seed: int,
    ids: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Find the image within `eps` of each image, pixel by pixel, on which a classifier does worst.

    Ascent of the cross-entropy by signed gradients, from a uniform start in the ball:
    `x <- clip(x + step * sign(gradient), max(image - eps, 0), min(image + eps, 1))`. The best of all iterates is given
    back, the image itself among them: a misclassified one where there is one, and of those the one with the highest
    loss. Hence `eps=0` gives the images, and no image that was misclassified comes out right.

    The ascent is on `log sum_{j != y} exp z_j - z_y`, of which the cross-entropy is an increasing function (softplus):
    its gradient has the same signs and does not vanish where the classifier is sure of itself. With a single class
    nothing can be found, and the images come back. The model computes in evaluation mode; every mode, every buffer and
    every parameter's `.grad` are as before afterwards.

    Args:
        model: from images to logits `[b, C]`; what it normalises, it normalises inside.
        images: in [0, 1], on the model's device.
        labels: column of the true class, in 0 to C - 1.
        eps: largest change of a pixel, in [0, 1].
        steps: gradient steps per start, at least 1.
        step: length of one, > 0; None takes `eps / 4`.
        restarts: random starts, at least 1.
        seed: of the starts, which are functions of seed, id and number of the restart.
        ids: of the images; None takes the position in the batch.

    Returns:
        Adversarial images, detached.

    Raises:
        ValueError: for pixels outside [0, 1], labels that are no columns, a loss that is not finite, or logits through
            which no gradient flows to the images.

    Reference: Madry, Makelov, Schmidt, Tsipras, Vladu (2018), Towards Deep Learning Models Resistant to Adversarial
        Attacks.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).requires_grad_(False)
        >>> _ = model[1].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> images = torch.tensor([0.6, 0.5]).reshape(1, 1, 1, 2)
        >>> found = pgd_attack(model, images, torch.tensor([0]), eps=0.125, seed=0)
        >>> found.flatten(), model(images).argmax(1), model(found).argmax(1)
        (tensor([0.4750, 0.6250]), tensor([0]), tensor([1]))
    """
    return attacked(model, images, labels, eps=eps, steps=steps, step=step, restarts=restarts, seed=seed, ids=ids)[0]


def attacked(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    *,
    eps: float,
    steps: int = 20,
    step: float | None = None,
    restarts: int = 1,
    seed: int,
    ids: Int[Tensor, " b"] | None = None,
    until_wrong: bool = False,
) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, " b"]]:
    """Run `pgd_attack` and say of each image it found whether it is misclassified.

    Args:
        model, images, labels, eps, steps, step, restarts, seed, ids: as in `pgd_attack`.
        until_wrong: whether an image is left alone once it is misclassified: all that accuracy needs, and cheaper.

    Raises:
        ValueError: as `pgd_attack` does.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, labels = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
        >>> found, wrong = attacked(model, images, labels, eps=0.1, seed=0, until_wrong=True)
        >>> bool((wrong == (model(found).argmax(1) != labels)).all())
        True
    """
    step = eps / 4 if step is None else step
    labels = labels.long()
    _check(images, labels, eps=eps, steps=steps, step=step, restarts=restarts)
    ids = torch.arange(len(images), device=images.device) if ids is None else ids
    found = images.detach().clone()
    if len(images) == 0:
        return found, torch.zeros(0, dtype=torch.bool, device=images.device)
    low, high = (found - eps).clamp(min=0), (found + eps).clamp(max=1)
    with evaluating(model):
        wrong, excess, _ = _judged(model, found, labels, gradient=False)
        for restart in range(restarts):
            rows = torch.arange(len(images), device=images.device)
            noise = counter_uniform((seed, restart), ids, count=images[:1].numel()).view_as(images)
            x = (images.detach() + (2 * noise - 1) * eps).clamp(low, high)
            for taken in range(steps + 1):
                if until_wrong:
                    keep = ~wrong[rows]
                    rows, x = rows[keep], x[keep]
                if len(rows) == 0:
                    break
                now_wrong, now, gradient = _judged(model, x, labels[rows], gradient=taken < steps)
                worse = (now_wrong & ~wrong[rows]) | ((now_wrong == wrong[rows]) & (now > excess[rows]))
                at = rows[worse]
                found[at], wrong[at], excess[at] = x[worse], now_wrong[worse], now[worse]
                if taken < steps:
                    x = (x + step * gradient.sign()).clamp(low[rows], high[rows])
    return found, wrong


def _judged(
    model: nn.Module, x: Tensor, labels: Tensor, *, gradient: bool
) -> tuple[Bool[Tensor, " b"], Float[Tensor, " b"], Tensor]:
    """Whether each image is misclassified, by how much the other classes exceed its own, and that one's gradient."""
    with torch.set_grad_enabled(gradient):
        x = x.detach().requires_grad_(gradient)
        logits = model(x).float()
        own = labels[:, None]
        if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
            raise ValueError(
                f"labels must be columns of the logits, 0 to {logits.shape[1] - 1}; found {int(labels.min())} to "
                f"{int(labels.max())}. Leave out classes that the classifier does not know."
            )
        others = logits.scatter(1, own, float("-inf")).logsumexp(1)
        excess = others - logits.gather(1, own)[:, 0]
        total = excess.sum()
    wrong = logits.detach().argmax(1) != labels
    if logits.shape[1] == 1:
        return wrong, torch.zeros_like(excess).detach(), torch.zeros_like(x)
    if not bool(excess.isfinite().all()):
        raise ValueError(
            "the classifier's logits must be finite, and are not on some attacked image; look at it there."
        )
    if not gradient:
        return wrong, excess, torch.zeros_like(x)
    if not excess.requires_grad:
        raise ValueError(
            "no gradient flows from the classifier's logits to the images, so that an attack would find nothing; "
            "remove no_grad and detach from its forward pass."
        )
    (slope,) = torch.autograd.grad(total, x, allow_unused=True, materialize_grads=True)
    return wrong, excess.detach(), slope


def _check(images: Tensor, labels: Tensor, *, eps: float, steps: int, step: float, restarts: int) -> None:
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"an attack needs images [b, C, H, W] and one label each: images {tuple(images.shape)}, labels "
            f"{tuple(labels.shape)}."
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images must lie in [0, 1], found {float(images.min()):.3g} to {float(images.max()):.3g}; normalise "
            "inside the model."
        )
    if not 0 <= eps <= 1:
        raise ValueError(f"eps must lie in [0, 1], where 1 is the range of a pixel, got {eps}; 8 / 255 is usual.")
    if step < 0 or steps < 1 or restarts < 1:
        raise ValueError(
            f"an attack needs a step of at least 0, one step and one start or more; got step {step}, steps {steps}, "
            f"restarts {restarts}."
        )


@contextmanager
def evaluating(model: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Put a module in evaluation mode and on a device, and back afterwards, submodule by submodule.

    Args:
        model: any module.
        device: where to; None leaves it where its first parameter or buffer is.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluating(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    held = next(chain(model.parameters(), model.buffers()), None)
    home = torch.device("cpu") if held is None else held.device
    place = home if device is None else torch.device(device)
    model.eval()
    if place != home:
        model.to(place)
    try:
        yield place
    finally:
        if place != home:
            model.to(home)
        for module, training in modes.items():
            module.training = training
