"""Text towers: what turns a batch's captions into vectors, trained from scratch, adapted, or frozen."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from kinfolk.data.text import TextEncoderConfig, encode_texts
from kinfolk.nn import TextTransformerConfig
from kinfolk.nn.modes import device_of

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class SentenceTower(nn.Module):
    """A frozen sentence encoder, from texts to vectors of length 1; every text is encoded once.

    The vectors stay in memory and on disk (`kinfolk.data.text.encode_texts`) and are no part of a checkpoint. What is
    trained is the head after it.

    Args:
        encoder: which one.

    Attributes:
        feature_dim: length of a vector.

    Raises:
        ImportError: when no encoder is installed; the message has the commands.
    """

    def __init__(self, encoder: TextEncoderConfig) -> None:
        super().__init__()
        self.config = encoder
        self.rows: dict[str, Tensor] = {}
        self.place: Tensor  # moves with the module, and says where to
        self.register_buffer("place", torch.zeros(0), persistent=False)
        self.remember([" a"])
        self.feature_dim = len(self.rows[" a"])

    def remember(self, texts: Sequence[str]) -> None:
        """Encode texts that are not known yet; those of a training set together are read from disk the next time.

        Raises:
            ValueError: for an empty text.
        """
        new = sorted({text for text in texts if text not in self.rows})
        if new:
            found = encode_texts(new, self.config).expanded().float()
            self.rows.update(zip(new, found, strict=True))

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n feature_dim"]:
        """Look texts up, encoding those that are new."""
        self.remember(texts)
        rows = [self.rows[text] for text in texts]
        return (torch.stack(rows) if rows else torch.zeros(0, self.feature_dim)).to(self.place)


@dataclass(frozen=True)
class SentenceTowerConfig:
    """Settings of a `SentenceTower`.

    Example:
        >>> SentenceTowerConfig(TextEncoderConfig("wordllama")).kind
        'sentence'
    """

    kind: ClassVar[str] = "sentence"
    encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """Which frozen encoder."""

    def build(self) -> SentenceTower:
        """Find and open the encoder."""
        return SentenceTower(self.encoder)


@final
class TransformersTower(nn.Module):
    """A language model of the transformers library with its tokenizer, from texts to vectors.

    Args:
        model: a model whose forward takes ``input_ids`` and ``attention_mask``.
        tokenizer: what makes them.
        pooling: `mean` over the text's tokens, `cls` the first one, `pooler` the model's own pooled output.
        length: tokens that are read of a text, at most as many as the model has positions; the rest is cut off.
        frozen: whether the model's weights stay as they are, and the model in eval mode.

    Attributes:
        feature_dim: length of a vector.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, pooling: str, length: int, frozen: bool) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        positions = getattr(model.config, "max_position_embeddings", None) or length
        self.length = min(length, positions, tokenizer.model_max_length)
        self.pooling, self.frozen = pooling, frozen
        self.feature_dim: int = model.config.hidden_size  # type: ignore[union-attr, assignment]
        for name, parameter in model.named_parameters():
            # Without a gradient several processes would wait for it for ever.
            if frozen or (pooling != "pooler" and name.startswith("pooler.")):
                parameter.requires_grad_(False)
        self.train(self.training)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n feature_dim"]:
        """Tokenise and encode texts."""
        if not len(texts):
            return self([" "])[:0]  # with a graph, as every process of a training needs one
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        ).to(device_of(self))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        if self.pooling == "pooler":
            return found.pooler_output
        if self.pooling == "cls":
            return found.last_hidden_state[:, 0]
        weight = tokens["attention_mask"][..., None].to(found.last_hidden_state.dtype)
        return (found.last_hidden_state * weight).sum(1) / weight.sum(1).clamp_min(1)

    def train(self, mode: bool = True) -> TransformersTower:
        """Set the mode; a frozen model stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self


@dataclass(frozen=True)
class TransformersTowerConfig:
    """Which language model of transformers, and what of its output is taken.

    The model and its tokenizer are looked for in a local folder of that name, as ``save_pretrained`` makes it, and then
    on the hub. The folder must be there when a run is loaded again.

    Raises:
        ValueError: for no name, another pooling, or a length below 1.

    Example:
        >>> TransformersTowerConfig("distilbert-base-uncased", frozen=True).pooling
        'mean'
    """

    kind: ClassVar[str] = "transformers-text"
    name: str
    """A local folder, or a name on the hub."""
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    """What of the output is the vector."""
    length: int = 64
    """Tokens that are read of a text."""
    frozen: bool = False
    """Whether the model stays as it is, and only the head after it learns."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name must be a folder or a model of the hub; found an empty one")
        if self.pooling not in ("mean", "cls", "pooler"):
            raise ValueError(f"pooling must be 'mean', 'cls' or 'pooler'; found {self.pooling!r}")
        if self.length < 1:
            raise ValueError(f"length must be at least 1 token; found {self.length}")

    def build(self) -> TransformersTower:
        """Load model and tokenizer.

        Raises:
            ImportError: without transformers.
            FileNotFoundError: when there is no such folder and the hub has no such model or cannot be reached.
        """
        try:
            transformers = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise ImportError(
                'a text tower of kind "transformers-text" needs transformers: pip install "kinfolk[hf]"'
            ) from error
        try:
            model = transformers.AutoModel.from_pretrained(self.name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.name)
        except OSError as error:
            raise FileNotFoundError(
                f"no language model {self.name!r}: it is not a folder here with model and tokenizer, and the hub does"
                f" not have it or cannot be reached ({str(error).splitlines()[0]}). Download it where there is a"
                " network, with `AutoModel.from_pretrained(name).save_pretrained(folder)` and the same for"
                " `AutoTokenizer`, and give the folder as the name."
            ) from error
        return TransformersTower(model.float(), tokenizer, pooling=self.pooling, length=self.length, frozen=self.frozen)


TextTowerConfig: TypeAlias = TextTransformerConfig | SentenceTowerConfig | TransformersTowerConfig
"""What can stand on the side of the text."""
