"""The same losses as plain PyTorch with the whole score matrix: what people write, and what torch.compile is given."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.inputs import TEMPERATURE


def nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    scores = _self_scores(torch.cat([z0, z1]))
    return cross_entropy(scores, torch.arange(len(scores), device=scores.device).roll(len(z0)))


def sup_con(z0: Tensor, z1: Tensor, labels: Tensor) -> Tensor:
    rows = labels.repeat(2)
    positive = (rows[:, None] == rows[None]).fill_diagonal_(False)
    log_p = torch.log_softmax(_self_scores(torch.cat([z0, z1])), 1)
    return -(log_p.where(positive, 0.0).sum(1) / positive.sum(1)).mean()


def x_clr(z0: Tensor, z1: Tensor, side: Tensor) -> Tensor:
    target = torch.softmax(_self_scores(side), 1)
    log_p = torch.log_softmax(_self_scores(torch.cat([z0, z1])), 1)
    return -(target * log_p.where(target > 0, 0.0)).sum(1).mean()


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    q, k = normalize(queries, dim=1), normalize(keys.detach(), dim=1)
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ normalize(queue, dim=1).T], 1) / TEMPERATURE
    return cross_entropy(logits.to(_wide(logits)), torch.zeros(len(q), dtype=torch.int64, device=q.device))


def clip(image: Tensor, text: Tensor) -> Tensor:
    logits = normalize(image, dim=1) @ normalize(text, dim=1).T / TEMPERATURE
    logits, own = logits.to(_wide(logits)), torch.arange(len(image), device=image.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def cacr(z0: Tensor, z1: Tensor, *, t_neg: float = 2.0) -> Tensor:
    a, b = normalize(z0, dim=1), normalize(z1, dim=1)
    product = a @ b.T
    cost = 2 - 2 * product.to(_wide(product))
    weights = torch.softmax((-t_neg * cost).fill_diagonal_(-torch.inf), 1)
    return cost.diagonal().mean() - (weights * cost).sum(1).mean()


def sup_contrast_style(features: Tensor, labels: Tensor | None, *, base_temperature: float = 0.07) -> Tensor:
    """The form of the SupContrast repository, written anew: views [n, v, d], masks as floats, times tau / base."""
    n, views, _ = features.shape
    same = torch.eye(n, device=features.device) if labels is None else (labels[:, None] == labels[None]).float()
    rows = torch.cat(torch.unbind(features, 1))
    logits = rows @ rows.T / TEMPERATURE
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others = 1 - torch.eye(views * n, device=features.device)
    positive = same.repeat(views, views) * others
    log_p = logits - torch.log((torch.exp(logits) * others).sum(1, keepdim=True))
    return (-(TEMPERATURE / base_temperature) * (positive * log_p).sum(1) / positive.sum(1)).mean()


def _self_scores(x: Tensor) -> Tensor:
    """Scores of a set against itself, without the diagonal; half precision is widened after the product."""
    unit = normalize(x, dim=1)
    scores = unit @ unit.T / TEMPERATURE
    return scores.to(_wide(scores)).fill_diagonal_(-torch.inf)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
