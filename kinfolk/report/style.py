"""What all pictures share: page width, type sizes, colours, and how a batch of images becomes thumbnails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from kinfolk.train.files import atomic_path

if TYPE_CHECKING:
    from jaxtyping import Float, Num
    from matplotlib.axes import Axes

Array: TypeAlias = "np.ndarray | Tensor"

WIDTH = 9.6  # inches; the page shows a picture at 960 CSS pixels, so 8 pt print as 11 px
DPI = 160
INK, MUTED, FAINT = "#222222", "#5f6368", "#c9ccd1"
RIGHT, WRONG = "#0072b2", "#d55e00"
ACCENT = "#0b5394"
UNLABELLED = "#8a8a8a"

# Ten colours whose smallest CIELAB distance stays above 20 with normal vision and with each kind of colour blindness.
_TEN = (
    "#4b60dd",
    "#dda872",
    "#319001",
    "#b73f7e",
    "#1ac6ca",
    "#600e81",
    "#927154",
    "#967fd4",
    "#444300",
    "#6d1d34",
)

_RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same picture
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "figure.titlesize": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.parse_math": False,  # a class may be called "$x_"
    "figure.facecolor": "white",
    "image.resample": True,
}


def _mixed_with_white(colour: str, share: float) -> str:
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (255 - c) * share):02x}" for c in channels)


PALETTE: tuple[str, ...] = _TEN + tuple(_mixed_with_white(colour, 0.45) for colour in _TEN)


def class_colour(label: int) -> str:
    """Return the colour of a class; colours repeat after 20 classes and -1 (unlabelled) is grey.

    Example:
        >>> class_colour(3) == class_colour(23), class_colour(-1)
        (True, '#8a8a8a')
    """
    return UNLABELLED if label < 0 else PALETTE[int(label) % len(PALETTE)]


def class_title(label: int, class_names: Sequence[str] | None = None, *, longest: int = 18) -> str:
    """Return the name of a class as pictures print it, shortened to `longest` characters.

    Example:
        >>> class_title(1, ("cat", "a dog of an uncommon breed")), class_title(7), class_title(-1)
        ('a dog of an uncom…', '7', 'unlabelled')
    """
    if label < 0:
        return "unlabelled"
    name = str(class_names[label]) if class_names is not None and label < len(class_names) else str(label)
    name = " ".join(name.split())
    return name if len(name) <= longest else name[: longest - 1] + "…"


def to_numpy(values: Array) -> np.ndarray:
    """Return a tensor of any device, or an array, as a NumPy array.

    Example:
        >>> import torch
        >>> to_numpy(torch.ones(2, requires_grad=True))
        array([1., 1.], dtype=float32)
    """
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def to_rgb(images: Num[Array, "n c h w"]) -> Float[np.ndarray, "n h w 3"]:
    """Turn grey, RGB or RGBA images into RGB values in [0, 1], transparent pixels over white.

    Args:
        images: `[n, C, h, w]` with C = 1, 3 or 4, as uint8 or as floats in [0, 1].

    Raises:
        ValueError: any other shape or number of channels.

    Example:
        >>> to_rgb(np.full((1, 1, 1, 1), 255, dtype=np.uint8)).tolist()
        [[[[1.0, 1.0, 1.0]]]]
    """
    pixels = to_numpy(images)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"images must be [n, C, h, w] with C = 1, 3 or 4 channels, found {pixels.shape};"
            " stack images of one channel to [n, 1, h, w]."
        )
    pixels = pixels / 255.0 if pixels.dtype == np.uint8 else np.nan_to_num(pixels).clip(0, 1)
    pixels = pixels.transpose(0, 2, 3, 1).astype(np.float64)
    if pixels.shape[-1] == 4:
        opacity = pixels[..., 3:]
        return pixels[..., :3] * opacity + (1 - opacity)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


@contextmanager
def picture(path: str | Path, *, height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Give a figure in the house style and write it to `path` as PNG when the block ends without an error.

    The figure lives outside pyplot, so drawing leaves no global state behind, and a reader never sees half a file.

    Args:
        path: where the PNG goes; its folder is made.
        height: inches.
        width: inches; the pixel size is `round(inches * DPI)`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, picture(Path(folder) / "dot.png", height=1) as figure:
        ...     axes = figure.add_subplot()
    """
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        yield figure
        with atomic_path(Path(path)) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts the typeface lacks
            figure.savefig(temporary, format="png", metadata={"Software": None})


def board(figure: Figure, *, columns: float, rows: float, top: float, bottom: float = 0.0) -> Axes:
    """Return axes over the full width whose unit is one cell of a picture grid, y pointing down, without spines.

    Args:
        figure: from `picture`.
        columns: cells from left to right.
        rows: cells from top to bottom.
        top: inches kept free above, for titles.
        bottom: inches kept free below.
    """
    height = figure.get_figheight()
    axes = figure.add_axes((0.01, bottom / height, 0.98, (height - top - bottom) / height))
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", anchor="NW")
    axes.axis("off")
    return axes


def paste(axes: Axes, image: np.ndarray, x: float, y: float, *, side: float = 0.9, zorder: float = 2.0) -> None:
    """Draw one image centred at `(x, y)` in data units, its longer side `side` long, pixels kept square.

    Args:
        axes: with equal scales in x and y.
        image: `[h, w, 3]` or `[h, w, 4]` in [0, 1].
        x: centre.
        y: centre.
        side: length of the longer side.
        zorder: drawing order.
    """
    h, w = image.shape[:2]
    dx, dy = side * w / max(h, w) / 2, side * h / max(h, w) / 2
    down = axes.yaxis_inverted()
    extent = (x - dx, x + dx, y + dy, y - dy) if down else (x - dx, x + dx, y - dy, y + dy)
    limits, aspect = (axes.get_xlim(), axes.get_ylim()), axes.get_aspect()
    axes.imshow(image, extent=extent, interpolation="nearest", zorder=zorder, aspect=aspect)
    axes.set(xlim=limits[0], ylim=limits[1])


def frame(
    axes: Axes,
    x: float,
    y: float,
    *,
    side: float,
    colour: str,
    style: str | tuple[int, tuple[float, ...]] = "-",
    thickness: float = 1.6,
    zorder: float = 3.0,
) -> None:
    """Draw a square outline centred at `(x, y)` in data units."""
    corner = (x - side / 2, y - side / 2)
    axes.add_patch(
        Rectangle(corner, side, side, fill=False, ec=colour, lw=thickness, ls=style, zorder=zorder, clip_on=False)
    )


def headline(figure: Figure, title: str, note: str = "") -> None:
    """Write what one should see across the top of a figure, and a quieter second line."""
    height = figure.get_figheight()
    figure.text(0.012, 1 - 0.10 / height, title, va="top", fontsize=11, fontweight="bold")
    if note:
        figure.text(0.012, 1 - 0.33 / height, note, va="top", fontsize=8.5, color=MUTED)
