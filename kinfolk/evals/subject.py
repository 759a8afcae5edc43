"""One encoder under measurement, with its data and what several protocols share about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from kinfolk.evals.extraction import extract, in_precision_of
from kinfolk.evals.feature_cache import FeatureCache
from kinfolk.evals.features import Features, FeatureSplits
from kinfolk.evals.linear_probe import LinearHead, LinearProbe

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from kinfolk.data.sources import Source
    from kinfolk.data.views import ViewMaker
    from kinfolk.data.views.table import TableViewMaker


@dataclass(frozen=True, eq=False)
class Subject:
    """An encoder, the data it is measured on, and its features of them.

    Args:
        name: who it is in the table, such as "trained" or "raw pixels".
        encoder: in evaluation mode, from float images `[b, C, H, W]` in [0, 1] to `[b, d]`.
        features: of `train` and `test`, in ascending order of id.
        train: the labelled samples that probes are fitted on.
        test: the samples that are scored.
        pretraining: what the encoder was trained on, whose class sizes say which classes are rare.
        view_maker: the augmentation of pretraining; None where there is none.
        batch_size: images per forward pass.
        device: where to compute; None stays where the encoder is.
        cache: features on disk; None keeps nothing.
        classifier_module: what training made to tell classes apart, from images to logits; None where it made none.
        towers: what training made to have images and texts in one space, see `Towers`; None where it made none.

    Example:
        >>> from kinfolk.data import ArraySource
        >>> from kinfolk.evals import RawPixels
        >>> source = ArraySource((torch.arange(8).reshape(8, 1, 1, 1) * 30).byte(), torch.arange(8) // 4)
        >>> subject = Subject.of("raw pixels", RawPixels(channels=1, image_size=(1, 1)), train=source, test=source)
        >>> subject.head(LinearProbe()).predict(subject.features.test.rows).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """

    name: str
    encoder: nn.Module
    features: FeatureSplits
    train: Source
    test: Source
    pretraining: Source
    view_maker: ViewMaker | TableViewMaker | None = None
    batch_size: int = 256
    device: torch.device | str | None = None
    cache: FeatureCache | None = None
    classifier_module: nn.Module | None = None
    towers: nn.Module | None = None

    @classmethod
    def of(
        cls,
        name: str,
        encoder: nn.Module,
        *,
        train: Source,
        test: Source,
        pretraining: Source | None = None,
        view_maker: ViewMaker | TableViewMaker | None = None,
        batch_size: int = 256,
        device: torch.device | str | None = None,
        cache: FeatureCache | None = None,
        classifier: nn.Module | None = None,
        towers: nn.Module | None = None,
    ) -> Subject:
        """Extract the features of both sources and put everything together; without view pairs."""
        features = FeatureSplits(
            extract(encoder, train, batch_size=batch_size, device=device, cache=cache),
            extract(encoder, test, batch_size=batch_size, device=device, cache=cache),
        )
        seen = pretraining or train
        return cls(
            name, encoder, features, train, test, seen, view_maker, batch_size, device, cache, classifier, towers
        )

    def extract(self, source: Source) -> Features:
        """Encode other images, such as corrupted ones; they are not kept on disk."""
        return extract(self.encoder, source, batch_size=self.batch_size, device=self.device)

    def head(self, probe: LinearProbe) -> LinearHead:
        """The linear classifier on the training features, fitted once for all protocols that ask with these settings.

        Raises:
            ValueError: when no training row is labelled.
        """
        return self.features.head(probe)

    def classifier(self, probe: LinearProbe) -> nn.Sequential:
        """Encoder and head as one module from images to logits, through which gradients flow to the images.

        It puts the encoder in evaluation mode, which whoever uses it puts back (see `evaluating`).

        The head's column j is class `head(probe).classes[j]`. No parameter asks for a gradient in the head; the
        encoder's are as they were, so take gradients with `torch.autograd.grad` with respect to the images.
        """
        held = next(self.encoder.parameters(), None)
        layer = self.head(probe).as_module()
        return _Classifier(self.encoder, layer if held is None else layer.to(held.device)).eval()


class _Classifier(nn.Sequential):
    """Encoder and head, the encoder in the precision of its weights and the head in its own."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        encoder, head = self
        return head(encoder(in_precision_of(encoder, images)).float())
