"""Equal labels, or equal ids, relate: class sums instead of edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs.base import SimilarityGraph
from kinfolk.ops import PairMask, integer_ids
from kinfolk.ops.groups import group_sums
from kinfolk.ops.masks import IdPair, Span

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.distributed import Ranks


class LabelGraph(SimilarityGraph):
    """An anchor relates equally to all candidates of its label, and to those with its id.

    Attraction is computed from sums over labels and ids, O((n + m) d), when the mask drops at most a row's own place;
    any other mask walks over blocks. A label or id of -1 equals nothing.

    Args:
        labels: integer label per anchor [n].
        ids: integer sample id per anchor [n]; None = every row is its own sample and relates by label only.
        key_labels: label per candidate [m]; by default the anchors' (candidates are the anchors).
        key_ids: id per candidate [m].

    Raises:
        TypeError: for float or bool labels.
        ValueError: for labels below -1, or ids on one side only.

    Example:
        >>> LabelGraph(torch.tensor([0, 0, -1]), ids=torch.tensor([7, 8, 7])).to_dense()
        tensor([[1., 1., 1.],
                [1., 1., 0.],
                [1., 0., 1.]])
    """

    def __init__(
        self,
        labels: Int[Tensor, " n"],
        ids: Int[Tensor, " n"] | None = None,
        *,
        key_labels: Int[Tensor, " m"] | None = None,
        key_ids: Int[Tensor, " m"] | None = None,
    ) -> None:
        rows = checked_labels(labels)
        self.labels = IdPair(rows, rows if key_labels is None else checked_labels(key_labels, name="key_labels"))
        self.ids = _id_pair(ids, key_ids, own_keys=key_labels is None)
        if self.ids is not None and [len(v) for v in self.ids] != [len(v) for v in self.labels]:
            raise ValueError(
                f"ids must have one entry per label: labels {[len(v) for v in self.labels]}, "
                f"ids {[len(v) for v in self.ids]} (anchors, candidates)."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return len(self.labels.rows), len(self.labels.columns)

    def gathered(self, ranks: Ranks) -> LabelGraph:
        """Gather the candidates' labels and ids."""
        if not self._is_per_key(ranks):
            return self
        graph = LabelGraph.__new__(LabelGraph)
        graph.labels = self.labels.gathered(ranks.gather)
        graph.ids = None if self.ids is None else self.ids.gathered(ranks.gather)
        return graph

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return "LabelGraph" if self.ids is None else "LabelGraph with ids"

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return 0 where pairs relate, -inf elsewhere."""
        related = self.labels.equal(rows, columns)
        if self.ids is not None:
            related |= self.ids.equal(rows, columns)
        return torch.zeros(related.shape, device=related.device).masked_fill_(~related, -torch.inf)

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Mean score of the related candidates, from sums per label and per id."""
        if not only_own_place(mask):
            return super().pull(x, y, scale, mask)
        total = torch.zeros_like(x)
        for pair, sign in self._parts():
            total = total + sign * group_sums(pair, y)
        count = self._counts()
        own = own_place(mask, self.labels)
        if own is not None:
            anchors, candidates = own
            related = self._related(anchors, candidates).to(y)
            first, place = own_start(mask)  # slices, since the backward pass of an index is slow
            itself = y[place : place + len(anchors)] * related.unsqueeze(1)
            total = total - torch.nn.functional.pad(itself, (0, 0, first, len(x) - first - len(anchors)))
            count = count.index_add(0, anchors, related.to(count), alpha=-1)
        score = scale * torch.linalg.vecdot(x, total) / count.clamp(min=1).to(x)
        return score.where(count > 0, torch.zeros_like(score))

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return the logarithm of every row's number of related kept candidates."""
        if not only_own_place(mask):
            return super().log_normaliser(mask)
        count = self._counts()
        own = own_place(mask, self.labels)
        if own is not None:
            count = count.index_add(0, own[0], self._related(*own).to(count), alpha=-1)
        return count.log()

    def _parts(self) -> list[tuple[IdPair, int]]:
        """Groups whose signed sum counts every related candidate once: same label, same id, less both."""
        if self.ids is None:
            return [(self.labels, 1)]
        return [(self.labels, 1), (self.ids, 1), (_joint(self.labels, self.ids), -1)]

    def _counts(self) -> Float[Tensor, " n"]:
        ones = torch.ones(self.shape[1], 1, dtype=torch.float64, device=self.labels.rows.device)
        count = sum(sign * group_sums(pair, ones) for pair, sign in self._parts())
        assert isinstance(count, Tensor)
        return count[:, 0]

    def _related(self, anchors: Tensor, candidates: Tensor) -> Bool[Tensor, " e"]:
        related = self.labels.equal_at(anchors, candidates)
        return related if self.ids is None else related | self.ids.equal_at(anchors, candidates)

    def __repr__(self) -> str:
        classes = len(torch.unique(self.labels.rows[self.labels.rows != -1]))
        by = "equal labels" if self.ids is None else "equal labels or equal ids"
        unlabelled = int((self.labels.rows == -1).sum())
        return f"LabelGraph({self.shape[0]} x {self.shape[1]}: {by}, {classes} classes, {unlabelled} unlabelled)"


def checked_labels(labels: Int[Tensor, " n"], *, name: str = "labels") -> Int[Tensor, " n"]:
    """Check labels: integers, -1 (unlabelled) or a class.

    Example:
        >>> checked_labels(torch.tensor([0, -1]))
        tensor([ 0, -1])
    """
    labels = integer_ids(labels, name)
    if not torch.compiler.is_compiling() and labels.numel() and int(labels.min()) < -1:
        raise ValueError(f"{name} must be -1 (unlabelled) or a class >= 0, found {int(labels.min())}.")
    return labels


def only_own_place(mask: PairMask | None) -> bool:
    """Whether a mask drops at most every row's own place."""
    return mask is None or mask.self_offset is not None or not mask.drops_pairs


def own_place(mask: PairMask | None, labels: IdPair) -> tuple[Int[Tensor, " e"], Int[Tensor, " e"]] | None:
    """Return the rows that lose their own place, and that place."""
    if mask is None or mask.self_offset is None:
        return None
    rows, columns = labels
    first, place = own_start(mask)
    count = max(min(len(rows) - first, len(columns) - place), 0)
    anchors = torch.arange(first, first + count, device=rows.device)
    return anchors, anchors + (place - first)


def own_start(mask: PairMask | None) -> tuple[int, int]:
    """Return the first row whose own place is among the candidates, and that place."""
    assert mask is not None
    assert mask.self_offset is not None
    return max(0, -mask.self_offset), max(0, mask.self_offset)


def _joint(a: IdPair, b: IdPair) -> IdPair:
    """Ids that are equal where both are; -1 where either is."""
    n = len(a.rows)
    flat_a, flat_b = torch.cat(a), torch.cat(b)
    unique, first = torch.unique(flat_a, return_inverse=True)
    second = torch.unique(flat_b, return_inverse=True)[1]
    joint = first + len(unique) * second
    joint = joint.masked_fill((flat_a == -1) | (flat_b == -1), -1)
    return IdPair(joint[:n], joint[n:])


def _id_pair(ids: Tensor | None, key_ids: Tensor | None, *, own_keys: bool) -> IdPair | None:
    if ids is None and key_ids is None:
        return None
    if ids is None or (key_ids is None and not own_keys):
        raise ValueError("ids of the anchors and key_ids of the candidates go together; give both or neither.")
    rows = integer_ids(ids)
    return IdPair(rows, rows if key_ids is None else integer_ids(key_ids, "key_ids"))
