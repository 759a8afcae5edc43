"""Sentence encoders of the sentence-transformers library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kinfolk.data.optional import import_extra
from kinfolk.data.text.encoders import MINILM, WORDLLAMA, TextEncoder

if TYPE_CHECKING:
    from jaxtyping import Float


class SentenceEncoder(TextEncoder):
    """A model that `sentence_transformers.SentenceTransformer` opens: a folder, or a name of the hub.

    Args:
        model: folder, or ``"organisation/model"`` with an optional ``"@revision"``.
        batch_size: texts at once.
        max_length: longest text in tokens; None keeps the model's own limit.

    Raises:
        ImportError: without sentence-transformers.
        FileNotFoundError: when the model cannot be opened.
    """

    def __init__(self, model: str, *, batch_size: int, max_length: int | None = None) -> None:
        library = import_extra("sentence_transformers", needed_for=f"the text encoder {model!r}", extra="text")
        logging = import_extra("transformers.utils.logging", needed_for="a sentence encoder", extra="text")
        name, _, revision = model.rpartition("@") if "@" in model else (model, "", None)
        showed = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # of its weights: 103 tensors in 10 ms
        try:
            self._model = library.SentenceTransformer(name, revision=revision)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"the text encoder {model!r} cannot be opened: {str(error).splitlines()[0]} A model of the hub needs a"
                f" connection once; {MINILM!r} and {WORDLLAMA!r} come with their weights by pip."
            ) from error
        finally:
            if showed:
                logging.enable_progress_bar()
        self._batch_size = batch_size
        if max_length is not None:
            self._model.max_seq_length = max_length

    def encode(self, texts: list[str]) -> Float[np.ndarray, "n e"]:
        """Encode texts; see `TextEncoder.encode`."""
        found = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, dtype=np.float32)
