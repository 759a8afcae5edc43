"""SimCLR's augmentations of one PIL image after another, as torchvision defines them, and the usual data set of them.

Written out here because torchvision does not exist for every build of torch. The draws are those of its classes:
RandomResizedCrop (ten attempts, then the middle), RandomHorizontalFlip, ColorJitter (four changes in random order),
RandomGrayscale, and GaussianBlur as SimCLR and MoCo v2 have it for PIL images.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from kinfolk.data import ViewsConfig


def open_rgb(path: Path) -> Image.Image:
    """Decode a file as torchvision's ImageFolder does."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def augment(image: Image.Image, config: ViewsConfig) -> Image.Image:
    """One view."""
    size = image.size if config.size is None else (config.size[1], config.size[0])
    image = image.resize(size, Image.Resampling.BILINEAR, box=_crop(image, config))
    if random.random() < config.flip:
        image = ImageOps.mirror(image)
    if random.random() < config.jitter:
        image = _jitter(image, config)
    if random.random() < config.grey:
        image = image.convert("L").convert("RGB")
    if random.random() < config.blur:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(*config.blur_sigma)))
    return image


def to_tensor(image: Image.Image) -> Tensor:
    """Float32 ``[C, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class FileViews(Dataset):
    """Files, each decoded and augmented when it is asked for: two views of a sample."""

    def __init__(self, files: Sequence[Path], config: ViewsConfig) -> None:
        self.files, self.config = list(files), config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = open_rgb(self.files[index])
        return [to_tensor(augment(image, self.config)) for _ in range(self.config.count)]


def _crop(image: Image.Image, config: ViewsConfig) -> tuple[int, int, int, int]:
    width, height = image.size
    logarithms = tuple(math.log(ratio) for ratio in config.crop_ratio)
    for _ in range(10):
        area = width * height * random.uniform(*config.crop_scale)
        ratio = math.exp(random.uniform(*logarithms))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height  # the images here are square: torchvision's middle is all of them


def _jitter(image: Image.Image, config: ViewsConfig) -> Image.Image:
    for change in random.sample(range(4), 4):
        if change == 3:
            image = _turn_hue(image, random.uniform(-config.hue, config.hue))
            continue
        strength = (config.brightness, config.contrast, config.saturation)[change]
        enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[change]
        image = enhance(image).enhance(random.uniform(1 - strength, 1 + strength))
    return image


def _turn_hue(image: Image.Image, fraction: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue, dtype=np.uint8) + np.uint8(int(fraction * 255) % 256)  # uint8 wraps around, as hue does
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
