"""The experiments about two modalities, written: a page with tables, pictures, and every draw as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kinfolk.report.style import INK, MUTED, PALETTE, headline, picture
from kinfolk.theory.experiments import (
    FORMS,
    Row,
    descent_steps,
    mismatch_errors,
    subspace_errors,
    summary,
    unpaired_errors,
)
from kinfolk.train.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Means = Mapping[tuple, tuple[float, float, int]]
_MARKERS = "os^DvP"


def write_theory(
    out: str | Path,
    *,
    only: Sequence[str] = (),
    draws: int | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Path:
    """Run the experiments of `kinfolk.theory.experiments` and write what came out.

    Args:
        out: folder for ``README.md`` and, of each experiment, ``NAME.png`` and ``NAME.csv``; files of these names are
            replaced.
        only: names of experiments (`EXPERIMENTS`); by default all.
        draws: models drawn for each setting; by default what each experiment has, 3 to 20.
        seed: of the first draw.
        progress: called with a line when an experiment begins.

    Returns:
        The page's path.

    Raises:
        ValueError: for names that are no experiment, or fewer than one draw.

    Example:
        >>> write_theory("theory", only=["spikes"])
        Traceback (most recent call last):
            ...
        ValueError: no experiment 'spikes'; there are subspace, descent, mismatch, unpaired
    """
    for name in only:
        if name not in EXPERIMENTS:
            raise ValueError(f"no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, found {draws}")
    folder = Path(out)
    settings = {"seed": seed} | ({} if draws is None else {"draws": draws})
    sections = []
    for name in only or EXPERIMENTS:
        if progress is not None:
            progress(name)
        run, describe = EXPERIMENTS[name]
        rows = run(**settings)
        write_text(folder / f"{name}.csv", _csv(rows))
        sections.append(describe(rows, folder / f"{name}.png"))
    page = folder / "README.md"
    lead = (
        "Linear encoders on a spiked model: x = U1 z + 0.3 noise in 40 dimensions and y = U2 z' + 0.3 noise in 39, a "
        "shared code of rank 10, orthonormal U; z' is z in a clean pair (a share eta of them) and an independent draw "
        "in the others. The error is |sin Theta| between the learnt subspace of x and U1: 0 is perfect, 3.16 the most. "
        f"Means ± standard deviations over draws, first seed {seed}; every draw is in the CSV beside its picture."
    )
    write_text(page, "\n\n".join(["# Two modalities: what contrast finds", lead, *sections]) + "\n")
    return page


def _subspace(rows: list[Row], png: Path) -> str:
    means = summary(rows, ["eta", "n"], "error")
    etas, sizes = _levels(means, 0), _levels(means, 1)
    with picture(png, height=3.6) as figure:
        headline(
            figure,
            "More pairs: the error falls as one over the square root of their number",
            "closed-form solution of the linear loss; dashed: slope -1/2; bars: one standard deviation over draws",
        )
        axes = figure.add_axes((0.08, 0.15, 0.6, 0.63))
        for i, eta in enumerate(etas):
            line = [means[eta, n] for n in sizes]
            _curve(axes, sizes, line, f"eta {eta:g}: slope {_slope(sizes, [m for m, *_ in line]):.2f}", i)
            axes.plot(sizes, [line[0][0] * math.sqrt(sizes[0] / n) for n in sizes], "--", color=MUTED, linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="pairs", ylabel="|sin Theta|")
        axes.set_xticks(sizes, labels=[f"{n:,}" for n in sizes], minor=False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        _legend(axes)
    table = _table(
        ["eta", *(f"n = {n:,}" for n in sizes)], [[f"{e:g}", *(_cell(means[e, n]) for n in sizes)] for e in etas]
    )
    title = "The error against the number of pairs and the share of clean ones"
    return _section(title, png, "Error against pairs", table)


def _descent(rows: list[Row], png: Path) -> str:
    etas = sorted({row["eta"] for row in rows}, reverse=True)
    with picture(png, height=3.9) as figure:
        headline(
            figure,
            "A step of the loss is a step towards a singular value decomposition",
            "of the contrastive cross-covariance at that step; means over draws; solid: all pairs clean, dashed: half",
        )
        for column, (value, title) in enumerate(
            (("alignment", "cosine of step and way to the SVD"), ("distance", "|sin Theta| to the SVD of that step"))
        ):
            means = summary(rows, ["eta", "form", "step"], value)
            axes = figure.add_axes((0.06 + 0.37 * column, 0.13, 0.3, 0.62))
            for i, form in enumerate(FORMS):
                for eta, style in zip(etas, ("-", "--", ":"), strict=False):
                    steps = sorted(step for e, f, step in means if (e, f) == (eta, form))
                    label = form if eta == etas[0] else None
                    line = [means[eta, form, step][0] for step in steps]
                    axes.plot(steps, line, style, color=PALETTE[i], linewidth=1.3, label=label)
            axes.set(title=title, xlabel="step")
            axes.axhline(1 if value == "alignment" else 0, color=MUTED, linewidth=0.6)
        _legend(axes)
    last = max(row["step"] for row in rows)
    ends = [row for row in rows if row["step"] == last]
    by = ["eta", "form"]
    alignment, distance, error, svd = (summary(ends, by, v) for v in ("alignment", "distance", "error", "svd_error"))
    least = {key: min(row["alignment"] for row in rows if (row["eta"], row["form"]) == key) for key in error}
    table = _table(
        [
            "eta",
            "loss",
            "least alignment of a step",
            "last step's",
            "distance to its SVD",
            "error",
            "error of the SVD of the data",
        ],
        [
            [
                f"{eta:g}",
                form,
                f"{least[eta, form]:.2f}",
                *(_cell(m[eta, form]) for m in (alignment, distance, error, svd)),
            ]
            for eta, form in error
        ],
    )
    return (
        f"## A step of the loss is a step towards the SVD\n\n![Alignment and distance per step]({png.name})\n\n{table}"
    )


def _mismatch(rows: list[Row], png: Path) -> str:
    means = summary(rows, ["private", "learner", "eta"], "error")
    kinds, learners = _levels(means, 0, reverse=False), list(dict.fromkeys(row["learner"] for row in rows))
    etas = sorted({eta for *_, eta in means})
    with picture(png, height=3.6) as figure:
        headline(
            figure,
            "Wrong pairs cost; what a modality has for itself misleads whoever sees only that one",
            "left: only the shared code varies together; right: ten private directions, twice as strong; bars: one sd",
        )
        for column, kind in enumerate(kinds):
            axes = figure.add_axes((0.06 + 0.36 * column, 0.15, 0.3, 0.63))
            for i, learner in enumerate(learners):
                _curve(axes, etas, [means[kind, learner, eta] for eta in etas], learner, i)
            axes.set(xlabel="share of clean pairs", ylim=(0, 3.3), title=f"{kind} private directions")
        _legend(axes)
    table = _table(
        ["private directions", "learner", *(f"eta {eta:g}" for eta in reversed(etas))],
        [
            [str(kind), learner, *(_cell(means[kind, learner, eta]) for eta in reversed(etas))]
            for kind in kinds
            for learner in learners
        ],
    )
    title = "Two modalities with wrong pairs against one modality"
    return _section(title, png, "Error against the share of clean pairs", table)


def _unpaired(rows: list[Row], png: Path) -> str:
    by = ["private", "noise", "unpaired", "learner"]
    error, top1, precision, kept = (summary(rows, by, v) for v in ("error", "top1", "precision", "kept"))
    kinds, levels, sizes = (_levels(error, place, reverse=False) for place in range(3))
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    height, width = 2.0 / (0.9 + 2.6 * len(kinds)), 0.76 / len(levels) - 0.05
    with picture(png, height=0.9 + 2.6 * len(kinds)) as figure:
        headline(
            figure,
            "Rows that nobody paired help, unless what a modality has for itself is stronger than what is shared",
            "300 pairs and more rows of each modality, one shuffled; |sin Theta|; dashed: checked on held-out pairs",
        )
        for place, (kind, noise) in enumerate((kind, noise) for kind in kinds for noise in levels):
            row, column = divmod(place, len(levels))
            bottom = 1 - (0.8 + 2.6 * row) / (0.9 + 2.6 * len(kinds)) - height
            axes = figure.add_axes((0.06 + column * (width + 0.05), bottom, width, height))
            for learner in learners:
                matching, checked, _ = learner.partition(", checked")
                number = [one for one in learners if ", checked" not in one].index(matching)
                line = [error[kind, noise, more, learner] for more in sizes]
                _curve(axes, sizes, line, learner, number, style="--" if checked else "-")
            axes.set(title=f"noise {noise:g}, {kind} private directions", ylim=(0, None))
            if row == len(kinds) - 1:
                axes.set_xlabel("unpaired rows")
            if place == len(levels) - 1:
                _legend(axes)
    table = _table(
        [
            "private",
            "noise",
            "unpaired rows",
            "learner",
            "error",
            "top-1 retrieval, %",
            "matches right, %",
            "rounds kept",
        ],
        [
            [
                *(f"{level:,}" if level >= 1 else f"{level:g}" for level in setting[:3]),
                setting[3],
                _cell(error[setting]),
                *(_cell(m.get(setting), percent=True) for m in (top1, precision)),
                f"{kept[setting][0]:.1f}" if setting in kept else "-",
            ]
            for setting in error
        ],
    )
    return _section("What unpaired rows add", png, "Error against unpaired rows", table)


EXPERIMENTS: dict[str, tuple[Callable[..., list[Row]], Callable[[list[Row], Path], str]]] = {
    "subspace": (subspace_errors, _subspace),
    "descent": (descent_steps, _descent),
    "mismatch": (mismatch_errors, _mismatch),
    "unpaired": (unpaired_errors, _unpaired),
}
"""What is run and how it is written, by name."""


def _curve(
    axes: Axes,
    x: Sequence[float],
    line: Sequence[tuple[float, float, int]],
    label: str,
    number: int,
    *,
    style: str = "-",
) -> None:
    bars = [0.0 if math.isnan(deviation) else deviation for _, deviation, _ in line]
    axes.errorbar(
        x,
        [mean for mean, *_ in line],
        yerr=bars,
        linestyle=style,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        linewidth=1.3,
        elinewidth=0.8,
        color=PALETTE[number],
        label=label,
    )


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), frameon=False, labelcolor=INK, borderaxespad=0.0)


def _levels(means: _Means, place: int, *, reverse: bool | None = None) -> list:
    """The levels of a setting; shares from 1 down, everything else up."""
    levels = sorted({key[place] for key in means})
    return levels[::-1] if reverse or (reverse is None and levels and max(levels) <= 1) else levels


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the first and the last point, both logarithmic; NaN for one point."""
    return math.log(y[-1] / y[0]) / math.log(x[-1] / x[0]) if len(x) > 1 else math.nan


def _cell(found: tuple[float, float, int] | None, *, percent: bool = False) -> str:
    if found is None:
        return "-"
    mean, deviation, _ = found
    scale, digits = (100, 1) if percent else (1, 3)
    after = "" if math.isnan(deviation) else f" ± {scale * deviation:.{digits}f}"
    return f"{scale * mean:.{digits}f}{after}"


def _section(title: str, png: Path, alt: str, table: str) -> str:
    return f"## {title}\n\n![{alt}]({png.name})\n\n{table}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _csv(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
