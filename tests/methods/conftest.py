"""Real digits in batches that are a pure function of the step, and the methods in small settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kinfolk.data import DigitsConfig, ViewMaker, ViewsConfig
from kinfolk.evals.extraction import extract
from kinfolk.methods import (
    AdversarialConfig,
    BregmanConfig,
    CACRConfig,
    CLIPConfig,
    CrossEntropyConfig,
    EpsSupConfig,
    ESupConConfig,
    ExConConfig,
    FalseNegativesConfig,
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
    TrainingPlan,
    UniConConfig,
    XCLRConfig,
)
from kinfolk.nn import Attack, HeadConfig, SmallConvConfig, TextTransformerConfig

_HEAD = HeadConfig(hidden=32, out_dim=16)
_NORMED = HeadConfig(hidden=32, out_dim=16, norm="batch")
_TEXT = TextTransformerConfig(width=16, layers=1, heads=2, length=16)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_COUNTED = {"classes": 10, "class_counts": (150,) * 5 + (120,) * 5}
_NEAREST = FalseNegativesConfig(detector="similarity", share=0.1, start=0.1)
CONFIGS = {
    "simclr": SimCLRConfig(head=_NORMED),
    "simclr-composed": SimCLRConfig(decoupled=True, false_negatives=_NEAREST, head=_NORMED),
    "moco": MoCoConfig(queue_size=160, batch_norm_splits=4, head=_HEAD),
    "moco-symmetric": MoCoConfig(queue_size=160, momentum_schedule="cosine", symmetric=True, head=_HEAD),
    "moco-composed": MoCoConfig(
        queue_size=160, decoupled=True, false_negatives=_NEAREST, batch_norm_splits=4, head=_HEAD
    ),
    "supcon": SupConConfig(head=_HEAD),
    "esupcon": ESupConConfig(classes=10, head=_HEAD),
    "eps-sup": EpsSupConfig(head=_HEAD),
    "excon": ExConConfig(classes=10, background=True, start=0.0, head=_HEAD),
    "fair-kl": EpsSupConfig(loss="con", form="in", fair_weight=0.5, fair_form="moments", head=_HEAD),
    "rescom": ResComConfig(**_COUNTED, negatives=8, queue_per_class=4, head=_NORMED),
    "paco": PaCoConfig(**_COUNTED, queue_size=160, momentum=0.99, batch_norm_splits=4, head=_HEAD),
    "gpaco": GPaCoConfig(**_COUNTED, queue_size=160, head=HeadConfig(hidden=32, out_dim=16, layers=3)),
    # All of these batches have labels; unlabelled samples and novel classes are in its own tests.
    "opencon": OpenConConfig(classes=12, labelled_classes=10, weights=(1.0, 1.0, 0.1), head=_HEAD),
    "cross-entropy": CrossEntropyConfig(classes=10, label_smoothing=0.1, head=HeadConfig(layers=0)),
    "cross-entropy-contrast": CrossEntropyConfig(**_COUNTED, logit_adjustment=1.0, contrast_weight=1.0, head=_HEAD),
    "unicon": UniConConfig(head=_HEAD),
    "unicon-cutmix": UniConConfig(mixer="cutmix", head=_NORMED),
    "xclr": XCLRConfig(head=_HEAD),
    "clip": CLIPConfig(text=_TEXT, same_caption="known", image_weight=1.0),
    "siglip": CLIPConfig(text=_TEXT, loss="sigmoid", logit_bias=-2.0, same_caption="known", image_weight=1.0),
    "cacr": CACRConfig(),
    "cacr-queue": CACRConfig(queue_size=160, batch_norm_splits=4, head=_HEAD),
    "ifnd": IFNDConfig(
        queue_size=160, clusters=(20, 40), start=0.1, cluster_every=0.1, batch_norm_splits=4, head=_HEAD
    ),
    "fnc": FNCConfig(top_k=3, threshold=0.5, head=_NORMED),
    "inter-clr": InterCLRConfig(queue_size=160, clusters=12, negatives=32, batch_norm_splits=4, head=_HEAD),
    "mochi": MoCHiConfig(queue_size=160, hardest=16, mixed=8, query_mixed=8, warmup=0.05, head=_HEAD),
    "sce": SCEConfig(queue_size=160, batch_norm_splits=4, head=_NORMED, predictor=_HEAD),
    "nnclr": NNCLRConfig(queue_size=160, head=_NORMED, predictor=_NORMED),
    "relic": ReLICConfig(head=_NORMED, predictor=_NORMED),
    "renyi-cl": RenyiCLConfig(head=_NORMED, predictor=_NORMED),
    "bregman": BregmanConfig(networks=8, hidden=16, dropout=0.0, head=_NORMED),
    "adversarial": AdversarialConfig(temperature=0.2, attack=Attack(0.05, 2, 0.03), head=replace(_HEAD, norm="batch")),
}


@pytest.fixture(scope="session")
def source():
    """Return the digits to train on: 1437 real images of 8x8 pixels."""
    return DigitsConfig().load().train


@pytest.fixture(scope="session")
def digits(source):
    """Return `batch(step, views=2, n=64)`: augmented views of digits with ids, labels, a bias and a side embedding."""

    def batch(step: int, *, views: int = 2, n: int = 64) -> dict:
        chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(step))[:n]
        data = source.fetch(chosen)
        maker = ViewMaker(ViewsConfig(count=views, rotation=15, shift=0.1, zoom=(0.8, 1.2)), seed=0)
        side = F.one_hot(data["labels"], 10).float()
        shown = maker(data["images"], data["ids"], epoch=step)
        known = {"ids": data["ids"], "labels": data["labels"], "bias_labels": data["ids"] % 3}
        text = [NAMES[label] for label in data["labels"].tolist()]
        return {"views": shown, **known, "text": text, "text_embedding": side}

    return batch


@pytest.fixture(params=list(CONFIGS))
def config(request):
    """Return each method's config in turn."""
    return CONFIGS[request.param]


@pytest.fixture(params=[name for name, config in CONFIGS.items() if config.labels_used == "all"])
def labelled_config(request):
    """Return each config in turn of a method that takes labels."""
    return CONFIGS[request.param]


@pytest.fixture
def build(source):
    """Return `build(config, norm=, seed=, relation=, steps=)`: the method around a small encoder, training begun."""

    def features(module):
        return extract(module, source).rows

    def make(config, *, norm: str = "batch", seed: int = 0, relation=None, steps: int = 60):
        torch.manual_seed(seed)
        encoder = SmallConvConfig(width=8, depth=2, norm=norm, pool="flatten", feature_dim=32)
        method = config.build(encoder.build(channels=1, image_size=(8, 8)), relation=relation)
        method.begin(TrainingPlan(steps, 22, source.ids, features))
        return method

    return make
