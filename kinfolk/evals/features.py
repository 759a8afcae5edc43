"""Frozen features of one split, or two, with ids and labels: what every evaluator looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

    from kinfolk.evals.linear_probe import LinearHead, LinearProbe

COLUMNS = ("ids", "labels", "groups", "bias_labels")
"""What features carry beside their rows."""


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
