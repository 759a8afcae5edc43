"""Other libraries' real losses beside ours, called as their users call them: equal values, or the stated difference.

``docs/drop_in.md`` says the same in words. A library that is not installed is skipped.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixture
import pytest
import torch
import torch.nn.functional as F
from closeness import close, slopes
from torch import Tensor

from kinfolk import losses

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import peers

Z0, Z1 = fixture.z(0), fixture.z(1)
ROWS, LABELS = torch.cat([Z0, Z1]), fixture.labels().repeat(2)
MANY = pytest.mark.parametrize("seed", range(3))


def peer(load: Callable[..., types.ModuleType], *args: Any) -> types.ModuleType:
    """The module of a library, or a skipped test."""
    try:
        return load(None, *args)
    except peers.AbsentError as error:
        pytest.skip(str(error))


def random_views(seed: int, n: int = 9, d: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Equal value and equal gradient with respect to every input."""
    a, b = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    value, expected = ours(*a), theirs(*b)
    close(value, expected, atol=1e-9, what="value")
    for left, right in zip(slopes(value, a), slopes(expected, b), strict=True):
        close(left, right, atol=1e-8, what="gradient")


# lightly: loss(z0, z1)


@MANY
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_lightly_ntxent(seed: int, temperature: float) -> None:
    theirs = peer(peers.lightly).NTXentLoss(temperature=temperature)
    same(losses.NTXentLoss(temperature=temperature), theirs, *random_views(seed))


@MANY
def test_lightly_dcl(seed: int) -> None:
    theirs = peer(peers.lightly, "dcl_loss").DCLLoss(temperature=0.1)
    same(losses.DCLLoss(temperature=0.1), theirs, *random_views(seed))


@MANY
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_lightly_dclw(seed: int) -> None:
    theirs = peer(peers.lightly, "dcl_loss").DCLWLoss(temperature=0.1, sigma=0.5)
    same(losses.DCLLoss(temperature=0.1, sigma=0.5), theirs, *random_views(seed))


def test_lightly_ntxent_has_no_sample_ids() -> None:
    """The same sample twice is a negative of itself there; with ids= it is none here."""
    theirs = peer(peers.lightly).NTXentLoss(temperature=0.1)
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    z0, z1 = Z0.clone(), Z1.clone()
    z0[1], z1[1] = z0[0], z1[0]
    close(losses.NTXentLoss()(z0, z1), theirs(z0, z1))
    assert losses.NTXentLoss()(z0, z1, ids=ids) < theirs(z0, z1)


# pytorch-metric-learning: loss(embeddings, labels)


def test_metric_learning_supcon() -> None:
    theirs = peer(peers.metric_learning).SupConLoss(temperature=0.1)
    same(lambda x: losses.SupConLoss(temperature=0.1)(x, LABELS), lambda x: theirs(x, LABELS), ROWS)


@MANY
def test_metric_learning_ntxent_is_one_positive_at_a_time(seed: int) -> None:
    """With labels, its NT-Xent keeps only the current positive in the partition: EpsSupInfoNCE without a margin."""
    theirs = peer(peers.metric_learning).NTXentLoss(temperature=0.1)
    x = torch.cat(random_views(seed, n=6))
    ours = losses.EpsSupInfoNCELoss(temperature=0.1, epsilon=0.0)
    same(lambda x: ours(x, LABELS), lambda x: theirs(x, LABELS), x)


@MANY
def test_metric_learning_self_supervised_ntxent(seed: int) -> None:
    module = peer(peers.metric_learning)
    theirs = module.SelfSupervisedLoss(module.NTXentLoss(temperature=0.1))
    same(losses.NTXentLoss(temperature=0.1), theirs, *random_views(seed))


def test_metric_learning_gives_nothing_for_a_batch_of_one_class() -> None:
    theirs = peer(peers.metric_learning).SupConLoss(temperature=0.1)
    one_class = torch.zeros(6, dtype=torch.int64)
    assert float(theirs(Z0, one_class)) == 0
    close(losses.SupConLoss(temperature=0.1)(Z0, one_class), 4.6211064730)


def test_metric_learning_leaves_true_zeros_out_of_the_mean() -> None:
    """In float32 the first class is solved to the last bit; the other is not."""
    theirs = peer(peers.metric_learning).SupConLoss(temperature=0.01)
    far = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    x, labels = torch.cat([F.normalize(far, dim=1), torch.tensor([[-1.0, 0.0, 0.0]])]), torch.tensor([0, 0, 1, 1, -1])
    each = losses.SupConLoss(temperature=0.01, reduction="none")(x, labels)
    assert [bool(value > 1) for value in each] == [False, False, True, True, False]
    assert not each[:2].any()
    close(theirs(x, labels), each[2:4].mean(), atol=1e-5)
    close(losses.SupConLoss(temperature=0.01)(x, labels), each[:4].mean(), atol=1e-5)


def test_metric_learning_takes_unlabelled_rows_for_a_class() -> None:
    theirs = peer(peers.metric_learning).SupConLoss(temperature=0.1)
    partial = torch.tensor([0, 0, 1, 1, -1, -1]).repeat(2)
    as_a_class = partial.where(partial >= 0, 2)
    close(theirs(ROWS, partial), theirs(ROWS, as_a_class))
    close(losses.SupConLoss(temperature=0.1)(ROWS, as_a_class), theirs(ROWS, partial))
    close(losses.SupConLoss(temperature=0.1)(ROWS, partial), 8.5724432320)


# SupContrast: loss(features [b, views, d], labels); its file is in no package, so this is its published computation


def sup_contrast(features: Tensor, labels: Tensor, *, temperature: float, base_temperature: float = 0.07) -> Tensor:
    """SupConLoss of the authors' repository with contrast_mode="all", on features [b, views, d] that are unit rows."""
    views = features.shape[1]
    rows = torch.cat(torch.unbind(features, 1))
    logits = rows @ rows.T / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    positives = (labels[:, None] == labels[None, :]).repeat(views, views).double()
    others = 1 - torch.eye(len(rows), dtype=torch.float64)
    positives = positives * others
    log_prob = logits - torch.log((torch.exp(logits) * others).sum(1, keepdim=True))
    counts = positives.sum(1)
    each = (positives * log_prob).sum(1) / counts.where(counts >= 1e-6, torch.ones_like(counts))
    return -(temperature / base_temperature) * each.mean()


@MANY
@pytest.mark.parametrize("temperature", [0.07, 0.1])
def test_sup_contrast_up_to_its_factor(seed: int, temperature: float) -> None:
    features = F.normalize(torch.stack(random_views(seed, n=6), 1), dim=2)
    labels = fixture.labels()

    def ours(features: Tensor) -> Tensor:
        rows = features.transpose(0, 1).flatten(0, 1)
        value = losses.SupConLoss(temperature=temperature, normalize=False)(rows, labels.repeat(features.shape[1]))
        return temperature / 0.07 * value

    same(ours, lambda features: sup_contrast(features, labels, temperature=temperature), features)


def test_sup_contrast_counts_anchors_without_a_positive() -> None:
    """With one view, singletons are zeros in its mean."""
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    theirs = sup_contrast(Z0[:, None], labels, temperature=0.1, base_temperature=0.1)
    close(theirs, 4.0302602440)
    close(losses.SupConLoss(temperature=0.1)(Z0, labels), 6.0453903660)


# open_clip: loss(image, text, logit_scale)


@MANY
def test_open_clip(seed: int) -> None:
    theirs = peer(peers.open_clip).ClipLoss()
    image, text = (F.normalize(z, dim=1) for z in random_views(seed))
    scale = torch.tensor(14.3, dtype=torch.float64)
    same(losses.CLIPLoss(normalize=False), theirs, image, text, scale)
    close(losses.CLIPLoss()(*random_views(seed), scale), theirs(image, text, scale))


@MANY
def test_open_clip_siglip(seed: int) -> None:
    theirs = peer(peers.open_clip).SigLipLoss()
    image, text = (F.normalize(z, dim=1) for z in random_views(seed))
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-10.0, dtype=torch.float64)
    same(losses.SigLIPLoss(normalize=False), theirs, image, text, scale, bias)
