"""What a figure depends on besides the code: the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from benchmarks.table import Row

COLUMNS = ("device", "cpu", "threads", "torch")


def describe(device: str) -> Row:
    """Return the columns that every row of every table carries."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": name, "cpu": _cpu(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def free_memory() -> int:
    """Return the bytes of memory that a process could still take."""
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    return kilobytes[0] * 1024 if kilobytes else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
