"""Contrastive losses on several ranks: kinfolk's, other libraries' own distributed forms, and what people write.

A scheme gets a rank's embeddings and returns the loss that rank calls ``backward()`` on. Without a process group the
same scheme is the single process that the gradient is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import dense, peers
from benchmarks.inputs import TEMPERATURE
from benchmarks.own_losses import KINFOLK, WITHOUT_SCALE
from benchmarks.share import Share, Step


@dataclass(frozen=True)
class Scheme:
    """A loss, who computes it, in which form."""

    loss: str
    library: str
    form: str
    build: Callable[[Path | None], Step]
    distribution: str = ""
    learns_scale: bool = False

    @property
    def name(self) -> str:
        return f"{self.loss}: {self.library}, {self.form}" if self.form else f"{self.loss}: {self.library}"


"""Every public loss; all but CACR learn their temperature here."""


def schemes() -> dict[str, Scheme]:
    """Return all schemes by name, those of one loss together."""
    ours = [Scheme(n, "kinfolk", "", _always(s), "kinfolk", n not in WITHOUT_SCALE) for n, s in KINFOLK.items()]
    found = sorted([*ours, *_others()], key=lambda scheme: list(KINFOLK).index(scheme.loss))
    return {scheme.name: scheme for scheme in found}


def _others() -> list[Scheme]:
    pml, clip = "pytorch-metric-learning", "open_clip"
    found = [
        Scheme(loss, pml, f"DistributedLossWrapper{', efficient' if efficient else ''}", build, pml)
        for loss, efficient, build in (
            ("NTXentLoss", False, _metric_learning("NTXentLoss", efficient=False)),
            ("NTXentLoss", True, _metric_learning("NTXentLoss", efficient=True)),
            ("SupConLoss", False, _metric_learning("SupConLoss", efficient=False)),
            ("SupConLoss", True, _metric_learning("SupConLoss", efficient=True)),
        )
    ]
    found.append(Scheme("NTXentLoss", "lightly", "gather_distributed", _lightly, "lightly"))
    for local in (False, True):
        for grad in (False, True):
            options = [n for n, on in (("local_loss", local), ("gather_with_grad", grad)) if on]
            build = _open_clip(local=local, grad=grad)
            found.append(Scheme("CLIPLoss", clip, ", ".join(options) or "defaults", build, "open_clip_torch", True))
    people = {
        "no gathering": lambda x, share: x,
        "torch.distributed.all_gather, own slice put back": _own_slice,
        "torch.distributed.nn.functional.all_gather": _with_gradient,
    }
    for form, gather in people.items():
        found.append(Scheme("NTXentLoss", "as people write it", form, _always(_global_nt_xent(gather))))
    style = "SupContrast style, all_gather with own slice"
    found.append(Scheme("SupConLoss", "as people write it", style, _always(_global_sup_contrast(_own_slice))))
    return found


def _always(step: Step) -> Callable[[Path | None], Step]:
    """A step that needs no package."""
    return lambda folder: step


Gather = Callable[[Tensor, Share], Tensor]


def _own_slice(x: Tensor, share: Share) -> Tensor:
    """The gathered tensor has no gradient; putting the own slice back gives it one for that slice only."""
    if share.world == 1:
        return x
    parts = [torch.zeros_like(x) for _ in range(share.world)]
    dist.all_gather(parts, x.detach().contiguous())
    parts[share.rank] = x
    return torch.cat(parts)


def _with_gradient(x: Tensor, share: Share) -> Tensor:
    if share.world == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


def _global_nt_xent(gather: Gather) -> Step:
    return lambda s: dense.nt_xent(gather(s.z0, s), gather(s.z1, s))


def _global_sup_contrast(gather: Gather) -> Step:
    def step(s: Share) -> Tensor:
        features = torch.stack([gather(normalize(z, dim=1), s) for z in (s.z0, s.z1)], 1)
        return dense.sup_contrast_style(features, gather(s.labels, s))

    return step


def _metric_learning(name: str, *, efficient: bool) -> Callable[[Path | None], Step]:
    def build(folder: Path | None) -> Step:
        loss = getattr(peers.metric_learning(folder), name)(temperature=TEMPERATURE)
        wrapper = peers.metric_learning_distributed(folder).DistributedLossWrapper(loss, efficient=efficient)

        def step(s: Share) -> Tensor:
            labels = (s.labels if name == "SupConLoss" else s.ids).repeat(2)
            return (wrapper if dist.is_initialized() else loss)(s.joined, labels)

        return step

    return build


def _lightly(folder: Path | None) -> Step:
    module = peers.lightly(folder)

    def step(s: Share) -> Tensor:
        loss = module.NTXentLoss(temperature=TEMPERATURE, gather_distributed=dist.is_initialized())
        return loss(s.z0, s.z1)

    return step


def _open_clip(*, local: bool, grad: bool) -> Callable[[Path | None], Step]:
    def build(folder: Path | None) -> Step:
        module = peers.open_clip(folder)

        def step(s: Share) -> Tensor:
            loss = module.ClipLoss(local_loss=local, gather_with_grad=grad, rank=s.rank, world_size=s.world)
            return loss(normalize(s.z0, dim=1), normalize(s.z1, dim=1), s.scale)

        return step

    return build
