"""UniCon: contrast every image with the universum, mixtures of two classes that belong to neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kinfolk.data.counter import counter_uniform
from kinfolk.distributed import all_gather
from kinfolk.losses import UniConLoss
from kinfolk.methods.base import Method
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import positive_cosine, projection_health
from kinfolk.nn import HeadConfig, Progress, boxes_of_area, cut_mix, draw_from_other_classes, encoder_dim, mix

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class UniConConfig:
    """Settings of `UniCon`.

    Raises:
        ValueError: for a share that leaves nothing of one of the two images.

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> method = UniConConfig().build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> batch = {"views": [torch.rand(4, 1, 8, 8)] * 2, "labels": torch.tensor([0, 0, 1, -1])}
        >>> sorted(method(batch))
        ['loss', 'participation_ratio', 'positive_cosine', 'universum_cosine']
    """

    kind: ClassVar[str] = "unicon"
    labels_used: ClassVar[str] = "all"
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    mixer: Literal["mixup", "cutmix"] = "mixup"
    """Blend the two images, or cut a box of the partner into the image."""
    share: float = 0.5
    """The partner's share of a blend; constant, since a mixture close to one image would have its class."""
    box_area: tuple[float, float] = (0.45, 0.55)
    """Bounds of the partner's share of the pixels, where a box is cut."""
    seed: int = 0
    """Seed of partners and boxes; the draws of a step depend on it, the step, the view and the sample."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and loss."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1, so that a mixture has something of both; {self.share}")
        if not 0 < self.box_area[0] <= self.box_area[1] < 1:
            raise ValueError(f"box_area must be two shares between 0 and 1 in ascending order; found {self.box_area}")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> UniCon:
        """Build the method around an encoder; its graph is the batch's labels, so `relation` stays unused."""
        return UniCon(encoder, self)


@final
class UniCon(Method):
    """Supervised contrast of every row with the universum: mixtures of each image with one of another class.

    A mixture of two classes belongs to neither, and so is a negative that lies where classes meet. Row j of the
    universum is `share` of an image of another class and the rest of image j. The universum replaces the rows of
    SupCon as candidates: a row attracts the universum of its class's images, its own excepted, and repels all other;
    no two plain rows are compared. Which images attract is what the authors' code does; their abstract speaks of
    negatives alone.

    In `prepare`: a partner for every view of every image, drawn evenly from all views of all images of other classes
    in the batch of all processes; then the mixtures. Ids and step decide the draws, so that neither the order of the
    batch nor the number of processes does. In `embed`: the views, then the mixtures, through the same network in a
    pass of their own each; batch norm never sees both together. Gradient flows through both. In `after_step`: the
    step is counted.

    A batch of all processes with fewer than two classes has no partners: its loss is 0, with gradient 0. An unlabelled
    sample (-1) is nobody's partner; its own is any labelled image, and it attracts the universum of its other views
    only.

    Terms beside the loss: `universum_cosine` between rows and their own universum; `positive_cosine` (between views of
    one sample), `participation_ratio` of the projections.

    Reference: Han, Geng, Chen (2022), Universum-Inspired Supervised Contrastive Learning.
    """

    def __init__(self, encoder: nn.Module, config: UniConConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head.build(encoder_dim(encoder))
        self.loss = UniConLoss(temperature=config.temperature)
        self.progress = Progress()
        self.config = config
        self._stepped = False

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is."""
        self.progress.begin(plan.total_steps)

    @torch.no_grad()
    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the batch with its `universum`, a mixture for every view of every sample."""
        views, labels = read_views(batch, method="UniCon"), read_labels(batch, method="UniCon")
        if _classes_of_all_ranks(labels) < 2:
            return {**batch, "universum": views}  # without effect: the loss is 0
        ids, count = read_ids(batch), len(views)
        # By id, so that a number stands for the same partner wherever samples are; [sample, view, channel, ...].
        order = all_gather(ids).argsort(stable=True)
        pool = torch.stack([all_gather(view) for view in views], dim=1)
        classes = all_gather(labels)[order].repeat_interleave(count)
        universum = []
        for number, view in enumerate(views):
            draws = counter_uniform((self.config.seed, int(self.progress.step), number), ids, count=4)
            chosen = draw_from_other_classes(labels, classes, draws[:, 0])
            partners = pool[order[chosen // count], chosen % count]
            universum.append(self._mixed(view, partners, draws[:, 1:]))
        return {**batch, "universum": universum}

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of each view, then those of each view's universum."""
        views = read_views(batch, method="UniCon")
        passes = (self.head(self.encoder(torch.cat(list(images)))) for images in (views, batch["universum"]))
        return tuple(part for rows in passes for part in rows.tensor_split(len(views)))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        count, labels = len(embeddings) // 2, read_labels(batch, method="UniCon")
        rows, universum = torch.cat(list(embeddings[:count])), torch.cat(list(embeddings[count:]))
        loss = self.loss(rows, universum, labels.repeat(count), ids=read_ids(batch).repeat(count))
        if _classes_of_all_ranks(labels) < 2:
            loss = 0 * loss
        self._stepped |= self.training and torch.is_grad_enabled()
        return {
            "loss": loss,
            "universum_cosine": positive_cosine(torch.stack([rows.float(), universum.float()])),
            **projection_health(embeddings[:count]),
        }

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the universum of all other samples; that of the anchor's class is positive."""
        return views * (samples - 1)

    def after_step(self) -> None:
        """Count the step, so that the next partners are others."""
        if self._stepped:
            self.progress.advance()
        self._stepped = False

    def _mixed(
        self, images: Float[Tensor, "n c h w"], partners: Float[Tensor, "n c h w"], numbers: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n c h w"]:
        if self.config.mixer == "mixup":
            return mix(images, partners, share=self.config.share)
        height, width = images.shape[-2:]
        return cut_mix(images, partners, boxes_of_area(numbers, size=(height, width), area=self.config.box_area))


def _classes_of_all_ranks(labels: Int64[Tensor, " n"]) -> int:
    labels = all_gather(labels)
    return len(labels[labels >= 0].unique())
