"""Fine-tuning with a linear classifier, from a run of the same data that `--init` names, on all labels.

``--derive 'few-labels share=0.01'`` leaves a few of them; the batch must not be larger than what is left.
"""

from __future__ import annotations

from dataclasses import replace

from kinfolk.data import ClassBalancedSamplerConfig
from kinfolk.data.views import digits_views, fashion_views
from kinfolk.methods.fine_tune import FineTuneConfig
from kinfolk.recipes import digits as digits_recipes
from kinfolk.recipes import fashion_mnist as fashion_mnist_recipes
from kinfolk.train import AdamWConfig, TrainConfig


def digits(*, moved: bool = False) -> TrainConfig:
    """All labels of the digits; 115 thousand views."""
    pretraining = digits_recipes.simclr(moved=moved)
    return replace(_fine_tuned(pretraining), views=replace(digits_views(count=1), erasing=0.0), batch_size=64)


def fashion_mnist() -> TrainConfig:
    """All labels of Fashion-MNIST; 300 thousand views, a minute and a half on two cores."""
    pretraining = fashion_mnist_recipes.simclr()
    return replace(
        _fine_tuned(pretraining),
        views=replace(fashion_views(count=1), jitter=0.0, erasing=0.0),
        batch_size=128,
        epochs=5,
    )


def _fine_tuned(pretraining: TrainConfig) -> TrainConfig:
    return replace(
        pretraining,
        name=pretraining.name.replace(pretraining.method.kind, FineTuneConfig.kind, 1),
        method=FineTuneConfig(),
        optimizer=AdamWConfig(learning_rate=3e-3),
        evaluation=replace(pretraining.evaluation, protocols=(*pretraining.evaluation.protocols, "own_classifier")),
        # It draws labelled samples only, so that no pass is spent on the others.
        sampler=ClassBalancedSamplerConfig(),
    )
