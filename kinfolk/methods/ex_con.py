"""ExCon: SupCon in which an image's explanation, the part that speaks for its class, becomes a view of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.distributed import all_reduce, rank, world_size
from kinfolk.losses import SupConLoss
from kinfolk.methods.batches import read_ids, read_labels, read_views
from kinfolk.methods.health import labelled_accuracy, projection_health
from kinfolk.methods.predicting import ClassesConfig, PredictingMethod, check_classes, labelled_cross_entropy
from kinfolk.nn import HeadConfig, Progress, encoder_dim, evaluating
from kinfolk.nn.grad_cam import above_middle, grad_cam

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation
    from kinfolk.methods.plan import TrainingPlan


@dataclass(frozen=True)
class ExConConfig(ClassesConfig):
    """Settings of `ExCon`.

    Raises:
        ValueError: for a start outside [0, 1].

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = ExConConfig(classes=3, start=0.0)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> sorted(method({"views": [torch.rand(4, 1, 8, 8)] * 3, "labels": torch.tensor([0, 0, 2, -1])}))
        ['accuracy', 'explained_share', 'loss', 'participation_ratio', 'positive_cosine']
    """

    kind: ClassVar[str] = "excon"
    background: bool = False
    """Let a masked image that the classifier gets wrong be a negative of all rows (ExConB)."""
    temperature: float = 0.1
    """Divides the cosines; smaller looks harder at the nearest negatives."""
    start: float = 0.25
    """Share of training before the first explanation; what an untrained classifier explains is noise."""
    layer: str | None = None
    """The layer that is explained, its name in the encoder such as "blocks.2"; None takes the last convolution."""
    mean: tuple[float, ...] | None = None
    """What a removed pixel shows, one number per channel; None takes the mean of the batch of all processes."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The projection head between encoder and loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must be a share of training, 0 to 1, found {self.start}.")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> ExCon:
        """Build the method around an encoder; its graph is the batch's labels, so `relation` stays unused.

        Raises:
            ValueError: when the number of classes is still open, or the encoder has no such layer.
        """
        return ExCon(encoder, self)


@final
class ExCon(PredictingMethod):
    """Supervised contrast of an image with its explanation, so that features come from what makes the class.

    Views are the plain image, then two augmented ones, r1 and r2. A linear classifier on the encoder's features, the
    explainer, says by Grad-CAM which pixels of the plain image speak for its true class; the others show the mean
    colour. Where the explainer gets the masked image right, it takes the place of r2. Where not, r2 stays, and with
    `background` the masked image is a further candidate of all rows, of no class: never an anchor, never a positive.

    In `prepare`: explanation and prediction, in evaluation mode, without gradient. In `embed`: first view, r1 and
    background rows in one pass. In `terms`: SupCon, plus cross-entropy of the explainer on detached features of the two
    views: it learns along, step by step, where the authors alternate epochs. In `after_step`: the step is counted.

    An unlabelled sample (-1) is not explained and keeps r2. A flat explanation keeps all pixels. With `start=1` encoder
    and head are trained exactly as SupCon trains them on (r2, r1).

    Attributes:
        explainer: `nn.Linear` from features to one logit per class.

    Terms beside the loss: `accuracy` of the explainer on the labelled rows as they are seen; `explained_share`, samples
    whose explanation became a view; `positive_cosine` (between the two views), `participation_ratio`.

    Reference: Zhang, Jang, Trabelsi, Li, Sanner, Jeong, Shim (2021), ExCon: Explanation-driven Supervised Contrastive
    Learning for Image Classification.
    """

    def __init__(self, encoder: nn.Module, config: ExConConfig) -> None:
        super().__init__()
        self.encoder = encoder
        _explained_layer(encoder, config.layer)
        self.head = config.head.build(encoder_dim(encoder))
        self.explainer = nn.Linear(encoder_dim(encoder), config.known_classes())
        nn.init.zeros_(self.explainer.weight)
        nn.init.zeros_(self.explainer.bias)
        self.loss = SupConLoss(temperature=config.temperature)
        self.clipped_apart = ("explainer",)
        self.progress = Progress()
        self.config = config
        self._stepped = False

    def begin(self, plan: TrainingPlan) -> None:
        """Learn how long training is."""
        self.progress.begin(plan.total_steps)

    @torch.no_grad()
    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the batch with its `contrasted` pair, the `masked` images, and which of them are `wrong` or `right`.

        Raises:
            ValueError: without exactly three views or labels, or for a label that the explainer has no class for.
        """
        if len(batch.get("views", ())) != 3:
            raise ValueError(
                f"ExCon takes three views, of which the first is the plain image; found {len(batch.get('views', ()))}. "
                "Set views to MultiViewsConfig(groups=(ViewsConfig(count=1), your_views))."
            )
        plain, first, second = read_views(batch, method="ExCon", count=3)
        labels = read_labels(batch, method="ExCon")
        check_classes(labels, self.explainer.out_features, config="ExConConfig")
        if not self.progress.has_reached(self.config.start):
            none = torch.zeros_like(labels, dtype=torch.bool)
            return {**batch, "contrasted": [second, first], "masked": second, "right": none, "wrong": none}
        fill = self._fill(plain)  # before anything that an empty share would skip: all ranks take part
        with evaluating(self.encoder, self.explainer):
            layer = _explained_layer(self.encoder, self.config.layer)
            kept = above_middle(grad_cam(self.logits, layer, plain, labels.clamp_min(0)))[:, None]
            masked = torch.where(kept, plain, fill)
            hit = self.logits(masked).argmax(1) == labels
        known = labels >= 0
        # A flat map keeps the whole image, which is no background.
        right, wrong = known & hit, known & ~hit & ~kept.flatten(1).all(1)
        view = torch.where(right[:, None, None, None], masked, second)
        return {**batch, "contrasted": [view, first], "masked": masked, "right": right, "wrong": wrong}

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n d"], ...]:
        """Return the projections of both views, the explainer's logits of both, and the projected background.

        A sample without a background row has zeros there, which `terms` leaves out.
        """
        views, n = batch["contrasted"], len(batch["wrong"])
        places = batch["wrong"].nonzero()[:, 0] if self.config.background else batch["wrong"].new_zeros(0).long()
        features = self.encoder(torch.cat([*views, batch["masked"][places]]))
        projections, logits = self.head(features), self.explainer(features[: 2 * n].detach())
        background = projections.new_zeros(n, projections.shape[1]).index_copy(0, places, projections[2 * n :])
        return *projections[: 2 * n].tensor_split(2), *logits.tensor_split(2), background

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n d"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n d"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the health terms."""
        labels, ids = read_labels(batch, method="ExCon"), read_ids(batch)
        rows, targets, owners = torch.cat(list(embeddings[:2])), labels.repeat(2), ids.repeat(2)
        if self.config.background:
            extra = embeddings[4][batch["wrong"]]
            # Ids of their own, on all ranks, even where a batch has a sample twice: else two would be positives.
            own = -2 - (rank() + world_size() * torch.arange(len(extra), device=ids.device))
            rows, owners = torch.cat([rows, extra]), torch.cat([owners, own])
            targets = torch.cat([targets, targets.new_full((len(extra),), -1)])
        logits = torch.cat(list(embeddings[2:4]))
        loss = self.loss(rows, targets, ids=owners) + labelled_cross_entropy(logits, labels.repeat(2))
        self._stepped |= self.training and torch.is_grad_enabled()
        samples = all_reduce(torch.tensor(float(len(ids)), device=ids.device)) / world_size()
        return {
            "loss": loss,
            "accuracy": labelled_accuracy(logits, labels.repeat(2)),
            "explained_share": batch["right"].sum() / samples,
            **projection_health(embeddings[:2]),
        }

    def after_step(self) -> None:
        """Count the step, if there was one."""
        if self._stepped:
            self.progress.advance()
        self._stepped = False

    def negatives(self, *, samples: int, views: int) -> int:
        """Return the rows of other samples, two each; the plain images are not contrasted."""
        return 2 * (samples - 1)

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return the explainer's logits, with gradient, in the mode that the module is in.

        Args:
            images: float, in [0, 1].
        """
        return self.explainer(self.encoder(images))

    def _fill(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Return the colour of removed pixels, [c, 1, 1]."""
        if self.config.mean is None:
            total, pixels = images.sum((0, 2, 3)), images.new_tensor(images[:, 0].numel())
            return (all_reduce(total) / all_reduce(pixels))[:, None, None]
        if len(self.config.mean) != images.shape[1]:
            raise ValueError(
                f"mean must have one number per channel: images have {images.shape[1]}, found {self.config.mean}."
            )
        return images.new_tensor(self.config.mean)[:, None, None]


def _explained_layer(encoder: nn.Module, name: str | None) -> nn.Module:
    """Return the layer that is explained, the last convolution if it has no name."""
    modules = dict(encoder.named_modules())
    convolutions = {key: module for key, module in modules.items() if isinstance(module, nn.Conv2d)}
    if name is None and convolutions:
        return next(reversed(convolutions.values()))
    if name is None or name not in modules:
        wanted = "convolution" if name is None else f"layer {name!r}"
        raise ValueError(
            f"ExCon explains by the maps of a layer, and the encoder has no {wanted}; "
            f"set ExConConfig.layer to one that it has; its convolutions are {', '.join(convolutions) or 'none'}."
        )
    return modules[name]
