"""MoCHi's loss: a queue, and negatives mixed from each query's hardest ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from kinfolk.distributed import Gather, Ranks
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
from kinfolk.ops import listed_products, prepare, ready, row_logsumexp, row_topk
from kinfolk.ops.normalise import NORM_FLOOR

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from kinfolk.losses.over_queue import Dropped

_NUMBERS = 1 << 20  # of the gathered pairs [pairs, d] that are held at a time


@dataclass(frozen=True)
class Mixing:
    """Which of a query's hardest negatives are mixed, and in which shares.

    Places count from 0, the hardest.

    Attributes:
        first, second: the places of two hard negatives [n, s].
        share: what the first of them has in the mixture [n, s], in [0, 1]; the second has the rest.
        third: the place of a hard negative to mix with the query [n, t].
        query_share: what the query has in that mixture [n, t], in [0, 0.5].
    """

    first: Int[Tensor, "n s"]
    second: Int[Tensor, "n s"]
    share: Float[Tensor, "n s"]
    third: Int[Tensor, "n t"]
    query_share: Float[Tensor, "n t"]

    @classmethod
    def draw(
        cls,
        n: int,
        *,
        hardest: int,
        mixed: int,
        query_mixed: int,
        generator: Generator | None = None,
        device: torch.device | None = None,
    ) -> Mixing:
        """Draw everything uniformly, in the order of the attributes.

        That is ``randint(hardest, (n, mixed))`` twice, ``rand(n, mixed)``, ``randint(hardest, (n, query_mixed))`` and
        ``rand(n, query_mixed) / 2``, in float32, where the generator is.

        Example:
            >>> drawn = Mixing.draw(2, hardest=1, mixed=3, query_mixed=0)
            >>> drawn.first, drawn.share.shape, drawn.third.shape
            (tensor([[0, 0, 0],
                    [0, 0, 0]]), torch.Size([2, 3]), torch.Size([2, 0]))
        """
        source = device if generator is None else generator.device

        def places(count: int) -> Tensor:
            return torch.randint(hardest, (n, count), generator=generator, device=source).to(device)

        def shares(count: int) -> Tensor:
            return torch.rand(n, count, generator=generator, device=source, dtype=torch.float32).to(device)

        return cls(places(mixed), places(mixed), shares(mixed), places(query_mixed), shares(query_mixed) / 2)


def mochi(
    queries: Float[Tensor, "n d"],
    keys: Float[Tensor, "n d"],
    queue: Float[Tensor, "K d"],
    mixing: Mixing | None,
    *,
    temperature: float | Tensor = 0.2,
    hardest: int = 1024,
    exclude: Dropped = None,
    decoupled: bool = False,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """InfoNCE whose negatives are the queue and the mixtures of a query's hardest rows of it.

    With ``E_i`` the ``hardest`` rows of the queue nearest to q_i, best first, and unit vectors ``h_ik`` mixed from
    them: ``loss_i = lse({s_i0} u {s_ij : j in queue} u {<q_i, h_ik> / temperature}) - s_i0``. The mixtures are
    constants and never formed: ``<q, l2(a n + (1 - a) n')>`` follows from ``<q, n>``, ``<q, n'>`` and ``<n, n'>``.

    Args:
        queries, keys, queue: [n, d], [n, d] and [K, d]; keys and queue are constants.
        mixing: what to mix; None mixes nothing, which is InfoNCE.
        temperature: positive.
        hardest: size of E_i, at most K.
        exclude: queue rows that are neither negatives nor mixed, as in `InfoNCELoss`, without lists.
        decoupled: leave s_i0 out of the partition.
        normalize, gather, impl: as in `kinfolk.losses.base.Loss`; ``gather`` asks only whether ranks count together.

    Returns:
        Values [n] and which of them count: all, or decoupled those with a candidate left.

    Example:
        >>> drawn = Mixing.draw(2, hardest=1, mixed=1, query_mixed=0)
        >>> values, valid = mochi(torch.eye(2), torch.eye(2), torch.eye(2), drawn, temperature=1.0, hardest=1)
        >>> values
        tensor([1.2143, 1.2143])
    """
    same_shape(queries=queries, keys=keys)
    queue = checked_queue(queue, queries)
    refuse_ring("MoCHiLoss", gather)
    scale = inverse(temperature)
    if mixing is not None and hardest > len(queue):
        raise ValueError(
            f"hardest must be at most the queue's number of rows: hardest = {hardest}, queue {tuple(queue.shape)}; "
            "lower it, or mix nothing until the queue is longer."
        )
    kept = kept_slots(exclude, queries, queue)
    ranks, (queries,) = Ranks.of([queries], gather=gather, what="MoCHiLoss")
    same_on_all_ranks(queue, ranks)
    with torch.autocast(queries.device.type, enabled=False):
        own = scale * own_scores(queries, keys.detach(), normalize=normalize)
        x, raw = ready(queries, normalize=normalize, impl=impl)
        bank, _ = ready(queue, normalize=normalize, impl=impl)
        others = row_logsumexp(x, bank, scale=scale, mask=kept, normalize=raw, impl=impl)
        if mixing is not None:
            hard = row_topk(x, bank, k=hardest, mask=kept, normalize=raw, impl=impl)[1]
            cosines = _mixed_products(*prepare(x, bank, normalize=raw), hard.clamp(min=0), mixing)
            # Where a row has fewer than `hardest` candidates, mixtures of what is not there are none.
            scores = (scale * cosines).masked_fill(~_all_there(hard >= 0, mixing), -torch.inf)
            left = others != -torch.inf  # where nothing is left, the joined logarithm has no gradient
            joined = torch.logaddexp(others.where(left, torch.zeros_like(own)), torch.logsumexp(scores, 1))
            others = joined.where(left, others)
        return own_against(own, others, decoupled=decoupled)


def _all_there(there: Bool[Tensor, "n e"], mixing: Mixing) -> Bool[Tensor, "n c"]:
    """Which mixtures have all their parts among a row's candidates."""
    pairs = there.gather(1, mixing.first) & there.gather(1, mixing.second)
    return torch.cat([pairs, there.gather(1, mixing.third)], 1)


def _mixed_products(
    x: Float[Tensor, "n d"], bank: Float[Tensor, "K d"], hard: Int[Tensor, "n e"], mixing: Mixing
) -> Float[Tensor, "n c"]:
    """Products of every query with its mixtures of two hard negatives, then with those of itself and one."""
    products, squares = listed_products(x, bank, hard), torch.linalg.vecdot(bank, bank)[hard]
    a, b = mixing.share.to(products), mixing.query_share.to(products)

    def at(values: Tensor, places: Tensor) -> Tensor:
        return values.gather(1, places)

    between = _pair_products(bank, at(hard, mixing.first), at(hard, mixing.second))
    length = _length(a, at(squares, mixing.first), at(squares, mixing.second), between)
    pairs = (a * at(products, mixing.first) + (1 - a) * at(products, mixing.second)) / length
    itself, near = torch.linalg.vecdot(x, x.detach())[:, None], at(products, mixing.third)
    length = _length(b, itself.detach(), at(squares, mixing.third), near.detach())
    return torch.cat([pairs, (b * itself + (1 - b) * near) / length], 1)


def _length(share: Tensor, first: Tensor, second: Tensor, between: Tensor) -> Float[Tensor, "n c"]:
    """Norm of a mixture, floored, from the squared norms of its parts and their product."""
    rest = 1 - share
    square = share.square() * first + rest.square() * second + 2 * share * rest * between
    return square.clamp_min(NORM_FLOOR**2).sqrt()


@torch.no_grad()
def _pair_products(bank: Float[Tensor, "K d"], i: Int[Tensor, "n s"], j: Int[Tensor, "n s"]) -> Float[Tensor, "n s"]:
    """Products between listed rows of the queue, some at a time."""
    size = max(1, _NUMBERS // max(1, bank.shape[1]))
    blocks = zip(i.flatten().split(size), j.flatten().split(size), strict=True)
    return torch.cat([torch.linalg.vecdot(bank[a], bank[b]) for a, b in blocks]).view(i.shape)


class MoCHiLoss(Loss):
    """InfoNCE with mixed hard negatives (MoCHi), ``loss(queries, keys, queue)``.

    Per query, the ``hardest`` rows of the queue are mixed: ``mixed`` vectors ``l2(a n1 + (1 - a) n2)`` with a uniform
    in (0, 1), and ``query_mixed`` vectors ``l2(b q + (1 - b) n3)`` with b uniform in (0, 0.5), are further negatives.
    They are constants, drawn anew in every call. The value is never below that of InfoNCE, and equal to it when nothing
    is mixed. On few classes many of the hardest rows are false negatives, which mixing amplifies.

    Args:
        temperature: positive number, or a tensor with one element to learn it.
        hardest: how many of the nearest queue rows are mixed, at least 1 and at most K.
        mixed: mixtures of two of them, per query.
        query_mixed: mixtures of one of them with the query itself, per query. With both 0, `hardest` plays no role.
        decoupled: leave the own key out of the partition (DCL); rows without a candidate then do not count.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        queries: [n, d], the encoder's.
        keys: [n, d], the EMA encoder's, row k of the same sample.
        queue: [K, d], keys of earlier batches, the same on all ranks; receives no gradient, nor do keys.
        generator: source of all draws (see `Mixing.draw`), of any device; None = the global one. Ranks draw apart.
        exclude: queue rows that are no negatives of a query and are not mixed for it, as in `InfoNCELoss`, one rule.
        ids: sample ids [n], checked only: samples of the batch are not contrasted with one another.

    Returns:
        A scalar, or [n] for ``reduction="none"``.

    Raises:
        TypeError: for float or bool ids.
        ValueError: for a queue shorter than ``hardest``, shapes that do not fit, negative counts, a temperature that is
            not positive, an empty batch.

    Reference:
        Yannis Kalantidis, Mert Bulent Sariyildiz, Noe Pion, Philippe Weinzaepfel, Diane Larlus, 2020, Hard Negative
        Mixing for Contrastive Learning.

    Example:
        >>> MoCHiLoss(temperature=1.0, hardest=1, mixed=1, query_mixed=0)(torch.eye(2), torch.eye(2), torch.eye(2))
        tensor(1.2143)
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor = 0.2,
        hardest: int = 1024,
        mixed: int = 512,
        query_mixed: int = 256,
        decoupled: bool = False,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        refuse_ring("MoCHiLoss", gather)
        for name, count, least in (("hardest", hardest, 1), ("mixed", mixed, 0), ("query_mixed", query_mixed, 0)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, found {count!r}.")
        self.temperature, self.decoupled = positive(temperature), decoupled
        self.hardest, self.mixed, self.query_mixed = hardest, mixed, query_mixed

    def forward(  # type: ignore[override]
        self,
        queries: Tensor,
        keys: Tensor,
        queue: Tensor,
        generator: Generator | None = None,
        ids: Tensor | None = None,
        exclude: Dropped = None,
    ) -> Tensor:
        """Return the loss of queries and keys [n, d] against a queue [K, d]."""
        checked_ids(ids, queries)
        values, valid = mochi(
            queries,
            keys,
            queue,
            self._draw(queries, generator) if self.mixed or self.query_mixed else None,
            temperature=self.temperature,
            hardest=self.hardest,
            exclude=exclude,
            decoupled=self.decoupled,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)

    def _draw(self, queries: Tensor, generator: Generator | None) -> Mixing:
        return Mixing.draw(
            len(queries),
            hardest=self.hardest,
            mixed=self.mixed,
            query_mixed=self.query_mixed,
            generator=generator,
            device=queries.device,
        )
