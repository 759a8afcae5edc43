"""The 2-D map of a test set: every image at the place its features give it, coloured by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb as colour_to_rgb

from kinfolk.report.style import (
    FAINT,
    INK,
    MUTED,
    WIDTH,
    Array,
    class_colour,
    class_title,
    frame,
    headline,
    paste,
    picture,
    to_numpy,
    to_rgb,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN = 0.04  # of the unit square, so that thumbnails at the rim stay inside
_LEGEND_AT_MOST = 20


def unit_rows(features: Num[Array, "n ..."]) -> Float[np.ndarray, "n d"]:
    """Flatten and scale every row to length 1; a zero row stays zero.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    rows = to_numpy(features).astype(np.float64)
    rows = np.nan_to_num(rows.reshape(len(rows), int(np.prod(rows.shape[1:]))))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def embed_2d(features: Num[Array, "n d"], *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Place samples in the unit square with t-SNE on unit-length features, started from their principal components.

    Args:
        features: `[n, d]`; about 1,000 rows take five seconds on one core.
        seed: of t-SNE's random numbers.

    Returns:
        `[n, 2]` in [0, 1]. Fewer than ten rows, or rows that are all equal, are placed by principal components alone.

    Reference: van der Maaten, Hinton (2008), Visualizing Data using t-SNE; Kobak, Berens (2019), The art of using t-SNE
        for single-cell transcriptomics (the PCA start).

    Example:
        >>> points = embed_2d(np.eye(5))
        >>> points.shape, bool(points.min() >= 0), bool(points.max() <= 1)
        ((5, 2), True, True)
    """
    rows = unit_rows(features)
    start = _principal_components(rows)
    if len(rows) < 10 or start[:, 0].std() < 1e-9:
        return _into_unit_square(start)
    from sklearn.manifold import TSNE  # slow to import, and not needed to draw

    perplexity = min(30.0, (len(rows) - 1) / 3)
    # learning_rate="auto" and a start of standard deviation 1e-4 are the published settings
    tsne = TSNE(init=start / start[:, 0].std() * 1e-4, perplexity=perplexity, learning_rate="auto", random_state=seed)
    return _into_unit_square(tsne.fit_transform(rows.astype(np.float32)))


def _principal_components(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    centred = rows - rows.mean(axis=0) if len(rows) else rows
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(rows), 2))
    for axis in range(min(2, len(s))):
        sign = 1.0 if vt[axis][np.abs(vt[axis]).argmax()] >= 0 else -1.0  # an SVD leaves the signs open
        points[:, axis] = sign * u[:, axis] * s[axis]
    return points


def _into_unit_square(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    if len(points) == 0:
        return points
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(
        high - low, 1e-12
    )  # each axis fills the square: neither t-SNE's scale nor its angle means anything
    return 0.5 + (points - (low + high) / 2) / span * (1 - 2 * _MARGIN)


def spread_out(points: Float[np.ndarray, "n 2"], *, side: float, seed: int = 0) -> Int[np.ndarray, " k"]:
    """Choose points, in random order, so that squares of length `side` around them do not overlap.

    Example:
        >>> len(spread_out(np.array([[0.5, 0.5], [0.51, 0.5], [0.9, 0.5]]), side=0.1))
        2
    """
    chosen: list[int] = []
    for index in np.random.default_rng(seed).permutation(len(points)):
        distance = np.abs(points[chosen] - points[index]).max(axis=1)
        if (distance >= side).all():
            chosen.append(int(index))
    return np.array(chosen, dtype=np.int64)


def draw_map(
    points: Mapping[str, Array],
    images: Num[Array, "n c h w"] | None,
    path: str | Path,
    *,
    labels: Int[Array, " n"] | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "Map of the test set: what the features find alike lies close together",
    seed: int = 0,
) -> Path:
    """Draw one or two maps of the same images side by side, with thumbnails where they do not overlap.

    Every sample is a dot; a seeded choice of samples that have room around them is drawn as a thumbnail. Grey images
    are drawn in their class's colour on white (images with a light background are inverted first); colour images keep
    their colours and get a frame.

    Args:
        points: panel title -> `[n, 2]` in the unit square, as `embed_2d` gives it.
        images: the n images, uint8 or floats in [0, 1]; None, as for a table, draws dots alone.
        path: where the PNG goes.
        labels: `[n]` integers, -1 = unlabelled; None draws all in one colour.
        class_names: names for the legend, which is left out beyond 20 classes.
        title: what one should see.
        seed: of the choice of thumbnails.

    Returns:
        `path`.

    Raises:
        ValueError: points or labels that do not have one row per image.
    """
    classes = None if labels is None else to_numpy(labels)
    pixels, grey = (None, False) if images is None else (to_rgb(images), images.shape[1] == 1)
    height = 0.75 + WIDTH / max(2, len(points)) + _legend_height(classes)
    with picture(path, height=height) as figure:
        headline(figure, title, _note(classes))
        for column, (name, places) in enumerate(points.items()):
            axes = _panel(figure, column, max(2, len(points)), bottom=_legend_height(classes))
            axes.set_title(name)
            draw_panel(axes, to_numpy(places), pixels, grey=grey, labels=classes, seed=seed)
        if classes is not None:
            draw_class_legend(figure, classes, class_names)
    return Path(path)


def _note(classes: np.ndarray | None) -> str:
    if classes is None or (classes < 0).all():
        return "No labels, so one colour. t-SNE keeps neighbourhoods; far distances mean little."
    many = len(np.unique(classes[classes >= 0])) > _LEGEND_AT_MOST
    colour = "Colour is the class (repeating after 20)" if many else "Colour is the class"
    return f"{colour}, which the map itself never uses. t-SNE keeps neighbourhoods; far distances mean little."


def _legend_height(classes: np.ndarray | None) -> float:
    count = 0 if classes is None else len(np.unique(classes))
    return 0.1 if count == 0 or count > _LEGEND_AT_MOST + 1 else 0.16 + 0.2 * -(-count // _legend_columns(count))


def _legend_columns(count: int) -> int:
    return count if count <= 10 else 7


def _panel(figure: Figure, column: int, columns: int, *, bottom: float) -> Axes:
    height, side = figure.get_figheight(), WIDTH / columns
    left = (column * side + 0.06) / WIDTH
    return figure.add_axes((left, bottom / height, (side - 0.12) / WIDTH, (side - 0.12) / height))


def thumbnail_side(count: int) -> float:
    """Return a thumbnail's share of a map's width: large for few images, small for many.

    Example:
        >>> thumbnail_side(10), thumbnail_side(400), thumbnail_side(10_000)
        (0.08, 0.045, 0.036)
    """
    return min(max(0.9 / max(count, 1) ** 0.5, 0.036), 0.08)


def draw_panel(
    axes: Axes,
    points: Float[np.ndarray, "n 2"],
    pixels: Float[np.ndarray, "n h w 3"] | None,
    *,
    grey: bool,
    labels: Int[np.ndarray, " n"] | None,
    seed: int = 0,
    side: float | None = None,
) -> None:
    """Draw one map into square axes; arguments as in `draw_map`, `side` is a thumbnail's share of the width."""
    side = thumbnail_side(len(points)) if side is None else side
    count = len(points) if pixels is None else len(pixels)
    if points.shape != (count, 2):
        raise ValueError(f"points must have one (x, y) per image: points {points.shape}, images {count}.")
    if labels is not None and labels.shape != (count,):
        raise ValueError(f"labels must have one entry per image: labels {labels.shape}, images {count}.")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)
    colours = [
        INK if labels is None else class_colour(int(label))
        for label in (range(len(points)) if labels is None else labels)
    ]
    shown = spread_out(points, side=0.85 * side, seed=seed) if pixels is not None else np.arange(0)
    rest = np.setdiff1d(np.arange(len(points)), shown)
    axes.scatter(
        points[rest, 0], points[rest, 1], s=100 * side, c=[colours[i] for i in rest], alpha=0.55, linewidths=0, zorder=1
    )
    for index in shown:
        assert pixels is not None
        x, y = points[index]
        if grey:
            paste(axes, tinted(pixels[index, ..., 0], colours[index]), x, y, side=side)
        else:
            paste(axes, pixels[index], x, y, side=side * 0.9)
            frame(axes, x, y, side=side * 0.9, colour=colours[index], thickness=1.0)


def tinted(grey: Float[np.ndarray, "h w"], colour: str) -> Float[np.ndarray, "h w 4"]:
    """Turn a grey image into ink of one colour on a transparent ground; the darker side of the image is the ground.

    An image that is mostly light (a drawing on paper) is inverted first, so that the drawing is the ink.

    Example:
        >>> tinted(np.array([[0.0, 0.0], [0.0, 1.0]]), "#ff0000")[1, 1].tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    ink = 1 - grey if np.median(grey) > 0.5 else grey
    return np.concatenate([np.broadcast_to(colour_to_rgb(colour), (*grey.shape, 3)), ink[..., None]], axis=-1)


def draw_class_legend(figure: Figure, labels: Int[np.ndarray, " n"], class_names: Sequence[str] | None) -> None:
    """Write the present classes' names in their colours below the maps; more than 20 are left out."""
    present = np.unique(labels)
    if len(present) > _LEGEND_AT_MOST + 1 or len(present) == 0:
        return
    columns, height = _legend_columns(len(present)), figure.get_figheight()
    for place, label in enumerate(present):
        x = 0.012 + 0.976 * (place % columns) / columns
        y = (_legend_height(labels) - 0.14 - 0.2 * (place // columns)) / height
        figure.text(x, y, "●", color=class_colour(int(label)), fontsize=9, va="center")
        figure.text(
            x + 0.014, y, class_title(int(label), class_names, longest=14), fontsize=8.5, va="center", color=MUTED
        )
