"""CLIP, SigLIP, and image-text contrast whose target knows which captions are alike."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.distributed import all_reduce, world_size
from kinfolk.graphs import MixtureGraph, PairGraph
from kinfolk.losses import CLIPLoss, GraphContrastiveLoss, SigLIPLoss
from kinfolk.losses.base import Reduction, own_scores
from kinfolk.methods.base import Method
from kinfolk.methods.batches import one_or_more_views, read_ids
from kinfolk.methods.contrast import ViewContrast
from kinfolk.methods.health import participation_ratio, positive_cosine
from kinfolk.methods.partners import Partners, PartnersConfig
from kinfolk.methods.plan import TrainingPlan
from kinfolk.methods.text_tower import SentenceTower, TextTowerConfig
from kinfolk.nn import HeadConfig, TextTransformerConfig, encoder_dim
from kinfolk.nn.modes import evaluating

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation

_LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class CLIPConfig:
    """Settings of `CLIP`.

    Raises:
        ValueError: for a loss that does not exist, shares outside [0, 1], a negative weight, a scale out of range, or a
            soft target for the sigmoid loss.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = CLIPConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(3, 1, 8, 8)], "text": ["one", "two", "three"]}
        >>> sorted(method(batch))
        ['contrastive', 'logit_scale', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "clip"
    labels_used: ClassVar[str] = "none"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """CLIP's softmax over the batch, or SigLIP's yes or no for every pair."""
    text: TextTowerConfig = field(default_factory=TextTransformerConfig)
    """The text tower."""
    logit_scale: float | None = None
    """Inverse temperature to start from, then learnt; None takes 1 / 0.07, and 10 for the sigmoid loss."""
    logit_bias: float = -10.0
    """Of the sigmoid loss, to start from: nearly all pairs are none."""
    caption_share: float = 0.0
    """Share of the target that is the relation's row instead of the own pair; 0 is plain CLIP."""
    same_caption: Literal["negative", "known"] = "negative"
    """Whether other pairs with the very same caption are negatives, or known for what they are: left out of CLIP's
    partition, pairs for SigLIP."""
    image_weight: float = 0.0
    """Weight of a contrast between the views of the images beside: X-CLR's with a relation, else NT-Xent."""
    image_temperature: float = 0.1
    """Divides its cosines."""
    partners: PartnersConfig = field(default_factory=PartnersConfig)
    """Whether images without a caption look for one among captions without an image."""
    lock: Literal["none", "image", "text"] = "none"
    """Which tower stays as it is, its head aside: locked-image tuning needs a trained encoder."""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=1))
    """From the image encoder's features to the common space."""
    text_head: HeadConfig = field(default_factory=lambda: HeadConfig(layers=1))
    """From the text tower's vectors to the common space; as long as the images' projections."""

    def __post_init__(self) -> None:
        if self.loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss must be softmax or sigmoid; found {self.loss!r}")
        if self.lock not in ("none", "image", "text"):
            raise ValueError(f"lock must be none, image or text; found {self.lock!r}")
        if self.same_caption not in ("negative", "known"):
            raise ValueError(f"same_caption must be negative or known; found {self.same_caption!r}")
        if not 0 <= self.caption_share <= 1:
            raise ValueError(f"caption_share must lie between 0 and 1; found {self.caption_share}")
        if self.caption_share and self.loss == "sigmoid":
            raise ValueError("the sigmoid loss asks yes or no of every pair: caption_share needs loss softmax")
        if self.caption_share and self.same_caption == "known":
            raise ValueError("the relation relates equal captions: same_caption known needs caption_share 0")
        if self.caption_share and self.partners.how != "none":
            raise ValueError("the relation knows no caption that is found later: partners need caption_share 0")
        if self.partners.how != "none" and self.loss == "sigmoid" and self.same_caption == "known":
            raise ValueError(
                "an image whose caption is a guess has no further pairs: partners need loss softmax or"
                " same_caption negative"
            )
        if not self.image_weight >= 0:
            raise ValueError(f"image_weight must be at least 0; found {self.image_weight}")
        if not 0 < self.start_scale <= _LARGEST_SCALE:
            raise ValueError(f"logit_scale must lie between 0 and {_LARGEST_SCALE:g}; found {self.start_scale}")

    @property
    def start_scale(self) -> float:
        """The inverse temperature that training starts from."""
        if self.logit_scale is not None:
            return self.logit_scale
        return 1 / 0.07 if self.loss == "softmax" else 10.0

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> CLIP:
        """Build the method around an image encoder.

        Raises:
            ValueError: when heads lead to different lengths, `caption_share` has no relation to take its target from,
                or a relation is given that nothing uses.
        """
        return CLIP(encoder, self, relation=relation)


@final
class CLIP(Method):
    """Two towers: an image and its caption shall be near each other, and far from all others of the batch.

    Every view of an image is contrasted with its caption, both ways. `loss` is CLIP's cross-entropy or SigLIP's
    sigmoids. Two captions of a batch may say nearly the same; to CLIP each is a wrong answer for the other's image.
    With `caption_share` w and a relation, such as the captions' own similarity, the target of a row is

        (1 - w) own pair + w the relation's row, normalised

    in both directions; w = 0 is CLIP. With `image_weight` the views of the images are contrasted too, by the same
    relation (X-CLR), or as in SimCLR without one (SLIP).

    With `partners` an image may have the caption ``""``: it looks for one among the captions without image, with the
    towers as they are, and its pair counts with the confidence of the match (`Partners`), by `pair_weight` of the
    batch: to CLIP a weight of the row's and the column's cross-entropy, to SigLIP one of the pair's own question.

    A locked tower is in eval mode and receives no gradient; its head does.

    Attributes:
        text: the text tower, from a list of strings to `[n, feature_dim]`.
        head, text_head: from both to the common space.
        log_scale: logarithm of the inverse temperature, kept at most at log 100.
        bias: of the sigmoid loss.
        partners: who was matched with whom, or None.

    Terms beside the loss: `contrastive` (image-text), `image` (between views, where there is one), `logit_scale`,
    `positive_cosine` (of pairs), `participation_ratio` of the images' projections, and with partners `matched_share`
    and, where the data know `true_text`, `match_precision`.

    Reference: Radford et al. (2021), Learning Transferable Visual Models From Natural Language Supervision. Zhai,
    Mustafa, Kolesnikov, Beyer (2023), Sigmoid Loss for Language Image Pre-Training. Locks: Zhai et al. (2022), LiT:
    Zero-Shot Transfer with Locked-image text Tuning. Views beside: Mu, Kirillov, Wagner, Xie (2022), SLIP.
    Partners: Nakada et al. (2023), Understanding Multimodal Contrastive Learning and Incorporating Unpaired Data. The
    target's mixture is ours, after Sobal et al. (2024), X-Sample Contrastive Loss.
    """

    def __init__(self, encoder: nn.Module, config: CLIPConfig, *, relation: Relation | None = None) -> None:
        super().__init__()
        if config.caption_share and relation is None:
            raise ValueError("caption_share takes its target from a relation: give one, such as --relation captions")
        if relation is not None and not config.caption_share and not config.image_weight:
            raise ValueError("nothing uses the relation: set caption_share, or image_weight, above 0")
        self.encoder, self.relation, self.config = encoder, relation, config
        self.text = config.text.build()
        self.head = config.head.build(encoder_dim(encoder))
        self.text_head = config.text_head.build(self.text.feature_dim)
        if self.head.out_dim != self.text_head.out_dim:
            raise ValueError(
                f"both heads must lead to one space; head.out_dim gives {self.head.out_dim} and text_head.out_dim "
                f"{self.text_head.out_dim}"
            )
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.start_scale)))
        self.bias = nn.Parameter(torch.tensor(config.logit_bias)) if config.loss == "sigmoid" else None
        self.between_views = ViewContrast(temperature=config.image_temperature, relation=relation)
        self.partners = None if config.partners.how == "none" else Partners(config.partners)
        self._locked = {"none": None, "image": self.encoder, "text": self.text}[config.lock]
        if self._locked is not None:
            self._locked.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> CLIP:
        """Switch to training or evaluation mode; a locked tower stays in evaluation mode."""
        super().train(mode)
        if self._locked is not None:
            self._locked.eval()
        return self

    def begin(self, plan: TrainingPlan) -> None:
        """Encode all captions at once where the text tower is a frozen sentence encoder, and see who has none."""
        if isinstance(self.text, SentenceTower):
            self.text.remember([text for text in (*(plan.captions or ()), *plan.loose_captions) if text.strip()])
        if self.partners is not None:
            self.partners.begin(plan)

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give images without caption the one that was found for them."""
        return batch if self.partners is None else self.partners.complete(batch)

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view, and then of the captions.

        Raises:
            ValueError: for a batch without captions, one for each image.
        """
        views = one_or_more_views(batch, method="CLIP")
        images = self.head(self.encoder(torch.cat(views))).tensor_split(len(views))
        return *images, self.text_head(self.text(self._captions(batch)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss, its parts and the health terms."""
        *images, texts = embeddings
        contrastive = torch.stack([self._contrast(image, texts, batch) for image in images]).mean()
        terms = {"loss": contrastive, "contrastive": contrastive.detach()}
        if self.config.image_weight:
            if len(images) != 2:
                raise ValueError(f"image_weight contrasts two views of each image; found {len(images)}, set count")
            between = self.between_views(*images, read_ids(batch))
            terms["loss"] = contrastive + self.config.image_weight * between
            terms["image"] = between.detach()
        return {
            **terms,
            "logit_scale": self.log_scale.detach().exp(),
            "positive_cosine": self._positive_cosine(images[0], texts, batch),
            "participation_ratio": participation_ratio(images[0].float()),
            **({} if self.partners is None else self.partners.health(batch)),
        }

    def after_step(self) -> None:
        """Keep the inverse temperature at most at 100, and match images and captions anew when it is time."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(_LARGEST_SCALE))
        if self.partners is not None:
            scale = float(self.log_scale.detach().exp())
            self.partners.after_step(nn.Sequential(self.encoder, self.head), self._text_rows, temperature=1 / scale)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return the place of texts in the common space, of length 1."""
        return nn.functional.normalize(self.text_head(self.text(texts)), dim=1)

    def encode_images(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the place of images in the common space, of length 1."""
        return nn.functional.normalize(self.head(self.encoder(images)), dim=1)

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the captions of all other samples."""
        return samples - 1

    def _contrast(
        self, images: Float[Tensor, "n d"], texts: Float[Tensor, "n d"], batch: Mapping[str, Any]
    ) -> Float[Tensor, ""]:
        scale = self.log_scale.exp()
        ids = read_ids(batch)
        if self.config.same_caption == "known":
            ids = caption_ids(self._captions(batch)).to(ids.device)
        weight = batch.get("pair_weight")
        reduction: Reduction = "mean" if weight is None else "none"
        if self.bias is not None:
            values = SigLIPLoss(reduction=reduction)(images, texts, scale, self.bias, ids=ids)
            if weight is None:
                return values
            # What is doubted is the pair's own question; that an image belongs to no other caption is not.
            own = nn.functional.softplus(-(scale * own_scores(images, texts, normalize=True) + self.bias))
            return weighted_mean(values - (1 - weight) * own, torch.ones_like(weight))
        share = self.config.caption_share
        if not share:
            values = CLIPLoss(reduction=reduction)(images, texts, scale, ids=ids)
            return values if weight is None else weighted_mean(values, weight)
        assert self.relation is not None
        target = MixtureGraph([PairGraph(len(images)), self.relation.for_batch(ids, 1)], [1 - share, share])
        loss = GraphContrastiveLoss(temperature=1 / scale)
        return (loss(images, texts, target, ids=ids) + loss(texts, images, target, ids=ids)) / 2

    def _positive_cosine(
        self, images: Float[Tensor, "n d"], texts: Float[Tensor, "n d"], batch: Mapping[str, Any]
    ) -> Float[Tensor, ""]:
        if "pair_weight" not in batch:
            return positive_cosine(torch.stack([images.float(), texts.float()]))
        with torch.no_grad():
            return weighted_mean(own_scores(images, texts, normalize=True), batch["pair_weight"])

    def _text_rows(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        with evaluating(self):
            return self.encode_text(texts)

    def _captions(self, batch: Mapping[str, Any]) -> Sequence[str]:
        texts, count = batch.get("text"), len(batch["views"][0])
        if texts is None or len(texts) != count:
            found = f"found batch keys {sorted(batch)}" if texts is None else f"found {len(texts)} for {count} images"
            raise ValueError(
                f"CLIP needs a caption for every image; {found}. Give a source with the column text, such as a folder "
                "with metadata, or captions made of class names (--derive class-captions)."
            )
        strange = next((text for text in texts if not isinstance(text, str)), None)
        if strange is not None or None in texts:
            raise TypeError(f"captions must be strings, '' where there is none; found {type(strange).__name__}.")
        empty = sum(not text.strip() for text in texts)
        if empty:
            raise ValueError(
                f"{empty} of {count} images have an empty caption; leave them out, or let them look for one among "
                "captions without an image (--method.partners.how mutual)."
            )
        return texts


def caption_ids(texts: Sequence[str]) -> Int64[Tensor, " n"]:
    """Return a number for every text, equal for equal texts on all processes.

    Example:
        >>> first, second, third = caption_ids(["a cat", "a dog", "a cat"]).tolist()
        >>> first == third != second
        True
    """
    digests = (hashlib.blake2b(text.encode("utf-8", errors="replace"), digest_size=8).digest() for text in texts)
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def weighted_mean(values: Float[Tensor, " n"], weight: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the mean of one value per pair by weight, over the pairs of all processes; 0 where nothing weighs.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 0.5]))
        tensor(2.)
    """
    total = all_reduce(weight.sum())
    return world_size() * (weight * values).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)
