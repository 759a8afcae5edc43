"""Every recipe by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kinfolk.evals import EvaluationConfig
from kinfolk.nn import ResNet18Config, SmallConvConfig
from kinfolk.recipes import cifar10, digits, emoji, fashion_mnist, fine_tune, imagenet, table
from kinfolk.train import TrainConfig

# Every method on every set of data has its own function, in the data's file; the name of a recipe is METHOD-DATA.
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    **{f"{method}-digits": make for method, make in digits.METHODS.items()},
    **{f"{method}-digits-moved": partial(make, moved=True) for method, make in digits.METHODS.items()},
    **{f"{method}-fashion-mnist": make for method, make in fashion_mnist.METHODS.items()},
    **{f"{method}-emoji": make for method, make in emoji.METHODS.items()},
    **{f"{method}-table": make for method, make in table.METHODS.items()},
    **{f"{method}-cifar10": make for method, make in cifar10.METHODS.items()},
    **{f"{method}-imagenet": make for method, make in imagenet.METHODS.items()},
    "simclr-emoji-hands": emoji.simclr_hands,
    "fine-tune-digits": fine_tune.digits,
    "fine-tune-digits-moved": partial(fine_tune.digits, moved=True),
    "fine-tune-fashion-mnist": fine_tune.fashion_mnist,
}


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
    method, encoder = config.method, config.encoder
    return replace(
        config,
        name=f"{config.name}-smoke",
        encoder=replace(encoder, width=8) if isinstance(encoder, SmallConvConfig | ResNet18Config) else encoder,
        method=method.smoke() if hasattr(method, "smoke") else method,
        evaluation=EvaluationConfig.smoke(),
        batch_size=64,
        epochs=2,
        max_steps_per_epoch=4,
        checkpoint_every_epochs=1,
        log_every=1,
    )
