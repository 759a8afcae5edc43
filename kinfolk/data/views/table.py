"""Views of a table's rows: features replaced by other rows' values, masked, or with noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kinfolk.data.counter import counter_generator, counter_uniform
from kinfolk.data.sources.table import TableSource, is_table
from kinfolk.data.views.maker import ViewMaker, to_float

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num

    from kinfolk.data.sources.base import Source
    from kinfolk.data.views.groups import AnyViewsConfig

# Streams of random numbers; a number keeps its place for ever, or views of past runs change.
_CORRUPTED, _DONOR, _MASKED, _RADIUS, _ANGLE = range(5)
_MOST_ROWS = 65_536


@dataclass(frozen=True)
class TableViewsConfig:
    """The number of views of a row and the strength of what changes it, in this order.

    Args:
        count: number of views of every row, at least 1.
        corruption: share of the columns, rounded, that take the value of another training row, each column that of a
            row of its own, so that every value is a real one of its column (SCARF). The features that stand for one
            column of texts are taken together.
        keep_first: whether the first view is left uncorrupted, as in SCARF; masking and noise apply to it all the same.
        masking: probability that a column is set to its training mean, 0.
        noise: standard deviation of Gaussian noise, in standard deviations of the training rows.

    Raises:
        ValueError: for a value outside its range; the message names it.

    Reference: Bahri, Jiang, Tay, Metzler (2022), SCARF: Self-Supervised Contrastive Learning using Random Feature
        Corruption.

    Example:
        >>> TableViewsConfig(corruption=0.3).count
        2
    """

    kind: ClassVar[str] = "table-views"
    count: int = 2
    corruption: float = 0.6
    keep_first: bool = True
    masking: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 view; found {self.count}")
        for name in ("corruption", "masking"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0 to 1; found {getattr(self, name)}")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be at least 0; found {self.noise}")


class TableViewMaker:
    """Make the views of a batch of rows.

    A view is a function of (seed, epoch, id, view number) and of the table alone: it does not depend on the batch, the
    place in it, the worker or the rank.

    Args:
        config: number of views and strengths.
        seed: of the run.
        table: float32 ``[N, F]``, the training rows whose values a corruption takes.
        columns: int64 ``[F]``, ascending from 0: which features belong to one column; by default each is one.

    Raises:
        ValueError: for a table that is not ``[N, F]`` or is empty, or columns that are not one per feature.

    Example:
        >>> maker = TableViewMaker(TableViewsConfig(), seed=0, table=torch.rand(9, 3))
        >>> views = maker(torch.rand(4, 3, 1, 1), torch.arange(4), epoch=0)
        >>> len(views), views[1].shape
        (2, torch.Size([4, 3, 1, 1]))
    """

    def __init__(
        self,
        config: TableViewsConfig,
        *,
        seed: int,
        table: Float[Tensor, "n f"],
        columns: Int[Tensor, " f"] | None = None,
    ) -> None:
        if table.ndim != 2 or 0 in table.shape:
            raise ValueError(f"table must be [N, F] with at least one row and feature; found {tuple(table.shape)}")
        self.config, self.seed, self.table = config, seed, table
        self.columns = torch.arange(table.shape[1]) if columns is None else columns
        if self.columns.shape != table.shape[1:]:
            raise ValueError(
                f"columns must have one entry per feature: {table.shape[1]} features, {tuple(self.columns.shape)}"
            )

    def __call__(
        self, images: Float[Tensor, "b f 1 1"], ids: Int[Tensor, " b"], *, epoch: int
    ) -> list[Float[Tensor, "b f 1 1"]]:
        """Return `count` views, each float32.

        Args:
            images: rows as a table's source gives them.
            ids: the samples' ids.
            epoch: from 0; another epoch gives other views.

        Raises:
            TypeError: for bytes: those are images.
            ValueError: for another shape, or ids that are not one per row.
        """
        if not images.is_floating_point():
            raise TypeError(f"rows of a table are floating-point; found {images.dtype}. Images take ViewsConfig.")
        if images.shape[1:] != (self.table.shape[1], 1, 1):
            raise ValueError(f"rows must be [b, {self.table.shape[1]}, 1, 1]; found {tuple(images.shape)}")
        if ids.shape != images.shape[:1]:
            raise ValueError(f"ids must have one entry per row: rows {tuple(images.shape)}, ids {tuple(ids.shape)}")
        if self.table.device != images.device:
            self.table, self.columns = self.table.to(images.device), self.columns.to(images.device)
        rows, ids = images.flatten(1), ids.to(images.device)
        return [self._view(rows, ids, (self.seed, epoch, view))[:, :, None, None] for view in range(self.config.count)]

    def of_batch(self, batch: Mapping[str, Any], *, epoch: int) -> list[Float[Tensor, "b f 1 1"]]:
        """Return the views of a batch as a source gave it."""
        return self(batch["images"], batch["ids"], epoch=epoch)

    def _view(self, rows: Tensor, ids: Tensor, key: tuple[int, int, int]) -> Tensor:
        config, count = self.config, int(self.columns[-1]) + 1
        view = rows.clone()
        if not (config.keep_first and key[2] == 0):
            chosen = counter_uniform((*key, _CORRUPTED), ids, count=count).argsort(dim=1).argsort(dim=1)
            chosen = (chosen < round(config.corruption * count))[:, self.columns]
            donors = (counter_uniform((*key, _DONOR), ids, count=count) * len(self.table)).to(torch.int64)
            view = torch.where(chosen, self.table.gather(0, donors[:, self.columns]), view)
        if config.masking > 0:
            masked = counter_uniform((*key, _MASKED), ids, count=count) < config.masking
            view = view.masked_fill(masked[:, self.columns], 0.0)
        return view + config.noise * _normal(key, ids, view.shape[1]) if config.noise > 0 else view


def make_views(config: AnyViewsConfig | TableViewsConfig, source: Source, *, seed: int) -> ViewMaker | TableViewMaker:
    """Make the view maker of a config for a training source: of images, or of a table's rows.

    Args:
        config: number of views and strengths.
        source: the training part; a corruption takes a table's values from (at most 65,536 of) its rows.
        seed: of the run.

    Raises:
        TypeError: for image views of a table, or the reverse.

    Example:
        >>> from kinfolk.data.sources.table import Feature
        >>> table = TableSource(torch.rand(5, 1), features=[Feature("weight", "weight", 0.0, 1.0)])
        >>> make_views(TableViewsConfig(count=3), table, seed=0).config.count
        3
    """
    if is_table(source) != isinstance(config, TableViewsConfig):
        needed = "a table takes TableViewsConfig" if is_table(source) else "images take ViewsConfig"
        raise TypeError(f"{needed}, and the views of {source.name} are a {type(config).__name__}")
    if not isinstance(config, TableViewsConfig):
        return ViewMaker(config, seed=seed)
    rows = torch.randperm(len(source), generator=counter_generator(seed))[:_MOST_ROWS]
    return TableViewMaker(config, seed=seed, table=source.read(rows).flatten(1), columns=_columns(source))


def unaugmented(images: Num[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return the view that evaluation uses: bytes become float32 in [0, 1], rows of a table stay as they are.

    Example:
        >>> unaugmented(torch.full((1, 2, 1, 1), -3.5)).flatten().tolist()
        [-3.5, -3.5]
    """
    return images if images.is_floating_point() else to_float(images)


def _columns(source: Source) -> Tensor | None:
    """Number the columns that features were made of; a wrapper's table is that of what it wraps."""
    whole = source
    while not isinstance(whole, TableSource) and hasattr(whole, "source"):
        whole = whole.source
    if not isinstance(whole, TableSource) or whole.channels != source.channels:
        return None
    numbers = {name: i for i, name in enumerate(dict.fromkeys(feature.column for feature in whole.features))}
    return torch.tensor([numbers[feature.column] for feature in whole.features])


def _normal(key: tuple[int, int, int], ids: Tensor, count: int) -> Tensor:
    """Draw standard normal numbers, by Box and Muller's transform of two uniform ones."""
    radius = (-2 * (1 - counter_uniform((*key, _RADIUS), ids, count=count)).log()).sqrt()
    return radius * (2 * math.pi * counter_uniform((*key, _ANGLE), ids, count=count)).cos()
