"""ImageNet, 1.28 million training photos at 224x224: the settings of the papers, for several GPUs.

Days on eight GPUs; ``--data DIR`` names the folder, ``torchrun`` starts the processes.
"""

from __future__ import annotations

from collections.abc import Callable

from kinfolk.data import ImageNetConfig
from kinfolk.data.views import AnyViewsConfig, moco_v2_views
from kinfolk.methods import MoCoConfig
from kinfolk.nn import HeadConfig, ResNet18Config
from kinfolk.train import MethodConfig, OptimizerConfig, SGDConfig, TrainConfig

NO_FOLDER = "your-imagenet"
"""Stands where ``--data`` has to name a folder."""
SIZE = (224, 224)


def moco() -> TrainConfig:
    """MoCo v2: a queue of 65,536, momentum 0.999, 200 epochs at batch 256."""
    method = MoCoConfig(temperature=0.2, queue_size=65536, momentum=0.999, head=HeadConfig(out_dim=128))
    return _imagenet(method, views=moco_v2_views(size=SIZE))


def _imagenet(
    method: MethodConfig,
    *,
    views: AnyViewsConfig,
    batch_size: int = 256,
    epochs: int = 200,
    optimizer: OptimizerConfig | None = None,
) -> TrainConfig:
    return TrainConfig(
        name=f"{method.kind}-imagenet",
        source=ImageNetConfig(NO_FOLDER),
        views=views,
        encoder=ResNet18Config(stem="imagenet"),
        method=method,
        optimizer=SGDConfig(learning_rate=0.03, weight_decay=1e-4) if optimizer is None else optimizer,
        batch_size=batch_size,
        epochs=epochs,
        warmup=0.0,
        clip_norm=None,
        workers=8,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "moco": moco,
}
"""The recipes of this file by the name of their method."""
