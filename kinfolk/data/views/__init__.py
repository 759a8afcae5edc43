"""Augmented views: strengths in a config, a batch at a time, the same for a sample wherever it stands."""

from kinfolk.data.views.config import ViewsConfig
from kinfolk.data.views.groups import AnyViewsConfig, ColourSpaceViewsConfig, MultiViewsConfig
from kinfolk.data.views.maker import ViewMaker
from kinfolk.data.views.paper_presets import (
    autoaugment_views,
    byol_views,
    cmc_views,
    hard_views,
    moco_v2_views,
    multi_crop_views,
    relic_views,
    simclr_photo_views,
    simclr_views,
    supcon_views,
    weak_strong_views,
    weak_views,
)
from kinfolk.data.views.presets import digits_views, drawing_views, fashion_views, photo_views
from kinfolk.data.views.unaugmented import to_float
from kinfolk.ops.lab import rgb_to_lab

__all__ = [
    "AnyViewsConfig",
    "ColourSpaceViewsConfig",
    "MultiViewsConfig",
    "ViewMaker",
    "ViewsConfig",
    "autoaugment_views",
    "byol_views",
    "cmc_views",
    "digits_views",
    "drawing_views",
    "fashion_views",
    "hard_views",
    "moco_v2_views",
    "multi_crop_views",
    "photo_views",
    "relic_views",
    "rgb_to_lab",
    "simclr_photo_views",
    "simclr_views",
    "supcon_views",
    "to_float",
    "weak_strong_views",
    "weak_views",
]
