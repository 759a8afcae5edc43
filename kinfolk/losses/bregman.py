"""Deep Bregman divergence: samples are near where the same one of many small networks is largest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, one_hot

from kinfolk.distributed import Gather, Ranks
from kinfolk.losses.base import Impl, Loss, Reduction, checked_ids, inverse, positive, same_shape
from kinfolk.losses.nt_xent import nt_xent
from kinfolk.ops import prepare
from kinfolk.ops.groups import group_sums
from kinfolk.ops.masks import IdPair

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Networks = Callable[[Float[Tensor, "m d"]], Float[Tensor, "m k"]]


def bregman(
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    networks: Networks,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.9,
    weight: float = 1.0,
    ids: Int[Tensor, " n"] | None = None,
    normalize: bool = True,
    gather: Gather = True,
    impl: Impl = "auto",
) -> tuple[Float[Tensor, " n2"], Bool[Tensor, " n2"]]:
    """NT-Xent, plus its like with a similarity from the divergence that networks f_1 .. f_K define.

    With ``k(j)`` the network that is largest at row j, ``D(i, j) = f_k(i)(z_i) - f_k(j)(z_i) >= 0`` and
    ``S_ij = exp(-D(i, j) / (2 sigma^2))``: ``loss_i = NTXent_i + weight (lse_{a != i} S_ia / temperature - S_ip(i) /
    temperature)``. D depends on j through k(j) alone, so that counts of rows per network replace the rows: O(n K) time
    and memory. Equal ids at other positions leave both partitions.

    Args:
        z0, z1: the two views' projections [n, d].
        networks: gives the values [m, K] of the K networks at rows [m, d], which are normalised if that was asked for.
        temperature, sigma, weight, ids, normalize, gather, impl: as in `BregmanLoss`.

    Returns:
        Values [2n] and which of them count (all).

    Example:
        >>> values, valid = bregman(torch.eye(2), torch.eye(2), lambda z: z, temperature=1.0)
        >>> values
        tensor([1.3676, 1.3676, 1.3676, 1.3676])
    """
    same_shape(z0=z0, z1=z1)
    scale, ids = inverse(temperature), checked_ids(ids, z0)
    what = f"BregmanLoss{': ids' * (ids is not None)}"
    ranks, (rows,) = Ranks.of([torch.cat([z0, z1])], gather=gather, what=what)
    options: dict[str, Any] = {"temperature": temperature, "normalize": normalize, "gather": gather, "impl": impl}
    values, valid = nt_xent(rows[: len(z0)], rows[len(z0) :], ids=ids, **options)
    with torch.autocast(rows.device.type, enabled=False):
        vectors, _ = prepare(rows, rows, normalize=normalize)
        return values + weight * _term(networks(vectors), scale, sigma, ids, ranks), valid


def _term(
    values: Float[Tensor, "m k"], scale: float | Tensor, sigma: float, ids: Int[Tensor, " n"] | None, ranks: Ranks
) -> Float[Tensor, " m"]:
    """Cross-entropy of the partner over the rows of all ranks: those that one network wins are one column."""
    winner, half = values.detach().argmax(1), len(values) // 2
    logits = scale * torch.exp((values - values.gather(1, winner[:, None])) / (2 * sigma**2))
    pull = logits.gather(1, winner.roll(half)[:, None]).squeeze(1)
    counts = _candidates(winner, values.shape[1], ids, ranks)
    terms = logits + counts.clamp(min=1).to(logits).log()
    return torch.logsumexp(terms.masked_fill(counts == 0, -torch.inf), 1) - pull


def _candidates(
    winner: Int[Tensor, " m"], networks: int, ids: Int[Tensor, " n"] | None, ranks: Ranks
) -> Int[Tensor, "m k"]:
    """How many candidates of every row each network wins: all rows of all ranks but itself and its duplicates."""
    wins = one_hot(winner, networks)
    every = ranks.sum(wins.sum(0))
    if ids is None:
        return every - wins
    sample, partner = ids.repeat(2), wins.roll(len(wins) // 2, 0)
    same = group_sums(IdPair(sample, ranks.gather(sample)), one_hot(ranks.gather(winner), networks).double()).long()
    return every - torch.where(sample[:, None] == -1, wins, same - partner)


class Perceptrons(nn.Module):
    """K small networks Linear-ReLU-Dropout-Linear with one output each, evaluated together.

    Args:
        dim: width of the input.
        networks: how many networks.
        hidden: width of the hidden layer of each.
        dropout: share of hidden units that a training step leaves out.

    Example:
        >>> Perceptrons(8, networks=3, hidden=4)(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int, *, networks: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("networks", networks), ("hidden", hidden)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, found {size}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), found {dropout}.")
        self.dropout = dropout
        self.hidden_weight = nn.Parameter(torch.empty(networks, hidden, dim))
        self.hidden_bias = nn.Parameter(torch.empty(networks, hidden))
        self.weight = nn.Parameter(torch.empty(networks, hidden))
        self.bias = nn.Parameter(torch.empty(networks))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every network as `torch.nn.Linear` draws its layers."""
        for layer, fan_in in (
            ((self.hidden_weight, self.hidden_bias), self.hidden_weight.shape[2]),
            ((self.weight, self.bias), self.weight.shape[1]),
        ):
            for parameter in layer:
                nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m k"]:
        """Return the values of all networks, in the precision of x; holds m K hidden numbers for the backward pass."""
        networks, hidden, dim = self.hidden_weight.shape
        if x.shape[1] != dim:
            raise ValueError(f"rows must be as wide as the networks' input, {dim}, found {tuple(x.shape)}.")
        units = linear(x, self.hidden_weight.flatten(0, 1).to(x), self.hidden_bias.flatten().to(x)).relu()
        units = dropout(units, self.dropout, self.training).view(-1, networks, hidden)
        return torch.einsum("mkh,kh->mk", units, self.weight.to(x)) + self.bias.to(x)

    def extra_repr(self) -> str:
        """Return the options."""
        networks, hidden, dim = self.hidden_weight.shape
        return f"dim={dim}, networks={networks}, hidden={hidden}, dropout={self.dropout}"


class BregmanLoss(Loss):
    """NT-Xent with a deep Bregman divergence, ``loss(z0, z1)``.

    K small networks judge every row, and two rows are as far apart as the first loses by taking the second's best
    network in place of its own. **The loss owns these networks' parameters**: give them to the optimiser, and train
    them with the encoder (under several processes, inside the model that is wrapped). If one network wins all rows,
    everything is equally near and the networks stop learning: log `active`, the number that win any.

    Args:
        dim: width d of the projections.
        networks: number K of networks; 16 to 100 for small images.
        hidden: width of each network's hidden layer. A training step holds ``2 n K hidden`` numbers.
        sigma: width of the similarity ``exp(-D / (2 sigma^2))``, positive.
        temperature: positive number, or a tensor with one element to learn it; of both terms.
        weight: of the networks' term, 0 or more; 0 gives NT-Xent.
        dropout: share of hidden units that a training step leaves out; none in evaluation mode.
        reduction, normalize, gather, impl: as in `kinfolk.losses.base.Loss`.

    Call:
        z0, z1: the two views' projections [n, d], row k of each belonging to sample k.
        ids: sample ids [n]; a sample that the batch holds twice is then no negative of itself. None = all differ.

    Returns:
        A scalar, or [2n] (view-major) for ``reduction="none"``. One sample alone gives 0.

    Raises:
        ValueError: for views of different shapes or of another width than dim, options out of range, an empty batch.

    Reference:
        Mina Rezaei, Farzin Soleymani, Bernd Bischl, Shekoofeh Azizi, 2021, Deep Bregman Divergence for Contrastive
        Learning of Visual Representations.

    Example:
        >>> loss = BregmanLoss(2, networks=1, hidden=4, temperature=1.0)  # one network: everything is equally near
        >>> round(loss(torch.eye(2), torch.eye(2)).item() - 0.5514, 3) == round(math.log(3), 3)
        True
        >>> loss.active(torch.eye(2))
        1
    """

    def __init__(
        self,
        dim: int,
        *,
        networks: int = 100,
        hidden: int = 512,
        sigma: float = 0.9,
        temperature: float | Tensor = 0.1,
        weight: float = 1.0,
        dropout: float = 0.2,
        reduction: Reduction = "mean",
        normalize: bool = True,
        gather: Gather = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__(reduction=reduction, normalize=normalize, gather=gather, impl=impl)
        if not weight >= 0:
            raise ValueError(f"weight must be at least 0, found {weight}.")
        self.temperature, self.sigma, self.weight = positive(temperature), float(positive(sigma, "sigma")), weight
        self.networks = Perceptrons(dim, networks=networks, hidden=hidden, dropout=dropout)

    def forward(self, z0: Tensor, z1: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return the loss of two views [n, d]."""
        values, valid = bregman(
            z0,
            z1,
            self.networks,
            temperature=self.temperature,
            sigma=self.sigma,
            weight=self.weight,
            ids=ids,
            normalize=self.normalize,
            gather=self.gather,
            impl=self.impl,
        )
        return self.reduce(values, valid)

    @torch.no_grad()
    def active(self, *views: Float[Tensor, "n d"]) -> int:
        """Return how many networks are largest at some row of these views (of this rank), without dropout."""
        rows, _ = prepare(x := torch.cat(views), x, normalize=self.normalize)
        training = self.networks.training
        values = self.networks.eval()(rows)
        self.networks.train(training)
        return len(values.argmax(1).unique())
