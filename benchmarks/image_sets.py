"""Folders of real image files for the data benchmark: small PNG pictures and larger JPEG photographs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kinfolk.data import ViewsConfig, photo_views, simclr_views

EMOJI = Path(__file__).parents[1] / ".data" / "emoji" / "google"
"""64 x 64 drawings, where they have been prepared; otherwise crops of photographs stand in for them."""


@dataclass(frozen=True)
class ImageSet:
    """Files of one size, and the views that suit them."""

    name: str
    size: int
    config: ViewsConfig
    ending: str
    pictures: Callable[[int], Iterator[Image.Image]]

    def write(self, folder: Path, count: int) -> str:
        """Write numbered files and say what they show; where there are fewer pictures they come again."""
        folder.mkdir(parents=True)
        for number, picture in zip(range(count), self.pictures(self.size), strict=False):
            picture.save(folder / f"{number:05d}.{self.ending}", quality=90)
        kind = "emoji" if self.ending == "png" and EMOJI.is_dir() else "crops of photographs"
        return f"{kind}, {self.ending.upper()} {self.size} x {self.size}"


def _crops(size: int) -> Iterator[Image.Image]:
    """Crops of scikit-learn's two photographs, of one to three times the size before they are scaled."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    draw = random.Random(0)
    while True:
        photograph, side = draw.choice(photographs), draw.randint(size, 3 * size)
        left, top = draw.randint(0, photograph.width - side), draw.randint(0, photograph.height - side)
        box = (left, top, left + side, top + side)
        yield photograph.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _drawings(size: int) -> Iterator[Image.Image]:
    """Emoji on white, where there are any."""
    files = sorted(EMOJI.glob("*.png")) if EMOJI.is_dir() else []
    if not files:
        yield from _crops(size)
    while True:
        for file in files:
            with Image.open(file) as opened:
                drawing = opened.convert("RGBA")
            ground = Image.new("RGBA", drawing.size, "white")
            ground.alpha_composite(drawing)
            yield ground.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)


SETS = {
    "small": ImageSet("small", 32, simclr_views(), "png", _drawings),
    "photo": ImageSet("photo", 96, photo_views(), "jpg", _crops),
}
"""The small form that SimCLR takes on CIFAR, and photographs with the smaller crops and the blur of MoCo v2."""
