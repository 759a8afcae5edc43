"""AutoAugment's published tables and RandAugment: which operation an image gets, and how strongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kinfolk.data.views import levels as level_ops
from kinfolk.data.views.chosen import change_some_
from kinfolk.data.views.config import Policy, ViewsConfig
from kinfolk.data.views.draws import Draws
from kinfolk.data.views.geometry import pixel_centres, resample, window
from kinfolk.data.views.policy_tables import CIFAR10, IMAGENET

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# RandAugment's fourteen, in the order of the paper, and the one that only AutoAugment uses.
OPERATIONS = (
    "Identity", "AutoContrast", "Equalize", "Rotate", "Solarize", "Color", "Posterize", "Contrast", "Brightness",
    "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Invert",
)  # fmt: skip
_RANDAUGMENT = 14
_MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
_TABLES = {"autoaugment-cifar10": CIFAR10, "autoaugment-imagenet": IMAGENET}
# Translation at level 10, as a share of the side: 150 of 331 pixels in the paper, 10 of 32 in the authors' CIFAR code.
_TRANSLATE = {"autoaugment-cifar10": 10 / 32, "autoaugment-imagenet": 150 / 331, "randaugment": 150 / 331}
_FILL = 128.0


class Choice(NamedTuple):
    """What one slot of a policy does to every image.

    Attributes:
        operation: index into `OPERATIONS`, int64 ``[b]``.
        level: strength from 0 to 10, ``[b]``.
        positive: the sign of what has one, bool ``[b]``.
    """

    operation: Int[Tensor, " b"]
    level: Float[Tensor, " b"]
    positive: Bool[Tensor, " b"]


def apply_policy(images: Float[Tensor, "b c h w"], draws: Draws, config: ViewsConfig) -> Float[Tensor, "b c h w"]:
    """Apply the operations that a policy draws for every image, one after another.

    Operations work on 8-bit levels as PIL's do. What a movement uncovers becomes grey (128), and transparent where
    there is an alpha channel, which no other operation touches; movements take the nearest pixel.

    Args:
        images: in [0, 1]; 1, 3 or 4 channels.
        draws: the view's random numbers.
        config: names the policy.

    Reference: Cubuk, Zoph, Mané, Vasudevan, Le (2019), AutoAugment: learning augmentation strategies from data; Cubuk,
        Zoph, Shlens, Le (2020), RandAugment: practical automated data augmentation with a reduced search space.

    Example:
        >>> config = ViewsConfig(policy="randaugment")
        >>> draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(2))
        >>> apply_policy(torch.rand(2, 3, 8, 8), draws, config).shape
        torch.Size([2, 3, 8, 8])
    """
    levels = (images * 255).round_()
    for choice in choose(draws, config):
        apply_choice(levels, choice, policy=config.policy)
    return levels.div_(255)


def choose(draws: Draws, config: ViewsConfig) -> list[Choice]:
    """Draw what every slot of the config's policy does.

    AutoAugment draws one of 25 pairs, and whether each of its two operations takes place; RandAugment draws operations
    independently.

    Example:
        >>> draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(3))
        >>> len(choose(draws, ViewsConfig(policy="autoaugment-imagenet")))
        2
    """
    if config.policy == "randaugment":
        numbers = draws.policy(2 * config.randaugment_ops)
        slots = zip(numbers[:, ::2].unbind(1), numbers[:, 1::2].unbind(1), strict=True)
        level = torch.full_like(numbers[:, 0], config.randaugment_magnitude)
        return [Choice((which * _RANDAUGMENT).to(torch.int64), level, sign < 0.5) for which, sign in slots]
    table = _TABLES[config.policy]
    numbers = draws.policy(5)
    pair = (numbers[:, 0] * len(table)).to(torch.int64)
    choices = []
    for slot in (0, 1):
        names, probabilities, strengths = zip(*(row[slot] for row in table), strict=True)
        operations = torch.tensor([OPERATIONS.index(name) for name in names], device=pair.device)
        occurs = numbers[:, 1 + 2 * slot] < torch.tensor(probabilities, device=pair.device)[pair]
        level = torch.tensor(strengths, dtype=torch.float32, device=pair.device)[pair]
        choices.append(Choice(torch.where(occurs, operations[pair], 0), level, numbers[:, 2 + 2 * slot] < 0.5))
    return choices


def apply_choice(levels: Float[Tensor, "b c h w"], choice: Choice, *, policy: Policy) -> None:
    """Apply one slot of a policy in place.

    Args:
        levels: whole numbers from 0 to 255; 1, 3 or 4 channels.
        choice: from `choose`.
        policy: fixes what a level means.

    Example:
        >>> choice = Choice(torch.tensor([OPERATIONS.index("Invert")]), torch.tensor([0.0]), torch.tensor([True]))
        >>> levels = torch.zeros(1, 1, 1, 1)
        >>> apply_choice(levels, choice, policy="autoaugment-cifar10")
        >>> levels.item()
        255.0
    """
    colours = levels[:, :3]
    level, sign = choice.level, torch.where(choice.positive, 1.0, -1.0)
    # The tables were searched with factors from 0.1 to 1.9 that rise with the level, so 5 hardly does anything. With
    # RandAugment's single strength a factor goes either way from 1, as later code has it, and more is more.
    factor = 1 + sign * 0.09 * level if policy == "randaugment" else 0.1 + 0.18 * level
    operations: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "AutoContrast": (level_ops.autocontrast, ()),
        "Equalize": (level_ops.equalize, ()),
        "Invert": (level_ops.invert, ()),
        "Solarize": (level_ops.solarize, (256 - 25.6 * level,)),
        "Posterize": (level_ops.posterize, (8 - (0.4 * level).round(),)),
        "Color": (level_ops.colour, (factor,)),
        "Contrast": (level_ops.contrast, (factor,)),
        "Brightness": (level_ops.brightness, (factor,)),
        "Sharpness": (level_ops.sharpness, (factor,)),
    }
    moves = torch.zeros_like(choice.positive)
    for name in _MOVES:
        moves |= choice.operation == OPERATIONS.index(name)
    change_some_(levels, moves, _move, _theta(choice, sign, levels.shape[2:], _TRANSLATE[policy]))
    for name, (operation, parameters) in operations.items():
        change_some_(colours, choice.operation == OPERATIONS.index(name), operation, *parameters)


def _theta(choice: Choice, sign: Tensor, size: torch.Size, translate: float) -> Tensor:
    """The affine map of every image's movement; shears have their fixed point at the upper left, as PIL's have."""
    height, width = size
    share = sign * choice.level / 10

    def of(name: str, values: Tensor) -> Tensor:
        return torch.where(choice.operation == OPERATIONS.index(name), values, 0.0)

    one, zero = torch.ones_like(share), torch.zeros_like(share)
    theta = window(
        width=one, height=one, angle=of("Rotate", torch.deg2rad(30 * share)), centre_x=zero, centre_y=zero,
        aspect=width / height,
    )  # fmt: skip
    shear_x, shear_y = of("ShearX", 0.3 * share) * height / width, of("ShearY", 0.3 * share) * width / height
    theta[:, 0, 1] += shear_x
    theta[:, 1, 0] += shear_y
    # whole pixels; translated content moves against the window
    theta[:, 0, 2] += shear_x + of("TranslateX", (share * translate * width).trunc()) * 2 / width
    theta[:, 1, 2] += shear_y + of("TranslateY", (share * translate * height).trunc()) * 2 / height
    return theta


def _move(levels: Tensor, theta: Tensor) -> Tensor:
    height, width = levels.shape[2:]
    moved = resample(levels, theta, size=(height, width), padding="zeros", mode="nearest")
    x, y = pixel_centres(width, like=theta), pixel_centres(height, like=theta)
    where = theta[:, :, 0, None, None] * x + theta[:, :, 1, None, None] * y[:, None] + theta[:, :, 2, None, None]
    uncovered = (where.abs() > 1).any(1, keepdim=True)
    moved[:, :3].masked_fill_(uncovered, _FILL)
    return moved
