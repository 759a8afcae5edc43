"""Fashion-MNIST, 60,000 training images of 28x28 pixels: one small encoder and as many image views for every method.

1.2 million views each, about five minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import ClassTableConfig, FashionMNISTConfig
from kinfolk.data.derived import ColouredConfig, ImbalancedConfig, OpenWorldConfig
from kinfolk.data.views import MultiViewsConfig, ViewsConfig, fashion_views
from kinfolk.evals import EvaluationConfig, OwnClassifier, ShotAccuracy
from kinfolk.methods import (
    AdversarialConfig,
    BregmanConfig,
    CACRConfig,
    CrossEntropyConfig,
    EpsSupConfig,
    ESupConConfig,
    ExConConfig,
    FNCConfig,
    GPaCoConfig,
    IFNDConfig,
    InterCLRConfig,
    MoCHiConfig,
    MoCoConfig,
    NNCLRConfig,
    OpenConConfig,
    PaCoConfig,
    ReLICConfig,
    RenyiCLConfig,
    ResComConfig,
    SCEConfig,
    SimCLRConfig,
    SupConConfig,
    UniConConfig,
    XCLRConfig,
)
from kinfolk.nn import Attack, SmallConvConfig
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


def cross_entropy() -> TrainConfig:
    """Cross-entropy with all labels: what contrast must beat at the same number of views."""
    config = _fashion_mnist(CrossEntropyConfig())
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def logit_adjusted() -> TrainConfig:
    """Cross-entropy with the class frequencies in the loss, on a long tail."""
    config = _long_tailed(_fashion_mnist(CrossEntropyConfig(logit_adjustment=1.0)))
    return replace(config, name=config.name.replace("cross-entropy", "logit-adjusted"))


def uni_con() -> TrainConfig:
    """UniCon with all labels; the mixtures are made, not read: as many image views as the others, twice the work."""
    return _fashion_mnist(UniConConfig(temperature=0.2))


def e_sup_con() -> TrainConfig:
    """ESupCon with all labels: SupCon with a classifier learnt beside it."""
    config = _fashion_mnist(ESupConConfig(temperature=0.2))
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def ex_con() -> TrainConfig:
    """ExCon with all labels: explanations as views; the plain image, which they need, counts as a view."""
    config = _fashion_mnist(ExConConfig(temperature=0.2))
    views = MultiViewsConfig(groups=(ViewsConfig(count=1), fashion_views()))
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, views=views, epochs=config.epochs * 2 // 3, evaluation=evaluation)


def ex_con_b() -> TrainConfig:
    """ExConB with all labels: ExCon, and explanations that fail are negatives."""
    config = _fashion_mnist(ExConConfig(temperature=0.2, background=True))
    views = MultiViewsConfig(groups=(ViewsConfig(count=1), fashion_views()))
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(
        config,
        name=config.name.replace("excon", "excon-b"),
        views=views,
        epochs=config.epochs * 2 // 3,
        evaluation=evaluation,
    )


def eps_sup() -> TrainConfig:
    """eps-SupInfoNCE with all labels: SupCon in which positives do not push one another, with a margin."""
    return _fashion_mnist(EpsSupConfig(temperature=0.2))


def fair_kl() -> TrainConfig:
    """FairKL and eps-SupInfoNCE where the background's colour goes with the class, and with nothing in the test part.

    The views leave the hue alone, since it is the bias that training has to cope with.
    """
    config = _fashion_mnist(EpsSupConfig(temperature=0.2, fair_weight=1.0))
    return replace(
        config,
        name="fair-kl-fashion-mnist",
        derived=(ColouredConfig(rho=0.99),),
        views=replace(fashion_views(), padding="border"),
        evaluation=replace(config.evaluation, protocols=(*config.evaluation.protocols, "bias_accuracy")),
    )


def rescom() -> TrainConfig:
    """ResCom on a long tail: 6,000 images of the first class, 60 of the last."""
    return _long_tailed(_fashion_mnist(ResComConfig(temperature=0.1)))


def paco() -> TrainConfig:
    """PaCo on a long tail."""
    return _long_tailed(_fashion_mnist(PaCoConfig(temperature=0.2, momentum=0.99)))


def gpaco() -> TrainConfig:
    """GPaCo on a long tail."""
    return _long_tailed(_fashion_mnist(GPaCoConfig(temperature=0.2)))


def open_con() -> TrainConfig:
    """OpenCon in an open world: half the samples of the first five classes have labels, the other classes none."""
    config = _fashion_mnist(OpenConConfig())
    evaluation = replace(config.evaluation, protocols=("open_world",))
    return replace(config, derived=(OpenWorldConfig(),), evaluation=evaluation)


def xclr() -> TrainConfig:
    """X-CLR with all labels and a table that relates tops with tops and shoes with shoes; the rest stands alone."""
    table = ClassTableConfig(groups=(TOPS, SHOES), within=0.85, temperature=0.1)
    return replace(_fashion_mnist(XCLRConfig(temperature=0.2)), relation=table)


def cacr() -> TrainConfig:
    """CACR with four positives, no labels: 4 epochs of five views are as many views as 10 epochs of two."""
    config = _fashion_mnist(CACRConfig(t_pos=1.0, t_neg=2.0))
    return replace(config, views=fashion_views(count=5), batch_size=128, epochs=config.epochs * 2 // 5)


def adversarial() -> TrainConfig:
    """Adversarial contrastive learning, no labels, with three steps of attack instead of the paper's seven.

    The attacked view is made, not read: as many image views as the others see, and about five times the work.
    """
    attack = Attack(eps=8 / 255, steps=3, step=4 / 255)
    return _fashion_mnist(AdversarialConfig(temperature=0.2, attack=attack))


def mochi() -> TrainConfig:
    """MoCHi, no labels; the first twentieth of training without mixtures."""
    return _fashion_mnist(MoCHiConfig(temperature=0.2, queue_size=4096))


def sce() -> TrainConfig:
    """SCE, no labels; the target sees a crop and perhaps the mirror image, no more."""
    weak = ViewsConfig(count=1, crop_scale=(0.5, 1.0), flip=0.5)
    views = MultiViewsConfig(groups=(weak, fashion_views(count=1)))
    return replace(_fashion_mnist(SCEConfig(queue_size=4096)), views=views)


def nnclr() -> TrainConfig:
    """NNCLR, no labels; neighbours are sought among the last 4,096 images."""
    return _fashion_mnist(NNCLRConfig(temperature=0.2, queue_size=4096))


def relic() -> TrainConfig:
    """ReLICv2, no labels, without masks: 5 epochs of two large and two small crops are as many views as the others'."""
    small = replace(fashion_views(count=2), size=(14, 14), crop_scale=(0.1, 0.3))
    config = _fashion_mnist(ReLICConfig(temperature=0.2))
    return replace(config, views=MultiViewsConfig(groups=(fashion_views(), small)), epochs=config.epochs // 2)


def renyi_cl() -> TrainConfig:
    """RenyiCL, no labels, on harder views: RandAugment as well."""
    return replace(_fashion_mnist(RenyiCLConfig()), views=replace(fashion_views(), policy="randaugment"))


def bregman() -> TrainConfig:
    """Deep Bregman divergence, no labels; SimCLR with 32 small networks beside it."""
    return _fashion_mnist(BregmanConfig(temperature=0.2, networks=32, hidden=128))


def fnc() -> TrainConfig:
    """FNC, no labels: two views and one to find false negatives with; as many image views as the others see."""
    config = _fashion_mnist(FNCConfig(temperature=0.2, mode="eliminate"))
    return replace(config, views=fashion_views(count=3), epochs=config.epochs * 2 // 3)


def ifnd() -> TrainConfig:
    """IFND, no labels; 100, 250 and 500 clusters, made anew after every epoch."""
    return _fashion_mnist(IFNDConfig(temperature=0.2, queue_size=4096, cluster_every=0.1, start=0.1))


def inter_clr() -> TrainConfig:
    """InterCLR, no labels; 100 clusters, ten for a class, and 1,024 negatives from the most similar tenth."""
    return _fashion_mnist(InterCLRConfig(temperature=0.2, queue_size=4096, clusters=100))


def _long_tailed(config: TrainConfig) -> TrainConfig:
    """Leave 14,886 images, for as many steps as the others make; probes see no others either.

    With ten classes the usual bounds of few shots would be met by none; here four classes have many and three have few.
    """
    return replace(
        config,
        derived=(ImbalancedConfig(rule="long-tail", factor=100, supervised=True),),
        evaluation=replace(
            config.evaluation,
            protocols=(*config.evaluation.protocols, "own_classifier", "shot_accuracy"),
            shot_accuracy=ShotAccuracy(many=1000, few=200),
            own_classifier=OwnClassifier(many=1000, few=200),
        ),
        epochs=config.epochs * 4,  # an epoch has 58 steps instead of 234
        checkpoint_every_epochs=4,
    )


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
    "cross-entropy": cross_entropy,
    "logit-adjusted": logit_adjusted,
    "unicon": uni_con,
    "esupcon": e_sup_con,
    "excon": ex_con,
    "excon-b": ex_con_b,
    "eps-sup": eps_sup,
    "fair-kl": fair_kl,
    "rescom": rescom,
    "paco": paco,
    "gpaco": gpaco,
    "opencon": open_con,
    "xclr": xclr,
    "cacr": cacr,
    "adversarial": adversarial,
    "fnc": fnc,
    "ifnd": ifnd,
    "inter-clr": inter_clr,
    "mochi": mochi,
    "sce": sce,
    "nnclr": nnclr,
    "relic": relic,
    "renyi-cl": renyi_cl,
    "bregman": bregman,
}
"""The recipes of this file by the name of their method."""
