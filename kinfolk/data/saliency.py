"""Where the foreground of an image is, computed once for a data set and stored by sample id."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.views.filters import gaussian_blur
from kinfolk.data.views.unaugmented import to_float
from kinfolk.ops.lab import rgb_to_lab

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

Method = Literal["auto", "alpha", "intensity", "border-colour"]
METHODS = ("auto", "alpha", "intensity", "border-colour")
_BORDER_SAMPLES = 64
_KIN = 0.2  # share of the border that may be foreground


def saliency_masks(images: UInt8[Tensor, "b c h w"], *, method: Method = "auto") -> UInt8[Tensor, "b 1 h w"]:
    """Find the foreground of images without any trained network.

    ============= ======================================================================================
    alpha         what is opaque; for RGBA
    intensity     what is light, by the mean of the colours; for grey images on black
    border-colour what has colours that hardly occur on the image's border; presupposes that the border is
                  mostly background, and is a guess
    auto          alpha for RGBA, intensity for grey, border-colour for RGB
    ============= ======================================================================================

    All but `alpha` split their map in two by Otsu's threshold, image by image. A flat image has an empty foreground.

    Args:
        images: bytes; 1, 3 or 4 channels.
        method: see above.

    Returns:
        255 where the foreground is, else 0.

    Raises:
        ValueError: for another method, and for `alpha` on images without an alpha channel.

    Reference: Otsu (1979), A threshold selection method from gray-level histograms.

    Example:
        >>> images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
        >>> images[..., 1:3, 1:3] = 200
        >>> int((saliency_masks(images) == 255).sum())
        4
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; found {method!r}")
    floats = to_float(images)
    channels = images.shape[1]
    if method == "auto":
        method = {1: "intensity", 3: "border-colour", 4: "alpha"}[channels]  # type: ignore[assignment]
    if method == "alpha":
        if channels != 4:
            raise ValueError(f"method 'alpha' needs RGBA images, 4 channels; found {channels}. Try 'auto'.")
        return ((images[:, 3:] >= 128) * 255).to(torch.uint8)
    colours = floats[:, :3].expand(-1, 3, -1, -1)
    if method == "intensity":
        found = colours.mean(1, keepdim=True)
    else:
        found = _smooth(_border_distance(rgb_to_lab(colours)))
    return _otsu(found)


def compute_saliency(
    splits: Splits, out: str | Path, *, method: Method = "auto", batch_size: int = 256, overwrite: bool = False
) -> Path:
    """Compute the masks of every image of a data set, of all its parts, and store them by sample id.

    Args:
        splits: the data set.
        out: a new folder; it gets ``masks.npy`` (uint8 ``[M, 1, H, W]``), ``ids.npy`` (int64, rising) and
            ``saliency.json``, all at once.
        method: see `saliency_masks`.
        batch_size: images at a time.
        overwrite: whether an existing folder is replaced.

    Returns:
        The folder.

    Raises:
        FileExistsError: when the folder exists and is not to be replaced.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = compute_saliency(DigitsConfig().load(), f"{folder}/saliency")
        ...     sorted(file.name for file in path.iterdir())
        ['ids.npy', 'masks.npy', 'saliency.json']
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another folder, or overwrite it")
    parts = [part for part in (splits.train, splits.test, splits.probe) if part is not None]
    ids = torch.cat([part.ids for part in parts]).unique()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        shape = (len(ids), 1, *splits.train.image_size)
        masks = np.lib.format.open_memmap(folder / "masks.npy", mode="w+", dtype=np.uint8, shape=shape)
        shares = torch.zeros(len(ids))
        for part in parts:
            for indices in torch.arange(len(part)).split(batch_size):
                batch = part.fetch(indices)
                found = saliency_masks(batch["images"], method=method)
                rows = torch.searchsorted(ids, batch["ids"])
                masks[rows.numpy()] = found.numpy()
                shares[rows] = (found > 0).float().mean((1, 2, 3))
        masks.flush()
        np.save(folder / "ids.npy", ids.numpy())
        facts = {"method": method, "source": splits.train.name, "images": len(ids), "mean_share": float(shares.mean())}
        (folder / "saliency.json").write_text(json.dumps(facts | {"empty": int((shares == 0).sum())}, indent=2) + "\n")
        if out.exists():
            shutil.rmtree(out)
        folder.chmod(0o755)
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out


def attach_saliency(splits: Splits, path: str | Path) -> Splits:
    """Give every batch of a data set its masks, as ``"saliency"`` uint8 ``[b, 1, H, W]``.

    Args:
        splits: the data set whose masks were computed.
        path: what `compute_saliency` wrote; the masks stay on disk and are mapped into memory.

    Raises:
        FileNotFoundError: when the folder or one of its files is missing.
        ValueError: when samples have no mask, or masks have another size than the images.

    Example:
        >>> from kinfolk.data import DigitsConfig
        >>> splits = DigitsConfig().load()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with_masks = attach_saliency(splits, compute_saliency(splits, f"{folder}/saliency"))
        ...     with_masks.train.fetch(torch.arange(2))["saliency"].shape
        torch.Size([2, 1, 8, 8])
    """
    parts = {name: getattr(splits, name) for name in ("train", "test", "probe")}
    return replace(splits, **{name: part and SaliencySource(part, Path(path)) for name, part in parts.items()})


class SaliencySource(Source):
    """A source whose batches have saliency masks; see `attach_saliency`.

    Args:
        source: the images.
        folder: what `compute_saliency` wrote.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        for file in (folder / "masks.npy", folder / "ids.npy"):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing; `kinfolk data saliency` or `compute_saliency` writes it")
        self.source, self.folder = source, folder
        self.name, self.ids, self.columns = source.name, source.ids, source.columns
        self.class_names, self.in_memory = source.class_names, source.in_memory
        self.channels, self.image_size = source.channels, source.image_size
        self._mask_ids = torch.from_numpy(np.load(folder / "ids.npy"))
        self._masks: Tensor | None = None
        unknown = ~torch.isin(source.ids, self._mask_ids)
        if unknown.any():
            raise ValueError(
                f"{folder} has no masks for {int(unknown.sum())} of {len(source)} samples of {source.name!r}; compute"
                " them again for this data set"
            )
        if tuple(self._all_masks().shape[2:]) != tuple(source.image_size):
            raise ValueError(
                f"{folder} has masks of {tuple(self._all_masks().shape[2:])}, the images of {source.name!r} are"
                f" {tuple(source.image_size)}; compute them again at this size"
            )

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Let the source of the images read them; see `Source.read`."""
        return self.source.read(indices)

    def fetch(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Fetch samples and look their masks up by id, so that one that took another's place has its own."""
        batch = self.source.fetch(indices)
        return {**batch, "saliency": self._all_masks()[torch.searchsorted(self._mask_ids, batch["ids"])]}

    def describe(self, indices: Int[Tensor, " b"]) -> dict[str, Any]:
        """Return what is known about samples, their masks too; see `Source.describe`."""
        known = self.source.describe(indices)
        return {**known, "saliency": self._all_masks()[torch.searchsorted(self._mask_ids, known["ids"])]}

    def _all_masks(self) -> Tensor:
        if self._masks is None:  # copy on write, since torch wants writable memory; nothing writes to it
            self._masks = torch.from_numpy(np.load(self.folder / "masks.npy", mmap_mode="c"))
        return self._masks

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes map the file themselves."""
        return {**self.__dict__, "_masks": None}


def _border_distance(lab: Tensor) -> Tensor:
    """Every pixel's colour distance from its near kin on the border, ``[b, 1, h, w]``."""
    border = torch.cat([lab[..., 0, :], lab[..., -1, :], lab[..., 1:-1, 0], lab[..., 1:-1, -1]], dim=2)
    chosen = torch.linspace(0, border.shape[2] - 1, min(_BORDER_SAMPLES, border.shape[2])).long()
    distance = torch.cdist(lab.flatten(2).transpose(1, 2), border[..., chosen].transpose(1, 2))
    # not the nearest: a foreground that touches the border would have itself as kin
    nearest = distance.kthvalue(max(1, round(_KIN * len(chosen))), dim=2).values
    return nearest.reshape(len(lab), 1, *lab.shape[2:])


def _smooth(found: Tensor) -> Tensor:
    """Blur by 2 % of the side, so that single pixels do not count."""
    sigma = max(0.3, 0.02 * min(found.shape[2:]))
    return gaussian_blur(found, found.new_full((len(found),), sigma), max_sigma=sigma)


def _otsu(found: Float[Tensor, "b 1 h w"]) -> UInt8[Tensor, "b 1 h w"]:
    """Split each map where the variance between its two parts is largest; a flat map is all background."""
    low, high = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
    levels = ((found - low) / (high - low).clamp(min=1e-12) * 255).round_().to(torch.int64).flatten(1)
    counts = torch.zeros(len(found), 256, device=found.device).scatter_add_(1, levels, torch.ones_like(levels).float())
    share = counts / levels.shape[1]
    below, mean_below = share.cumsum(1), (share * torch.arange(256, device=found.device)).cumsum(1)
    between = (mean_below[:, -1:] * below - mean_below).square() / (below * (1 - below)).clamp(min=1e-9)
    threshold = between.argmax(1, keepdim=True)
    mask = (levels > threshold) & (high - low > 1e-6).flatten(1)
    return (mask.reshape(found.shape) * 255).to(torch.uint8)
