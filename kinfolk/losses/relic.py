"""ReLIC: find the own target in another view, with predictions that do not depend on the view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, checked_ids, inverse, other_samples, own_scores, positive
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.losses.views import online_and_target
from kinfolk.ops import (
    PairMask,
    choose,
    logsumexp_and_kernel_attraction,
    prepare,
    ready,
    reference,
    row_logsumexp,
    row_softmax_mean,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def relic(
    online: Sequence[Float[Tensor, "n d"]],
    target: Sequence[Float[Tensor, "n d"]],
    *,
    temperature: float | Tensor = 0.1,
    alpha: float = 1.0,
    beta: float = 1.0,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy of finding the own target, plus the divergence between what two views predict.

    With ``P_ab`` the row softmax of ``<o_a, t_b> / temperature``, every pair of an online view a and a target view b of
    another crop gives ``-alpha log P_ab(i, i) + beta KL(P_ab(i, .) || R_ab(i, .))``; ``loss_i`` is the mean over the
    pairs. The reference R_ab is a constant: P_ba where view a has a target, otherwise P_cb with c the first target view
    but b. Equal ids at other positions leave every softmax.

    Returns:
        Values [n] and which of them count (all).

    Example:
        >>> values, valid = relic([torch.eye(2), torch.eye(2)], [torch.eye(2), torch.eye(2)], temperature=1.0)
        >>> values
        tensor([0.3133, 0.3133])
    """
    refuse_ring("ReLICLoss", gather)
    learners, teachers = online_and_target(online, target, "ReLICLoss", least=2, names=("online", "target"))
    scale, ids = inverse(temperature), checked_ids(ids, learners[0])
    what = f"ReLICLoss: {len(learners)} online, {len(teachers)} target views{', ids' * (ids is not None)}"
    ranks, rows = Ranks.of([*learners, *teachers], gather=gather, what=what)
    with torch.autocast(rows[0].device.type, enabled=False):
        prepared = [ready(view, normalize=normalize, impl=impl) for view in rows]
        learners = [view for view, _ in prepared[: len(learners)]]
        teachers = [view for view, _ in prepared[len(learners) :]]
        keys = [ranks.gather(view) for view in teachers]
        mask, own_left = other_samples(ids, ranks)
        how = _How(scale, mask if own_left else None, prepared[0][1], impl)

        def side(a: int, b: int) -> _Side:
            return _Side(learners[a], teachers[b], keys[b])

        terms = []
        for a, b in [(a, b) for a in range(len(learners)) for b in range(len(teachers)) if a != b]:
            other = side(b, a) if a < len(teachers) else side(int(b == 0), b)
            terms.append(_term(side(a, b), other.constant(), alpha, beta, how))
        values = torch.stack(terms).mean(0)
        return values, torch.ones_like(values, dtype=torch.bool)


class _Side(NamedTuple):
    """Rows that predict a softmax over a target view: this rank's targets, and those of all ranks."""

    rows: Float[Tensor, "n d"]
    own: Float[Tensor, "n d"]
    keys: Float[Tensor, "m d"]

    def constant(self) -> _Side:
        return self._replace(rows=self.rows.detach())


class _How(NamedTuple):
    """How rows are compared. A mask drops the own target as well, which then joins on its own."""

    scale: float | Tensor
    mask: PairMask | None
    normalize: bool
    impl: Impl

    def partition(self, side: _Side) -> Float[Tensor, " n"]:
        mask, normalize, impl = self.mask, self.normalize, self.impl
        return row_logsumexp(side.rows, side.keys, scale=self.scale, mask=mask, normalize=normalize, impl=impl)

    def own(self, side: _Side) -> Float[Tensor, " n"]:
        return self.scale * own_scores(side.rows, side.own, normalize=self.normalize)

    def expected(self, side: _Side) -> Float[Tensor, " n"]:
        """Mean score under the side's own softmax."""
        mask, normalize, impl = self.mask, self.normalize, self.impl
        return row_softmax_mean(
            side.rows, side.keys, scale=self.scale, weight_scale=1.0, mask=mask, normalize=normalize, impl=impl
        )

    def against(self, p: _Side, r: _Side) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """The constant side's partition, and the mean of its scores under P, with gradient to P's rows."""
        u, v = prepare(p.rows, p.keys, normalize=self.normalize)
        u, scale, mask = self.scale * u, _constant(self.scale), self.mask
        if choose(self.impl, r.rows) == "reference":
            weights = reference.kernel_target(u, v, scale=1.0, mask=mask)
            pull = reference.attraction(r.rows, r.keys, scale=scale, target=weights)
            return reference.row_logsumexp(r.rows, r.keys, scale=scale, mask=mask), pull
        return logsumexp_and_kernel_attraction(
            r.rows,
            r.keys,
            u,
            v,
            scale=scale,
            relation_scale=1.0,
            mask=mask,
            target_mask=mask,
            normalize=self.normalize,
            impl=self.impl,
        )


def _term(p: _Side, r: _Side, alpha: float, beta: float, how: _How) -> Float[Tensor, " n"]:
    """One pair of views. With scores s of P and t of R, ``KL(P || R) = E_P[s] - lse(s) - E_P[t] + lse(t)``."""
    own, others = how.own(p), how.partition(p)
    partition = others if how.mask is None else torch.logaddexp(others, own)
    value = alpha * (partition - own)
    if not beta:
        return value
    mean, (r_partition, r_mean) = how.expected(p), how.against(p, r)
    if how.mask is not None:
        r_own, share = how._replace(scale=_constant(how.scale)).own(r), torch.sigmoid(own - others)
        mean, r_mean = torch.lerp(mean, own, share), torch.lerp(r_mean, r_own, share)
        r_partition = torch.logaddexp(r_partition, r_own)
    return value + beta * (mean - partition - r_mean + r_partition)


def _constant(scale: float | Tensor) -> float | Tensor:
    return scale.detach() if isinstance(scale, Tensor) else scale


class ReLICLoss(Loss):
    """Representations by invariant prediction (ReLIC, ReLICv2), ``loss(online, target)``.

    Beside finding the own target of another view, what a view predicts over all samples is to be what the other view
    predicts. All other samples of the batch are negatives, and the same crop is never compared with itself. The EMA
    encoder's outputs, and the side that a prediction is compared with, are constants.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        alpha: weight of the cross-entropy, 0 or more.
        beta: weight of the divergence, 0 or more; 0 leaves it out.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``"ring"`` is refused.

    Call:
        online: A >= 2 predictions [n, d], row k of each belonging to sample k; small crops come last.
        target: B projections [n, d] of the EMA encoder, 2 <= B <= A; ``target[j]`` is of the same crop as
            ``online[j]``.
        ids: sample ids [n]; a sample that the batch holds twice is then no negative of itself. None = all differ.

    Returns:
        A scalar, or [n] for ``reduction="none"``: the mean over the pairs of views of sample i's terms. One sample
        alone gives 0.

    Raises:
        ValueError: for fewer than 2 targets, more targets than online views, views of different shapes, negative
            weights, a temperature that is not positive, an empty batch.

    Reference:
        Nenad Tomasev, Ioana Bica, Brian McWilliams, Lars Buesing, Razvan Pascanu, Charles Blundell, Jovana Mitrovic,
        2022, Pushing the limits of self-supervised ResNets: Can we outperform supervised learning without labels on
        ImageNet?; Jovana Mitrovic, Brian McWilliams, Jacob Walker, Lars Buesing, Charles Blundell, 2021, Representation
        Learning via Invariant Causal Mechanisms.

    Example:
        >>> views = [torch.eye(2), torch.eye(2)]
        >>> ReLICLoss(temperature=1.0)(views, views)
        tensor(0.3133)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        alpha: float = 1.0,
        beta: float = 1.0,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("ReLICLoss", gather)
        for name, weight in (("alpha", alpha), ("beta", beta)):
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, found {weight}.")
        self.temperature, self.alpha, self.beta = positive(temperature), alpha, beta

    def forward(  # type: ignore[override]
        self, online: Sequence[Tensor], target: Sequence[Tensor], ids: Tensor | None = None
    ) -> Tensor:
        """Return the loss of online and target views [n, d]."""
        values, valid = relic(
            online,
            target,
            temperature=self.temperature,
            alpha=self.alpha,
            beta=self.beta,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
