"""Several relations at once: a convex sum of graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.graphs.base import LogBlocks, SimilarityGraph, as_graph
from kinfolk.ops import PairMask
from kinfolk.ops.masks import Span

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from kinfolk.distributed import Ranks


class MixtureGraph(SimilarityGraph):
    """A convex sum of graphs, each row-normalised over the kept candidates first.

    A part that has nothing to say about a row gives its share of that row to the others.

    Args:
        parts: graphs (or explicit weights) of one shape.
        weights: share of every part, non-negative, not all 0; normalised to sum to 1.

    Example:
        >>> from kinfolk.graphs import LabelGraph, PairGraph
        >>> mixture = MixtureGraph([PairGraph(2), LabelGraph(torch.tensor([0, 0]))], [0.5, 0.5])
        >>> mixture.row_normalised().to_dense()
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]], dtype=torch.float64)
    """

    def __init__(self, parts: Sequence[SimilarityGraph | Tensor], weights: Sequence[float]) -> None:
        self.parts = tuple(as_graph(part) for part in parts)
        self.weights = tuple(float(w) for w in weights)
        if not self.parts or len(self.parts) != len(self.weights):
            raise ValueError(f"expected one weight per part, found {len(self.parts)} parts and {len(weights)} weights.")
        if min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf"):
            raise ValueError(f"weights must be non-negative and not all 0, found {list(self.weights)}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of anchors and of candidates."""
        shapes = {part.shape for part in self.parts}
        if len(shapes) > 1:
            raise ValueError(f"the parts of a mixture must have one shape, found {sorted(shapes)}.")
        return shapes.pop()

    def resolve(self, key_ids: Int[Tensor, " m"] | None) -> MixtureGraph:
        """Resolve every part."""
        return MixtureGraph([part.resolve(key_ids) for part in self.parts], self.weights)

    def gathered(self, ranks: Ranks) -> MixtureGraph:
        """Gather every part."""
        return self if ranks.world == 1 else MixtureGraph([part.gathered(ranks) for part in self.parts], self.weights)

    @property
    def form(self) -> str:
        """What ranks that join must agree on."""
        return (
            f"MixtureGraph({', '.join(f'{w:g} {part.form}' for w, part in zip(self.weights, self.parts, strict=True))})"
        )

    def detached(self) -> MixtureGraph:
        """Return the same mixture as a constant."""
        return MixtureGraph([part.detached() for part in self.parts], self.weights)

    def log_weights(self, rows: Span, columns: Span) -> Float[Tensor, "a b"]:
        """Return a block of log weights of the unmasked mixture."""
        return self.log_target_blocks(None)(rows, columns)

    def log_target_blocks(self, mask: PairMask | None) -> LogBlocks:
        """Return blocks of log T: the shares' sum of the parts' targets."""
        shares, parts = self._shares(mask), [part.log_target_blocks(mask) for part in self.parts]

        def block(rows: Span, columns: Span) -> Tensor:
            weighted = [
                s[slice(*rows), None] * part(rows, columns).exp() for s, part in zip(shares, parts, strict=True)
            ]
            return torch.stack(weighted).sum(0).log()

        return block

    def dense_target(self, mask: PairMask | None) -> Float[Tensor, "n m"]:
        """Return T as an explicit matrix."""
        targets = [part.dense_target(mask) for part in self.parts]
        shares = self._shares(mask)
        return sum((s[:, None].to(t) * t for s, t in zip(shares, targets, strict=True)), torch.zeros(()))

    def pull(self, x: Tensor, y: Tensor, scale: Tensor, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return the shares' sum of the parts' attractions."""
        shares = self._shares(mask).to(x)
        pulls = [part.pull(x, y, scale, mask) for part in self.parts]
        return sum((s * p for s, p in zip(shares, pulls, strict=True)), torch.zeros_like(x[:, 0]))

    def log_normaliser(self, mask: PairMask | None) -> Float[Tensor, " n"]:
        """Return 0 where any part has a target, -inf elsewhere."""
        some = self._shares(mask).sum(0) > 0
        return torch.zeros_like(some, dtype=torch.float32).masked_fill(~some, -torch.inf)

    def _shares(self, mask: PairMask | None) -> Float[Tensor, "p n"]:
        """Every part's share of every row, after empty parts gave theirs away."""
        some = torch.stack([part.log_normaliser(mask) != -torch.inf for part in self.parts]).double()
        shares = torch.tensor(self.weights, dtype=torch.float64, device=some.device)[:, None] * some
        total = shares.sum(0)
        return shares / total.where(total > 0, torch.ones_like(total))

    def __repr__(self) -> str:
        parts = ", ".join(f"{w:g} {part!r}" for w, part in zip(self.weights, self.parts, strict=True))
        return f"MixtureGraph({parts})"
