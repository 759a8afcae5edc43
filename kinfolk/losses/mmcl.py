"""The general multimodal contrastive family (MMCL): CLIP, its decoupled form and the linear loss in one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import (
    Loss,
    Reduction,
    checked_ids,
    inverse,
    occurs_more_than,
    other_samples,
    own_scores,
    positive,
    same_shape,
)
from kinfolk.losses.over_ranks import two_way_over_ranks
from kinfolk.ops import prepare, ready
from kinfolk.ops.groups import group_sums
from kinfolk.ops.masks import IdPair
from kinfolk.theory import Phi, Psi, checked_form

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.ops import Impl


def mmcl(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    *,
    phi: Phi = "log",
    psi: Psi = "exp",
    epsilon: float = 1.0,
    temperature: float | Tensor = 1.0,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = False,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Mean of the two directions' penalties on scores above the own pair's.

    With ``s_ij = <x_i, y_j>``, ``A_i = epsilon psi(0) + sum_{j != i} psi(s_ij - s_ii)`` and ``B_i`` likewise of
    ``s_ji``: ``loss_i = (phi(A_i) + phi(B_i)) / 2``. Equal ids at other positions leave both sums.

    Returns:
        Values [n] and which of them count: all, except rows without any negative where phi is the logarithm and
        epsilon 0.

    Example:
        >>> values, valid = mmcl(torch.eye(2), torch.eye(2))
        >>> values
        tensor([0.3133, 0.3133])
    """
    checked_form(phi, psi, epsilon)
    same_shape(x=x, y=y)
    scale, ids = inverse(temperature), checked_ids(ids, x)
    form = f"{phi} {psi} {epsilon:g}"
    ranks, (x, y) = Ranks.of([x, y], gather=gather, what=f"MMCLLoss: {form}{', ids' * (ids is not None)}")
    if ranks.total == 1 and phi == "log" and epsilon == 0:
        raise ValueError('MMCLLoss with phi="log" and epsilon=0 needs at least 2 samples, found n = 1.')
    with torch.autocast(x.device.type, enabled=False):
        if psi == "identity":
            values = _linear(*prepare(x, y, normalize=normalize), ranks, ids)
            return values, torch.ones_like(values, dtype=torch.bool)
        (x, normalize), (y, _) = ready(x, normalize=normalize, impl=impl), ready(y, normalize=normalize, impl=impl)
        own = scale * own_scores(x, y, normalize=normalize)
        others, _ = other_samples(ids, ranks)
        rows, columns = two_way_over_ranks(x, y, ranks, scale=scale, mask=others, normalize=normalize, impl=impl)
        if phi == "identity":
            return epsilon + (torch.exp(rows - own) + torch.exp(columns - own)) / 2, torch.ones_like(own).bool()
        valid = (rows.detach() != -torch.inf) | (epsilon > 0)
        above = _joined(rows - own, epsilon) + _joined(columns - own, epsilon)
        return above.where(valid, torch.zeros_like(above)) / (2 * scale), valid


def _joined(above: Float[Tensor, " n"], epsilon: float) -> Float[Tensor, " n"]:
    """``log(epsilon + e^above)``."""
    return torch.logaddexp(above, torch.full_like(above, math.log(epsilon))) if epsilon else above


def _linear(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], ranks: Ranks, ids: Int[Tensor, " n"] | None
) -> Float[Tensor, " n"]:
    """``sum_{j kept} ((s_ij + s_ji) / 2 - s_ii)`` from sums over the batch: O(n d), no pair is looked at."""
    over_y, over_x = ranks.sum(y.sum(0)) - y, ranks.sum(x.sum(0)) - x
    count = torch.full_like(x[:, 0], ranks.total - 1)
    every = None if ids is None else ranks.gather(ids)
    if ids is not None and every is not None and occurs_more_than(every, 1):
        pair, known = IdPair(ids, every), (ids != -1).unsqueeze(1)

        def twins(rows: Tensor) -> Tensor:
            """Sums over the same samples at other places."""
            return group_sums(pair, ranks.gather(rows)) - rows * known

        over_y, over_x, count = over_y - twins(y), over_x - twins(x), count - twins(torch.ones_like(x[:, :1]))[:, 0]
    across = (torch.linalg.vecdot(x, over_y) + torch.linalg.vecdot(y, over_x)) / 2
    return across - count * torch.linalg.vecdot(x, y)


class MMCLLoss(Loss):
    """The general multimodal contrastive loss, ``loss(x, y)``.

    ``L = 1/2n sum_i phi(epsilon psi(0) + sum_{j != i} psi(s_ij - s_ii)) + 1/2n sum_i phi(epsilon psi(0) + sum_{j != i}
    psi(s_ji - s_ii))`` with ``s_ij = <x_i, y_j>``, ``phi(u) = tau log u`` or u, ``psi(u) = e^(u / tau)`` or u. The
    default is ``tau`` times CLIP's loss at ``logit_scale = 1 / tau``; ``epsilon=0`` is its decoupled form; the linear
    loss (both identities) is ``-(n - 1) tr(G1 Cov G2^T)`` for linear maps, costs O(n d) and is unbounded below without
    a penalty such as ``rho / 2 ||G1^T G2||^2`` (see `kinfolk.theory.svd_solution`). With ``phi="identity"`` and
    ``psi="exp"`` the value is a sum of exponentials of scores above the own pair's: it leaves the range of its
    precision where they are far above.

    Args:
        phi: ``"log"`` or ``"identity"``.
        psi: ``"exp"`` or ``"identity"``; the logarithm of a sum that may be negative, ``"log"`` with ``"identity"``, is
            refused.
        epsilon: weight of the own pair in the sum, at least 0; of no effect where ``psi(0) = 0``.
        temperature: positive number, or a tensor with one element to learn it; the linear loss does not read it.
        normalize: False, as the rows are projections whose length counts.
        reduction, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        x, y: projections of the two modalities [n, d], row k of each a pair.
        ids: sample ids [n]; pairs known to be duplicates leave each other's sums. None = all differ.

    Returns:
        A scalar, or [n] (mean of the two directions of pair i) for ``reduction="none"``. With ``phi="log"`` and
        ``epsilon=0``, rows left without any negative do not count.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for sides of different shapes, unknown phi or psi or both that do not go together, a negative
            epsilon, a temperature that is not positive, an empty batch; for n = 1 with ``phi="log"`` and ``epsilon=0``.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data.

    Example:
        >>> MMCLLoss(temperature=0.5)(torch.eye(2), torch.eye(2))
        tensor(0.0635)
        >>> MMCLLoss(phi="identity", psi="identity")(torch.eye(2), torch.eye(2))
        tensor(-1.)
    """

    def __init__(
        self,
        *,
        phi: Phi = "log",
        psi: Psi = "exp",
        epsilon: float = 1.0,
        temperature: float | Tensor = 1.0,
        reduction: Reduction = "mean",
        normalize: bool = False,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        checked_form(phi, psi, epsilon)
        self.phi, self.psi, self.epsilon = phi, psi, float(epsilon)
        self.temperature = positive(temperature)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of paired projections [n, d]."""
        values, valid = mmcl(
            x,
            y,
            phi=self.phi,
            psi=self.psi,
            epsilon=self.epsilon,
            temperature=self.temperature,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
