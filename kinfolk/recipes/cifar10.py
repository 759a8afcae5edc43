"""CIFAR-10, 50,000 training photos of 32x32: a ResNet-18 with the settings of the papers, for one GPU.

Hours on a GPU, days on a CPU; ``--data DIR`` names the folder with the published files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import CIFARConfig
from kinfolk.data.views import (
    AnyViewsConfig,
    cmc_views,
    hard_views,
    moco_v2_views,
    relic_views,
    simclr_views,
    supcon_views,
    weak_strong_views,
)
from kinfolk.methods import (
    AdversarialConfig,
    BregmanConfig,
    CACRConfig,
    CMCConfig,
    EpsSupConfig,
    ESupConConfig,
    FNCConfig,
    IFNDConfig,
    InterCLRConfig,
    MoCHiConfig,
    MoCoConfig,
    NNCLRConfig,
    ReLICConfig,
    RenyiCLConfig,
    SCEConfig,
    SimCLRConfig,
    SupConConfig,
)
from kinfolk.nn import ColourBranchesConfig, HeadConfig, ResNet18Config
from kinfolk.train import (
    AdamWConfig,
    LARSConfig,
    MethodConfig,
    OptimizerConfig,
    SGDConfig,
    TrainConfig,
)

NO_FOLDER = "your-cifar-10"
"""Stands where ``--data`` has to name a folder."""


def simclr() -> TrainConfig:
    """SimCLR at temperature 0.5, as its authors trained it on CIFAR-10; 200 epochs instead of their 1,000."""
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    return _cifar10(SimCLRConfig(temperature=0.5, head=head), views=simclr_views(), batch_size=512)


def dcl() -> TrainConfig:
    """DCL at temperature 0.1 and batch 256: SimCLR without the positive in the denominator; the rest is SimCLR's."""
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    method = SimCLRConfig(temperature=0.1, decoupled=True, head=head)
    return replace(_cifar10(method, views=simclr_views()), name="dcl-cifar10")


def cacr() -> TrainConfig:
    """CACR with four positives: batch 128, temperatures and optimiser as its authors have them on CIFAR-10.

    They train a small AlexNet that ends in 128 outputs; here it is the ResNet-18 of the other recipes with one linear
    layer behind it, and the learning rate follows a cosine instead of three drops.
    """
    method = CACRConfig(t_pos=1.0, t_neg=0.9, head=HeadConfig(layers=1, out_dim=128))
    optimizer = SGDConfig(learning_rate=0.06, weight_decay=1e-4)
    return _cifar10(method, views=simclr_views(count=5), batch_size=128, optimizer=optimizer)


def cmc() -> TrainConfig:
    """CMC on lightness and colours: two ResNet-18 of half the width, batch 128, 240 epochs, no memory bank."""
    optimizer = SGDConfig(learning_rate=0.03, weight_decay=1e-4)
    config = _cifar10(CMCConfig(temperature=0.1), views=cmc_views(), batch_size=128, epochs=240, optimizer=optimizer)
    return replace(config, encoder=ColourBranchesConfig(ResNet18Config(width=32)))


def moco() -> TrainConfig:
    """MoCo v2 as its authors' CIFAR-10 demonstration has it: a queue of 4,096, batch norm in eight groups."""
    method = MoCoConfig(temperature=0.1, queue_size=4096, momentum=0.99)
    return _cifar10(method, views=moco_v2_views(), batch_size=512)


def adversarial() -> TrainConfig:
    """Adversarial contrastive learning (RoCL) with its authors' settings, but 200 epochs instead of 1,000.

    Seven steps of attack within 8/255, LARS and batches of 256. The attack makes it about nine times SimCLR's work.
    """
    method = AdversarialConfig(temperature=0.5, head=HeadConfig(hidden=2048, out_dim=128))
    optimizer = LARSConfig(learning_rate=1.5, weight_decay=1e-6)
    return _cifar10(method, views=simclr_views(), batch_size=256, optimizer=optimizer)


def mochi() -> TrainConfig:
    """MoCHi with mixtures of the 64 hardest keys after 10 epochs; the rest, which its paper does not give, as MoCo."""
    method = MoCHiConfig(temperature=0.1, queue_size=4096, hardest=64, mixed=32, query_mixed=32, warmup=0.05)
    return _cifar10(method, views=moco_v2_views(), batch_size=512)


def sce() -> TrainConfig:
    """SCE as its authors trained it on CIFAR-10: a weak target, a strong online view, five epochs of warm-up."""
    return replace(_cifar10(SCEConfig(queue_size=4096), views=weak_strong_views()), warmup=0.025)


def nnclr() -> TrainConfig:
    """NNCLR with the settings of solo-learn; 200 epochs instead of 1,000, and a queue within the data's 50,000."""
    head, predictor = (HeadConfig(hidden=h, layers=n, out_dim=256, norm="batch") for h, n in ((2048, 3), (4096, 2)))
    method = NNCLRConfig(temperature=0.2, queue_size=32768, head=head, predictor=predictor)
    optimizer = LARSConfig(learning_rate=0.4, weight_decay=1e-5, trust=0.02)
    return _cifar10(method, views=simclr_views(), optimizer=optimizer)


def fnc() -> TrainConfig:
    """FNC that eliminates: two views and one to find with, the ten most similar rows above 0.8; the rest as SimCLR."""
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    method = FNCConfig(temperature=0.5, mode="eliminate", top_k=10, threshold=0.8, start=0.2, head=head)
    return _cifar10(method, views=simclr_views(count=3), batch_size=512)


def ifnd() -> TrainConfig:
    """IFND with 100, 250 and 500 clusters, made anew after every epoch from the tenth on; the rest as MoCo."""
    method = IFNDConfig(temperature=0.1, queue_size=4096, cluster_every=0.005, start=0.05)
    return _cifar10(method, views=moco_v2_views(), batch_size=512)


def inter_clr() -> TrainConfig:
    """InterCLR with 500 clusters and 1,024 negatives from the most similar tenth; the rest as MoCo."""
    method = InterCLRConfig(temperature=0.2, queue_size=4096, clusters=500)
    return _cifar10(method, views=moco_v2_views(), batch_size=512)


def relic() -> TrainConfig:
    """ReLICv2 on two large and two small crops; no masks, so backgrounds stay. What is not given is SimCLR's here."""
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    method = ReLICConfig(temperature=0.1, head=head, predictor=HeadConfig(hidden=2048, norm="batch"))
    return _cifar10(method, views=relic_views(size=(32, 32), small_size=(16, 16), large=2, small=2), batch_size=512)


def renyi_cl() -> TrainConfig:
    """RenyiCL on hard views with a skew of one over the squared batch; what is not given is SimCLR's here."""
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    method = RenyiCLConfig(head=head, predictor=HeadConfig(hidden=2048, norm="batch"))
    return _cifar10(method, views=hard_views(), batch_size=512)


def bregman() -> TrainConfig:
    """Deep Bregman divergence with 100 networks, batches of 1,024 and Adam at 5e-3, as its authors' readme has it.

    Their code has batches of 64, a temperature of 0.5, which hardly tells near from far, and 500 epochs.
    """
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    optimizer = AdamWConfig(learning_rate=5e-3, weight_decay=0.0)
    return _cifar10(BregmanConfig(head=head), views=simclr_views(), batch_size=1024, optimizer=optimizer)


def supcon() -> TrainConfig:
    """SupCon with its authors' settings: batch 1,024, rate 0.5, temperature 0.1, ten epochs of warm-up.

    200 epochs instead of 1,000, and a ResNet-18 instead of a ResNet-50. The linear probe is its second stage.
    """
    method = SupConConfig(temperature=0.1, head=HeadConfig(out_dim=128))
    optimizer = SGDConfig(learning_rate=0.5, weight_decay=1e-4)
    return replace(_cifar10(method, views=supcon_views(), batch_size=1024, optimizer=optimizer), warmup=0.05)


def e_sup_con() -> TrainConfig:
    """ESupCon with SupCon's settings, since its own are not at hand: batch 1,024, rate 0.5, ten epochs of warm-up.

    200 epochs instead of SupCon's 1,000, and a ResNet-18 instead of a ResNet-50.
    """
    method = ESupConConfig(temperature=0.1)
    optimizer = SGDConfig(learning_rate=0.5, weight_decay=1e-4)
    config = _cifar10(method, views=supcon_views(), batch_size=1024, optimizer=optimizer)
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation, warmup=0.05)


def eps_sup() -> TrainConfig:
    """eps-SupInfoNCE with the batch of 256, rate of 0.05 and weight decay of its authors' code.

    200 epochs instead of 1,000, and a ResNet-18 instead of a ResNet-50.
    """
    method = EpsSupConfig(temperature=0.1, epsilon=0.25)
    return _cifar10(method, views=supcon_views(), optimizer=SGDConfig(learning_rate=0.05, weight_decay=1e-4))


def _cifar10(
    method: MethodConfig,
    *,
    views: AnyViewsConfig,
    batch_size: int = 256,
    epochs: int = 200,
    optimizer: OptimizerConfig | None = None,
) -> TrainConfig:
    optimizer = SGDConfig(learning_rate=0.06, weight_decay=5e-4) if optimizer is None else optimizer
    return TrainConfig(
        name=f"{method.kind}-cifar10",
        source=CIFARConfig(NO_FOLDER),
        views=views,
        encoder=ResNet18Config(),
        method=method,
        optimizer=optimizer,
        batch_size=batch_size,
        epochs=epochs,
        warmup=0.05 if isinstance(optimizer, LARSConfig) else 0.0,  # ten epochs of 200
        clip_norm=None,
        workers=4,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "simclr": simclr,
    "dcl": dcl,
    "cacr": cacr,
    "cmc": cmc,
    "moco": moco,
    "fnc": fnc,
    "ifnd": ifnd,
    "inter-clr": inter_clr,
    "adversarial": adversarial,
    "mochi": mochi,
    "sce": sce,
    "nnclr": nnclr,
    "relic": relic,
    "renyi-cl": renyi_cl,
    "bregman": bregman,
    "supcon": supcon,
    "esupcon": e_sup_con,
    "eps-sup": eps_sup,
}
"""The recipes of this file by the name of their method."""
