"""What training tells its method before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kinfolk.data import StreamSource
from kinfolk.evals.extraction import extract
from kinfolk.methods import TrainingPlan

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data import Source
    from kinfolk.train.batches import Length


def training_plan(source: Source, length: Length) -> TrainingPlan:
    """Return the length of training, its samples, and the way to have features of them all.

    Args:
        source: the training part.
        length: steps and epochs of the run.
    """

    ids = None if isinstance(source, StreamSource) else source.ids.sort().values

    def features(module: nn.Module) -> Float[Tensor, "N d"]:
        found = extract(module, source, over_ranks=True)
        if ids is None or len(found) == len(ids):
            return found.rows
        places = found.positions(ids)  # what cannot be read has no features: zeros stand for it
        return torch.where((places >= 0)[:, None], found.rows[places.clamp(min=0)], 0.0)

    captions = None
    if ids is not None and source.text is not None:
        captions = [source.text[i] for i in source.ids.argsort().tolist()]
    return TrainingPlan(length.total_steps, length.steps_per_epoch, ids, features, captions, source.loose_captions)
