"""Fine-tuning: an encoder and a linear classifier on top of it, trained by cross-entropy on labelled samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.methods.batches import one_or_more_views, read_labels
from kinfolk.methods.health import labelled_accuracy
from kinfolk.methods.predicting import ClassesConfig, PredictingMethod, check_classes, labelled_cross_entropy
from kinfolk.nn import encoder_dim

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.relations import Relation


@dataclass(frozen=True)
class FineTuneConfig(ClassesConfig):
    """Settings of `FineTune`.

    Raises:
        ValueError: for fewer than one class, a rate that is not positive, or smoothing outside [0, 1).

    Example:
        >>> from kinfolk.nn import SmallConvConfig
        >>> config = FineTuneConfig(classes=3)
        >>> method = config.build(SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)))
        >>> terms = method({"views": [torch.rand(4, 1, 8, 8)], "labels": torch.tensor([0, 2, 1, -1])})
        >>> sorted(terms), round(terms["loss"].item(), 3)  # all classes are equally likely at first: log(3)
        (['accuracy', 'loss'], 1.099)
    """

    kind: ClassVar[str] = "fine-tune"
    freeze_encoder: bool = False
    """Train the classifier alone, on an encoder in evaluation mode: linear evaluation with augmentation."""
    encoder_rate: float = 1.0
    """The encoder's learning rate as a multiple of the classifier's."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.encoder_rate > 0:
            raise ValueError(f"encoder_rate must be positive, found {self.encoder_rate}; freeze_encoder stops it")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1, found {self.label_smoothing}")

    def build(self, encoder: nn.Module, *, relation: Relation | None = None) -> FineTune:
        """Build the method around an encoder; its target is the labels, so `relation` stays unused.

        Raises:
            ValueError: when the number of classes is still open.
        """
        return FineTune(encoder, self)


@final
class FineTune(PredictingMethod):
    """Cross-entropy of a linear classifier on the encoder's features, over all views of the labelled samples.

    Batch norm without an affine map stands between the two: encoders give features of very different size, and the
    same learning rate must suit the classifiers of all of them. In evaluation mode the whole is linear.

    An unlabelled sample (-1) has no loss; a batch without any label has loss 0 and gradient 0. A
    `LabelledPartConfig`, or a `ClassBalancedSamplerConfig`, spares the passes over samples without a label. The
    classifier starts at 0: the first loss is log(classes), and the first step does not yet push a trained encoder in
    the random directions of a random classifier.

    With several processes the sum over labelled samples is divided by their number in the whole batch, however they
    are spread over the processes.

    Attributes:
        classifier: batch norm, then `nn.Linear` from features to one logit per class.
        rate_factors: by name of a submodule, the multiple of the learning rate that its parameters are trained with.

    Terms beside the loss: `accuracy` over the labelled rows of the batch as they are augmented, 0 where there are none.

    Reference: Chen, Kornblith, Norouzi, Hinton (2020), A Simple Framework for Contrastive Learning of Visual
    Representations (fine-tuning on 1 % and 10 % of the labels). `label_smoothing`: Szegedy, Vanhoucke, Ioffe, Shlens,
    Wojna (2016), Rethinking the Inception Architecture for Computer Vision. Batch norm before the classifier: He, Chen,
    Xie, Li, Dollár, Girshick (2022), Masked Autoencoders Are Scalable Vision Learners.
    """

    def __init__(self, encoder: nn.Module, config: FineTuneConfig) -> None:
        super().__init__()
        self.encoder = encoder
        dim = encoder_dim(encoder)
        self.classes = config.known_classes()
        last = nn.Linear(dim, self.classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.classifier = nn.Sequential(nn.BatchNorm1d(dim, affine=False), last)
        self.label_smoothing = config.label_smoothing
        self.is_frozen = config.freeze_encoder
        self.rate_factors = {"encoder": config.encoder_rate}
        if self.is_frozen:
            self.encoder.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> FineTune:
        """Switch to training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        return self

    def embed(self, batch: Mapping[str, Any]) -> tuple[Float[Tensor, "n k"], ...]:
        """Return the logits of each view, one or more; a batch without labels raises `ValueError`."""
        views = one_or_more_views(batch, method="fine-tuning")
        read_labels(batch, method="fine-tuning")
        return self.logits(torch.cat(views)).tensor_split(len(views))

    def terms(
        self,
        embeddings: Sequence[Float[Tensor, "n k"]],
        batch: Mapping[str, Any],
        *,
        keys: Sequence[Float[Tensor, "n k"]] = (),
    ) -> dict[str, Tensor]:
        """Return the loss and the accuracy on this batch.

        Raises:
            ValueError: for a label that the classifier has no class for.
        """
        labels = read_labels(batch, method="fine-tuning")
        check_classes(labels, self.classes, config="FineTuneConfig")
        logits, targets = torch.cat(list(embeddings)), labels.repeat(len(embeddings))
        loss = labelled_cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return {"loss": loss, "accuracy": labelled_accuracy(logits, targets)}

    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return one logit per class and image, with gradient, in the mode that the module is in.

        Args:
            images: float, in [0, 1].
        """
        return self.classifier(self.encoder(images))
