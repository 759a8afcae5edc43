"""Static text encoders: the mean of a text's token vectors, tens of thousands of texts a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kinfolk.data.optional import import_extra
from kinfolk.data.text.encoders import TextEncoder

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_CHUNK = 4096


class StaticEncoder(TextEncoder):
    """The mean of a text's token vectors; a text without tokens gives zeros.

    Args:
        table: float32 ``[tokens, e]``.
        tokenizer: of the ``tokenizers`` library, without padding.
        max_length: tokens of a text that count, from its start; None counts all.

    Reference: Miller (2024), WordLlama: Recycled Token Embeddings from Large Language Models.
    """

    def __init__(self, table: Float[Tensor, "t e"], tokenizer: Any, *, max_length: int | None = None) -> None:
        self._table, self._tokenizer, self._max_length = table, tokenizer, max_length

    @classmethod
    def of_wordllama(cls, folder: Path, *, max_length: int | None = None) -> StaticEncoder:
        """Open the weights and the tokenizer that lie in the package ``wordllama``, which is not imported.

        Args:
            folder: of the package.
            max_length: see the class.

        Raises:
            ImportError: without tokenizers or safetensors.
            FileNotFoundError: when the package does not bring its two files, as some versions may not.
        """
        tokenizers = import_extra("tokenizers", needed_for="the text encoder 'wordllama'", extra="text")
        safetensors = import_extra("safetensors.torch", needed_for="the text encoder 'wordllama'", extra="text")
        weights = folder / "weights" / "l2_supercat_256.safetensors"
        tokens = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        for path in (weights, tokens):
            if not path.is_file():
                raise FileNotFoundError(
                    f"the package wordllama has no {path.parent.name}/{path.name}; install version 0.4, which brings it"
                )
        tokenizer = tokenizers.Tokenizer.from_file(str(tokens))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        table = safetensors.load_file(str(weights))["embedding.weight"].to(torch.float32)
        return cls(table, tokenizer, max_length=max_length)

    def encode(self, texts: list[str]) -> Float[np.ndarray, "n e"]:
        """Encode texts; see `TextEncoder.encode`."""
        parts = [self._encode(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self._table.shape[1]), dtype=np.float32)

    def _encode(self, texts: list[str]) -> Tensor:
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        tokens = [np.asarray(encoding.ids[: self._max_length], dtype=np.int64) for encoding in encodings]
        offsets = np.cumsum([0, *(len(ids) for ids in tokens)])[:-1]
        # A token beyond the table takes its last row, as in the package's own code.
        flat = torch.from_numpy(np.concatenate(tokens).clip(max=len(self._table) - 1))
        return torch.nn.functional.embedding_bag(flat, self._table, torch.from_numpy(offsets), mode="mean")
