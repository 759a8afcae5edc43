"""Strengths that suit common kinds of images; start here and change what your images do not survive."""

from __future__ import annotations

from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.paper_presets import moco_v2_views


def photo_views(*, count: int = 2, size: tuple[int, int] | None = None) -> ViewsConfig:
    """Views for photographs of about 100 pixels and more: those of MoCo v2.

    Example:
        >>> photo_views().blur
        0.5
    """
    return moco_v2_views(count=count, size=size)


def digits_views(*, count: int = 2) -> ViewsConfig:
    """Views for handwritten digits and other signs whose mirror image means something else.

    Example:
        >>> digits_views().flip
        0.0
    """
    return ViewsConfig(count=count, zoom=(0.6, 1.3), rotation=20, shift=0.2, erasing=0.5, erasing_area=(0.02, 0.15))


def fashion_views(*, count: int = 2) -> ViewsConfig:
    """Views for centred grey pictures of things, such as Fashion-MNIST: crop, flip, brightness and contrast, little
    erasing.

    Example:
        >>> fashion_views().crop_scale
        (0.3, 1.0)
    """
    return ViewsConfig(
        count=count,
        crop_scale=(0.3, 1.0),
        flip=0.5,
        rotation=10,
        jitter=0.8,
        brightness=0.4,
        contrast=0.4,
        erasing=0.25,
        erasing_area=(0.02, 0.2),
    )


def drawing_views(*, count: int = 2, size: tuple[int, int] | None = None) -> ViewsConfig:
    """Views for drawings on a transparent or plain ground, such as emoji and icons: colours carry meaning, so hue
    hardly moves.

    Example:
        >>> drawing_views().hue
        0.02
    """
    return ViewsConfig(
        count=count,
        size=size,
        crop_scale=(0.4, 1.0),
        flip=0.5,
        rotation=15,
        zoom=(0.8, 1.2),
        padding="border",
        jitter=0.8,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.02,
        grey=0.1,
    )
