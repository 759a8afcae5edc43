"""The subspaces that the linear multimodal loss finds, and how far two subspaces are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def svd_solution(
    x: Float[Tensor, "n a"],
    y: Float[Tensor, "n b"],
    rank: int,
    rho: float = 1.0,
    *,
    weights: Float[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, "r a"], Float[Tensor, "r b"]]:
    """Return the linear maps that minimise the linear loss plus ``rho / 2 ||G1^T G2||_F^2``.

    With ``S = (n - 1) Cov(x, y) = U Lambda V^T``: ``G1 = (Lambda_r / rho)^(1/2) U_r^T`` and ``G2 = (Lambda_r /
    rho)^(1/2) V_r^T``. The minimum is ``-sum_{k <= r} lambda_k^2 / (2 rho)``; rho rescales the maps and leaves their
    subspaces. Maps with the same product ``G1^T G2`` are as good: compare subspaces (`sin_theta`), never entries.

    Args:
        x: one modality [n, a], not necessarily centred.
        y: the other [n, b], row i belonging to row i of x.
        rank: how many directions r, from 1 to min(a, b).
        rho: strength of the penalty; at 0 the loss is unbounded below.
        weights: how much every pair counts [n], at least 0; by default 1. S is then the cross-covariance around
            weighted means, ``sum_i w_i (x_i - m_x)(y_i - m_y)^T``.

    Returns:
        G1 [r, a] and G2 [r, b], strongest direction first; computed in float64, in the precision of the inputs.
        Directions without any correlation come as zero rows.

    Raises:
        ValueError: for shapes that do not fit, a rank out of range, a rho that is not positive, or weights that are
            negative or all 0.

    Reference:
        Ryumei Nakada, Halil Ibrahim Gulluk, Zhun Deng, Wenlong Ji, James Zou, Linjun Zhang, 2023, Understanding
        Multimodal Contrastive Learning and Incorporating Unpaired Data.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> g1, g2 = svd_solution(x, 2 * x, rank=1)
        >>> (g1.T @ g2).abs()
        tensor([[4., 0.],
                [0., 0.]])
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"expected x [n, a] and y [n, b] with at least one row, found {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if not 1 <= rank <= min(x.shape[1], y.shape[1]):
        raise ValueError(
            f"rank must lie between 1 and the smaller width of {tuple(x.shape)} and {tuple(y.shape)}, found {rank}."
        )
    if not rho > 0:
        raise ValueError(f"rho must be positive, found {rho}: without the penalty the linear loss has no minimum.")
    if weights is None:
        weights = x.new_ones(len(x))
    if weights.shape != (len(x),) or not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(
            f"expected a weight of at least 0 for each of {len(x)} pairs, not all of them 0; found shape "
            f"{tuple(weights.shape)}{f', least {float(weights.min())}' if weights.numel() else ''}."
        )
    share = (weights.double() / weights.double().sum())[:, None]
    left, right = (t.double() - (share * t.double()).sum(0) for t in (x, y))
    u, strength, vt = torch.linalg.svd(left.T @ (weights.double()[:, None] * right), full_matrices=False)
    size = (strength[:rank] / rho).sqrt()[:, None]
    return (size * u.T[:rank]).to(x.dtype), (size * vt[:rank]).to(y.dtype)


def sin_theta(a: Float[Tensor, "d r"], b: Float[Tensor, "d r"]) -> Float[Tensor, ""]:
    """Return the distance of two subspaces, the Frobenius norm of the sines of their principal angles.

    ``||sin Theta||_F = sqrt(r - ||A^T B||_F^2) = ||A - B B^T A||_F`` for orthonormal bases A and B; the second form is
    computed, which is exact for near subspaces as well. 0 for equal subspaces, ``sqrt(r)`` at most.

    Args:
        a: basis of one subspace, in its columns [d, r], not necessarily orthonormal but of full rank. For a trained
            map G [r, d] its top right singular vectors, or ``G.T`` where its rank is r.
        b: basis of the other [d, r].

    Returns:
        A number in the precision of the inputs, float32 at least.

    Raises:
        ValueError: for bases of different shapes, or more vectors than dimensions.

    Reference:
        Chandler Davis, William Morton Kahan, 1970, The Rotation of Eigenvectors by a Perturbation. III.

    Example:
        >>> sin_theta(torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0], [2.0]]))
        tensor(0.7071)
    """
    if a.ndim != 2 or a.shape != b.shape or a.shape[1] > a.shape[0]:
        raise ValueError(
            f"expected two bases [d, r] of one shape with r <= d, found {tuple(a.shape)} and {tuple(b.shape)}."
        )
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    left, right = (torch.linalg.qr(t.to(wide)).Q for t in (a, b))
    return torch.linalg.matrix_norm(left - right @ (right.T @ left))


def masked_solution(x: Float[Tensor, "n a"], rank: int) -> Float[Tensor, "r a"]:
    """Return the linear map that contrast within one modality finds, where a view shows half of the coordinates.

    A view keeps every coordinate with probability one half and the other view the rest. No coordinate meets itself, so
    that, in expectation over masks, the linear loss's cross-covariance is a quarter of the covariance without its
    diagonal, and the map is its `rank` leading eigenvectors. Noise that differs from coordinate to coordinate does not
    enter, unlike in principal components; whatever makes coordinates vary together does, shared with another modality
    or not.

    Args:
        x: one modality [n, a], not necessarily centred.
        rank: how many directions r, from 1 to a.

    Returns:
        Orthonormal rows [r, a], largest eigenvalue first, in the precision of the input.

    Raises:
        ValueError: for fewer than two rows, or a rank out of range.

    Reference:
        Wenlong Ji, Zhun Deng, Ryumei Nakada, James Zou, Linjun Zhang, 2023, The Power of Contrast for Feature Learning:
        A Theoretical Analysis.

    Example:
        >>> x = torch.tensor([[1.0, 1.0, 5.0], [-1.0, -1.0, 5.0], [1.0, 1.0, -5.0], [-1.0, -1.0, -5.0]])
        >>> masked_solution(x, rank=1).abs()  # the third coordinate varies most, and with nothing
        tensor([[0.7071, 0.7071, 0.0000]])
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"expected x [n, a] with at least two rows, found {tuple(x.shape)}.")
    if not 1 <= rank <= x.shape[1]:
        raise ValueError(f"rank must lie between 1 and the width {x.shape[1]}, found {rank}.")
    centred = x.double() - x.double().mean(0)
    covariance = centred.T @ centred
    vectors = torch.linalg.eigh(covariance - covariance.diagonal().diag()).eigenvectors
    return vectors.flip(1).T[:rank].to(x.dtype)
