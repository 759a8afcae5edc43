"""How sharp a target graph is, row by row: how many rows it pulls to, and how much of that is the row's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs import SimilarityGraph
from kinfolk.ops import PairMask

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_BLOCK = 1024
_NEVER = -1e30  # a logarithm whose weight is 0, and 0 times it is 0


@torch.no_grad()
def row_sharpness(
    graph: SimilarityGraph, samples: Int[Tensor, " n"], *, classes: Int[Tensor, " n"] | None = None
) -> dict[str, Float[Tensor, " n"]]:
    """Describe the target of every row of a batch, the row itself left out.

    Args:
        graph: over the batch's rows, n x n.
        samples: ids of the rows' samples.
        classes: of the rows, -1 = unlabelled.

    Returns:
        What `sharpness_of_rows` returns, for all rows; with classes also ``own_class_mass``.

    Example:
        >>> from kinfolk.graphs import LabelGraph
        >>> found = row_sharpness(LabelGraph(torch.tensor([0, 0, 0, 1])), torch.tensor([5, 6, 5, 7]))
        >>> found["perplexity"], found["own_sample_mass"]
        (tensor([2., 2., 2., nan], dtype=torch.float64), tensor([0.5000, 0.0000, 0.5000,    nan], dtype=torch.float64))
    """
    n = len(samples)
    target = graph.row_normalised(PairMask.exclude_self(n))
    found: dict[str, list[Tensor]] = {}
    for start in range(0, max(n, 1), _BLOCK):
        rows = (start, min(start + _BLOCK, n))
        logs = target.log_weights(rows, (0, n))
        for name, values in sharpness_of_rows(logs, same_rows(samples, classes, rows)).items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(parts) for name, parts in found.items()}


def sharpness_of_rows(
    logs: Float[Tensor, "r n"], same: Mapping[str, Bool[Tensor, "r n"]]
) -> dict[str, Float[Tensor, " r"]]:
    """Describe targets whose weights are ``exp(logs)``, up to a factor per row.

    Args:
        logs: -inf where nothing relates.
        same: name -> which columns count for a share of the target.

    Returns:
        Float64 ``[r]`` each, NaN for a row without a target: ``perplexity``, e^H of the row, and every share.

    Example:
        >>> sharpness_of_rows(torch.tensor([[0.0, 0.0, -torch.inf]]), {})
        {'perplexity': tensor([2.], dtype=torch.float64)}
    """
    # a batch without rows has no highest
    highest = (logs if logs.shape[1] else logs.new_full((len(logs), 1), -torch.inf)).amax(dim=1, keepdim=True).double()
    shifted = (logs - highest).clamp_(min=_NEVER)
    weights = shifted.exp()
    total = weights.sum(1)
    entropy = total.log() - (weights * shifted).sum(1) / total
    found = {"perplexity": entropy.exp()} | {name: (weights * mask).sum(1) / total for name, mask in same.items()}
    some = highest[:, 0] > -torch.inf
    return {name: values.where(some, torch.nan) for name, values in found.items()}


def same_rows(
    samples: Int[Tensor, " n"], classes: Int[Tensor, " n"] | None, rows: tuple[int, int]
) -> dict[str, Bool[Tensor, "r n"]]:
    """Return which columns are of a row's own sample and, with classes, of its own class.

    Example:
        >>> same_rows(torch.tensor([5, 6, 5]), None, (0, 1))
        {'own_sample_mass': tensor([[ True, False,  True]])}
    """
    block = slice(*rows)
    same = {"own_sample_mass": samples[block, None] == samples}
    if classes is not None:
        same["own_class_mass"] = (classes[block, None] == classes) & (classes >= 0)
    return same


def mean_of_targets(values: Float[Tensor, " r"]) -> float:
    """Return the mean over rows that have a target; 0 when none has.

    Example:
        >>> mean_of_targets(torch.tensor([1.0, float("nan"), 3.0]))
        2.0
    """
    return float(values.nansum()) / max(int((~values.isnan()).sum()), 1)
