"""Models of the timm library as encoders."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from torch import Tensor, nn

from kinfolk.nn.adapter import dry_run
from kinfolk.nn.standardise import Standardise

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class TimmEncoder(nn.Module):
    """A timm model without its classifier, from float images in [0, 1] to vectors; made by `TimmConfig`.

    Args:
        model: made with ``num_classes=0``.
        channels: of the images.
        mean: of the model's training, one number or one per channel.
        std: likewise.

    Attributes:
        feature_dim: length of a feature vector.
    """

    def __init__(self, model: nn.Module, *, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.standardise = Standardise(channels, mean=mean, std=std)
        self.feature_dim = 0  # `TimmConfig.build` finds it

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode float images in [0, 1]."""
        return self.model(self.standardise(images)).flatten(1)


@dataclass(frozen=True)
class TimmConfig:
    """Which model of timm encodes.

    timm adapts the first layer to the images' channels, also of pretrained weights. A model with position embeddings
    is built for the size of the views where it takes ``img_size``.

    Args:
        name: as ``timm.list_models`` has it, for example ``"resnet18"``.
        pretrained: whether to start from published weights, which timm downloads.

    Example:
        >>> TimmConfig("resnet18").pretrained
        False
    """

    kind: ClassVar[str] = "timm"
    name: str
    pretrained: bool = False

    def build(self, *, channels: int, image_size: tuple[int, int]) -> TimmEncoder:
        """Make the model and wrap it.

        Raises:
            ImportError: where timm or torchvision, which it needs, cannot be imported.
            ValueError: when timm has no such model, or it does not take images of this shape.
        """
        timm = _timm()
        if not timm.is_model(self.name.partition(".")[0]):
            raise ValueError(f"timm has no model {self.name!r}; `timm.list_models('*{self.name[:4]}*')` lists some.")
        settings: dict[str, Any] = {"pretrained": self.pretrained, "num_classes": 0, "in_chans": channels}
        try:
            model = timm.create_model(self.name, img_size=image_size, **settings)
        except TypeError:  # a convolutional net takes any size, and no such argument
            model = timm.create_model(self.name, **settings)
        mean, std = (tuple(model.pretrained_cfg.get(key) or (0.5,)) for key in ("mean", "std"))
        if len(mean) != channels:  # those of RGB do not fit grey images
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        encoder = TimmEncoder(model, channels=channels, mean=mean, std=std)
        features = dry_run(encoder, channels=channels, image_size=image_size)
        assert isinstance(features, Tensor)
        encoder.feature_dim = features.shape[1]
        return encoder

    def stored(self, encoder: nn.Module) -> TimmConfig:
        """Return the config with which `build` makes an encoder of this shape without a download.

        Args:
            encoder: what `build` gave.
        """
        return TimmConfig(self.name)


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        if error.name == "timm":
            why, what = "is not installed", 'pip install "kinfolk[timm]"'
        elif (error.name or "").startswith("torchvision"):
            why, what = "needs torchvision, which is not installed", "install the torchvision that fits your torch"
        else:
            why, what = f"cannot be imported ({error})", "install a torchvision that fits your torch, and timm again"
        raise ImportError(f'an encoder of kind "timm" needs timm, which {why}: {what}') from error
    except (RuntimeError, AttributeError) as error:  # a torchvision built for another torch fails in these ways
        raise ImportError(
            f'an encoder of kind "timm" needs timm, which cannot be imported ({error}): install the torchvision that'
            " fits your torch"
        ) from error
