"""Classes relate to classes through a table: every pair of samples inherits its classes' weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import debugging, require_equal
from kinfolk.graphs.base import SimilarityGraph
from kinfolk.graphs.label import checked_labels, only_own_place, own_place
from kinfolk.ops import PairMask
from kinfolk.ops.masks import IdPair, Span

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from kinfolk.distributed import Ranks


class ClassGraph(SimilarityGraph):
    """An anchor of class c relates to a candidate of class c' with weight ``weights[c, c']``.

    Attraction needs class sums and the table only, O((n + m) d + C^2 d), when the mask drops at most a row's own
    place. A label of -1 relates to nothing.

    Args:
        labels: integer class per anchor [n], -1 or below C.
        weights: non-negative table [C, C].
        key_labels: class per candidate [m]; by default the anchors'.

    Example:
        >>> table = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> ClassGraph(torch.tensor([0, 1, -1]), table).to_dense()
        tensor([[1.0000, 0.5000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """

    def __init__(
        self,
        labels: Int[Tensor, " n"],
        weights: Float[Tensor, "C C"],
        *,
        key_labels: Int[Tensor, " m"] | None = None,
    ) -> None:
        if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
            raise ValueError(f"weights must be a square table [C, C], found shape {tuple(weights.shape)}.")
        if not torch.compiler.is_compiling() and (bool((weights < 0).any()) or bool(weights.isnan().any())):
            raise ValueError(
                "weights must be non-negative numbers; exponentiate similarities, or use from_similarities."
            )
        self._set(labels, weights.detach().log(), key_labels)

    @classmethod
    def from_similarities(
        cls,
        labels: Int[Tensor, " n"],
        similarities: Float[Tensor, "C C"],
        temperature: float,
        *,
        key_labels: Int[Tensor, " m"] | None = None,
    ) -> ClassGraph:
        """Make a graph whose weights are ``exp(similarities / temperature)``, safe at any temperature.

        Example:
            >>> graph = ClassGraph.from_similarities(torch.tensor([0, 1]), torch.eye(2), 0.5)
            >>> graph.row_normalised().to_dense()
            tensor([[0.8808, 0.1192],
                    [0.1192, 0.8808]], dtype=torch.float64)
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}.")
        if similarities.ndim != 2 or similarities.shape[0] != similarities.shape[1]:
            raise ValueError(f"similarities must be a square table [C, C], found shape {tuple(similarities.shape)}.")
        if not torch.compiler.is_compiling() and not bool(torch.isfinite(similarities).all()):
            raise ValueError("similarities must be finite.")
        graph = cls.__new__(cls)
        shifted = similarities.detach() - similarities.detach().amax(1, keepdim=True)
        graph._set(labels, shifted / temperature, key_labels)
        return graph

    def _set(self, labels: Tensor, log_table: Tensor, key_labels: Tensor | None) -> None:
        rows = checked_labels(labels)
        self.labels = IdPair(rows, rows if key_labels is None else checked_labels(key_labels, name="key_labels"))
        self.log_table = log_table
        classes = log_table.shape[0]
        if torch.compiler.is_compiling():  # a traced program reads no values
            return
        highest = max((int(v.max()) for v in self.labels if v.numel()), default=-1)
        if highest >= classes:
            raise ValueError(f"labels must lie below the table's {classes} classes, found {highest}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        return len(self.labels.rows), len(self.labels.columns)

    def gathered(self, ranks: Ranks) -> ClassGraph:
        """Gather the candidates' classes; the table must be the same on all ranks."""
        if not self._is_per_key(ranks):
            return self
        if debugging():
            require_equal(self.log_table, "class table")
        graph = ClassGraph.__new__(ClassGraph)
        graph.labels, graph.log_table = self.labels.gathered(ranks.gather), self.log_table
        return graph

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return f"ClassGraph of {len(self.log_table)} classes"

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of log weights, looked up by class."""
        left, right = self.labels.rows[slice(*rows), None], self.labels.columns[None, slice(*columns)]
        block = self.log_table[left.clamp(min=0), right.clamp(min=0)]
        return block.masked_fill((left == -1) | (right == -1), -torch.inf)

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Mean score under the table, from class sums; the own class loses the row itself before it is weighted."""
        if not self._class_sums_serve(mask):
            return super().pull(x, y, scale, mask)
        rows, columns = self.labels
        classes = self.log_table.shape[0]
        sums = y.new_zeros(classes + 1, y.shape[1]).index_add(0, columns.where(columns >= 0, classes), y)[:-1]
        within, between, kept = self._normalised_table(mask)
        own_class = rows.clamp(min=0)
        own_sum = sums[own_class]
        own = own_place(mask, self.labels)
        if own is not None:
            same = self.labels.equal_at(*own).to(y).unsqueeze(1)
            own_sum = own_sum.index_add(0, own[0], y[own[1]] * same, alpha=-1)
        loses = self._loses_itself(mask).long()
        mean = (between.to(y) @ sums)[loses, own_class] + within.to(y)[loses, own_class].unsqueeze(1) * own_sum
        score = scale * torch.linalg.vecdot(x, mean)
        return score.where(kept[loses, own_class] & (rows >= 0), torch.zeros_like(score))

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return the logarithm of every row's kept weights' sum."""
        if not self._class_sums_serve(mask):
            return super().log_normaliser(mask)
        table = self._log_normaliser_table()
        rows = self.labels.rows
        return table[self._loses_itself(mask).long(), rows.clamp(min=0)].masked_fill(rows < 0, -torch.inf)

    def _class_sums_serve(self, mask: PairMask | None) -> bool:
        """Whether a row loses at most one candidate, and that of its own class."""
        own = own_place(mask, self.labels)
        if own is None:
            return only_own_place(mask)
        if mask is not None and mask.self_offset == 0 and self.labels.rows is self.labels.columns:
            return True
        rows, columns = self.labels.rows[own[0]], self.labels.columns[own[1]]
        return bool(((rows == columns) | (rows == -1) | (columns == -1)).all())

    def _loses_itself(self, mask: PairMask | None) -> Tensor:
        """Whether a row's own place is dropped and had the row's class."""
        loses = torch.zeros(self.shape[0], dtype=torch.bool, device=self.labels.rows.device)
        own = own_place(mask, self.labels)
        if own is not None:
            loses[own[0]] = self.labels.equal_at(*own)
        return loses

    def _log_mass(self) -> Float[Tensor, "2 C C"]:
        """Log of weight times count, for rows that keep all candidates and for rows that lose one of their class."""
        columns = self.labels.columns
        classes = self.log_table.shape[0]
        known = (columns >= 0).to(self.log_table)
        counts = self.log_table.new_zeros(classes).index_add(0, columns.clamp(min=0), known)
        less = counts - torch.eye(classes, device=counts.device, dtype=counts.dtype)
        return self.log_table + torch.stack([counts.expand_as(less), less.clamp(min=0)]).log()

    def _log_normaliser_table(self) -> Float[Tensor, "2 C"]:
        mass = self._log_mass()
        some = (mass > -torch.inf).any(-1)
        return mass.where(some.unsqueeze(-1), torch.zeros_like(mass)).logsumexp(-1).masked_fill(~some, -torch.inf)

    def _normalised_table(self, mask: PairMask | None) -> tuple[Tensor, Tensor, Tensor]:
        """Weight per candidate of the own class [2, C], of the other classes [2, C, C], and which rows have any."""
        normaliser = self._log_normaliser_table()
        kept = normaliser > -torch.inf
        table = self.log_table - normaliser.where(kept, torch.zeros_like(normaliser)).unsqueeze(-1)
        table = table.where(self._log_mass() > -torch.inf, torch.full_like(table, -torch.inf)).exp()
        within = table.diagonal(dim1=-2, dim2=-1)
        return within, table - torch.diag_embed(within), kept

    def __repr__(self) -> str:
        classes = self.log_table.shape[0]
        return f"ClassGraph({self.shape[0]} x {self.shape[1]}: table of {classes} x {classes} class weights)"
