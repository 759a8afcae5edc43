"""Features of samples that relations are made from: the pixels themselves, or another encoder's output from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kinfolk.data.relations.known import check_source, require_finite
from kinfolk.data.relations.side_embeddings import rows_of_file
from kinfolk.data.sources.base import Source

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_CHUNK = 1024


def read_features(source: Source, features: str, *, needed_for: str) -> Float[Tensor, "N f"]:
    """Return one row of features per sample, float32.

    Args:
        source: over whose samples a relation is built.
        features: ``"pixels"`` reads every image once and takes the mean image away; anything else is a ``.npy`` or
            ``.npz`` file, as ``kinfolk embed`` writes it and `SideEmbeddingsConfig` reads it.
        needed_for: what they are needed for, in words.

    Raises:
        TypeError: for a stream.
        ValueError: when the file does not cover the samples, or features are not finite.
        FileNotFoundError: when there is no such file.

    Example:
        >>> from kinfolk.data.sources import DigitsConfig
        >>> read_features(DigitsConfig().load().test, "pixels", needed_for="an example").shape
        torch.Size([360, 64])
    """
    check_source(source, needed_for=needed_for)
    if features == "pixels":
        chunks = torch.arange(len(source)).split(_CHUNK)
        rows = torch.cat([source.read(indices).flatten(1).to(torch.float32) for indices in chunks])
        return rows - rows.mean(dim=0)
    if Path(features).suffix not in (".npy", ".npz"):
        raise ValueError(f"features must be 'pixels' or a .npy or .npz file; found {features!r}")
    rows = rows_of_file(Path(features), source.ids)
    require_finite(rows, source.ids, what=f"features of {Path(features).name}")
    return rows
