"""Every recipe by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kinfolk.evals import EvaluationConfig
from kinfolk.methods import MoCoConfig
from kinfolk.nn import ResNet18Config, SmallConvConfig
from kinfolk.recipes import digits, emoji, fashion_mnist, fine_tune, table
from kinfolk.train import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "simclr-digits": digits.simclr,
    "moco-digits": digits.moco,
    "supcon-digits": digits.supcon,
    "xclr-digits": digits.xclr,
    "cacr-digits": digits.cacr,
    "simclr-digits-moved": partial(digits.simclr, moved=True),
    "moco-digits-moved": partial(digits.moco, moved=True),
    "supcon-digits-moved": partial(digits.supcon, moved=True),
    "xclr-digits-moved": partial(digits.xclr, moved=True),
    "cacr-digits-moved": partial(digits.cacr, moved=True),
    "simclr-fashion-mnist": fashion_mnist.simclr,
    "moco-fashion-mnist": fashion_mnist.moco,
    "supcon-fashion-mnist": fashion_mnist.supcon,
    "xclr-fashion-mnist": fashion_mnist.xclr,
    "cacr-fashion-mnist": fashion_mnist.cacr,
    "simclr-emoji": emoji.simclr,
    "simclr-emoji-hands": emoji.simclr_hands,
    "moco-emoji": emoji.moco,
    "supcon-emoji": emoji.supcon,
    "xclr-emoji": emoji.xclr,
    "cacr-emoji": emoji.cacr,
    "fine-tune-digits": fine_tune.digits,
    "fine-tune-digits-moved": partial(fine_tune.digits, moved=True),
    "fine-tune-fashion-mnist": fine_tune.fashion_mnist,
    "simclr-table": table.simclr,
    "supcon-table": table.supcon,
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
        method=replace(method, queue_size=128) if isinstance(method, MoCoConfig) else method,
        evaluation=EvaluationConfig.smoke(),
        batch_size=64,
        epochs=2,
        max_steps_per_epoch=4,
        checkpoint_every_epochs=1,
        log_every=1,
    )
