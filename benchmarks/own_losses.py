"""Every loss of kinfolk as a step on one rank's rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.share import Share, Step
from kinfolk import losses
from kinfolk.graphs import LabelGraph

WITHOUT_SCALE = {
    "AlignUniformLoss",
    "BalancedSoftmaxLoss",
    "CACRLoss",
    "FairKLLoss",
    "OpenConLoss",
    "SpectralContrastiveLoss",
}
"""Losses that know no temperature, or several."""


def _tau(s: Share) -> Any:
    return 1 / s.scale


def _alike(build: type[nn.Module], *arguments: Any, like: Tensor, **options: Any) -> nn.Module:
    """A loss with parameters of its own, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*arguments, **options).to(like).eval()


def _queue_labels(s: Share) -> Tensor:
    return torch.arange(len(s.queue)) % 4


def _labels(s: Share) -> Tensor:
    return s.labels.repeat(2)


def _classes(s: Share) -> Tensor:
    """Labels below 4, whatever the batch has."""
    return _labels(s) % 4


def _open_con(s: Share) -> Tensor:
    known = s.labels % 2 == 0
    partly = s.labels.where(known, -1).repeat(2)
    return losses.OpenConLoss()(s.joined, partly, _labels(s), ~known.repeat(2), s.ids.repeat(2))


def _pa_co(s: Share) -> Tensor:
    loss = _alike(losses.PaCoLoss, 4, s.z0.shape[1], like=s.z0, temperature=_tau(s))
    return loss(s.joined, _classes(s), s.joined, s.queue, _queue_labels(s))


KINFOLK: dict[str, Step] = {
    "NTXentLoss": lambda s: losses.NTXentLoss(temperature=_tau(s))(s.z0, s.z1),
    "SupConLoss": lambda s: losses.SupConLoss(temperature=_tau(s))(s.joined, _labels(s)),
    "CLIPLoss": lambda s: losses.CLIPLoss()(s.z0, s.z1, s.scale),
    "XSampleLoss": lambda s: losses.XSampleLoss(temperature=_tau(s))(s.joined, s.side.repeat(2, 1)),
    "CACRLoss": lambda s: losses.CACRLoss()([s.z0, s.z1]),
    "DCLLoss": lambda s: losses.DCLLoss(temperature=_tau(s), sigma=0.5)(s.z0, s.z1),
    "InfoNCELoss": lambda s: losses.InfoNCELoss(temperature=_tau(s))(s.z0, s.z1, s.queue),
    "GraphContrastiveLoss": lambda s: losses.GraphContrastiveLoss(temperature=_tau(s))(
        s.z0, s.z1, LabelGraph(s.labels)
    ),
    "AlignUniformLoss": lambda s: losses.AlignUniformLoss()(s.z0, s.z1),
    "BalancedSoftmaxLoss": lambda s: losses.BalancedSoftmaxLoss([4, 3, 2, 1])(s.joined[:, :4], _classes(s)),
    "BregmanLoss": lambda s: _alike(
        losses.BregmanLoss, s.z0.shape[1], like=s.z0, networks=4, hidden=8, temperature=_tau(s)
    )(s.z0, s.z1),
    "CMCLoss": lambda s: losses.CMCLoss(temperature=_tau(s))([s.z0, s.z1]),
    "DebiasedInfoNCELoss": lambda s: losses.DebiasedInfoNCELoss(temperature=_tau(s), tau_plus=0.05)(s.z0, s.z1),
    "EpsSupConLoss": lambda s: losses.EpsSupConLoss(temperature=_tau(s))(s.joined, _labels(s)),
    "EpsSupInfoNCELoss": lambda s: losses.EpsSupInfoNCELoss(temperature=_tau(s))(s.joined, _labels(s)),
    "ESupConLoss": lambda s: _alike(losses.ESupConLoss, 4, s.z0.shape[1], like=s.z0, temperature=_tau(s))(
        s.joined, _classes(s)
    ),
    "FairKLLoss": lambda s: losses.FairKLLoss()(s.joined, _labels(s) % 2, _labels(s) % 3),
    "FNCLoss": lambda s: losses.FNCLoss(temperature=_tau(s), top_k=2, threshold=0.1)([s.z0, s.z1]),
    "HardNegativeInfoNCELoss": lambda s: losses.HardNegativeInfoNCELoss(temperature=_tau(s))(s.z0, s.z1),
    "InterCLRLoss": lambda s: losses.InterCLRLoss(temperature=_tau(s))(s.z0, s.z1, s.queue),
    "MMCLLoss": lambda s: losses.MMCLLoss(temperature=_tau(s))(s.z0, s.z1),
    "MoCHiLoss": lambda s: losses.MoCHiLoss(temperature=_tau(s), hardest=1, mixed=2, query_mixed=0)(
        s.z0, s.z1, s.queue
    ),
    "NNCLRLoss": lambda s: losses.NNCLRLoss(temperature=_tau(s))(s.z0, s.z1, s.queue),
    "OpenConLoss": _open_con,
    "PaCoLoss": _pa_co,
    "ReLICLoss": lambda s: losses.ReLICLoss(temperature=_tau(s))([s.z0, s.z1], [s.z0, s.z1]),
    "RenyiCLLoss": lambda s: losses.RenyiCLLoss(temperature=_tau(s))([s.z0, s.z1], [s.z0, s.z1]),
    "ResComLoss": lambda s: losses.ResComLoss([4, 3, 2, 1], temperature=_tau(s), beta=0.9)(
        s.joined, _classes(s), s.queue, _queue_labels(s)
    ),
    "SCELoss": lambda s: losses.SCELoss(temperature=_tau(s))(s.z0, s.z1, s.queue),
    "SigLIPLoss": lambda s: losses.SigLIPLoss()(s.z0, s.z1, s.scale, -2.0),
    "SpectralContrastiveLoss": lambda s: losses.SpectralContrastiveLoss()(s.z0, s.z1),
    "UniConLoss": lambda s: losses.UniConLoss(temperature=_tau(s))(s.joined, s.joined.roll(1, 1), _labels(s)),
    "UnpairedMMCLLoss": lambda s: losses.UnpairedMMCLLoss(temperature=_tau(s))(s.z0, s.z1),
}
"""By class, the eight with counterparts in other libraries first."""
