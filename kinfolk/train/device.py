"""Which device and which arithmetic a run uses, and the Accelerator that carries them."""

from __future__ import annotations

import os
import resource
import sys
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import nn

from kinfolk.data.optional import import_extra

if TYPE_CHECKING:
    from accelerate import Accelerator


def resolve_device(device: str) -> str:
    """Turn ``auto`` into ``cuda`` where there is a GPU, else ``cpu``.

    Raises:
        ValueError: If a GPU is asked for and torch sees none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch sees no GPU; use device 'cpu' or 'auto', or see `kinfolk doctor`")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """Turn ``auto`` into ``bf16`` on a GPU that computes in it, else ``fp32``.

    Raises:
        ValueError: If bf16 is asked for and the device would only emulate it.

    Example:
        >>> resolve_precision("auto", "cpu")
        'fp32'
    """
    if precision == "auto":
        return "bf16" if device == "cuda" and has_bf16(device) else "fp32"
    if precision == "bf16" and not has_bf16(device):
        raise ValueError(f"precision is 'bf16', but this {device} does not compute in it; use 'auto' or 'fp32'")
    return precision


def has_bf16(device: str) -> bool:
    """Whether the device has bf16 arithmetic of its own."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_memory_mb(device: str) -> float:
    """The most memory in use so far, in MB: torch's on a GPU, the whole process's on a CPU, its libraries included.

    Example:
        >>> peak_memory_mb("cpu") > 10
        True
    """
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def make_accelerator(device: str, precision: str) -> Accelerator:
    """Make the Accelerator that wraps model and optimizer; under ``torchrun`` it joins the process group.

    Args:
        device: ``cpu`` or ``cuda``, resolved.
        precision: ``fp32`` or ``bf16``, resolved.
    """
    import_extra("accelerate", needed_for="training")
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    mixed_precision = "bf16" if precision == "bf16" else "no"
    if AcceleratorState._shared_state:
        state = AcceleratorState()
        if state.num_processes == 1 and (state.mixed_precision, state.device.type) != (mixed_precision, device):
            # Accelerate holds one state per process and refuses to change it; two runs in one process may differ.
            AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision=mixed_precision,
        kwargs_handlers=[
            # Buffers (norm statistics, queues) are kept equal by what fills them; broadcasting would undo an update.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            # The other ranks wait while the first one evaluates, which may take longer than the usual ten minutes.
            InitProcessGroupKwargs(timeout=timedelta(hours=3)),
        ],
    )


def join_processes(device: str, precision: str) -> None:
    """Join the process group where one was launched, so that ranks can speak before a first run makes its Accelerator.

    Args:
        device: of the runs to come, ``auto`` is resolved.
        precision: of the runs to come, ``auto`` is resolved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = resolve_device(device)
        make_accelerator(device, resolve_precision(precision, device))


def prepare(
    accelerator: Accelerator, method: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Let the accelerator wrap method and optimizer, and refuse wrappers that split parameters over the ranks.

    Raises:
        ValueError: under anything but one process or plain data parallelism.
    """
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ValueError(
            f"training runs in one process or data-parallel in several; found {kind}. "
            "Launch with `torchrun --nproc-per-node N` or `accelerate launch --multi_gpu`."
        )
    with warnings.catch_warnings():
        # torch 2.13 renames the option, accelerate and torch 2.8 know the old name only.
        warnings.filterwarnings("ignore", ".broadcast_buffers. is deprecated", FutureWarning)
        return accelerator.prepare(method, optimizer)
