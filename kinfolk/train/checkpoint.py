"""Checkpoints that are whole or not there, and that continue a run exactly."""

from __future__ import annotations

import os
import random
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from kinfolk.train.files import sync

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Position:
    """Where a run stands: the next step to take."""

    step: int = 0
    """Steps taken so far, over all epochs."""
    epoch: int = 0
    """Epoch that the next step belongs to."""
    step_in_epoch: int = 0
    """Steps taken so far within that epoch."""
    seconds: float = 0.0
    """Time spent training so far."""


def save_checkpoint(
    folder: Path,
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    position: Position,
    random: list[dict[str, Any]] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint under a temporary name, sync it, give it its final name, and drop the oldest ones.

    Args:
        folder: The run's ``checkpoints`` folder.
        method: The unwrapped method; its whole ``state_dict`` (EMA twin, queue and counters too) goes to safetensors.
        optimizer: Its state, the position and the random-number states go to a file for ``weights_only=True``.
        position: Where the run stands.
        random: What `random_states` gives on each rank; None for those of this process alone.
        keep: How many of the newest checkpoints stay.

    Returns:
        The checkpoint's folder, ``step-XXXXXXXX``.

    Example:
        >>> import tempfile
        >>> layer = nn.Linear(2, 1)
        >>> path = save_checkpoint(
        ...     Path(tempfile.mkdtemp()), layer, torch.optim.SGD(layer.parameters()), position=Position(step=3)
        ... )
        >>> path.name, sorted(file.name for file in path.iterdir())
        ('step-00000003', ['training.pt', 'weights.safetensors'])
    """
    final = folder / f"step-{position.step:08d}"
    if final.exists():  # the same step of the same run holds the same state
        return final
    temporary = folder / f".partial-{final.name}-{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        save_model(method, str(temporary / "weights.safetensors"))
        random = [random_states()] if random is None else random
        state = {"position": asdict(position), "optimizer": optimizer.state_dict(), "random": random}
        torch.save(state, temporary / "training.pt")
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        os.replace(temporary, final)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first; a half-written one has another name and is never listed."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found)


def remove_partial(folder: Path) -> None:
    """Delete what a killed process left half-written."""
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path)


def restore_checkpoint(
    path: Path, method: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, rank: int = 0
) -> Position:
    """Load weights into ``method`` and, where an optimizer is given, its state and the random-number states.

    A run may go on with another number of processes than wrote the checkpoint. The batches stay the same, and so does
    the loss; each rank takes its own random-number states, and a rank that had none keeps its present ones, so that
    dropout draws other numbers than it would have.

    Args:
        path: A checkpoint's folder.
        method: The unwrapped method.
        optimizer: The optimizer; without one nothing but the weights is restored.
        rank: Of this process.

    Returns:
        Where the run stood when the checkpoint was written.

    Raises:
        RuntimeError: If the weights do not fit the method (torch's message names the keys).
    """
    load_model(method, str(path / "weights.safetensors"), strict=True)
    state = torch.load(path / "training.pt", map_location="cpu", weights_only=True)
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
        # The first version wrote the states of its one process without a list.
        random = state["random"] if isinstance(state["random"], list) else [state["random"]]
        if rank < len(random):
            set_random_states(random[rank])
    return Position(**state["position"])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries still draw from it)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """State of every global generator (Python, NumPy, torch, each CUDA device) in types that ``weights_only`` loads."""
    version, words, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (libraries still use it)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` took; CUDA states only where the number of devices is the same.

    Example:
        >>> before = random_states()
        >>> first = (random.random(), float(torch.rand(())))
        >>> set_random_states(before)
        >>> first == (random.random(), float(torch.rand(())))
        True
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
