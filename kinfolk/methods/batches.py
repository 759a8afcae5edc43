"""Reading a batch, with errors that say what a method needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk import distributed
from kinfolk.graphs import checked_labels

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def read_views(
    batch: Mapping[str, Any], *, method: str, count: int | None = None, same_size: bool = True
) -> list[Float[Tensor, "n c h w"]]:
    """Return the views of a batch: `count` of them, or any number from two up.

    Args:
        batch: has `views`, a list of equally shaped image tensors.
        method: named in the errors.
        count: how many the method takes; None for two or more.
        same_size: whether all views must have one shape; small crops and the channels of a colour space do not.

    Raises:
        ValueError: no views, too few or too many, or views of different shapes.

    Example:
        >>> len(read_views({"views": [torch.zeros(3, 1, 8, 8)] * 2}, method="SimCLR"))
        2
    """
    if "views" not in batch:
        raise ValueError(f"{method} needs a batch with views, a list of image tensors; found keys {sorted(batch)}.")
    views = list(batch["views"])
    if len(views) < 2 or count not in (None, len(views)):
        wanted = "at least two views" if count is None else f"exactly {count} views"
        raise ValueError(f"{method} takes {wanted} of each image, found {len(views)}; set ViewsConfig.count.")
    shapes = [tuple(view.shape) for view in views]
    if same_size and len(set(shapes)) > 1:
        raise ValueError(f"{method} takes views of equal shapes, found {shapes}.")
    return views


def one_or_more_views(batch: Mapping[str, Any], *, method: str) -> list[Float[Tensor, "n c h w"]]:
    """Return the views of a batch for a method that compares none, so that one is enough.

    Raises:
        ValueError: no views, or views of different shapes.

    Example:
        >>> len(one_or_more_views({"views": [torch.zeros(3, 1, 8, 8)]}, method="cross-entropy"))
        1
    """
    views = list(batch.get("views", ()))
    if not views or len({view.shape for view in views}) > 1:
        shapes = [tuple(view.shape) for view in views]
        raise ValueError(f"{method} takes one or more views of equal shapes, found {shapes or 'none'}.")
    return views


def encode_views(
    encode: Callable[[Tensor], Tensor], views: Sequence[Float[Tensor, "n c h w"]]
) -> list[Float[Tensor, "n d"]]:
    """Encode views, those of one shape as one batch, so that batch norm sees them together.

    Args:
        encode: from images `[b, C, H, W]` to rows `[b, d]`; it runs once per shape.
        views: of as many samples each.

    Example:
        >>> large, small = torch.ones(3, 1, 4, 4), torch.ones(3, 1, 2, 2)
        >>> [float(rows.sum()) for rows in encode_views(lambda x: x.flatten(1), [large, small, 2 * large])]
        [48.0, 12.0, 96.0]
    """
    rows: list[Tensor] = [torch.empty(0)] * len(views)
    for shape in dict.fromkeys(view.shape for view in views):
        places = [place for place, view in enumerate(views) if view.shape == shape]
        encoded = encode(torch.cat([views[place] for place in places]))
        for place, part in zip(places, encoded.tensor_split(len(places)), strict=True):
            rows[place] = part
    return rows


def read_ids(batch: Mapping[str, Any]) -> Int64[Tensor, " n"]:
    """Return the ids of a batch's samples; without any, every sample of the batch of all processes is one of its own.

    Example:
        >>> read_ids({"views": [torch.zeros(3, 1, 8, 8)] * 2}).tolist()
        [0, 1, 2]
    """
    if batch.get("ids") is not None:
        return batch["ids"]
    first = batch["views"][0]
    return distributed.rank() + distributed.world_size() * torch.arange(len(first), device=first.device)


def read_labels(batch: Mapping[str, Any], *, method: str) -> Int64[Tensor, " n"]:
    """Return the labels of a batch, one per sample.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: the batch has none (the message says which methods need none), or not one for each image, or one
            below -1.

    Example:
        >>> read_labels({"labels": torch.tensor([2, 0])}, method="SupCon").tolist()
        [2, 0]
    """
    labels = batch.get("labels")
    if labels is None:
        raise ValueError(
            f"{method} needs labels in the batch, found keys {sorted(batch)}; "
            "use a source with labels (-1 marks an unlabelled sample), or a method without: SimCLR, MoCo, CACR."
        )
    views = batch.get("views")
    if labels.ndim != 1 or (views and len(labels) != len(views[0])):
        found = "" if not views else f", views {tuple(views[0].shape)}"
        raise ValueError(f"{method} needs a label for each image: found labels {tuple(labels.shape)}{found}.")
    return checked_labels(labels).long()
