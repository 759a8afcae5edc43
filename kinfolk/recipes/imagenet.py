"""ImageNet, 1.28 million training photos at 224x224: a ResNet-50 with the settings of the papers, for several GPUs.

Days on eight GPUs; ``--data DIR`` names the folder, ``torchrun`` starts the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import ClassNamesConfig, ImageNetConfig
from kinfolk.data.derived import OpenWorldConfig
from kinfolk.data.views import (
    AnyViewsConfig,
    MultiViewsConfig,
    ViewsConfig,
    byol_views,
    cmc_views,
    hard_views,
    moco_v2_views,
    multi_crop_views,
    relic_views,
    simclr_photo_views,
    supcon_views,
)
from kinfolk.methods import (
    BregmanConfig,
    CACRConfig,
    CMCConfig,
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
from kinfolk.nn import ColourBranchesConfig, HeadConfig, ResNet50Config
from kinfolk.train import (
    AdamWConfig,
    LARSConfig,
    MethodConfig,
    OptimizerConfig,
    SGDConfig,
    TrainConfig,
)

NO_FOLDER = "your-imagenet"
"""Stands where ``--data`` has to name a folder."""
SIZE = (224, 224)
_SIMCLR_HEAD = HeadConfig(layers=3, out_dim=128, norm="batch")


def simclr() -> TrainConfig:
    """SimCLR as its authors have it: batch 4,096, LARS, a head of three layers; 200 epochs instead of up to 1,000."""
    config = _imagenet(
        SimCLRConfig(temperature=0.1, head=_SIMCLR_HEAD),
        views=simclr_photo_views(size=SIZE),
        batch_size=4096,
        optimizer=LARSConfig(),
    )
    return replace(config, warmup=0.05)


def dcl() -> TrainConfig:
    """DCL: SimCLR without the positive in the denominator, at batch 256; the rate is 0.075 times its root."""
    config = _imagenet(
        SimCLRConfig(temperature=0.1, decoupled=True, head=_SIMCLR_HEAD),
        views=simclr_photo_views(size=SIZE),
        optimizer=LARSConfig(learning_rate=1.2),
    )
    return replace(config, name="dcl-imagenet", warmup=0.05)


def cacr() -> TrainConfig:
    """CACR with four positives and a queue of 65,536 that repels beside the batch; the rest as MoCo v2."""
    method = CACRConfig(t_pos=1.0, t_neg=2.0, queue_size=65536, momentum=0.999, head=HeadConfig(out_dim=128))
    return _imagenet(method, views=moco_v2_views(count=5, size=SIZE))


def cmc() -> TrainConfig:
    """CMC on lightness and colours: two ResNet-50 of half the width, banks with 16,384 negatives, 240 epochs.

    Batch 128 and rate 0.03 as its authors have it; the rate follows a cosine instead of three drops.
    """
    method = CMCConfig(temperature=0.07, bank=True, bank_negatives=16_384)
    config = _imagenet(method, views=cmc_views(size=SIZE), batch_size=128, epochs=240)
    return replace(config, encoder=ColourBranchesConfig(ResNet50Config(width=32)))


def moco() -> TrainConfig:
    """MoCo v2: a queue of 65,536, momentum 0.999, 200 epochs at batch 256."""
    method = MoCoConfig(temperature=0.2, queue_size=65536, momentum=0.999, head=HeadConfig(out_dim=128))
    return _imagenet(method, views=moco_v2_views(size=SIZE))


def mochi() -> TrainConfig:
    """MoCHi: MoCo v2, and after 10 epochs 512 and 256 mixtures of the 1,024 hardest keys."""
    method = MoCHiConfig(
        temperature=0.2,
        queue_size=65536,
        momentum=0.999,
        hardest=1024,
        mixed=512,
        query_mixed=256,
        warmup=0.05,
        head=HeadConfig(out_dim=128),
    )
    return _imagenet(method, views=moco_v2_views(size=SIZE))


def sce() -> TrainConfig:
    """SCE as its authors' code has it: both views take both parts, so both are strong; batch 4,096, LARS."""
    head, predictor = (HeadConfig(hidden=4096, layers=layers, out_dim=256, norm="batch") for layers in (3, 2))
    method = SCEConfig(
        target_temperature=0.07,
        queue_size=65536,
        momentum_schedule="cosine",
        symmetric=True,
        batch_norm_splits=1,
        head=head,
        predictor=predictor,
    )
    optimizer = LARSConfig(learning_rate=4.8, weight_decay=1e-6)
    return replace(_imagenet(method, views=byol_views(size=SIZE), batch_size=4096, optimizer=optimizer), warmup=0.05)


def nnclr() -> TrainConfig:
    """NNCLR: a queue of 98,304, batch 4,096, 1,000 epochs; views and optimiser are SimCLR's."""
    head, predictor = (HeadConfig(hidden=h, layers=n, out_dim=256, norm="batch") for h, n in ((2048, 3), (4096, 2)))
    method = NNCLRConfig(temperature=0.1, queue_size=98304, head=head, predictor=predictor)
    config = _imagenet(
        method, views=simclr_photo_views(size=SIZE), batch_size=4096, epochs=1000, optimizer=LARSConfig()
    )
    return replace(config, warmup=0.01)


def fnc() -> TrainConfig:
    """FNC as its authors have it: eight support views, the ten most similar rows above 0.7, batch 4,096, LARS.

    Within the batch; their largest runs keep a memory of 16 batches made by a moving average. Warm-up is SimCLR's.
    """
    method = FNCConfig(temperature=0.1, mode="attract", top_k=10, threshold=0.7, support_views=8, head=_SIMCLR_HEAD)
    views = simclr_photo_views(count=10, size=SIZE)
    config = _imagenet(method, views=views, batch_size=4096, optimizer=LARSConfig(learning_rate=6.4))
    return replace(config, warmup=0.05)


def ifnd() -> TrainConfig:
    """IFND with 10,000 and 20,000 clusters, made anew every tenth epoch from the tenth on; the rest as MoCo v2."""
    method = IFNDConfig(
        temperature=0.2,
        queue_size=65536,
        momentum=0.999,
        clusters=(10_000, 20_000),
        cluster_every=0.05,
        start=0.05,
        head=HeadConfig(out_dim=128),
    )
    return _imagenet(method, views=moco_v2_views(size=SIZE))


def inter_clr() -> TrainConfig:
    """InterCLR with 10,000 clusters and 16,384 negatives from the most similar tenth; the rest as MoCo v2."""
    method = InterCLRConfig(
        temperature=0.2, queue_size=65536, momentum=0.999, clusters=10_000, negatives=16_384, min_cluster=20
    )
    return _imagenet(method, views=moco_v2_views(size=SIZE))


def relic() -> TrainConfig:
    """ReLICv2: four large and two small crops, batch 4,096, LARS; 200 epochs instead of 1,000.

    Backgrounds stay, since masks are files of their own: with those of an unsupervised saliency model, as
    ``--derive "saliency path=MASKS"``, the paper removes a tenth of the large crops' backgrounds. The optimiser is
    SimCLR's; head and predictor are BYOL's.
    """
    head = HeadConfig(hidden=4096, out_dim=256, norm="batch")
    method = ReLICConfig(
        temperature=0.2, large=4, momentum=0.996, momentum_schedule="cosine", head=head, predictor=head
    )
    views = relic_views(size=SIZE, small_size=(96, 96), large=4, small=2)
    return replace(_imagenet(method, views=views, batch_size=4096, optimizer=LARSConfig()), warmup=0.05)


def renyi_cl() -> TrainConfig:
    """RenyiCL: two large and six small hard crops, batch 1,024, LARS at 0.8 for each 256, momentum 0.99 to 1.

    The authors add the losses of the two targets, where this is their mean; LARS divides the size of a gradient out, so
    that only biases and norm layers would notice.
    """
    head = HeadConfig(hidden=4096, layers=3, out_dim=256, norm="batch")
    predictor = HeadConfig(hidden=4096, out_dim=256, norm="batch")
    method = RenyiCLConfig(alpha=1 / 65536, momentum_schedule="cosine", head=head, predictor=predictor)
    views = multi_crop_views(hard_views(), size=SIZE, small_size=(96, 96), small=6)
    optimizer = LARSConfig(learning_rate=3.2, weight_decay=1e-6)
    config = _imagenet(method, views=views, batch_size=1024, epochs=300, optimizer=optimizer)
    return replace(config, warmup=0.03)


def bregman() -> TrainConfig:
    """Deep Bregman divergence with its authors' settings for large images: 200 networks, batch 800, Adam at 1e-4."""
    method = BregmanConfig(networks=200, hidden=100, head=_SIMCLR_HEAD)
    optimizer = AdamWConfig(learning_rate=1e-4, weight_decay=0.0)
    return _imagenet(method, views=simclr_photo_views(size=SIZE), batch_size=800, optimizer=optimizer)


def eps_sup() -> TrainConfig:
    """eps-SupInfoNCE with the settings for ImageNet-100, which its authors trained on: batch 256, rate 0.05.

    ``--data DIR`` may name a folder with those 100 classes alone. How long they trained there is not known; 200 epochs.
    """
    method = EpsSupConfig(temperature=0.1, epsilon=0.25)
    optimizer = SGDConfig(learning_rate=0.05, weight_decay=1e-4)
    return _imagenet(method, views=supcon_views(size=SIZE), optimizer=optimizer)


def paco() -> TrainConfig:
    """PaCo with its authors' settings for ImageNet-LT: a queue of 8,192, batch 128, rate 0.02, 400 epochs.

    Its images are named by ``--source.train-list`` and ``--source.test-list``; without, it is all of ImageNet.
    """
    method = PaCoConfig(alpha=0.05, temperature=0.2, queue_size=8192, momentum=0.999, head=HeadConfig(out_dim=128))
    simple = replace(moco_v2_views(count=1, size=SIZE), crop_scale=(0.08, 1.0), jitter=1.0, hue=0.0)
    return _long_tailed(method, views=MultiViewsConfig(groups=(_rand_augment(count=1), simple)), learning_rate=0.02)


def gpaco() -> TrainConfig:
    """GPaCo with its authors' settings for ImageNet-LT, RandAugment on both views; lists as for PaCo.

    Their label smoothing of 0.1, which lies outside the loss, is left out.
    """
    return _long_tailed(
        GPaCoConfig(alpha=0.05, temperature=0.2, queue_size=8192), views=_rand_augment(count=2), learning_rate=0.04
    )


def rescom() -> TrainConfig:
    """ResCom on ImageNet-LT, lists as for PaCo; what its authors used there is not known, and all else is GPaCo's."""
    return _long_tailed(ResComConfig(temperature=0.1), views=_rand_augment(count=2), learning_rate=0.04)


def _rand_augment(*, count: int) -> ViewsConfig:
    return ViewsConfig(
        count=count, size=SIZE, crop_scale=(0.08, 1.0), flip=0.5, policy="randaugment", randaugment_magnitude=10
    )


def _long_tailed(method: MethodConfig, *, views: AnyViewsConfig, learning_rate: float) -> TrainConfig:
    optimizer = SGDConfig(learning_rate=learning_rate, weight_decay=5e-4)
    config = _imagenet(method, views=views, batch_size=128, epochs=400, optimizer=optimizer)
    protocols = (*config.evaluation.protocols, "own_classifier", "shot_accuracy")
    return replace(config, warmup=0.025, evaluation=replace(config.evaluation, protocols=protocols))


def open_con() -> TrainConfig:
    """OpenCon with its authors' settings for ImageNet-100: half the classes known, 120 epochs, rate 0.01.

    ``--data DIR`` may name a folder with those 100 classes alone. The encoder is a SimCLR run's, which `--init` names,
    and only its last stage is trained. Batch and decay, which are not given for it, are those of CIFAR-100.
    """
    frozen = ("stem", "stages.0", "stages.1", "stages.2")
    method = OpenConConfig(temperatures=(0.1, 0.6, 0.7), ramp=100 / 120, frozen=frozen)
    optimizer = SGDConfig(learning_rate=0.01, weight_decay=5e-4)
    config = _imagenet(method, views=supcon_views(size=SIZE), batch_size=512, epochs=120, optimizer=optimizer)
    evaluation = replace(config.evaluation, protocols=("open_world",))
    return replace(config, derived=(OpenWorldConfig(),), evaluation=evaluation)


def cross_entropy() -> TrainConfig:
    """Cross-entropy as a ResNet-50 is usually trained: one cropped and mirrored view, 90 epochs at rate 0.1."""
    views = ViewsConfig(count=1, size=SIZE, crop_scale=(0.08, 1.0), flip=0.5)
    optimizer = SGDConfig(learning_rate=0.1, weight_decay=1e-4)
    config = _imagenet(CrossEntropyConfig(), views=views, epochs=90, optimizer=optimizer)
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def logit_adjusted() -> TrainConfig:
    """Cross-entropy with the class frequencies in the loss on ImageNet-LT, lists as for PaCo; the rest as GPaCo."""
    config = _long_tailed(CrossEntropyConfig(logit_adjustment=1.0), views=_rand_augment(count=1), learning_rate=0.04)
    return replace(config, name="logit-adjusted-imagenet")


def supcon() -> TrainConfig:
    """SupCon as its authors have it: AutoAugment, batch 6,144, LARS, 350 epochs; the linear probe is its second stage.

    They add a momentum queue for their best figure; here it is the plain loss. Ten epochs of warm-up are ours.
    """
    method = SupConConfig(temperature=0.1, head=HeadConfig(out_dim=128))
    optimizer = LARSConfig(learning_rate=0.4, weight_decay=1e-3)
    config = _imagenet(method, views=_auto_augment(), batch_size=6144, epochs=350, optimizer=optimizer)
    return replace(config, warmup=0.03)


def xclr() -> TrainConfig:
    """X-CLR with class names as captions, "a photo of a {name}": batch 1,024, LARS, 100 epochs, ten of them warm-up.

    A rate of 0.075 is in public code; here it is 0.075 times the root of the batch, as that rule usually goes. Names
    come from ``LOC_synset_mapping.txt`` or ``words.txt`` beside the images; the graph's temperature is the paper's, and
    another text encoder needs another (`kinfolk graph inspect` shows what it does).
    """
    head = HeadConfig(hidden=2048, layers=3, out_dim=128, norm="batch")
    optimizer = LARSConfig(learning_rate=2.4, weight_decay=1e-6)
    method = XCLRConfig(temperature=0.1, head=head)
    config = _imagenet(method, views=_auto_augment(), batch_size=1024, epochs=100, optimizer=optimizer)
    return replace(config, warmup=0.1, relation=ClassNamesConfig(temperature=0.1))


def uni_con() -> TrainConfig:
    """UniCon: its authors have no ImageNet run; its settings for CIFAR-100, and 200 epochs."""
    optimizer = SGDConfig(learning_rate=0.05, weight_decay=1e-4)
    return _imagenet(UniConConfig(temperature=0.1, share=0.5), views=supcon_views(size=SIZE), optimizer=optimizer)


def e_sup_con() -> TrainConfig:
    """ESupCon with SupCon's settings, since its own are not at hand."""
    config = replace(supcon(), name="esupcon-imagenet", method=ESupConConfig(temperature=0.1))
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def ex_con() -> TrainConfig:
    """ExCon with its authors' settings for Tiny ImageNet: batch 128, explanations of the last stage, 200 epochs.

    They explain from the first epoch on, by a classifier that knows nothing yet; here it is after ten epochs. Rate and
    decay, which are not given for it, are those of CIFAR-100.
    """
    method = ExConConfig(temperature=0.1, start=0.05, layer="stages.3", head=HeadConfig(out_dim=128))
    views = MultiViewsConfig(groups=(ViewsConfig(count=1, size=SIZE), supcon_views(size=SIZE)))
    optimizer = SGDConfig(learning_rate=0.5, weight_decay=1e-4)
    config = _imagenet(method, views=views, batch_size=128, optimizer=optimizer)
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "own_classifier"))
    return replace(config, evaluation=evaluation)


def ex_con_b() -> TrainConfig:
    """ExConB: ExCon, and explanations that fail are negatives."""
    config = ex_con()
    assert isinstance(config.method, ExConConfig)
    return replace(config, name="excon-b-imagenet", method=replace(config.method, background=True))


def _auto_augment() -> ViewsConfig:
    return ViewsConfig(count=2, size=SIZE, crop_scale=(0.08, 1.0), flip=0.5, policy="autoaugment-imagenet")


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
        encoder=ResNet50Config(),
        method=method,
        optimizer=SGDConfig(learning_rate=0.03, weight_decay=1e-4) if optimizer is None else optimizer,
        batch_size=batch_size,
        epochs=epochs,
        warmup=0.0,
        clip_norm=None,
        workers=8,
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
    "mochi": mochi,
    "sce": sce,
    "nnclr": nnclr,
    "relic": relic,
    "renyi-cl": renyi_cl,
    "bregman": bregman,
    "eps-sup": eps_sup,
    "rescom": rescom,
    "paco": paco,
    "gpaco": gpaco,
    "opencon": open_con,
    "cross-entropy": cross_entropy,
    "logit-adjusted": logit_adjusted,
    "supcon": supcon,
    "xclr": xclr,
    "unicon": uni_con,
    "esupcon": e_sup_con,
    "excon": ex_con,
    "excon-b": ex_con_b,
}
"""The recipes of this file by the name of their method."""
