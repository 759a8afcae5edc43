"""The contrastive cross-covariance: what a multimodal contrastive loss correlates, for any of its forms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

Phi = Literal["log", "identity"]
"""What is taken of a sum over the batch: ``tau log u`` or u."""

Psi = Literal["exp", "identity"]
"""What is taken of a score above the own pair's: ``e^(u / tau)`` or u."""


def checked_form(phi: str, psi: str, epsilon: float) -> None:
    """Check that phi, psi and epsilon define a loss.

    Raises:
        ValueError: for other names, the logarithm of a sum that may be negative, an epsilon below 0.

    Example:
        >>> checked_form("log", "identity", 1.0)
        Traceback (most recent call last):
            ...
        ValueError: phi="log" needs psi="exp": sums of psi="identity" may be negative; or take phi="identity".
    """
    if phi not in get_args(Phi):
        raise ValueError(f"phi must be one of {', '.join(get_args(Phi))}, found {phi!r}.")
    if psi not in get_args(Psi):
        raise ValueError(f"psi must be one of {', '.join(get_args(Psi))}, found {psi!r}.")
    if phi == "log" and psi == "identity":
        raise ValueError('phi="log" needs psi="exp": sums of psi="identity" may be negative; or take phi="identity".')
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon must be a finite number of at least 0, found {epsilon}.")


def contrastive_cross_covariance(
    x: Float[Tensor, "n a"],
    y: Float[Tensor, "n b"],
    scores: Float[Tensor, "n n"],
    *,
    phi: Phi = "log",
    psi: Psi = "exp",
    epsilon: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, "a b"]:
    """Return the weighted cross-covariance S whose product with the maps is the loss's gradient.

    For ``s_ij = <G1 x_i, G2 y_j>`` the gradients of `kinfolk.losses.MMCLLoss` of the projections are ``-G2 S^T`` with
    respect to G1 and ``-G1 S`` with respect to G2, for every phi, psi and epsilon, with

        S = 1/n sum_i beta_i x_i y_i^T - 1/n sum_{i != j} beta_ij x_i y_j^T,
        beta_ij = (a_ij + b_ji) / 2,  beta_i = 1/2 sum_{j != i} (a_ij + b_ij),
        a_ij = phi'(A_i) psi'(s_ij - s_ii),  A_i = epsilon psi(0) + sum_{j != i} psi(s_ij - s_ii),  b_ij of s_ji.

    Args:
        x: raw inputs of one modality [n, a].
        y: raw inputs of the other [n, b], row i belonging to row i of x.
        scores: s [n, n], row i that of x_i; O(n^2) memory.
        phi, psi, epsilon, temperature: the form of the loss.

    Returns:
        S [a, b] in the precision of the inputs, float32 at least. For the linear form (both identities) it is
        ``(n - 1)`` times the unbiased centred cross-covariance, whatever the scores. For n = 1, zero.

    Raises:
        ValueError: for shapes that do not fit, a form that is none, a temperature that is not positive, no rows.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data.

    Example:
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> contrastive_cross_covariance(x, x, x @ x.T, phi="identity", psi="identity")
        tensor([[2.]])
    """
    checked_form(phi, psi, epsilon)
    n = len(x)
    if x.ndim != 2 or y.ndim != 2 or len(y) != n or scores.shape != (n, n) or not n:
        raise ValueError(
            "expected x [n, a], y [n, b] and scores [n, n] with at least one row, found "
            f"{tuple(x.shape)}, {tuple(y.shape)} and {tuple(scores.shape)}."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}.")
    wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y, s = x.to(wide), y.to(wide), scores.to(wide)
    forward, backward = (_slopes(t, phi, psi, epsilon, temperature) for t in (s, s.T))
    pairs = (forward + backward.T) / 2
    own = (forward + backward).sum(1) / 2
    return ((own[:, None] * x).T @ y - x.T @ (pairs @ y)) / n


def _slopes(s: Float[Tensor, "n n"], phi: str, psi: str, epsilon: float, temperature: float) -> Float[Tensor, "n n"]:
    """``phi'(A_i) psi'(s_ij - s_ii)`` off the diagonal, 0 on it."""
    own_place = torch.eye(len(s), dtype=torch.bool, device=s.device)
    if psi == "identity" or len(s) == 1:
        return torch.ones_like(s).masked_fill(own_place, 0.0)
    above = ((s - s.diagonal()[:, None]) / temperature).masked_fill(own_place, -torch.inf)
    if phi == "identity":
        return torch.exp(above) / temperature
    at_own = above.new_full((len(s), 1), math.log(epsilon) if epsilon else -torch.inf)
    return torch.softmax(torch.cat([above, at_own], 1), 1)[:, :-1]
