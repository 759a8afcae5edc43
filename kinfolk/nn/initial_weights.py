"""Weights from someone's checkpoint for an encoder: names brought into agreement, and all that differs listed."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_NESTS = ("state_dict", "model_state_dict", "model", "encoder", "net", "module")
# what training code calls the encoder within a whole, and transformers a model below its classifier
_WRAPPERS = {"module", "model", "backbone", "encoder", "encoder_q", "base_encoder", "net", "trunk", "visual"}
_WRAPPERS |= {"vit", "deit", "beit", "dinov2", "swin", "swinv2", "resnet", "convnext", "convnextv2", "vision_model"}
_HEADS = ("fc", "head", "heads", "classifier", "linear", "projection_head", "projector", "predictor", "prototypes")
_SHOWN = 8


@dataclass(frozen=True)
class InitialWeights:
    """What of a checkpoint an encoder took.

    Args:
        file: the checkpoint.
        prefix: what was taken off its names, such as ``"module.encoder_q."``.
        loaded: how many tensors the encoder took.
        heads: tensors of a classifier or projection head, which an encoder does not have.
        unused: other tensors that the encoder has no place for.
        missing: tensors of the encoder that the checkpoint does not have; they keep their initial values.
        mismatched: tensors of another shape, each with both shapes; the encoder's keep their initial values.
    """

    file: Path
    prefix: str
    loaded: int
    heads: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def summary(self) -> str:
        """Say in a line what was loaded and what was left out.

        Example:
            >>> InitialWeights(Path("resnet.pt"), "module.", 120, heads=("fc.weight", "fc.bias")).summary()
            "120 tensors loaded from resnet.pt ('module.' taken off their names); left out: head fc.weight, fc.bias"
        """
        text = f"{self.loaded} tensors loaded from {self.file}"
        text += f" ({self.prefix!r} taken off their names)" if self.prefix else ""
        parts = {"head": self.heads, "unused": self.unused, "missing": self.missing, "other shape": self.mismatched}
        left_out = "; ".join(f"{what} {_listed(names)}" for what, names in parts.items() if names)
        return f"{text}; left out: {left_out}" if left_out else text


def load_initial_weights(encoder: nn.Module, weights: str | Path, *, partial: bool = False) -> InitialWeights:
    """Load an encoder's weights from a run, or a safetensors or torch file.

    The tensors may be nested (under ``state_dict``, ``model``, ...) and their names may begin with a wrapper's
    (``module.``, ``backbone.``, ``encoder.``, ``encoder_q.``, ...): the beginning that fits the most of the encoder's
    names is taken off. An encoder's ``own_name``, where it has one, says what it calls a tensor that others named, so
    that torchvision's and timm's weights fit our ResNets. Tensors of a head, and those outside that beginning (a key
    encoder, a queue), are left out. Input standardisation and batch norm's counters may be absent. Torch files are read
    as tensors only, so that nothing in them is run.

    Args:
        encoder: what takes the weights.
        weights: a finished run's folder, or a file.
        partial: whether to take what fits when some tensors are missing or have another shape.

    Returns:
        What was taken and what was left out.

    Raises:
        FileNotFoundError: If there are no weights at that place.
        ValueError: If the file is no checkpoint, or its tensors do not fit; the message lists them with their shapes.

    Example:
        >>> import tempfile
        >>> encoder = nn.Linear(3, 2)
        >>> saved = {"state_dict": {f"module.{k}": v for k, v in nn.Linear(3, 2).state_dict().items()}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(saved, f"{folder}/theirs.pt")
        ...     taken = load_initial_weights(encoder, f"{folder}/theirs.pt")
        >>> taken.loaded, taken.prefix
        (2, 'module.')
    """
    file = _file(Path(weights))
    found = _tensors(_read(file), file)
    if callable(own_name := getattr(encoder, "own_name", None)):  # others call the parts of this architecture otherwise
        found = {own_name(name): value for name, value in found.items()}
    needed = encoder.state_dict()
    theirs, own = _best_prefixes(found, needed)
    # the checkpoint's tensors under the names that the encoder has for them
    renamed = {own + name.removeprefix(theirs): value for name, value in found.items() if name.startswith(theirs)}
    outside = [name for name in found if not name.startswith(theirs)]
    extra = [name for name in renamed if name not in needed]
    heads = [name for name in extra if _is_head(name.removeprefix(own))]
    unused = [name for name in extra if name not in heads]
    missing = [name for name in needed if name not in renamed and not _may_be_absent(name)]
    fitting = {name: value for name, value in renamed.items() if name in needed and value.shape == needed[name].shape}
    mismatched = [
        f"{name}: {tuple(renamed[name].shape)} in the checkpoint, {tuple(needed[name].shape)} in the encoder"
        for name in needed
        if name in renamed and name not in fitting
    ]
    if not fitting:
        raise ValueError(
            f"no tensor of {file} fits the encoder: it has {_listed(list(found))}; the encoder has"
            f" {_listed(list(needed))}. Is it of another architecture?"
        )
    if (missing or mismatched or unused) and not partial:
        problems = {"other shape": mismatched, "missing": missing, "without a place": unused}
        listed = "; ".join(f"{what} ({len(names)}): {_listed(names)}" for what, names in problems.items() if names)
        raise ValueError(
            f"{file} does not fit the encoder, though {len(fitting)} of its tensors do. {listed}. Choose the encoder"
            " that it was saved from, or ask for a partial load."
        )
    encoder.load_state_dict(fitting, strict=False)
    return InitialWeights(
        file,
        prefix=theirs,
        loaded=len(fitting),
        heads=tuple(heads),
        unused=(*unused, *outside),
        missing=tuple(missing),
        mismatched=tuple(mismatched),
    )


def _file(path: Path) -> Path:
    if (path / "config.json").is_file():  # transformers renames tensors on saving and knows how to read them back
        raise ValueError(f"{path} is a folder of transformers; name it in an encoder of kind 'transformers' instead")
    file = path / "encoder.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"no encoder weights at {file}; init takes a finished run's folder, or a safetensors or torch file"
        )
    return file


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is no torch file, or holds more than tensors, which loading could execute:"
            f" {_first_line(error)} Save the state_dict alone and load that."
        ) from error
    except Exception as error:  # reading what is no pickle as one can end in any error
        raise ValueError(f"{file} is not a readable torch file: {_first_line(error)}") from error


def _tensors(state: Any, file: Path) -> dict[str, Tensor]:
    """Return the tensors by name, from the outermost level that has some."""
    if isinstance(state, Mapping):
        found = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
        nested = next((state[name] for name in _NESTS if isinstance(state.get(name), Mapping)), None)
        if nested is not None:
            return _tensors(nested, file)
        if found:
            return found
    kind = (
        f"a mapping with {_listed([str(name) for name in state])}"
        if isinstance(state, Mapping)
        else type(state).__name__
    )
    raise ValueError(f"{file} holds no tensors by name, but {kind}; save a module's state_dict")


def _best_prefixes(found: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return the beginnings, theirs and the encoder's, without which the most names and shapes agree."""
    votes: Counter[tuple[str, str]] = Counter()
    by_core: dict[str, list[tuple[str, str]]] = {}
    for name in found:
        for theirs in _wrappings(name):
            by_core.setdefault(name.removeprefix(theirs), []).append((name, theirs))
    for name, tensor in needed.items():
        for own in _wrappings(name):
            for other, theirs in by_core.get(name.removeprefix(own), ()):
                votes[theirs, own] += 1 + (found[other].shape == tensor.shape)
    return max(votes, key=lambda pair: (votes[pair], -len(pair[0]) - len(pair[1])), default=("", ""))


def _wrappings(name: str) -> list[str]:
    """Return every beginning of a name that only wrappers have made, the empty one first."""
    beginnings, parts = [""], name.split(".")
    for part in parts[:-1]:
        if part not in _WRAPPERS:
            break
        beginnings.append(f"{beginnings[-1]}{part}.")
    return beginnings


def _is_head(name: str) -> bool:
    return name.split(".")[0] in _HEADS


def _may_be_absent(name: str) -> bool:
    return name.startswith("standardise.") or name.endswith("num_batches_tracked")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _listed(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
