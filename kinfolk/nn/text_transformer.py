"""A small transformer over the bytes of texts, to be trained from scratch: no vocabulary, nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn

from kinfolk.nn.modes import device_of

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

_BEGIN, _VOCABULARY = 256, 257


@final
class TextTransformer(nn.Module):
    """From texts to vectors: a transformer over UTF-8 bytes, and the mean over its outputs.

    Every text begins with a mark of its own, so that an empty one has a vector too. Texts longer than `length` bytes
    are cut. What else is in a batch changes nothing but rounding.

    Args:
        width: of the tokens, and of the vectors.
        layers: number of transformer layers.
        heads: of attention in each; they share the width.
        length: bytes that are read of a text.

    Attributes:
        feature_dim: length of a vector.

    Raises:
        ValueError: for numbers below 1, or a width that the heads cannot share.

    Reference: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin (2017), Attention Is All You Need.
        Xue, Barua, Constant, Al-Rfou, Narang, Kale, Roberts, Raffel (2022), ByT5: Towards a Token-Free Future with
        Pre-trained Byte-to-Byte Models (bytes as tokens).

    Example:
        >>> TextTransformer(width=32, heads=2)(["a cat", "zwölf Vögel"]).shape
        torch.Size([2, 32])
    """

    def __init__(self, *, width: int = 128, layers: int = 2, heads: int = 4, length: int = 64) -> None:
        super().__init__()
        if min(width, layers, heads, length) < 1 or width % heads:
            raise ValueError(
                "width, layers, heads and length must be at least 1 and heads must share the width evenly; found "
                f"width={width}, layers={layers}, heads={heads}, length={length}."
            )
        self.length, self.feature_dim = length, width
        self.tokens = nn.Embedding(_VOCABULARY, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + length, width))
        nn.init.normal_(self.tokens.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n feature_dim"]:
        """Encode texts.

        Raises:
            TypeError: for what is no list of strings.
        """
        if not len(texts):
            return self([""])[:0]  # with a graph, as every process of a training needs one
        tokens, known = byte_tokens(texts, self.length)
        tokens, known = (part.to(device_of(self)) for part in (tokens, known))
        rows = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        out = self.layers(rows, src_key_padding_mask=~known)
        weight = known[..., None].to(out.dtype)
        return (out * weight).sum(1) / weight.sum(1)


@dataclass(frozen=True)
class TextTransformerConfig:
    """Settings of a `TextTransformer`.

    Example:
        >>> TextTransformerConfig(width=64).build().feature_dim
        64
    """

    kind: ClassVar[str] = "text-transformer"
    width: int = 128
    """Width of the tokens, and of the vectors."""
    layers: int = 2
    """Number of layers."""
    heads: int = 4
    """Heads of attention, which share the width."""
    length: int = 64
    """Bytes that are read of a text; the rest is cut off."""

    def build(self) -> TextTransformer:
        """Build the transformer with random weights."""
        return TextTransformer(width=self.width, layers=self.layers, heads=self.heads, length=self.length)


def byte_tokens(texts: Sequence[str], length: int) -> tuple[Int64[Tensor, "n t"], Bool[Tensor, "n t"]]:
    """Turn texts into bytes behind a mark of the beginning, padded to the longest.

    Args:
        texts: any number.
        length: bytes that are read of each.

    Returns:
        Tokens, and which of them are the text's.

    Raises:
        TypeError: for what is no list of strings.

    Example:
        >>> byte_tokens(["ab", ""], 8)
        (tensor([[256,  97,  98],
                [256,   0,   0]]), tensor([[ True,  True,  True],
                [ True, False, False]]))
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        found = type(texts) if isinstance(texts, str) else next(type(t) for t in texts if not isinstance(t, str))
        raise TypeError(f"texts must be a list of strings; found {found.__name__}.")
    read = [text.encode("utf-8", errors="replace")[:length] for text in texts]
    tokens = torch.zeros(len(read), 1 + max(map(len, read), default=0), dtype=torch.int64)
    known = torch.zeros_like(tokens, dtype=torch.bool)
    tokens[:, 0], known[:, 0] = _BEGIN, True
    for row, text in enumerate(read):
        tokens[row, 1 : 1 + len(text)] = torch.tensor(list(text), dtype=torch.int64)
        known[row, 1 : 1 + len(text)] = True
    return tokens, known
