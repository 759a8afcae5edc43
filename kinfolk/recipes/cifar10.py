"""CIFAR-10, 50,000 training photos of 32x32: a ResNet-18 with the settings of the papers, for one GPU.

Hours on a GPU, days on a CPU; ``--data DIR`` names the folder with the published files.
"""

from __future__ import annotations

from collections.abc import Callable

from kinfolk.data import CIFARConfig
from kinfolk.data.views import AnyViewsConfig, moco_v2_views, simclr_views
from kinfolk.methods import MoCoConfig, SimCLRConfig
from kinfolk.nn import HeadConfig, ResNet18Config
from kinfolk.train import MethodConfig, OptimizerConfig, SGDConfig, TrainConfig

NO_FOLDER = "your-cifar-10"
"""Stands where ``--data`` has to name a folder."""


def simclr() -> TrainConfig:
    """SimCLR at temperature 0.5, as its authors trained it on CIFAR-10; 200 epochs instead of their 1,000."""
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    return _cifar10(SimCLRConfig(temperature=0.5, head=head), views=simclr_views(), batch_size=512)


def moco() -> TrainConfig:
    """MoCo v2 as its authors' CIFAR-10 demonstration has it: a queue of 4,096, batch norm in eight groups."""
    method = MoCoConfig(temperature=0.1, queue_size=4096, momentum=0.99)
    return _cifar10(method, views=moco_v2_views(), batch_size=512)


def _cifar10(
    method: MethodConfig,
    *,
    views: AnyViewsConfig,
    batch_size: int = 256,
    epochs: int = 200,
    optimizer: OptimizerConfig | None = None,
) -> TrainConfig:
    return TrainConfig(
        name=f"{method.kind}-cifar10",
        source=CIFARConfig(NO_FOLDER),
        views=views,
        encoder=ResNet18Config(),
        method=method,
        optimizer=SGDConfig(learning_rate=0.06, weight_decay=5e-4) if optimizer is None else optimizer,
        batch_size=batch_size,
        epochs=epochs,
        workers=4,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "simclr": simclr,
    "moco": moco,
}
"""The recipes of this file by the name of their method."""
