"""Lists of views: what every loss checks that takes more than two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from kinfolk.losses.base import same_shape

if TYPE_CHECKING:
    from jaxtyping import Float


def checked_views(
    views: Sequence[Float[Tensor, "n d"]], loss: str, *, least: int = 2, name: str = "views"
) -> list[Float[Tensor, "n d"]]:
    """Check that views are a list of enough matrices of one shape.

    Args:
        views: one [n, d] per view, row k of each belonging to sample k.
        loss: whose views these are, for the error.
        least: how many views there must be.
        name: what the call names them.

    Raises:
        ValueError: for a tensor in place of the list, too few views, or views of different shapes.

    Example:
        >>> import torch
        >>> checked_views([torch.zeros(2, 3)], "CMCLoss")
        Traceback (most recent call last):
            ...
        ValueError: CMCLoss needs a list of at least 2 views, each [n, d]; found 1.
    """
    if isinstance(views, Tensor) or len(views) < least:
        found = f"a tensor {tuple(views.shape)}; unbind it" if isinstance(views, Tensor) else len(views)
        raise ValueError(f"{loss} needs a list of at least {least} {name}, each [n, d]; found {found}.")
    same_shape(**{f"{name}[{v}]": view for v, view in enumerate(views)})
    return list(views)


def online_and_target(
    online: Sequence[Float[Tensor, "n d"]],
    target: Sequence[Float[Tensor, "n d"]],
    loss: str,
    *,
    least: int,
    names: tuple[str, str],
) -> tuple[list[Float[Tensor, "n d"]], list[Float[Tensor, "n d"]]]:
    """Check two lists of views of the same samples; the second, of the first crops only, becomes a constant.

    Args:
        online: at least 2 views [n, d].
        target: views j of the same crops as online view j, at least `least` and no more than online ones.
        loss: whose views these are.
        least: how many target views there must be.
        names: what the call names the two lists.

    Raises:
        ValueError: for too few views, more targets than online views, or views of different shapes.

    Example:
        >>> import torch
        >>> views = [torch.zeros(2, 3), torch.zeros(2, 3)]
        >>> online_and_target(views, 2 * views, "ReLICLoss", least=2, names=("online", "target"))
        Traceback (most recent call last):
            ...
        ValueError: ReLICLoss needs an online view of the same crop for every target view, found 2 online and 4 target.
    """
    views = checked_views(online, loss, name=names[0])
    targets = checked_views(target, loss, least=least, name=names[1])
    if len(targets) > len(views):
        raise ValueError(
            f"{loss} needs an {names[0]} view of the same crop for every {names[1]} view, found {len(views)} "
            f"{names[0]} and {len(targets)} {names[1]}."
        )
    same_shape(**{f"{names[0]}[0]": views[0], f"{names[1]}[0]": targets[0]})
    return views, [view.detach() for view in targets]
