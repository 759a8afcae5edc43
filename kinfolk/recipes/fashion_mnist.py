"""Fashion-MNIST, 60,000 training images of 28x28 pixels: one small encoder and as many image views for every method.

1.2 million views each, about five minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import ClassTableConfig, FashionMNISTConfig
from kinfolk.data.views import fashion_views
from kinfolk.evals import EvaluationConfig
from kinfolk.methods import CACRConfig, MoCoConfig, SimCLRConfig, SupConConfig, XCLRConfig
from kinfolk.nn import SmallConvConfig
from kinfolk.train import AdamWConfig, MethodConfig, TrainConfig

TOPS = ("T-shirt/top", "Pullover", "Dress", "Coat", "Shirt")
SHOES = ("Sandal", "Sneaker", "Ankle boot")


def simclr() -> TrainConfig:
    """SimCLR, no labels."""
    return _fashion_mnist(SimCLRConfig(temperature=0.2))


def moco() -> TrainConfig:
    """MoCo v2, no labels."""
    return _fashion_mnist(MoCoConfig(temperature=0.2, queue_size=4096))


def supcon() -> TrainConfig:
    """SupCon with all labels."""
    return _fashion_mnist(SupConConfig(temperature=0.2))


def xclr() -> TrainConfig:
    """X-CLR with all labels and a table that relates tops with tops and shoes with shoes; the rest stands alone."""
    table = ClassTableConfig(groups=(TOPS, SHOES), within=0.85, temperature=0.1)
    return replace(_fashion_mnist(XCLRConfig(temperature=0.2)), relation=table)


def cacr() -> TrainConfig:
    """CACR with four positives, no labels: 4 epochs of five views are as many views as 10 epochs of two."""
    config = _fashion_mnist(CACRConfig(t_pos=1.0, t_neg=2.0))
    return replace(config, views=fashion_views(count=5), batch_size=128, epochs=config.epochs * 2 // 5)


def _fashion_mnist(method: MethodConfig) -> TrainConfig:
    return TrainConfig(
        name=f"{method.kind}-fashion-mnist",
        source=FashionMNISTConfig(),
        views=fashion_views(),
        encoder=SmallConvConfig(),
        method=method,
        optimizer=AdamWConfig(learning_rate=2e-3),
        # A third of the training images: probing 60,000 rows of raw pixels would take longer than the training.
        evaluation=EvaluationConfig(max_train_rows=20_000),
        batch_size=256,
        epochs=10,
        checkpoint_every_epochs=1,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "simclr": simclr,
    "moco": moco,
    "supcon": supcon,
    "xclr": xclr,
    "cacr": cacr,
}
"""The recipes of this file by the name of their method."""
