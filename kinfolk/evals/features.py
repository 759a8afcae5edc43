"""Frozen features: extracted once in evaluation mode and shared by every evaluator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kinfolk.data.sources.columns import take_columns
from kinfolk.data.views.table import unaugmented
from kinfolk.distributed import world_size
from kinfolk.evals.rank_share import computed_over_ranks

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.data.sources import Source
    from kinfolk.data.views import ViewMaker
    from kinfolk.data.views.table import TableViewMaker
    from kinfolk.evals.feature_cache import FeatureCache
    from kinfolk.evals.linear_probe import LinearHead, LinearProbe

_COLUMNS = ("ids", "labels", "groups", "bias_labels")  # what features carry beside their rows
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Features:
    """Feature rows of one split, in ascending order of sample id.

    The fixed order makes every seeded draw and every tie a function of the samples and not of how they were batched.
    Build it with `from_rows`, which sorts and removes duplicates.

    Args:
        rows: float32 `[n, d]`, finite, n >= 1 and d >= 1.
        ids: int64 `[n]`, strictly ascending.
        labels: int64 `[n]` with -1 for an unlabelled row, or None where nothing is known.
        groups: int64 `[n]`, what a row shows, -1 = unknown, or None; see `kinfolk.data.Source`.
        bias_labels: int64 `[n]`, a nuisance factor such as the hand, -1 = unknown, or None.

    Raises:
        ValueError: for other shapes, ids out of order, rows that are not finite, labels below -1.
        TypeError: for other dtypes.
    """

    rows: Float[Tensor, "n d"]
    ids: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"] | None = None
    groups: Int64[Tensor, " n"] | None = None
    bias_labels: Int64[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        _check_shapes(self.rows, self.ids, self._columns())
        for name, held in {"rows": self.rows, "ids": self.ids, **self._columns()}.items():
            if held is not None:  # a search in a strided tensor warns
                object.__setattr__(self, name, held.contiguous())
        if bool((self.ids.diff() <= 0).any()):
            raise ValueError("ids must be strictly ascending; build the features with Features.from_rows, which sorts.")
        finite = self.rows.isfinite().all(dim=1)
        if not bool(finite.all()):
            bad = self.ids[~finite]
            raise ValueError(
                f"features must be finite, but {len(bad)} of {len(finite)} rows are not, first ids {bad[:5].tolist()}; "
                "look at the encoder's weights and at these samples."
            )
        if self.labels is not None and bool((self.labels < -1).any()):
            raise ValueError(
                f"labels must be class indices from 0, or -1 for unlabelled, got {int(self.labels.min())}; "
                "write -1 for every unlabelled row."
            )

    @classmethod
    def from_rows(
        cls,
        rows: Float[Tensor, "n d"],
        ids: Int64[Tensor, " n"],
        labels: Tensor | None = None,
        *,
        groups: Tensor | None = None,
        bias_labels: Tensor | None = None,
    ) -> Features:
        """Sort rows by id and keep the first row of every id.

        Args:
            rows: floating `[n, d]`, cast to float32.
            ids: int64 `[n]`; equal ids name the same sample, as when a last batch was padded.
            labels: integers `[n]` with -1 for an unlabelled row, or None.
            groups: likewise, what a row shows.
            bias_labels: likewise, a nuisance factor.

        Returns:
            The features, detached and contiguous.

        Example:
            >>> features = Features.from_rows(torch.eye(3), torch.tensor([7, 4, 7]))
            >>> features.ids.tolist(), features.rows.argmax(1).tolist()
            ([4, 7], [1, 0])
        """
        columns = {"labels": labels, "groups": groups, "bias_labels": bias_labels}
        _check_shapes(rows, ids, columns, dtypes=False)
        order = torch.argsort(ids, stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = ids[order].diff() != 0
        order = order[first]
        return cls(
            rows.detach()[order].float(),
            ids[order].long(),
            **{name: None if c is None else c[order.to(c.device)].long() for name, c in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        known = 0 if self.labels is None else int((self.labels >= 0).sum())
        return f"Features({len(self)} rows, {self.dim} features, {known} labelled)"

    @property
    def dim(self) -> int:
        """Number of features per row."""
        return self.rows.shape[1]

    @property
    def has_labels(self) -> bool:
        """Whether at least one row is labelled."""
        return self.labels is not None and bool((self.labels >= 0).any())

    def positions(self, ids: Int64[Tensor, " q"]) -> Int64[Tensor, " q"]:
        """Row of each id, -1 for an id that is not here."""
        place = torch.searchsorted(self.ids, ids).clamp(max=len(self) - 1)
        return torch.where(self.ids[place] == ids, place, -1)

    def labelled(self) -> Features:
        """Only the rows with a label.

        Raises:
            ValueError: when there is none.
        """
        if self.labels is None or not self.has_labels:
            raise ValueError(
                f"this protocol needs labels, and none of the {len(self)} rows has one; "
                "give the source labels, or leave the protocol out."
            )
        keep = self.labels >= 0
        if bool(keep.all()):
            return self
        kept = {name: None if column is None else column[keep] for name, column in self._columns().items()}
        return Features(self.rows[keep], self.ids[keep], **kept)

    def _columns(self) -> dict[str, Tensor | None]:
        return {"labels": self.labels, "groups": self.groups, "bias_labels": self.bias_labels}


@dataclass(frozen=True, eq=False)
class FeatureSplits:
    """What an evaluator reads: features of the training and the test split, and of two views of some test samples.

    Args:
        train: rows a probe may be fitted on; an id that stands in both splits names the same sample.
        test: rows that are scored.
        view_pair: two float `[p, d]` tensors, row i of both an augmented view of one test sample; None leaves
            alignment out.

    Raises:
        ValueError: when the feature dimensions or the shapes of the two views differ, or one id has two labels.
    """

    train: Features
    test: Features
    view_pair: tuple[Tensor, Tensor] | None = None
    _heads: dict[LinearProbe, LinearHead] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.train.dim != self.test.dim:
            raise ValueError(
                f"both splits need features of one encoder: train has {self.train.dim} features, test {self.test.dim}; "
                "extract both with the same module and image size."
            )
        if self.view_pair is not None and self.view_pair[0].shape != self.view_pair[1].shape:
            first, second = (tuple(view.shape) for view in self.view_pair)
            raise ValueError(f"both views of the pair must have one shape: got {first} and {second}.")
        self._check_shared_ids()

    @property
    def has_labels(self) -> bool:
        """Whether both splits hold at least one labelled row."""
        return self.train.has_labels and self.test.has_labels

    def labelled(self) -> FeatureSplits:
        """Both splits without their unlabelled rows.

        Raises:
            ValueError: when a split has no labelled row.
        """
        found = replace(self, train=self.train.labelled(), test=self.test.labelled())
        object.__setattr__(found, "_heads", self._heads)  # shared: a head knows labelled rows only
        return found

    def head(self, probe: LinearProbe) -> LinearHead:
        """The linear classifier on the training rows, fitted once for all that ask with these settings.

        Raises:
            ValueError: when no training row is labelled.
        """
        if probe not in self._heads:
            self._heads[probe] = probe.fit(self.train)
        return self._heads[probe]

    def _check_shared_ids(self) -> None:
        """Two splits that both count from 0 would have every test row's namesake taken for the row itself."""
        if self.train.labels is None or self.test.labels is None:
            return
        place = self.train.positions(self.test.ids)
        there = self.train.labels[place]
        differ = (place >= 0) & (there >= 0) & (self.test.labels >= 0) & (there != self.test.labels)
        if bool(differ.any()):
            raise ValueError(
                f"an id in both splits must name one sample, but {int(differ.sum())} ids have two labels, first "
                f"{self.test.ids[differ][:5].tolist()}; give the test source ids of its own."
            )


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
                {"rows": encode(batch["images"]), **{name: batch[name] for name in _COLUMNS if name in batch}}
                for batch in _batches(source, mine)
            )

    if over_ranks and world_size() > 1:
        names = ("rows", *_COLUMNS)
        found = computed_over_ranks(encoded, parts, names=names, device=_home(encoder, device))
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


def _check_shapes(rows: Tensor, ids: Tensor, columns: Mapping[str, Tensor | None], *, dtypes: bool = True) -> None:
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"features must be [n, d] with at least one row and one column, got {tuple(rows.shape)}.")
    for name, column in {"ids": ids, **columns}.items():
        if column is None:
            continue
        if column.shape != rows.shape[:1]:
            raise ValueError(
                f"{name} must have one entry per row: features {tuple(rows.shape)}, {name} {tuple(column.shape)}."
            )
        if column.is_floating_point() or column.dtype == torch.bool or (dtypes and column.dtype != torch.int64):
            raise TypeError(f"{name} must be int64, got {column.dtype}.")
    if dtypes and rows.dtype != torch.float32:
        raise TypeError(f"features must be float32, got {rows.dtype}; Features.from_rows casts.")


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


def _home(encoder: nn.Module, device: torch.device | str | None) -> torch.device:
    """Where an encoder computes: the given device, or where it lies."""
    if device is not None:
        return torch.device(device)
    held = next(chain(encoder.parameters(), encoder.buffers()), None)
    return torch.device("cpu") if held is None else held.device


@contextmanager
def _frozen(encoder: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Evaluation mode, no gradient, on the device; everything is put back afterwards."""
    modes = {module: module.training for module in encoder.modules()}
    home, place = _home(encoder, None), _home(encoder, device)
    encoder.eval().to(place)
    try:
        with torch.no_grad():
            yield place
    finally:
        encoder.to(home)
        for module, training in modes.items():
            module.training = training


@contextmanager
def _encoding(
    encoder: nn.Module, device: torch.device | str | None, cache: FeatureCache | None
) -> Iterator[tuple[torch.device, Callable[[Tensor], Tensor]]]:
    """Where the frozen encoder computes, and the function from images to features, which may look on disk first."""
    with _frozen(encoder, device) as place:

        def encode(images: Tensor) -> Tensor:
            return _encode(encoder, unaugmented(images.to(place)))

        remembered = nullcontext(encode) if cache is None else cache.around(encode, encoder=encoder, device=place)
        with remembered as encode_or_read:
            yield place, encode_or_read
