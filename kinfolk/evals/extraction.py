"""From images to frozen features: by the encoder as it is evaluated, leaving no trace in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kinfolk.data.sources.columns import take_columns
from kinfolk.data.views.table import unaugmented
from kinfolk.distributed import world_size
from kinfolk.evals.features import COLUMNS, Features
from kinfolk.evals.rank_share import computed_over_ranks
from kinfolk.nn import evaluating
from kinfolk.nn.modes import device_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.data.sources import Source
    from kinfolk.data.views import ViewMaker
    from kinfolk.data.views.table import TableViewMaker
    from kinfolk.evals.feature_cache import FeatureCache

_log = logging.getLogger(__name__)


def extract(
    encoder: nn.Module,
    source: Source,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    indices: Tensor | None = None,
    cache: FeatureCache | None = None,
    over_ranks: bool = False,
) -> Features:
    """Encode a source without augmentation, in evaluation mode and without gradient.

    Every submodule's mode and the encoder's device are as before afterwards.

    Over ranks, every one encodes its share of the batches and all return all features. The batches are those of one
    process, so the features have the same bits. Every rank makes the same number of forward passes, as a sharded
    encoder needs: ranks that run out of batches repeat the last one, and its rows are removed again by id.

    Args:
        encoder: any module from float images `[b, C, H, W]` in [0, 1], or a table's rows `[b, F, 1, 1]`, to `[b, d]`.
        source: where the uint8 images, or the rows, come from.
        batch_size: images per forward pass; it never changes the result beyond rounding.
        device: where to compute; None stays where the encoder's first parameter is.
        indices: int64 positions in the source; None takes all.
        cache: features on disk, which spare the encoder's work a second time; None keeps nothing.
        over_ranks: whether the ranks of a process group share the work; all of them must then make this call, with the
            same encoder and source. With a single process it changes nothing.

    Returns:
        Features on the CPU, the same on every rank.

    Raises:
        ValueError: for an empty source, an encoder that does not give one row per image, features that are not
            finite; over ranks, on every one, when they were given other sources or settings.
        RuntimeError: over ranks, when another rank could not encode its share.
    """
    parts = _parts(source, indices, batch_size)

    def encoded(mine: Sequence[Tensor]) -> dict[str, Tensor]:
        with _encoding(encoder, device, cache) as (_, encode):
            return _joined(
                {"rows": encode(batch["images"]), **{name: batch[name] for name in COLUMNS if name in batch}}
                for batch in _batches(source, mine)
            )

    if over_ranks and world_size() > 1:
        names = ("rows", *COLUMNS)
        found = computed_over_ranks(encoded, parts, names=names, device=torch.device(device or device_of(encoder)))
    else:
        found = encoded(parts)
    if not found:
        raise ValueError(f"none of the {sum(map(len, parts))} samples of {source.name!r} can be read.")
    return Features.from_rows(**found)


def _joined(batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One tensor for every column that all batches have."""
    found = list(batches)
    everywhere = [name for name in found[0] if all(name in batch for batch in found)] if found else []
    return {name: torch.cat([batch[name] for batch in found]) for name in everywhere}


def extract_views(
    encoder: nn.Module,
    source: Source,
    view_maker: ViewMaker | TableViewMaker,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    indices: Tensor | None = None,
    cache: FeatureCache | None = None,
) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p d"]]:
    """Encode two augmented views of every chosen sample, for the alignment of positive pairs.

    Args:
        encoder: as in `extract`.
        source: where the uint8 images come from.
        view_maker: the augmentation of pretraining, at epoch 0; its first two views are taken.
        batch_size: samples per forward pass.
        device: as in `extract`.
        indices: int64 positions in the source; None takes all.
        cache: as in `extract`; the views are made again and only the encoder is spared.

    Returns:
        Two float32 `[p, d]` tensors on the CPU, row i of both from one sample.

    Raises:
        ValueError: when the view maker gives fewer than two views.
    """
    first, second = [], []
    parts = _parts(source, indices, batch_size)
    with _encoding(encoder, device, cache) as (place, encode):
        for batch in _batches(source, parts):
            views = view_maker.of_batch(
                {name: value.to(place) for name, value in batch.items() if isinstance(value, Tensor)}, epoch=0
            )
            if len(views) < 2:
                raise ValueError(
                    f"alignment needs two views of a sample, the view maker gives {len(views)}; set count=2."
                )
            first.append(encode(views[0]))
            second.append(encode(views[1]))
    return torch.cat(first), torch.cat(second)


def _parts(source: Source, indices: Tensor | None, batch_size: int) -> tuple[Tensor, ...]:
    """Positions in the source, batch by batch."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    chosen = torch.arange(len(source)) if indices is None else indices
    if len(chosen) == 0:
        raise ValueError(f"there is nothing to encode: source {source.name!r} gives no sample here.")
    return chosen.split(batch_size)


def _batches(source: Source, parts: Sequence[Tensor]) -> Iterator[dict]:
    for part in parts:
        batch = source.fetch(part)
        if batch.pop("skipped", None) is None:
            yield batch
            continue
        own = batch["ids"] == source.ids[part]  # training needs full batches; here nothing stands in for a bad sample
        _log.warning("%d samples of %s cannot be read and are not measured", int((~own).sum()), source.name)
        if bool(own.any()):
            yield take_columns(batch, own.nonzero().flatten())


def _encode(encoder: nn.Module, images: Tensor) -> Tensor:
    rows = encoder(in_precision_of(encoder, images))
    if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != len(images):
        found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"an encoder must give [b, d] features for {tuple(images.shape)} images, got {found}; "
            "wrap the module with kinfolk.nn.as_encoder."
        )
    return rows.float().cpu()


def in_precision_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """Images in the precision of an encoder's first weights, which torch does not convert itself.

    Example:
        >>> in_precision_of(nn.Linear(1, 1).double(), torch.zeros(1)).dtype
        torch.float64
    """
    held = next((weight for weight in encoder.parameters() if weight.is_floating_point()), None)
    return images if held is None else images.to(held.dtype)


@contextmanager
def _encoding(
    encoder: nn.Module, device: torch.device | str | None, cache: FeatureCache | None
) -> Iterator[tuple[torch.device, Callable[[Tensor], Tensor]]]:
    """Where the frozen encoder computes, and the function from images to features, which may look on disk first."""
    with evaluating(encoder, device=device) as place, torch.no_grad():

        def encode(images: Tensor) -> Tensor:
            return _encode(encoder, unaugmented(images.to(place)))

        remembered = nullcontext(encode) if cache is None else cache.around(encode, encoder=encoder, device=place)
        with remembered as encode_or_read:
            yield place, encode_or_read
