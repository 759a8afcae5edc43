"""Forward and backward of one step: the batch at once, or in chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kinfolk.methods import Method
from kinfolk.train.gradient_cache import cached_backward, join_rows, split_rows
from kinfolk.train.processes import reduce_gradients

if TYPE_CHECKING:
    from accelerate import Accelerator


def forward_backward(
    model: nn.Module, batch: Mapping[str, Any], accelerator: Accelerator, *, chunk_size: int | None
) -> dict[str, Tensor]:
    """Return the terms of a batch, and add the gradient of its loss to the parameters, the same on all ranks.

    In chunks it goes past the data-parallel wrapper, which would wait for all parameters in one pass while the loss's
    own receive their gradient in another, and takes the mean over the ranks at the end.

    Args:
        model: the method as the accelerator prepared it.
        batch: this rank's share, equally large on all ranks.
        accelerator: what prepared the model.
        chunk_size: samples in an encoder pass; None, or no less than the batch holds, for all at once.
    """
    if chunk_size is None or len(batch["ids"]) <= chunk_size:
        terms = model(batch)
        accelerator.backward(terms["loss"])
        return terms
    method: Method = accelerator.unwrap_model(model)
    with accelerator.autocast():
        batch = method.prepare(batch)
    chunks = split_rows(batch, chunk_size)
    terms = {}

    def loss(embeddings: Sequence[Tensor]) -> Tensor:
        terms.update(method.terms(embeddings, batch, keys=keys))
        return terms["loss"]

    with accelerator.autocast():
        with torch.no_grad():
            keys = join_rows([method.embed_keys(chunk) for chunk in chunks])
        cached_backward(method.embed, chunks, loss, backward=accelerator.backward)
    reduce_gradients(method.parameters())
    return terms


def clip_gradients(accelerator: Accelerator, model: nn.Module, limit: float) -> float:
    """Scale gradients down to a joint norm, and return what the norm was.

    A module that has `clipped_apart` names submodules that learn beside the rest on detached features: their gradients
    are scaled by their own norm, so that they do not shrink everybody's step.

    Args:
        accelerator: what prepared the model.
        model: as the accelerator prepared it.
        limit: of each of the two norms; infinity leaves the gradients as they are.
    """
    method = accelerator.unwrap_model(model)
    names = getattr(method, "clipped_apart", ())
    beside = {parameter for name in names for parameter in method.get_submodule(name).parameters()}
    if not beside:
        return float(accelerator.clip_grad_norm_(model.parameters(), limit))
    groups = [p for p in model.parameters() if p not in beside], list(beside)
    return math.hypot(*(float(accelerator.clip_grad_norm_(group, limit)) for group in groups))
