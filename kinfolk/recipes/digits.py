"""Handwritten digits, 1,437 training images of 8x8 pixels: upright, or rotated and shifted on a larger canvas.

Seconds to a minute on a CPU. Upright digits are nearly solved by raw pixels, so what training adds shows with few
labels. Moved digits are hard for pixels, and there training shows everywhere: the augmentation imitates the movement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import ClassTableConfig, DigitsConfig
from kinfolk.data.derived import ClassCaptionsConfig, ColouredConfig, ImbalancedConfig, OpenWorldConfig
from kinfolk.data.views import MultiViewsConfig, ViewsConfig, digits_views
from kinfolk.evals import KNN, EvaluationConfig, ZeroShot
from kinfolk.methods import (
    AdversarialConfig,
    BregmanConfig,
    CACRConfig,
    CLIPConfig,
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
from kinfolk.nn import Attack, SmallConvConfig, TextTransformerConfig
from kinfolk.train import AdamWConfig, MethodConfig, TrainConfig

# Digits by the strokes they are made of; a matter of taste, and good enough to show a graph beyond equal labels.
STROKES = (("0", "6", "8", "9"), ("1", "4", "7"), ("2", "3", "5"))


def simclr(*, moved: bool = False) -> TrainConfig:
    """SimCLR, no labels; with ``moved=True`` this is the demo."""
    return _digits(SimCLRConfig(temperature=0.1), moved=moved)


def moco(*, moved: bool = False) -> TrainConfig:
    """MoCo v2, no labels; the queue is shorter than the data set."""
    return _digits(MoCoConfig(temperature=0.1, queue_size=1024), moved=moved)


def supcon(*, moved: bool = False) -> TrainConfig:
    """SupCon with all labels."""
    return _digits(SupConConfig(temperature=0.1), moved=moved)


def cross_entropy(*, moved: bool = False) -> TrainConfig:
    """Cross-entropy with all labels: what contrast must beat at the same number of views."""
    config = _digits(CrossEntropyConfig(), moved=moved)
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def logit_adjusted(*, moved: bool = False) -> TrainConfig:
    """Cross-entropy with the class frequencies in the loss, on long-tailed digits."""
    config = _long_tailed(_digits(CrossEntropyConfig(logit_adjustment=1.0), moved=moved))
    return replace(config, name=config.name.replace("cross-entropy", "logit-adjusted"))


def uni_con(*, moved: bool = False) -> TrainConfig:
    """UniCon with all labels; the mixtures are made, not read: as many image views as the others, twice the work."""
    return _digits(UniConConfig(temperature=0.1), moved=moved)


def clip(*, moved: bool = False) -> TrainConfig:
    """CLIP with captions made of the digits' names, and a small transformer that learns to read them."""
    text = TextTransformerConfig(width=64, length=24)
    config = _digits(CLIPConfig(text=text, same_caption="known"), moved=moved)
    evaluation = replace(
        config.evaluation,
        protocols=(*config.evaluation.protocols, "zero_shot"),
        zero_shot=ZeroShot(templates=("the digit {}",)),
    )
    return replace(config, derived=(ClassCaptionsConfig("the digit {}"),), evaluation=evaluation)


def e_sup_con(*, moved: bool = False) -> TrainConfig:
    """ESupCon with all labels: SupCon with a classifier learnt beside it."""
    config = _digits(ESupConConfig(temperature=0.1), moved=moved)
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def ex_con(*, moved: bool = False) -> TrainConfig:
    """ExCon with all labels: explanations as views; the plain image, which they need, counts as a view."""
    config = _digits(ExConConfig(temperature=0.1), moved=moved)
    views = MultiViewsConfig(groups=(ViewsConfig(count=1), digits_views()))
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, views=views, epochs=config.epochs * 2 // 3, evaluation=evaluation)


def ex_con_b(*, moved: bool = False) -> TrainConfig:
    """ExConB with all labels: ExCon, and explanations that fail are negatives."""
    config = _digits(ExConConfig(temperature=0.1, background=True), moved=moved)
    views = MultiViewsConfig(groups=(ViewsConfig(count=1), digits_views()))
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(
        config,
        name=config.name.replace("excon", "excon-b"),
        views=views,
        epochs=config.epochs * 2 // 3,
        evaluation=evaluation,
    )


def eps_sup(*, moved: bool = False) -> TrainConfig:
    """eps-SupInfoNCE with all labels: SupCon in which positives do not push one another, with a margin."""
    return _digits(EpsSupConfig(temperature=0.1), moved=moved)


def fair_kl(*, moved: bool = False) -> TrainConfig:
    """FairKL and eps-SupInfoNCE on digits whose background goes with the class, and with nothing in the test part.

    A share of 0.95, where 0.99 is usual: that would leave one digit of each class with another's background.
    """
    config = _digits(EpsSupConfig(temperature=0.1, fair_weight=1.0), moved=moved)
    return replace(
        config,
        name=config.name.replace("eps-sup", "fair-kl"),
        derived=(ColouredConfig(rho=0.95),),
        views=replace(digits_views(), padding="border"),
        evaluation=replace(config.evaluation, protocols=(*config.evaluation.protocols, "bias_accuracy")),
    )


def rescom(*, moved: bool = False) -> TrainConfig:
    """ResCom on long-tailed digits: 143 of the first, 7 of the last."""
    return _long_tailed(_digits(ResComConfig(temperature=0.1, queue_per_class=4), moved=moved))


def paco(*, moved: bool = False) -> TrainConfig:
    """PaCo on long-tailed digits; the queue is half the set."""
    return _long_tailed(_digits(PaCoConfig(temperature=0.1, queue_size=256, momentum=0.99), moved=moved))


def gpaco(*, moved: bool = False) -> TrainConfig:
    """GPaCo on long-tailed digits; the queue is half the set."""
    return _long_tailed(_digits(GPaCoConfig(temperature=0.1, queue_size=256), moved=moved))


def open_con(*, moved: bool = False) -> TrainConfig:
    """OpenCon in an open world: half the samples of the digits 0 to 4 have labels; 5 to 9 are to be found."""
    config = _digits(OpenConConfig(), moved=moved)
    return replace(config, derived=(OpenWorldConfig(),), evaluation=EvaluationConfig(protocols=("open_world",)))


def xclr(*, moved: bool = False) -> TrainConfig:
    """X-CLR with all labels and a table that relates digits made of similar strokes."""
    table = ClassTableConfig(groups=STROKES, within=0.85, temperature=0.1)
    return replace(_digits(XCLRConfig(temperature=0.1), moved=moved), relation=table)


def cacr(*, moved: bool = False) -> TrainConfig:
    """CACR with four positives, no labels; as many image views as the others see."""
    config = _digits(CACRConfig(t_pos=1.0, t_neg=2.0), moved=moved)
    return replace(config, views=digits_views(count=5), batch_size=64, epochs=config.epochs * 2 // 5)


def adversarial(*, moved: bool = False) -> TrainConfig:
    """Adversarial contrastive learning, no labels: SimCLR with a small ball, in three steps of half its radius.

    The attacked view is made, not read: as many image views as the others see, and about five times the work.
    """
    attack = Attack(eps=8 / 255, steps=3, step=4 / 255)
    return _digits(AdversarialConfig(temperature=0.1, attack=attack), moved=moved)


def mochi(*, moved: bool = False) -> TrainConfig:
    """MoCHi, no labels; the first twentieth of training without mixtures."""
    return _digits(MoCHiConfig(temperature=0.1, queue_size=1024), moved=moved)


def sce(*, moved: bool = False) -> TrainConfig:
    """SCE, no labels; the target sees a digit that has hardly moved."""
    weak = replace(digits_views(count=1), zoom=(0.9, 1.1), rotation=5, shift=0.05, erasing=0.0)
    views = MultiViewsConfig(groups=(weak, digits_views(count=1)))
    return replace(_digits(SCEConfig(queue_size=1024), moved=moved), views=views)


def nnclr(*, moved: bool = False) -> TrainConfig:
    """NNCLR, no labels; a queue of a third of the images, so that few neighbours are the digit itself."""
    return _digits(NNCLRConfig(temperature=0.2, queue_size=512), moved=moved)


def relic(*, moved: bool = False) -> TrainConfig:
    """ReLICv2, no labels; two large crops and no small ones, since eight pixels leave nothing to crop."""
    return _digits(ReLICConfig(temperature=0.1), moved=moved)


def renyi_cl(*, moved: bool = False) -> TrainConfig:
    """RenyiCL, no labels, on the views of the others: `hard_views` mirrors, and a mirrored digit is none."""
    return _digits(RenyiCLConfig(), moved=moved)


def bregman(*, moved: bool = False) -> TrainConfig:
    """Deep Bregman divergence, no labels; SimCLR with 32 small networks beside it."""
    return _digits(BregmanConfig(temperature=0.1, networks=32, hidden=64), moved=moved)


def fnc(*, moved: bool = False) -> TrainConfig:
    """FNC, no labels: two views and one to find false negatives with; as many image views as the others see."""
    config = _digits(FNCConfig(temperature=0.1, mode="eliminate", top_k=5), moved=moved)
    return replace(config, views=digits_views(count=3), epochs=config.epochs * 2 // 3)


def ifnd(*, moved: bool = False) -> TrainConfig:
    """IFND, no labels; up to 100 clusters, ten for a digit, anew every second epoch from the eighth on."""
    method = IFNDConfig(temperature=0.1, queue_size=1024, clusters=(30, 60, 100), cluster_every=0.025, start=0.1)
    return _digits(method, moved=moved)


def inter_clr(*, moved: bool = False) -> TrainConfig:
    """InterCLR, no labels; 50 clusters, five for a digit."""
    method = InterCLRConfig(temperature=0.1, queue_size=1024, clusters=50, negatives=64)
    return _digits(method, moved=moved)


def _long_tailed(config: TrainConfig) -> TrainConfig:
    """Leave 490 digits, the rarest class 7 of them, for as many steps as the others make; a factor of 100 leaves 1."""
    return replace(
        config,
        derived=(ImbalancedConfig(rule="long-tail", factor=20, supervised=True),),
        evaluation=replace(
            config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier", "shot_accuracy")
        ),
        epochs=config.epochs * 11 // 3,  # an epoch has 3 steps instead of 11
    )


def _digits(method: MethodConfig, *, moved: bool) -> TrainConfig:
    return TrainConfig(
        name=f"{method.kind}-digits" + ("-moved" if moved else ""),
        source=DigitsConfig(moved=moved),
        views=digits_views(),
        # Where a moved digit stands must not matter, where a stroke of an upright one stands must.
        encoder=SmallConvConfig(width=24) if moved else SmallConvConfig(width=16, pool="flatten"),
        method=method,
        optimizer=AdamWConfig(learning_rate=4e-3),
        # There are 144 images of a class; 200 neighbours, the usual number, would reach beyond it.
        evaluation=EvaluationConfig(knn=KNN(k=20)),
        batch_size=128,
        epochs=80,
        checkpoint_every_epochs=20,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "simclr": simclr,
    "moco": moco,
    "supcon": supcon,
    "cross-entropy": cross_entropy,
    "logit-adjusted": logit_adjusted,
    "unicon": uni_con,
    "clip": clip,
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
