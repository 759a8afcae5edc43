"""Every recipe by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

from kinfolk.data import ColourSpaceViewsConfig, MultiViewsConfig
from kinfolk.evals import EvaluationConfig
from kinfolk.nn import ColourBranchesConfig, HeadConfig, ResNet18Config, ResNet50Config, SmallConvConfig
from kinfolk.recipes import cifar10, cifar100, digits, emoji, fashion_mnist, fine_tune, imagenet, table
from kinfolk.train import TrainConfig

# Every method on every set of data has its own function, in the data's file; the name of a recipe is METHOD-DATA.
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    **{f"{method}-digits": make for method, make in digits.METHODS.items()},
    **{f"{method}-digits-moved": partial(make, moved=True) for method, make in digits.METHODS.items()},
    **{f"{method}-fashion-mnist": make for method, make in fashion_mnist.METHODS.items()},
    **{f"{method}-emoji": make for method, make in emoji.METHODS.items()},
    **{f"{method}-table": make for method, make in table.METHODS.items()},
    **{f"{method}-cifar10": make for method, make in cifar10.METHODS.items()},
    **{f"{method}-cifar100": make for method, make in cifar100.METHODS.items()},
    **{f"{method}-imagenet": make for method, make in imagenet.METHODS.items()},
    "simclr-emoji-hands": emoji.simclr_hands,
    "fine-tune-digits": fine_tune.digits,
    "fine-tune-digits-moved": partial(fine_tune.digits, moved=True),
    "fine-tune-fashion-mnist": fine_tune.fashion_mnist,
}


_LARGEST_SIDE = 64


def by_data() -> dict[str, list[str]]:
    """Return the methods that there are recipes for, by the name of the data.

    Example:
        >>> by_data()["table"][:2]
        ['simclr', 'supcon']
    """
    small = ("digits", "digits-moved", "fashion-mnist", "emoji", "emoji-hands", "table")
    data = (*small, "cifar10", "cifar100", "imagenet")
    found: dict[str, list[str]] = {name: [] for name in data}
    for recipe_name in RECIPES:
        name = max((name for name in data if recipe_name.endswith(f"-{name}")), key=len)
        found[name].append(recipe_name.removesuffix(f"-{name}"))
    return found


def recipe(name: str) -> TrainConfig:
    """Look up a complete config by its name, ``METHOD-DATA``.

    Args:
        name: One of `RECIPES`.

    Raises:
        ValueError: For an unknown name; the message lists what exists.

    Example:
        >>> recipe("supcon-digits").method.labels_used
        'all'
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        suggestion = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"no recipe {name!r}{suggestion}; recipes: {', '.join(RECIPES)}")
    return RECIPES[name]()


def smoke(config: TrainConfig) -> TrainConfig:
    """Shrink a config to seconds on a CPU: it shows that everything runs, not how well.

    Example:
        >>> smoke(recipe("simclr-digits")).name
        'simclr-digits-smoke'
    """
    return replace(
        config,
        name=f"{config.name}-smoke",
        source=_of_small_images(config.source),
        views=_of_small_images(config.views),
        encoder=_narrow(config.encoder),
        method=_with_narrow_heads(config.method),
        evaluation=EvaluationConfig.smoke(),
        batch_size=64,
        epochs=2,
        max_steps_per_epoch=4,
        checkpoint_every_epochs=1,
        log_every=1,
        workers=0,
    )


def _of_small_images(part: Any) -> Any:
    """Shrink the images of a source, or the views, of more than 64 pixels to a seventh: 224 become 32."""
    if isinstance(part, MultiViewsConfig):
        return replace(part, groups=tuple(_of_small_images(group) for group in part.groups))
    if isinstance(part, ColourSpaceViewsConfig):
        return replace(part, base=_of_small_images(part.base))
    sizes = {name: getattr(part, name) for name in ("size", "image_size") if hasattr(part, name)}
    large = {name: size for name, size in sizes.items() if isinstance(size, tuple) and max(size) > _LARGEST_SIDE}
    return replace(part, **{name: tuple(max(8, side // 7) for side in size) for name, size in large.items()})


def _narrow(encoder: Any) -> Any:
    """Give an encoder of ours few channels; others stay, since pretrained ones cannot change."""
    if isinstance(encoder, ColourBranchesConfig):
        return replace(encoder, base=_narrow(encoder.base))
    return (
        replace(encoder, width=8) if isinstance(encoder, SmallConvConfig | ResNet18Config | ResNet50Config) else encoder
    )


def _with_narrow_heads(method: Any) -> Any:
    """Shrink a method as it says itself, and the hidden layers of its heads."""
    small = method.smoke() if hasattr(method, "smoke") else method
    heads = {field.name: getattr(small, field.name) for field in fields(small)}
    wide = {name: head for name, head in heads.items() if isinstance(head, HeadConfig) and (head.hidden or 0) > 64}
    return replace(small, **{name: replace(head, hidden=64) for name, head in wide.items()})
