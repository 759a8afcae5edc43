"""Who computes a loss: kinfolk, dense PyTorch, dense under torch.compile, and the libraries that ship it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import dense, peers
from benchmarks.inputs import TEMPERATURE, Inputs
from kinfolk.losses import CACRLoss, CLIPLoss, InfoNCELoss, NTXentLoss, SupConLoss, XSampleLoss

Step = Callable[[Inputs], Tensor]
"""A batch's loss, ready for ``backward()``."""

OURS = "kinfolk"
YARDSTICK = "kinfolk NT-Xent"
COMPILED = "dense compiled"


@dataclass(frozen=True)
class Contender:
    """A named way to compute a loss; ``step`` is None where it cannot be had, for the reason in ``note``."""

    name: str
    step: Step | None
    version: str = ""
    note: str = ""


def contenders(
    loss: str, *, only: Sequence[str] | None = None, folder: Path | None = None, device: str = "cpu"
) -> dict[str, Contender]:
    """Return everyone who computes a loss, or those named in ``only``; ours first, in the order of the table."""
    function, take = _DENSE[loss]
    builders: dict[str, Callable[[], Contender]] = {OURS: lambda: Contender(OURS, _KINFOLK[loss])}
    if loss == "X-CLR":
        builders[YARDSTICK] = lambda: Contender(YARDSTICK, _KINFOLK["NT-Xent"], note="another loss, as the yardstick")
    builders["dense"] = lambda: Contender("dense", lambda x: function(*take(x)), torch.__version__)
    builders[COMPILED] = lambda: Contender(COMPILED, _compiled(function, take), torch.__version__)
    for peer in _PEERS.get(loss, ()):
        if device == "cuda" or not peer.gpu_only:
            builders[peer.name] = partial(_peer, peer, folder)
    return {name: build() for name, build in builders.items() if only is None or name in only}


_KINFOLK: dict[str, Step] = {
    "NT-Xent": lambda x: NTXentLoss(temperature=TEMPERATURE)(x.z0, x.z1),
    "SupCon": lambda x: SupConLoss(temperature=TEMPERATURE)(x.joined, x.labels.repeat(2)),
    "X-CLR": lambda x: XSampleLoss(temperature=TEMPERATURE, graph_temperature=TEMPERATURE)(x.joined, x.side),
    "InfoNCE": lambda x: InfoNCELoss(temperature=TEMPERATURE)(x.z0, x.z1, x.queue),
    "CLIP": lambda x: CLIPLoss()(x.z0, x.z1, 1 / TEMPERATURE),
    "CACR": lambda x: CACRLoss()([x.z0, x.z1]),
}

_DENSE: dict[str, tuple[Callable[..., Tensor], Callable[[Inputs], tuple[Tensor, ...]]]] = {
    "NT-Xent": (dense.nt_xent, lambda x: (x.z0, x.z1)),
    "SupCon": (dense.sup_con, lambda x: (x.z0, x.z1, x.labels)),
    "X-CLR": (dense.x_clr, lambda x: (x.z0, x.z1, x.side)),
    "InfoNCE": (dense.info_nce, lambda x: (x.z0, x.z1, x.queue)),
    "CLIP": (dense.clip, lambda x: (x.z0, x.z1)),
    "CACR": (dense.cacr, lambda x: (x.z0, x.z1)),
}


def _compiled(function: Callable[..., Tensor], take: Callable[[Inputs], tuple[Tensor, ...]]) -> Step:
    """Compiled at the first call: the compiler is slow to import and most processes never need it."""

    @cache
    def compiled() -> Callable[..., Tensor]:
        return torch.compile(function, dynamic=False)

    return lambda x: compiled()(*take(x))


@dataclass(frozen=True)
class _Peer:
    name: str
    distribution: str
    build: Callable[[Path | None], Step]
    gpu_only: bool = False


def _peer(peer: _Peer, folder: Path | None) -> Contender:
    version = peers.version(peer.distribution, folder) if peer.distribution else ""
    try:
        return Contender(peer.name, peer.build(folder), version)
    except peers.AbsentError as absent:
        return Contender(peer.name, None, version, str(absent))


def _metric_learning(name: str) -> Callable[[Path | None], Step]:
    def build(folder: Path | None) -> Step:
        loss = getattr(peers.metric_learning(folder), name)(temperature=TEMPERATURE)

        def step(x: Inputs) -> Tensor:
            labels = x.labels if name == "SupConLoss" else torch.arange(len(x.z0), device=x.z0.device)
            return loss(x.joined, labels.repeat(2))

        return step

    return build


def _lightly(folder: Path | None) -> Step:
    loss = peers.lightly(folder).NTXentLoss(temperature=TEMPERATURE)
    return lambda x: loss(x.z0, x.z1)


def _open_clip(folder: Path | None) -> Step:
    loss = peers.open_clip(folder).ClipLoss()
    return lambda x: loss(normalize(x.z0, dim=1), normalize(x.z1, dim=1), 1 / TEMPERATURE)


def _inf_cl(folder: Path | None) -> Step:
    module: Any = peers.inf_cl(folder)

    def step(x: Inputs) -> Tensor:
        image, text = (normalize(z.float(), dim=1) for z in x.leaves)
        width = min(image.shape[1], 256)
        one_way = [module.cal_inf_loss(a / TEMPERATURE, b, head_dim=width) for a, b in ((image, text), (text, image))]
        return (one_way[0] + one_way[1]) / 2

    return step


def _sup_contrast(labelled: bool) -> Callable[[Path | None], Step]:
    def step(x: Inputs) -> Tensor:
        features = torch.stack([normalize(z, dim=1) for z in x.leaves], 1)
        return dense.sup_contrast_style(features, x.labels if labelled else None)

    return lambda folder: step


_PML, _STYLE = "pytorch-metric-learning", "SupContrast style"
_PEERS: dict[str, tuple[_Peer, ...]] = {
    "NT-Xent": (
        _Peer(_PML, _PML, _metric_learning("NTXentLoss")),
        _Peer("lightly", "lightly", _lightly),
        _Peer(_STYLE, "", _sup_contrast(labelled=False)),
    ),
    "SupCon": (_Peer(_PML, _PML, _metric_learning("SupConLoss")), _Peer(_STYLE, "", _sup_contrast(labelled=True))),
    "CLIP": (_Peer("open_clip", "open_clip_torch", _open_clip), _Peer("Inf-CL", "inf-cl", _inf_cl, gpu_only=True)),
}
