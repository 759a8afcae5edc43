"""Pairs of a spiked model: two noisy linear pictures of one hidden code, some of them wrongly paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True)
class SpikedPairs:
    """Pairs drawn from a `SpikedModel`, and what generated them.

    Attributes:
        x: one modality [n, d1], float64.
        y: the other [n, d2]; row i is paired with row i of x, rightly or not.
        clean: whether a pair shares its code [n].
        left: orthonormal basis [d1, r] of what the code looks like in x.
        right: the same in y [d2, r].

    Example:
        >>> SpikedModel(dims=(6, 5), rank=2).draw(3).left.shape
        torch.Size([6, 2])
    """

    x: Float[Tensor, "n a"]
    y: Float[Tensor, "n b"]
    clean: Bool[Tensor, " n"]
    left: Float[Tensor, "a r"]
    right: Float[Tensor, "b r"]


@dataclass(frozen=True)
class SpikedModel:
    """``x = U1 z + V1 w + e`` and ``y = U2 z' + V2 w' + e'``: a shared code, private ones, and noise.

    z is standard normal of `rank` dimensions; z' is z in a pair that is clean and an independent draw in one that is
    not. w and w' are `private` codes that the other modality knows nothing of, `private_strength` times as large. The
    bases are orthonormal, and U and V of one modality orthogonal to each other. Noise is normal and independent.

    Args:
        dims: widths d1 and d2 of the modalities.
        rank: dimensions r of what they share.
        noise: standard deviation of the noise, in every coordinate.
        private: dimensions of what each modality has for itself.
        private_strength: standard deviation of the private codes.

    Raises:
        ValueError: for widths that do not hold the codes, or negative sizes.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data (dims, rank and noise are theirs).

    Example:
        >>> pairs = SpikedModel(dims=(6, 5), rank=2).draw(100, eta=0.5, seed=0)
        >>> pairs.x.shape, pairs.y.shape, 30 < int(pairs.clean.sum()) < 70
        (torch.Size([100, 6]), torch.Size([100, 5]), True)
    """

    dims: tuple[int, int] = (40, 39)
    rank: int = 10
    noise: float = 0.3
    private: int = 0
    private_strength: float = 2.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.private < 0:
            raise ValueError(f"rank must be at least 1 and private at least 0, found {self.rank} and {self.private}.")
        if min(self.dims) < self.rank + self.private:
            raise ValueError(
                f"dims must hold rank + private = {self.rank + self.private} directions, found {tuple(self.dims)}."
            )
        for name in ("noise", "private_strength"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, found {getattr(self, name)}.")

    def draw(self, n: int, *, eta: float = 1.0, seed: int | Sequence[int] = 0) -> SpikedPairs:
        """Draw a model's bases and n pairs of it.

        Args:
            n: how many pairs.
            eta: the chance of a pair to be clean.
            seed: of bases and pairs; two numbers are one seed for the bases and one for the pairs, so that more pairs
                of the same model can be drawn.

        Raises:
            ValueError: for an eta outside [0, 1] or fewer than one pair.

        Example:
            >>> model = SpikedModel(dims=(6, 5), rank=2)
            >>> train, test = (model.draw(10, seed=(0, part)) for part in (0, 1))
            >>> torch.equal(train.left, test.left), torch.equal(train.x, test.x)
            (True, False)
        """
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is the share of clean pairs, between 0 and 1; found {eta}.")
        if n < 1:
            raise ValueError(f"expected at least one pair, found n = {n}.")
        of_bases, of_pairs = (seed, seed + 1_000_003) if isinstance(seed, int) else seed
        chance = torch.Generator().manual_seed(of_bases)
        bases = [torch.linalg.qr(_normal(d, self.rank + self.private, chance)).Q for d in self.dims]
        chance.manual_seed(of_pairs)
        code, other = _normal(n, self.rank, chance), _normal(n, self.rank, chance)
        clean = torch.rand(n, generator=chance, dtype=torch.float64) < eta
        x, y = (
            torch.cat([shown, self.private_strength * _normal(n, self.private, chance)], 1) @ basis.T
            + self.noise * _normal(n, len(basis), chance)
            for shown, basis in zip((code, torch.where(clean[:, None], code, other)), bases, strict=True)
        )
        left, right = (basis[:, : self.rank] for basis in bases)
        return SpikedPairs(x, y, clean, left, right)


def _normal(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    return torch.randn(n, d, generator=generator, dtype=torch.float64)
