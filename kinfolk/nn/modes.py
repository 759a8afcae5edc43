"""Looking at a module without leaving a trace: its modes and its device are put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's first parameter or buffer lies; a module without either computes on the CPU.

    Example:
        >>> device_of(nn.Flatten())
        device(type='cpu')
    """
    held = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if held is None else held.device


@contextmanager
def evaluating(*modules: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Put modules in evaluation mode and on a device, and back afterwards, submodule by submodule.

    Args:
        modules: any, all on one device.
        device: where to; None leaves them where the first parameter or buffer of the first one is.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluating(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    modes = {part: part.training for module in modules for part in module.modules()}
    home = device_of(modules[0])
    place = home if device is None else torch.device(device)
    try:
        for module in modules:
            module.eval()
            if place != home:
                module.to(place)
        yield place
    finally:
        for module in modules:
            if place != home:
                module.to(home)
        for part, training in modes.items():
            part.training = training
