"""Scores of attribution maps: against a mask, and by what happens to a class's probability as pixels are replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64
    from torch import Tensor, nn


def pointing(maps: Float[Tensor, "b h w"], inside: Bool[Tensor, "b h w"]) -> Float64[Tensor, " b"]:
    """The pointing game: the share of the pixels of highest attribution that lie inside, 0 or 1 without ties.

    Reference: Zhang, Bargal, Lin, Brandt, Shen, Sclaroff (2016), Top-down neural attention by excitation backprop.

    Example:
        >>> pointing(torch.tensor([[[1.0, 5.0, 5.0]]]), torch.tensor([[[True, True, False]]])).item()
        0.5
    """
    highest = maps == maps.amax((1, 2), keepdim=True)
    return (highest & inside).sum((1, 2)).double() / highest.sum((1, 2))


def mass_inside(maps: Float[Tensor, "b h w"], inside: Bool[Tensor, "b h w"]) -> Float64[Tensor, " b"]:
    """The share of a map's positive attribution that lies inside; without any, the share of pixels that do.

    Example:
        >>> mass_inside(torch.tensor([[[3.0, 1.0, -9.0]], [[0, 0, -1]]]), torch.tensor([[[True, False, True]]] * 2))
        tensor([0.7500, 0.6667], dtype=torch.float64)
    """
    positive = maps.double().clamp(min=0)
    total = positive.sum((1, 2))
    share = (positive * inside).sum((1, 2)) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, share, inside.double().mean((1, 2)))


def overlap(ranks: Int64[Tensor, "b h w"], inside: Bool[Tensor, "b h w"]) -> Float64[Tensor, " b"]:
    """Intersection over union of a mask and as many pixels of lowest rank.

    Args:
        ranks: what `pixel_ranks` gives.
        inside: masks with at least one pixel.

    Example:
        >>> overlap(torch.tensor([[[0, 1, 2, 3]]]), torch.tensor([[[True, False, True, False]]])).item()
        0.3333333333333333
    """
    area = inside.sum((1, 2))
    shared = ((ranks < area[:, None, None]) & inside).sum((1, 2))
    return shared.double() / (2 * area - shared)


def pixel_ranks(maps: Float[Tensor, "b h w"], ties: Float[Tensor, "b h w"]) -> Int64[Tensor, "b h w"]:
    """Rank pixels from the highest attribution, 0, to the lowest; equal ones by `ties`, the highest first.

    Example:
        >>> pixel_ranks(torch.tensor([[[1.0, 7.0, 1.0]]]), torch.tensor([[[0.1, 0.2, 0.3]]])).tolist()
        [[[2, 0, 1]]]
    """
    by_ties = ties.flatten(1).argsort(dim=1, descending=True, stable=True)
    within = maps.flatten(1).gather(1, by_ties).argsort(dim=1, descending=True, stable=True)
    return by_ties.gather(1, within).argsort(dim=1).reshape(maps.shape)


def removal_area(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    replacement: Float[Tensor, "b c h w"],
    ranks: Int64[Tensor, "b h w"],
    columns: Int64[Tensor, " b"],
    *,
    steps: int = 20,
) -> Float64[Tensor, " b"]:
    """Area under the curve of a class's probability against the share of pixels that show the replacement.

    This is the deletion score; with images and replacement exchanged it is the insertion score.

    Args:
        model: in evaluation mode, from images to logits.
        images: what pixels show at first.
        replacement: what they show in the end.
        ranks: the order in which they change.
        columns: the class of each image.
        steps: the curve has one more point than that, from nothing replaced to everything.

    Returns:
        By the trapezoidal rule, in [0, 1].

    Reference: Petsiuk, Das, Saenko (2018), RISE: randomized input sampling for explanation of black-box models.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))  # the first pixel decides
        >>> image = torch.ones(1, 1, 1, 2)
        >>> for ranks in ([0, 1], [1, 0]):
        ...     ranks = torch.tensor([[ranks]])
        ...     print(removal_area(model, image, 0 * image, ranks, torch.tensor([1]), steps=2).item())
        0.625
        0.875
    """
    pixels = ranks[0].numel()
    counts = [round(step * pixels / steps) for step in range(steps + 1)]
    curve = []
    with torch.no_grad():
        for count in counts:
            mixed = torch.where((ranks < count)[:, None], replacement, images)
            curve.append(model(mixed).double().softmax(1).gather(1, columns[:, None])[:, 0])
    return torch.trapezoid(
        torch.stack(curve, dim=1), torch.tensor(counts, dtype=torch.float64, device=ranks.device) / pixels
    )
