"""Views of different strengths and sizes, and views with different channels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kinfolk.data.views.config import ViewsConfig

if TYPE_CHECKING:
    from kinfolk.data.views.table import TableViewsConfig


@dataclass(frozen=True)
class MultiViewsConfig:
    """Several groups of views, each with its own number, size and strengths, in this order.

    A weak and a strong view, or two large and six small crops. Every view has random numbers of its own, numbered
    through over the groups.

    Args:
        groups: one or more; each says how many views it makes.

    Raises:
        ValueError: without a group.
        TypeError: for a group that is no `ViewsConfig`.

    Example:
        >>> weak, strong = ViewsConfig(count=1, flip=0.5), ViewsConfig(count=1, flip=0.5, jitter=0.8, brightness=0.4)
        >>> MultiViewsConfig(groups=(weak, strong)).count
        2
    """

    kind: ClassVar[str] = "multi-views"
    groups: tuple[ViewsConfig, ...]

    def __post_init__(self) -> None:
        if isinstance(self.groups, list):  # as YAML reads it
            object.__setattr__(self, "groups", tuple(self.groups))
        if not self.groups:
            raise ValueError("groups must hold at least one ViewsConfig; found none")
        for group in self.groups:
            if not isinstance(group, ViewsConfig):
                raise TypeError(f"groups must be ViewsConfig, one per group; found {type(group).__name__}")

    @property
    def count(self) -> int:
        """Number of views of all groups."""
        return sum(group.count for group in self.groups)


@dataclass(frozen=True)
class ColourSpaceViewsConfig:
    """Two views out of every augmented RGB image: its lightness L and its colours ab, for contrastive multiview coding.

    The maker gives ``[b, 1, h, w]`` and ``[b, 2, h, w]`` alternately, scaled as `rgb_to_lab` says; both see the same
    crop. An encoder of its own takes each.

    Args:
        base: how the RGB image is augmented before it is split; it makes `base.count` pairs.

    Reference: Tian, Krishnan, Isola (2020), Contrastive multiview coding.

    Example:
        >>> ColourSpaceViewsConfig(ViewsConfig(count=1, crop_scale=(0.2, 1.0), flip=0.5)).count
        2
    """

    kind: ClassVar[str] = "colour-space"
    base: ViewsConfig

    def __post_init__(self) -> None:
        if not isinstance(self.base, ViewsConfig):
            raise TypeError(f"base must be a ViewsConfig; found {type(self.base).__name__}")

    @property
    def groups(self) -> tuple[ViewsConfig, ...]:
        """The one group of views before they are split."""
        return (self.base,)

    @property
    def count(self) -> int:
        """Number of views that the maker gives: two for each of `base`."""
        return 2 * self.base.count


AnyViewsConfig = ViewsConfig | MultiViewsConfig | ColourSpaceViewsConfig
"""Every config that a `ViewMaker` takes."""


def of_whole_images(config: AnyViewsConfig | TableViewsConfig) -> AnyViewsConfig | TableViewsConfig:
    """Return views that a whole encoder takes: two crops in place of the parts of one in a colour space.

    Example:
        >>> of_whole_images(ColourSpaceViewsConfig(ViewsConfig(count=1, flip=0.5))) == ViewsConfig(count=2, flip=0.5)
        True
    """
    return replace(config.base, count=2) if isinstance(config, ColourSpaceViewsConfig) else config


def of_images_alone(config: AnyViewsConfig | TableViewsConfig) -> AnyViewsConfig | TableViewsConfig:
    """Return the config as it is for images that come without other hands' renderings and without masks.

    Example:
        >>> of_images_alone(ViewsConfig(renderings="other", background=0.5)) == ViewsConfig()
        True
    """
    if isinstance(config, ViewsConfig):
        return replace(config, renderings="own", background=0.0)
    if isinstance(config, MultiViewsConfig):
        return MultiViewsConfig(tuple(replace(group, renderings="own", background=0.0) for group in config.groups))
    if isinstance(config, ColourSpaceViewsConfig):
        return ColourSpaceViewsConfig(replace(config.base, renderings="own", background=0.0))
    return config
