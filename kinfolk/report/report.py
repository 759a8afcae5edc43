"""The page of a run: read its folder, draw its pictures, write them down in order."""

from __future__ import annotations

import os
from pathlib import Path

from kinfolk.methods import CACRConfig
from kinfolk.report.material import read_material
from kinfolk.report.page import page_html
from kinfolk.report.picture_sections import (
    calibration_section,
    graph_section,
    map_section,
    neighbours_section,
    weights_section,
)
from kinfolk.report.text_sections import curves_section, evaluation_section, lead, settings_section, summary_section
from kinfolk.train.files import write_text


def write_report(run: str | os.PathLike[str], *, seed: int = 0) -> Path:
    """Write `RUN/report/index.html`, one self-contained page about a run, and its pictures as PNGs beside it.

    What a run lacks (no encoder yet, no evaluation, no log, no labels) is said in its section; the rest is written all
    the same.

    Args:
        run: the run's folder; the data that it was trained on must still be readable.
        seed: of the shown test images, the map, and the views that are drawn. Nothing is chosen by its looks.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: `run` is not the folder of a run, or its data is gone.

    Example:
        >>> import tempfile
        >>> from kinfolk.recipes import recipe, smoke
        >>> from kinfolk.train import fit
        >>> run = fit(smoke(recipe("simclr-digits")), out=tempfile.mkdtemp())
        >>> write_report(run).name
        'index.html'
    """
    material = read_material(Path(run), seed=seed)
    sections = [
        summary_section(material),
        evaluation_section(material),
        *filter(None, [calibration_section(material)]),
        curves_section(material),
        map_section(material),
        neighbours_section(material),
        graph_section(material),
    ]
    if isinstance(material.config.method, CACRConfig):
        sections.append(weights_section(material))
    sections.append(settings_section(material))
    page = material.folder / "index.html"
    write_text(page, page_html(f"{material.config.name}: what the encoder learnt", lead(material), sections))
    return page
