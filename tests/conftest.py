"""Settings for all tests, read before any of them is collected."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which collecting the doctests of its kernels does.
    os.environ.setdefault("TRITON_INTERPRET", "1")
