"""Vision models of the transformers library as encoders."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, final

import torch
from torch import Tensor, nn

from kinfolk.nn.adapter import dry_run
from kinfolk.nn.standardise import Standardise

if TYPE_CHECKING:
    from jaxtyping import Float

Pooling = Literal["pooler", "cls", "mean"]
_HALF = (0.5, 0.5, 0.5)  # what models without a processor of their own were trained with, as a rule


@final
class TransformersEncoder(nn.Module):
    """A vision model of transformers from float images in [0, 1] to vectors; made by `TransformersConfig`.

    The processor's mean and standard deviation are applied inside. Grey images become three equal channels and the
    alpha channel of RGBA is dropped where the model takes RGB. Images keep their size: a ViT's position embeddings
    are interpolated where its forward can do that.

    Args:
        model: a model whose forward takes ``pixel_values``.
        channels: of the images.
        mean: of the processor, one number per channel of the model.
        std: likewise.
        pooling: what of the output is the feature vector; see `TransformersConfig`.
        frozen: whether the model's weights stay as they are, and the model in eval mode.

    Attributes:
        feature_dim: length of a feature vector.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        pooling: Pooling = "pooler",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.channels = channels
        self.takes = int(getattr(model.config, "num_channels", 3))
        self.standardise = Standardise(self.takes, mean=mean, std=std)
        self.pooling = pooling
        self.frozen = frozen
        self.interpolates = _can_interpolate(model)
        self.feature_dim = 0  # `TransformersConfig.build` finds it
        _without_gradient(model, pooling, frozen=frozen)
        self.train(self.training)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b feature_dim"]:
        """Encode float images in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"this encoder takes images [b, {self.channels}, H, W], found {tuple(images.shape)}; build it with the"
                " channels of the source."
            )
        extra = {"interpolate_pos_encoding": True} if self.interpolates else {}
        pixels = self.standardise(_with_channels(images, self.takes))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return _pooled(self.model(pixel_values=pixels, **extra), self.pooling)

    def train(self, mode: bool = True) -> TransformersEncoder:
        """Set the mode; a frozen model stays in eval mode, so that dropout and statistics leave it as it is."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self


@dataclass(frozen=True)
class TransformersConfig:
    """Which model of transformers encodes, and what of its output is taken.

    A model is looked for in a local folder of that name (as ``save_pretrained`` or a download makes it) and then on the
    hub. A run stores the model's architecture beside its encoder, so that loading it needs neither.

    Args:
        name: a local folder, or a name on the hub, such as ``"facebook/dinov2-small"``.
        pooling: `pooler` is the model's own pooled output (of a ViT a layer on top of its first token, of a ConvNet the
            pooled map), `cls` the first token, `mean` the mean over all tokens or over the map.
        pretrained: whether to start from the model's weights, or from random ones.
        frozen: whether its weights stay as they are; then only what comes after it is trained.
        mean: per channel, in [0, 1]; None takes it from the folder's ``preprocessor_config.json``.
        std: likewise.
        architecture: the model's own config as JSON; a run fills it in when it exports its encoder, and then nothing
            is read from `name`.

    Raises:
        ValueError: for another pooling, or only one of mean and std.

    Example:
        >>> TransformersConfig("facebook/dinov2-small", pooling="cls").pretrained
        True
    """

    kind: ClassVar[str] = "transformers"
    name: str
    pooling: Pooling = "pooler"
    pretrained: bool = True
    frozen: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    architecture: str | None = None

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, tuple(getattr(self, field)))
        if self.pooling not in ("pooler", "cls", "mean"):
            raise ValueError(f"pooling must be 'pooler', 'cls' or 'mean'; found {self.pooling!r}.")
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"give mean and std together, or neither; found mean {self.mean}, std {self.std}.")

    def build(self, *, channels: int, image_size: tuple[int, int]) -> TransformersEncoder:
        """Load or make the model and wrap it.

        Raises:
            ImportError: without transformers.
            FileNotFoundError: when there is no such folder and the hub has no such model or cannot be reached.
            ValueError: when the model is none for images, or does not take images of this shape.
        """
        transformers = _transformers()
        if self.architecture is not None:
            values = json.loads(self.architecture)
            model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**values))
        else:
            model = self._load(transformers)
        if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
            raise ValueError(
                f"{self.name} takes {model.main_input_name}, not images; name a vision model, such as a ViT, DINOv2,"
                " ConvNeXt or ResNet."
            )
        mean, std = self._mean_and_std()
        encoder = TransformersEncoder(
            model.float(),  # a model saved in half precision would be trained in it
            channels=channels,
            mean=mean,
            std=std,
            pooling=self.pooling,
            frozen=self.frozen,
        )
        features = dry_run(encoder, channels=channels, image_size=image_size)
        assert isinstance(features, Tensor)
        encoder.feature_dim = features.shape[1]
        return encoder

    def stored(self, encoder: nn.Module) -> TransformersConfig:
        """Return the config with which `build` makes an encoder of this shape from nothing but itself.

        The weights are not in it; they come from the run's own file.

        Args:
            encoder: what `build` gave.
        """
        assert isinstance(encoder, TransformersEncoder)
        standardise = encoder.standardise
        return TransformersConfig(
            name=self.name,
            pooling=self.pooling,
            pretrained=False,
            frozen=self.frozen,
            mean=tuple(standardise.mean.flatten().tolist()),
            std=tuple(standardise.std.flatten().tolist()),
            architecture=json.dumps(cast(Any, encoder.model).config.to_dict(), sort_keys=True),
        )

    def _load(self, transformers: Any) -> nn.Module:
        try:
            if self.pretrained:
                return transformers.AutoModel.from_pretrained(self.name)
            return transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(self.name))
        except ValueError as error:
            raise ValueError(f"{self.name!r} holds no model that transformers knows: {error}") from error
        except OSError as error:
            raise FileNotFoundError(
                f"no model {self.name!r}: it is not a folder here, and the hub does not have it or cannot be reached"
                f" ({str(error).splitlines()[0]}). Download it where there is a network, with"
                " `AutoModel.from_pretrained(name).save_pretrained(folder)` and the same for `AutoImageProcessor`, and"
                " give the folder as the name."
            ) from error

    def _mean_and_std(self) -> tuple[Sequence[float], Sequence[float]]:
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        found = _preprocessor(self.name)
        if not found.get("do_normalize", True):
            return (0.0,), (1.0,)
        return found.get("image_mean") or _HALF, found.get("image_std") or _HALF


def _preprocessor(name: str) -> dict[str, Any]:
    """Read ``preprocessor_config.json``: transformers' own reader of it needs torchvision for some models."""
    file = Path(name) / "preprocessor_config.json"
    if not Path(name).is_dir():
        found = importlib.import_module("transformers.utils").cached_file(
            name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
        if found is None:
            return {}
        file = Path(found)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ImportError(
            'an encoder of kind "transformers" needs transformers, which is not installed: pip install "kinfolk[hf]"'
        ) from error


def _without_gradient(model: nn.Module, pooling: Pooling, *, frozen: bool) -> None:
    """Exclude weights that the features do not depend on: several processes would wait for their gradient for ever."""
    for name, parameter in model.named_parameters():
        unused = "mask_token" in name or (pooling != "pooler" and name.startswith("pooler."))
        if frozen or unused:
            parameter.requires_grad_(False)


def _can_interpolate(model: nn.Module) -> bool:
    """Whether a forward has to be asked to take images of another size; some models, like DINOv2, always do."""
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def _with_channels(images: Tensor, takes: int) -> Tensor:
    if images.shape[1] == takes:
        return images
    if takes == 3:
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images[:, :3]
    raise ValueError(f"the model takes {takes} channels, and images have {images.shape[1]}; convert the images.")


def _pooled(output: Any, pooling: Pooling) -> Tensor:
    """Take the feature vectors out of a model's output, whose maps are ``[b, c, h, w]`` and tokens ``[b, t, d]``."""
    if pooling == "pooler":
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            raise ValueError("the model has no pooled output; take pooling 'cls' or 'mean'.")
        return pooled.flatten(1)
    last = output.last_hidden_state
    if last.ndim == 4:
        if pooling == "cls":
            raise ValueError("the model gives a map and has no first token; take pooling 'pooler' or 'mean'.")
        return last.mean((2, 3))
    return last[:, 0] if pooling == "cls" else last.mean(1)
