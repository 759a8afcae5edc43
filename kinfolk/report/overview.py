"""A run in one wide picture: raw pixels' map, the trained encoder's map, and accuracy with few labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinfolk.report.bars import Bar, draw_bars
from kinfolk.report.embedding_map import draw_panel, embed_2d, thumbnail_side
from kinfolk.report.picture_sections import map_title
from kinfolk.report.sample import TRAINED, take_sample
from kinfolk.report.style import MUTED, WIDTH, Array, picture, to_numpy, to_rgb
from kinfolk.report.table import evaluation_rows, few_label_bars
from kinfolk.train import Run, load_encoder

if TYPE_CHECKING:
    from jaxtyping import Int, Num
    from matplotlib.axes import Axes

_SIDE, _TOP, _BOTTOM = 3.05, 0.5, 0.1


def overview(run: str | os.PathLike[str], path: str | Path | None = None, *, seed: int = 0) -> Path:
    """Draw a run in one picture for a README: two maps of its test images and its accuracy with few labels.

    Args:
        run: a finished run's folder.
        path: where the PNG goes; by default `RUN/report/overview.png`.
        seed: of the shown images and of the maps.

    Returns:
        The picture's path.

    Raises:
        FileNotFoundError: `run` is not the folder of a finished run.
    """
    read = Run(Path(run))
    splits = read.config.load()
    sample = take_sample(splits.test, load_encoder(read), count=800, seed=seed)
    groups, bars = few_label_bars(evaluation_rows(read.records))
    return draw_overview(
        {
            map_title(sample, name, between="\n"): embed_2d(sample.features[name], seed=seed)
            for name in (sample.raw, TRAINED)
        },
        None if sample.is_table else sample.images,
        read.folder / "report" / "overview.png" if path is None else path,
        labels=sample.labels,
        groups=groups,
        bars=bars,
        seed=seed,
    )


def draw_overview(
    points: Mapping[str, Array],
    images: Num[Array, "n c h w"] | None,
    path: str | Path,
    *,
    labels: Int[Array, " n"] | None,
    groups: Sequence[str],
    bars: Mapping[str, Sequence[Bar | None]],
    seed: int = 0,
) -> Path:
    """Draw two maps and a bar chart side by side.

    Args:
        points: title -> `[n, 2]` in the unit square; two maps.
        images: the n images; None, as for a table, draws dots alone.
        path: where the PNG goes.
        labels: `[n]`, -1 = unlabelled, or None.
        groups: names of the bar groups; without any the chart says so.
        bars: encoder -> one bar per group.
        seed: of the choice of thumbnails.

    Returns:
        `path`.
    """
    height = _TOP + _SIDE + _BOTTOM
    pixels, grey = (None, False) if images is None else (to_rgb(images), images.shape[1] == 1)
    classes = None if labels is None else to_numpy(labels)
    side = 1.3 * thumbnail_side(len(next(iter(points.values()), ())))  # these maps are smaller than the report's
    with picture(path, height=height) as figure:
        for column, (title, places) in enumerate(points.items()):
            left = 0.04 + column * (_SIDE + 0.1)
            axes = figure.add_axes((left / WIDTH, _BOTTOM / height, _SIDE / WIDTH, _SIDE / height))
            axes.set_title(title)
            draw_panel(axes, to_numpy(places), pixels, grey=grey, labels=classes, seed=seed, side=side)
        left, floor = 2 * (_SIDE + 0.1) + 0.5, 0.84
        axes = figure.add_axes(
            (left / WIDTH, floor / height, (WIDTH - left - 0.08) / WIDTH, (_SIDE + _BOTTOM - floor) / height)
        )
        _draw_accuracy(axes, groups, bars, classes)
    return Path(path)


def _draw_accuracy(
    axes: Axes, groups: Sequence[str], bars: Mapping[str, Sequence[Bar | None]], labels: np.ndarray | None
) -> None:
    if not groups:
        axes.axis("off")
        axes.text(0.5, 0.5, "not evaluated with labels", ha="center", color=MUTED, transform=axes.transAxes)
        return
    axes.set_title("accuracy in %\nfrom few labels", x=-0.13)
    chance = None if labels is None else 1 / max(len(np.unique(labels[labels >= 0])), 1)
    draw_bars(axes, groups, bars, chance=chance)
    handles, names = axes.get_legend_handles_labels()
    first = int(chance is not None)  # the line comes first, and chance should come last
    axes.legend(
        handles[first:] + handles[:first],
        names[first:] + names[:first],
        ncols=2,
        frameon=False,
        handlelength=1,
        loc="upper right",
        bbox_to_anchor=(1, -0.08),
    )
