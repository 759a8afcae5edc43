"""The two towers of a finished run."""

from __future__ import annotations

import os

from torch import nn

from kinfolk.evals.towers import Towers
from kinfolk.train.config import TrainConfig
from kinfolk.train.runs import load_method


def load_towers(run: str | os.PathLike[str], config: TrainConfig) -> nn.Module | None:
    """Load a run's towers for images and texts, in eval mode.

    Args:
        run: a finished run.
        config: what is asked of it; without the protocol `zero_shot` or `text_retrieval` nothing is loaded.

    Returns:
        The method, or None where nobody asks for it or it has no text tower.
    """
    if {"zero_shot", "text_retrieval"}.isdisjoint(config.evaluation.protocols):
        return None
    method = load_method(run)
    return method.eval() if isinstance(method, Towers) else None
