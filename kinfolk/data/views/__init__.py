"""Augmented views: strengths in a config, a batch at a time, the same for a sample wherever it stands."""

from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.maker import ViewMaker, to_float
from kinfolk.data.views.presets import digits_views, drawing_views, fashion_views, photo_views, simclr_views

__all__ = [
    "ViewMaker",
    "ViewsConfig",
    "digits_views",
    "drawing_views",
    "fashion_views",
    "photo_views",
    "simclr_views",
    "to_float",
]
