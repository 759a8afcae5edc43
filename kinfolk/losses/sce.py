"""SCE: find the own target, and relate to the queue as the target does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kinfolk.distributed import Gather, Ranks
from kinfolk.graphs import KernelGraph
from kinfolk.losses.base import (
    Impl,
    Loss,
    Reduction,
    checked_ids,
    inverse,
    own_scores,
    positive,
    same_shape,
)
from kinfolk.losses.over_queue import checked_queue, kept_slots, own_against, same_on_all_ranks
from kinfolk.losses.over_ranks import refuse_ring
from kinfolk.ops import row_logsumexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from kinfolk.losses.over_queue import Dropped


def sce(
    online: Float[Tensor, "n d"],
    target: Float[Tensor, "n d"],
    queue: Float[Tensor, "K d"],
    *,
    temperature: float | Tensor = 0.1,
    target_temperature: float = 0.05,
    coefficient: float = 0.5,
    exclude: Dropped = None,
    decoupled: bool = False,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Cross-entropy between the model's softmax over {own target} and queue, and a target that is hard and soft.

    With ``p_i = softmax(o_i . [t_i, Q] / temperature)`` and ``r_i = softmax(cos(t_i, Q) / target_temperature)``, a
    constant: ``loss_i = -c log p_i(t_i) - (1 - c) sum_j r_ij log p_i(Q_j)``, c the coefficient. The queue is swept
    once for the partition and the soft target together. Excluded rows of the queue are in neither. Decoupled, the own
    target is not in the partition. Without a queue the loss is 0.

    Returns:
        Values [n] and which of them count: all, or decoupled those with a candidate left.

    Example:
        >>> values, valid = sce(torch.eye(2), torch.eye(2), torch.eye(2), temperature=1.0, target_temperature=1.0)
        >>> values
        tensor([0.9965, 0.9965])
    """
    same_shape(online=online, target=target)
    queue = checked_queue(queue, online)
    refuse_ring("SCELoss", gather)
    scale, kept = inverse(temperature), kept_slots(exclude, online, queue)
    ranks, (online,) = Ranks.of([online], gather=gather, what="SCELoss")
    same_on_all_ranks(queue, ranks)
    target = target.detach()
    with torch.autocast(online.device.type, enabled=False):
        own = scale * own_scores(online, target, normalize=normalize)
        options: dict[str, Any] = {"scale": scale, "mask": kept, "normalize": normalize, "impl": impl}
        if coefficient == 1 or not len(queue):
            return own_against(own, row_logsumexp(online, queue, **options), decoupled=decoupled)
        graph = KernelGraph(target, queue, temperature=target_temperature)
        others, pull = graph.logsumexp_and_attraction(online, queue, **options)
        values, valid = own_against(own, others, decoupled=decoupled)
        pull = pull.where(others != -torch.inf, own)  # with nothing to relate to, all mass is on the own pair
        return values + (1 - coefficient) * (own - pull), valid


class SCELoss(Loss):
    """Similarity contrastive estimation (SCE), ``loss(online, target, queue)``.

    ``SCE = c InfoNCE + (1 - c) (ReSSL + ceiling)``: part of the target's mass is on the own pair, the rest goes to the
    queue in proportion to the target's own relations with it. The own pair has no part in the relations, which are
    between targets. ``ceiling_i = softplus(s_i0 - lse_j s_ij)`` is what the own pair takes from the queue.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        target_temperature: of the relations, positive; below ``temperature``, or they are too smooth.
        coefficient: mass of the own pair, in [0, 1]; 1 is InfoNCE.
        decoupled: leave the own pair out of the partition (DCL); rows without a candidate then do not count.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`; relations are cosines in any case.

    Call:
        online: [n, d], of the strong augmentation.
        target: [n, d], the EMA encoder's of the weak one, row k of the same sample; receives no gradient.
        queue: [K, d], targets of earlier batches, the same on all ranks; receives no gradient. Enqueue after the loss.
        ids: sample ids [n], checked only: samples of the batch are not contrasted with one another.
        exclude: queue rows that a query neither relates to nor is told from, as in `InfoNCELoss`, one rule.

    Returns:
        A scalar, or [n] for ``reduction="none"``; 0 for an empty queue.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for shapes that do not fit, a temperature that is not positive, a coefficient outside [0, 1], an
            empty batch.

    Reference:
        Julien Denize, Jaonary Rabarisoa, Astrid Orcesi, Romain Hérault, Stéphane Canu, 2023, Similarity Contrastive
        Estimation for Self-Supervised Soft Contrastive Learning.

    Example:
        >>> SCELoss(temperature=1.0, target_temperature=1.0)(torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(0.9965)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.1,
        target_temperature: float = 0.05,
        coefficient: float = 0.5,
        decoupled: bool = False,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("SCELoss", gather)
        if not 0 <= coefficient <= 1:
            raise ValueError(f"coefficient must lie in [0, 1], found {coefficient}.")
        self.temperature = positive(temperature)
        self.target_temperature = float(positive(target_temperature, "target_temperature"))
        self.coefficient, self.decoupled = coefficient, decoupled

    def forward(  # type: ignore[override]
        self,
        online: Tensor,
        target: Tensor,
        queue: Tensor,
        ids: Tensor | None = None,
        exclude: Dropped = None,
    ) -> Tensor:
        """Return the loss of online and target vectors [n, d] against a queue [K, d]."""
        checked_ids(ids, online)
        values, valid = sce(
            online,
            target,
            queue,
            temperature=self.temperature,
            target_temperature=self.target_temperature,
            coefficient=self.coefficient,
            exclude=exclude,
            decoupled=self.decoupled,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)
