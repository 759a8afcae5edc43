"""Who turns image files into batches of two views: kinfolk, one PIL image at a time, kornia, AlbumentationsX.

Every way gives batches as a list of two float tensors ``[b, 3, H, W]`` in [0, 1]; `Way.batches` reads all files once.
A way with workers keeps them between passes, so that their start is not counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import one_at_a_time, peers
from kinfolk.data import BatchReader, CachedSource, FileSource, PlainSampler, ViewMaker, ViewsConfig
from kinfolk.data.sources.listing import list_folder

OURS, PIL, KORNIA, ALBUMENTATIONS = "kinfolk", "PIL, one at a time", "kornia", "AlbumentationsX, one at a time"
Views = list[Tensor]


@dataclass(frozen=True)
class Way:
    """A pipeline: all files once, in batches, and the views of one batch that is decoded already."""

    name: str
    workers: int
    batches: Callable[[], Iterator[Views]]
    views: Callable[[], Views] | None = None
    version: str = ""
    absent: str = ""


def files_of(folder: Path) -> list[Path]:
    """Return the image files, sorted."""
    return sorted(folder.iterdir())


def source_of(folder: Path, size: int) -> FileSource:
    """Return the files as a source that decodes on every fetch."""
    return FileSource(folder, list_folder(folder), channels=3, image_size=(size, size))


def kinfolk(folder: Path, size: int, config: ViewsConfig, *, batch: int, workers: int) -> Way:
    """Decode in this process or in workers; views of a whole batch here."""
    source, maker = source_of(folder, size), ViewMaker(config, seed=0)
    reader = BatchReader(source, PlainSampler(len(source), batch_size=batch, seed=0), workers=workers)
    first, epochs = source.fetch(torch.arange(batch)), count()

    def batches() -> Iterator[Views]:
        epoch = next(epochs)
        for found in reader.epoch(epoch):
            yield maker(found["images"], found["ids"], epoch=epoch)

    return Way(OURS, workers, batches, lambda: maker(first["images"], first["ids"], epoch=next(epochs)))


def kinfolk_cached(folder: Path, size: int, config: ViewsConfig, *, batch: int, cold: bool) -> Way:
    """With the cache of decoded images: empty at the start of every pass, or full."""
    source, maker, epochs = source_of(folder, size), ViewMaker(config, seed=0), count()
    sampler = PlainSampler(len(source), batch_size=batch, seed=0)
    kept = CachedSource(source)
    if not cold:
        kept.read(torch.arange(len(source)))

    def batches() -> Iterator[Views]:
        epoch = next(epochs)
        with BatchReader(CachedSource(source) if cold else kept, sampler) as reader:
            for found in reader.epoch(epoch):
                yield maker(found["images"], found["ids"], epoch=epoch)

    return Way(f"{OURS}, cache {'empty' if cold else 'full'}", 0, batches)


def pil(folder: Path, size: int, config: ViewsConfig, *, batch: int, workers: int) -> Way:
    """The usual data set and loader."""
    images = [one_at_a_time.open_rgb(file) for file in files_of(folder)[:batch]]

    def views() -> Views:
        return [
            torch.stack([one_at_a_time.to_tensor(one_at_a_time.augment(image, config)) for image in images])
            for _ in range(config.count)
        ]

    loader = _loader(one_at_a_time.FileViews(files_of(folder), config), batch, workers)
    return Way(PIL, workers, lambda: iter(loader), views, _version("pillow"))


def kornia(folder: Path, size: int, config: ViewsConfig, *, batch: int, workers: int) -> Way:
    """Decoded one at a time by the usual loader, augmented a batch at a time here."""
    try:
        import kornia.augmentation as K
    except ImportError as error:
        return _absent(KORNIA, workers, f"{error}; pip install kornia")
    jitter = K.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue, p=config.jitter)
    parts = [
        K.RandomResizedCrop((size, size), scale=config.crop_scale, ratio=config.crop_ratio, p=1.0),
        K.RandomHorizontalFlip(p=config.flip),
        jitter,
        K.RandomGrayscale(p=config.grey),
    ]
    if config.blur > 0:
        width = 2 * round(3 * config.blur_sigma[1]) + 1
        parts.append(K.RandomGaussianBlur((width, width), config.blur_sigma, p=config.blur))
    augment = K.AugmentationSequential(*parts, data_keys=["input"])
    loader = _loader(_Decoded(files_of(folder)), batch, workers)
    first = next(iter(DataLoader(_Decoded(files_of(folder)[:batch]), batch_size=batch)))

    def make(images: Tensor) -> Views:
        with torch.no_grad():
            return [augment(images) for _ in range(config.count)]

    return Way(KORNIA, workers, lambda: map(make, loader), lambda: make(first), _version("kornia"))


def albumentations(
    folder: Path, size: int, config: ViewsConfig, *, batch: int, workers: int, packages: Path | None = None
) -> Way:
    """One array at a time by the usual loader."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    os.environ.setdefault("ALBUMENTATIONS_NO_TELEMETRY", "1")
    try:
        A = peers.albumentations(packages)
    except peers.AbsentError as absent:
        return _absent(ALBUMENTATIONS, workers, str(absent))
    around = {
        f"{name}_range": (1 - getattr(config, name), 1 + getattr(config, name))
        for name in ("brightness", "contrast", "saturation")
    }
    parts = [
        A.RandomResizedCrop(size=(size, size), scale=config.crop_scale, ratio=config.crop_ratio),
        A.HorizontalFlip(p=config.flip),
        A.ColorJitter(**around, hue_range=(-config.hue, config.hue), p=config.jitter),
        A.ToGray(p=config.grey),
    ]
    if config.blur > 0:
        parts.append(A.GaussianBlur(sigma_range=config.blur_sigma, p=config.blur))
    augment = A.Compose(parts)
    arrays = [np.array(one_at_a_time.open_rgb(file)) for file in files_of(folder)[:batch]]

    def views() -> Views:
        return [torch.stack([_view(augment, array) for array in arrays]) for _ in range(config.count)]

    loader = _loader(_ArrayViews(files_of(folder), augment, config.count), batch, workers)
    return Way(ALBUMENTATIONS, workers, lambda: iter(loader), views, peers.version("albumentationsx", packages))


class _Decoded(Dataset):
    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return one_at_a_time.to_tensor(one_at_a_time.open_rgb(self.files[index]))


class _ArrayViews(_Decoded):
    def __init__(self, files: Sequence[Path], augment: Any, views: int) -> None:
        super().__init__(files)
        self.augment, self.views = augment, views

    def __getitem__(self, index: int) -> Any:
        array = np.array(one_at_a_time.open_rgb(self.files[index]))
        return [_view(self.augment, array) for _ in range(self.views)]


def _view(augment: Any, array: np.ndarray) -> Tensor:
    return (
        torch.from_numpy(np.array(augment(image=array)["image"], order="C"))
        .permute(2, 0, 1)
        .contiguous()
        .to(torch.float32)
        .div(255)
    )


def _loader(dataset: Dataset, batch: int, workers: int) -> DataLoader:
    return DataLoader(
        dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def _absent(name: str, workers: int, why: str) -> Way:
    return Way(name, workers, lambda: iter(()), absent=why)


def _version(distribution: str) -> str:
    return peers.version(distribution, None)
