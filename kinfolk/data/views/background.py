"""What stands in a view where its background was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.draws import Draws

if TYPE_CHECKING:
    from jaxtyping import Float


def remove_background(
    colours: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], draws: Draws, config: ViewsConfig
) -> Float[Tensor, "b c h w"]:
    """Keep the foreground of those views that are drawn, and fill the rest.

    An image whose mask is empty becomes all filling: masks that may fail are better left out than kept empty.

    Args:
        colours: in [0, 1].
        mask: 1 where the foreground is, 0 where it is not; values between mix.
        draws: the view's random numbers.
        config: probability and filling.

    Reference: Tomasev, Bica, McWilliams, Buesing, Pascanu, Blundell, Mitrovic (2022), Pushing the limits of
        self-supervised ResNets: can we outperform supervised learning without labels on ImageNet?

    Example:
        >>> config = ViewsConfig(background=1.0, background_fill="black")
        >>> draws = Draws(seed=0, epoch=0, view=0, ids=torch.arange(1))
        >>> mask = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
        >>> remove_background(torch.ones(1, 1, 1, 2), mask, draws, config).flatten().tolist()
        [1.0, 0.0]
    """
    chosen = draws.occurs("background", config.background)[:, None, None, None]
    mask = torch.where(chosen, mask, 1.0)
    if config.background_fill == "black":
        return colours * mask
    if config.background_fill == "grey":
        filling = draws.between("background_level", 0, 1)[:, None, None, None]
    else:
        filling = draws.noise(colours.shape[1:].numel()).reshape(colours.shape)
    return torch.lerp(filling.expand_as(colours), colours, mask)
