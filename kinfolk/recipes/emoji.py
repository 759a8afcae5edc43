"""Emoji by three hands, about 9,000 training pictures of 32x32: one small encoder and as many image views for every
method.

180 thousand views each, two to three minutes on two cores. Whole concepts are held out, so that what is measured is
concepts that no method has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kinfolk.data import CaptionsConfig, EmojiConfig
from kinfolk.data.sources.emoji import EMOJI_HANDS
from kinfolk.data.views import (
    MultiViewsConfig,
    cmc_views,
    drawing_views,
)
from kinfolk.evals import KNN, CrossRetrieval, EvaluationConfig
from kinfolk.methods import (
    CACRConfig,
    CLIPConfig,
    CMCConfig,
    MoCoConfig,
    ReLICConfig,
    SimCLRConfig,
    SupConConfig,
    XCLRConfig,
)
from kinfolk.nn import ColourBranchesConfig, SmallConvConfig, TextTransformerConfig
from kinfolk.train import AdamWConfig, MethodConfig, TrainConfig


def simclr() -> TrainConfig:
    """SimCLR, no labels: two augmentations of one picture."""
    return _emoji(SimCLRConfig(temperature=0.1))


def simclr_hands() -> TrainConfig:
    """SimCLR whose second view is the same emoji drawn by another hand."""
    config = _emoji(SimCLRConfig(temperature=0.1))
    return replace(
        config,
        name="simclr-emoji-hands",
        source=EmojiConfig(renderings=True),
        views=replace(drawing_views(), renderings="other"),
    )


def moco() -> TrainConfig:
    """MoCo v2, no labels; the queue is shorter than the data set."""
    return _emoji(MoCoConfig(temperature=0.1, queue_size=4096))


def supcon() -> TrainConfig:
    """SupCon with the labels of about 90 subcategories."""
    return _emoji(SupConConfig(temperature=0.1))


def xclr() -> TrainConfig:
    """X-CLR with a graph of the captions, whose temperature is chosen by perplexity."""
    return replace(_emoji(XCLRConfig(temperature=0.1)), relation=CaptionsConfig(perplexity=PERPLEXITY))


def clip() -> TrainConfig:
    """CLIP on pictures and captions: a small transformer reads the captions; one view, as many pictures in all."""
    return _emoji_and_text(CLIPConfig(text=_READER))


def siglip() -> TrainConfig:
    """SigLIP: the same towers, and a yes or no for every pair."""
    return replace(_emoji_and_text(CLIPConfig(text=_READER, loss="sigmoid")), name="siglip-emoji")


def clip_captions() -> TrainConfig:
    """CLIP whose target is half the own pair and half the captions' similarity."""
    config = _emoji_and_text(CLIPConfig(text=_READER, caption_share=0.5))
    return replace(config, name="clip-captions-emoji", relation=CaptionsConfig(perplexity=PERPLEXITY))


def cacr() -> TrainConfig:
    """CACR with four positives, no labels; as many image views as the others see."""
    config = _emoji(CACRConfig(t_pos=1.0, t_neg=2.0))
    return replace(config, views=drawing_views(count=5), batch_size=128, epochs=config.epochs * 2 // 5)


def cmc() -> TrainConfig:
    """CMC, no labels: the lightness and the colours of one crop, each with an encoder of half the width."""
    config = _emoji(CMCConfig(temperature=0.1))
    return replace(config, views=cmc_views(), encoder=ColourBranchesConfig(SmallConvConfig(width=16)))


def relic() -> TrainConfig:
    """ReLICv2, no labels: 5 epochs of two large and two small crops are as many views as the others'.

    Backgrounds stay, since masks are files of their own: after ``kinfolk data saliency emoji --out MASKS`` add
    ``--derive "saliency path=MASKS" --views.groups.0.background 0.1``.
    """
    small = replace(drawing_views(count=2), size=(16, 16), crop_scale=(0.1, 0.3))
    config = _emoji(ReLICConfig(temperature=0.1))
    return replace(config, views=MultiViewsConfig(groups=(drawing_views(), small)), epochs=config.epochs // 2)


PERPLEXITY = 10.0
"""Of the caption graph over a batch: to how many other pictures an anchor is pulled."""


_READER = TextTransformerConfig(length=32)  # the names, and few of the keywords after them


def _emoji_and_text(method: MethodConfig) -> TrainConfig:
    config = _emoji(method)
    evaluation = replace(config.evaluation, protocols=(*config.evaluation.protocols, "text_retrieval", "zero_shot"))
    views = drawing_views(count=1)
    return replace(config, views=views, epochs=2 * config.epochs, checkpoint_every_epochs=10, evaluation=evaluation)


def _emoji(method: MethodConfig) -> TrainConfig:
    return TrainConfig(
        name=f"{method.kind}-emoji",
        source=EmojiConfig(),
        views=drawing_views(),
        encoder=SmallConvConfig(),
        method=method,
        optimizer=AdamWConfig(learning_rate=2e-3, weight_decay=5e-2),
        # The smallest classes have a handful of pictures of their own; 200 neighbours would drown them.
        evaluation=EvaluationConfig(
            protocols=("knn", "cross_retrieval", "geometry"),
            knn=KNN(k=20),
            cross_retrieval=CrossRetrieval(hands=EMOJI_HANDS),
        ),
        batch_size=256,
        epochs=10,
        checkpoint_every_epochs=5,
    )


METHODS: dict[str, Callable[..., TrainConfig]] = {
    "simclr": simclr,
    "moco": moco,
    "supcon": supcon,
    "xclr": xclr,
    "clip": clip,
    "siglip": siglip,
    "clip-captions": clip_captions,
    "cacr": cacr,
    "cmc": cmc,
    "relic": relic,
}
"""The recipes of this file by the name of their method."""
