"""CIFAR-100, 50,000 training photos of 32x32 in 100 classes: a ResNet-18 with the settings of the papers, for one GPU.

A long tail leaves the first class its 500 photos and the last one 5, and is all that training and probes see. Hours on
a GPU, days on a CPU; ``--data DIR`` names the folder with the published files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import CIFARConfig, HierarchyConfig
from kinfolk.data.derived import ImbalancedConfig, OpenWorldConfig
from kinfolk.data.views import (
    AnyViewsConfig,
    MultiViewsConfig,
    ViewsConfig,
    autoaugment_views,
    simclr_views,
    supcon_views,
)
from kinfolk.evals import EvaluationConfig
from kinfolk.methods import (
    CrossEntropyConfig,
    ExConConfig,
    GPaCoConfig,
    OpenConConfig,
    PaCoConfig,
    ResComConfig,
    SupConConfig,
    UniConConfig,
    XCLRConfig,
)
from kinfolk.nn import HeadConfig, ResNet18Config
from kinfolk.train import DerivedConfig, MethodConfig, SGDConfig, TrainConfig

NO_FOLDER = "your-cifar-100"
"""Stands where ``--data`` has to name a folder."""
_LONG_TAIL = ImbalancedConfig(rule="long-tail", factor=100, supervised=True)


def paco() -> TrainConfig:
    """PaCo on a long tail of factor 100: AutoAugment and SimCLR views, batch 128, 400 epochs, as its authors have it.

    They train a ResNet-32 and drop the rate twice; here it is a ResNet-18, and the rate follows a cosine.
    """
    method = PaCoConfig(alpha=0.01, temperature=0.05, queue_size=1024, momentum=0.999, head=HeadConfig(out_dim=32))
    views = MultiViewsConfig(groups=(autoaugment_views(count=1), simclr_views(count=1)))
    return _cifar100(method, views=views, derived=(_LONG_TAIL,))


def gpaco() -> TrainConfig:
    """GPaCo on all of CIFAR-100, as its authors have it, where all classes are equally frequent; the rest as PaCo."""
    method = GPaCoConfig(alpha=0.01, temperature=0.07, queue_size=1024, logit_adjustment=False)
    views = MultiViewsConfig(groups=(autoaugment_views(count=1), simclr_views(count=1)))
    return _cifar100(method, views=views, derived=())


def rescom() -> TrainConfig:
    """ResCom on a long tail of factor 100: both views by AutoAugment and cutout, 400 epochs.

    Its authors searched rates from 0.02 to 0.1; sizes of the queue, numbers of mined pairs and beta are not known.
    """
    return _cifar100(ResComConfig(temperature=0.1), views=autoaugment_views(), derived=(_LONG_TAIL,))


def open_con() -> TrainConfig:
    """OpenCon with its authors' settings: half the samples of the first 50 classes have labels, the other classes none.

    The encoder is a SimCLR run's, which `--init` names, and only its last stage is trained. The rate follows a cosine
    instead of drops at 100 and 150 epochs.
    """
    method = OpenConConfig(frozen=("stem", "stages.0", "stages.1", "stages.2"))
    return replace(
        _cifar100(method, views=supcon_views(), derived=(OpenWorldConfig(),)),
        optimizer=SGDConfig(learning_rate=0.02, weight_decay=5e-4),
        evaluation=EvaluationConfig(protocols=("open_world",)),
        batch_size=512,
        epochs=200,
    )


def uni_con() -> TrainConfig:
    """UniCon on all of CIFAR-100 with its authors' settings: batch 256, 1,000 epochs, half of either image."""
    config = _cifar100(UniConConfig(temperature=0.1, share=0.5), views=supcon_views(), derived=())
    return replace(
        config,
        optimizer=SGDConfig(learning_rate=0.05, weight_decay=1e-4),
        evaluation=EvaluationConfig(),
        batch_size=256,
        epochs=1000,
        warmup=0.01,
    )


def cross_entropy() -> TrainConfig:
    """Cross-entropy as UniCon's authors compare with: one cropped and mirrored view, batch 256, 500 epochs.

    The rate follows a cosine instead of three drops.
    """
    config = _cifar100(CrossEntropyConfig(), views=ViewsConfig(count=1, crop_scale=(0.2, 1.0), flip=0.5), derived=())
    return replace(
        config,
        optimizer=SGDConfig(learning_rate=0.2, weight_decay=1e-4),
        evaluation=EvaluationConfig(protocols=(*EvaluationConfig().protocols, "own_classifier")),
        batch_size=256,
        epochs=500,
    )


def logit_adjusted() -> TrainConfig:
    """Cross-entropy with the class frequencies in the loss, on a long tail; one view, the rest as ResCom."""
    config = _cifar100(
        CrossEntropyConfig(logit_adjustment=1.0), views=autoaugment_views(count=1), derived=(_LONG_TAIL,)
    )
    return replace(config, name="logit-adjusted-cifar100")


def supcon() -> TrainConfig:
    """SupCon with its authors' settings: batch 1,024, rate 0.5, 1,000 epochs, ten of them warm-up; a ResNet-18."""
    method = SupConConfig(temperature=0.1, head=HeadConfig(out_dim=128))
    config = _cifar100(method, views=supcon_views(), derived=())
    return replace(
        config,
        optimizer=SGDConfig(learning_rate=0.5, weight_decay=1e-4),
        evaluation=EvaluationConfig(),
        batch_size=1024,
        epochs=1000,
        warmup=0.01,
    )


def xclr() -> TrainConfig:
    """X-CLR with the 20 superclasses as the hierarchy: a photo attracts its class most, then its class's siblings.

    Its authors trained on ImageNet; batch 512, rate 0.06 and 200 epochs are the usual ones here.
    """
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    config = _cifar100(XCLRConfig(temperature=0.1, head=head), views=supcon_views(), derived=())
    return replace(
        config,
        relation=HierarchyConfig(perplexity=20.0),
        optimizer=SGDConfig(learning_rate=0.06, weight_decay=5e-4),
        evaluation=EvaluationConfig(),
        batch_size=512,
        epochs=200,
    )


def ex_con() -> TrainConfig:
    """ExCon with its authors' settings: batch 256, rate 0.5, 200 epochs, explanations after 50, of the second stage.

    The explainer learns at every step, where theirs had an epoch after each of the encoder's.
    """
    method = ExConConfig(temperature=0.1, start=0.25, layer="stages.1", head=HeadConfig(out_dim=128))
    views = MultiViewsConfig(groups=(ViewsConfig(count=1), supcon_views()))
    config = _cifar100(method, views=views, derived=())
    return replace(
        config,
        optimizer=SGDConfig(learning_rate=0.5, weight_decay=1e-4),
        evaluation=EvaluationConfig(protocols=(*EvaluationConfig().protocols, "own_classifier")),
        batch_size=256,
        epochs=200,
    )


def ex_con_b() -> TrainConfig:
    """ExConB: ExCon, and explanations that fail are negatives."""
    config = ex_con()
    assert isinstance(config.method, ExConConfig)
    return replace(config, name="excon-b-cifar100", method=replace(config.method, background=True))


def _cifar100(method: MethodConfig, *, views: AnyViewsConfig, derived: tuple[DerivedConfig, ...]) -> TrainConfig:
    usual = EvaluationConfig()
    return TrainConfig(
        name=f"{method.kind}-cifar100",
        source=CIFARConfig(NO_FOLDER, classes="100"),
        derived=derived,
        views=views,
        encoder=ResNet18Config(),
        method=method,
        optimizer=SGDConfig(learning_rate=0.05, weight_decay=5e-4),
        evaluation=EvaluationConfig(protocols=(*usual.protocols, "own_classifier", "shot_accuracy")),
        batch_size=128,
        epochs=400,
        warmup=0.0,
        clip_norm=None,
        workers=4,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "paco": paco,
    "gpaco": gpaco,
    "rescom": rescom,
    "opencon": open_con,
    "unicon": uni_con,
    "cross-entropy": cross_entropy,
    "logit-adjusted": logit_adjusted,
    "supcon": supcon,
    "xclr": xclr,
    "excon": ex_con,
    "excon-b": ex_con_b,
}
"""The recipes of this file by the name of their method."""
