"""Draw docs/views.png: the same pictures under every preset and some single augmentations.

Usage: python docs/pictures/views.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk.data import saliency, views
from kinfolk.data.views import ViewsConfig

SIZE = 48
ROWS: dict[str, views.AnyViewsConfig] = {
    "the image": ViewsConfig(count=6),
    "weak": views.weak_views(count=6),
    "SupCon": views.supcon_views(count=6),
    "SimCLR, CIFAR": views.simclr_views(count=6),
    "SimCLR, ImageNet": views.simclr_photo_views(count=6),
    "MoCo v2": views.moco_v2_views(count=6),
    "drawings": views.drawing_views(count=6),
    "BYOL, two kinds": views.MultiViewsConfig(views.byol_views().groups * 3),
    "multi-crop": views.multi_crop_views(
        views.supcon_views(), size=(SIZE, SIZE), small_size=(SIZE // 2, SIZE // 2), large=2, small=4
    ),
    "AutoAugment, CIFAR": views.autoaugment_views(count=6),
    "AutoAugment, ImageNet": views.autoaugment_views(count=6, table="autoaugment-imagenet"),
    "RandAugment 2, 9": ViewsConfig(count=6, policy="randaugment"),
    "background removed": views.MultiViewsConfig(
        tuple(
            ViewsConfig(count=2, background=1.0, background_fill=fill, crop_scale=(0.5, 1.0))
            for fill in ("grey", "black", "noise")
        )
    ),
    "L and ab": views.ColourSpaceViewsConfig(views.weak_views(count=3)),
}


def photographs() -> dict[str, Tensor]:
    """Two crops of scikit-learn's sample photographs."""
    from sklearn.datasets import load_sample_images

    china, flower = (
        torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() for array in load_sample_images().images
    )
    crops = torch.cat([china[..., 60:360, 200:500], flower[..., 80:380, 150:450]])
    images = F.interpolate(crops, size=(SIZE, SIZE), mode="bilinear", antialias=True).round().to(torch.uint8)
    return {"images": images}


def draw(path: Path) -> Path:
    """Draw all rows into one file."""
    from matplotlib.figure import Figure

    batch = photographs()
    batch |= {"ids": torch.arange(2), "saliency": saliency.saliency_masks(batch["images"])}
    figure = Figure(figsize=(12.5, 0.95 * len(ROWS)), layout="constrained")
    grid = figure.subplots(len(ROWS), 12)
    for line, (name, config) in zip(grid, ROWS.items(), strict=True):
        made = views.ViewMaker(config, seed=0).of_batch(batch, epoch=0)
        for column, axis in enumerate(line):
            _panel(axis, made[column % 6][column // 6])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    return path


def _panel(axis: Any, view: Tensor) -> None:
    """One view at its own size, so that small crops look small."""
    if len(view) == 2:  # a and b as red and blue
        view = torch.stack([view[0], torch.full_like(view[0], 0.5), view[1]])
    axis.imshow(view.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set(xlim=(-0.5, SIZE - 0.5), ylim=(SIZE - 0.5, -0.5), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "views.png"
    print(draw(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
