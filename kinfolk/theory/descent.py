"""Gradient descent on a multimodal loss with linear encoders, step by step along its cross-covariance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kinfolk.theory.cross_covariance import contrastive_cross_covariance
from kinfolk.theory.subspaces import sin_theta

if TYPE_CHECKING:
    from jaxtyping import Float

    from kinfolk.theory.cross_covariance import Phi, Psi


@dataclass(frozen=True)
class Descent:
    """Where gradient descent came, and what was measured on its way.

    Attributes:
        g1: map of the first modality [r, a].
        g2: map of the second [r, b].
        alignment: of every step, the cosine between the change of ``G1^T G2`` and the way to the best rank-r matrix
            for the cross-covariance of that step, ``SVD_r(S) / rho`` [steps].
        distance: after every step, how far the subspace of G1 is from that of ``SVD_r(S)`` [steps].
        spectrum: the r + 1 largest singular values of the last S, which tell whether a rank of r is there to be found.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> descend(x, x, 1, steps=3).alignment.shape
        torch.Size([3])
    """

    g1: Float[Tensor, "r a"]
    g2: Float[Tensor, "r b"]
    alignment: Float[Tensor, " steps"]
    distance: Float[Tensor, " steps"]
    spectrum: Float[Tensor, " k"]


@torch.no_grad()
def descend(
    x: Float[Tensor, "n a"],
    y: Float[Tensor, "n b"],
    rank: int,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    rho: float = 1.0,
    phi: Phi = "log",
    psi: Psi = "exp",
    epsilon: float = 1.0,
    temperature: float = 1.0,
    start: float = 0.1,
    seed: int = 0,
) -> Descent:
    """Train two linear maps by gradient descent on `kinfolk.losses.MMCLLoss` plus ``rho / 2 ||G1^T G2||_F^2``.

    A step needs no automatic gradient: with S the `contrastive_cross_covariance` at the current scores,

        G1 <- G1 + rate (G2 S^T - rho G2 G2^T G1),   G2 <- G2 + rate (G1 S - rho G1 G1^T G2)

    so that every step is one towards the singular value decomposition of S, the rank-r matrix ``SVD_r(S) / rho``. For
    the linear form S is the cross-covariance of the data and stays; in others it weighs pairs by how hard they are and
    moves with the maps. The rate is divided by the largest singular value of the first S, at equal scores, so that one
    setting serves all forms and scales of data.

    Args:
        x: one modality [n, a]; centred here.
        y: the other [n, b], row i belonging to row i of x; centred here.
        rank: rows r of the maps.
        steps: how many steps over all data.
        learning_rate: share of the largest stable step, about; above 1 it may diverge.
        rho: strength of the penalty.
        phi, psi, epsilon, temperature: the form of the loss, as in `contrastive_cross_covariance`.
        start: standard deviation of the first maps' entries, divided by the square root of the width.
        seed: of the first maps.

    Raises:
        ValueError: as `contrastive_cross_covariance`; for a rank out of range, or a rho, a rate or a start that is not
            positive, or no steps.
        FloatingPointError: when the maps diverge; take a smaller rate.

    Example:
        >>> from kinfolk.theory import SpikedModel
        >>> pairs = SpikedModel(dims=(6, 5), rank=2).draw(200)
        >>> found = descend(pairs.x, pairs.y, 2, phi="identity", psi="identity", epsilon=0.0)
        >>> bool(found.distance[-1] < 1e-3 < found.distance[0])
        True
    """
    if not 1 <= rank <= min(x.shape[-1], y.shape[-1]):
        raise ValueError(
            f"rank must lie between 1 and the smaller width of {tuple(x.shape)} and {tuple(y.shape)}, found {rank}."
        )
    if steps < 1 or not min(learning_rate, rho, start) > 0:
        raise ValueError(
            f"steps, learning_rate, rho and start must be positive, found {steps}, {learning_rate}, {rho} and {start}."
        )
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    chance = torch.Generator().manual_seed(seed)
    g1, g2 = (
        start / t.shape[1] ** 0.5 * torch.randn(rank, t.shape[1], generator=chance, dtype=torch.float64) for t in (x, y)
    )
    covariance_at = partial(
        contrastive_cross_covariance, x, y, phi=phi, psi=psi, epsilon=epsilon, temperature=temperature
    )
    covariance = covariance_at(x.new_zeros(len(x), len(y)))
    rate = learning_rate / float(torch.linalg.matrix_norm(covariance, 2).clamp_min(1e-12))
    alignment, distance, strength = [], [], x.new_zeros(0)
    for step in range(steps):
        if psi == "exp":  # the linear form's does not move
            covariance = covariance_at((x @ g1.T) @ (y @ g2.T).T)
        u, strength, vt = torch.linalg.svd(covariance, full_matrices=False)
        goal = (u[:, :rank] * (strength[:rank] / rho)) @ vt[:rank]
        before = g1.T @ g2
        pull = covariance - rho * before
        g1, g2 = g1 + rate * g2 @ pull.T, g2 + rate * g1 @ pull
        if not (torch.isfinite(g1).all() and torch.isfinite(g2).all()):
            raise FloatingPointError(
                f"the maps diverged at step {step + 1} with learning_rate {learning_rate}; take a smaller one."
            )
        alignment.append(_cosine(g1.T @ g2 - before, goal - before))
        distance.append(sin_theta(g1.T, u[:, :rank]))
    return Descent(g1, g2, torch.stack(alignment), torch.stack(distance), strength[: rank + 1])


def _cosine(a: Float[Tensor, "a b"], b: Float[Tensor, "a b"]) -> Float[Tensor, ""]:
    return (a * b).sum() / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)
