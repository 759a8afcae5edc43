"""Draws ``docs/loss_gradients.png``: where each loss pushes the same points of a circle.

    python docs/pictures/loss_gradients.py [FILE]

Six samples with two views each lie on the unit circle. An arrow is the step of gradient descent on a view's angle; in
every panel the longest arrow has the same length, since the size of a loss says nothing across losses.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinfolk import losses

FIRST, SECOND = (15, 78, 122, 152, 228, 300), (42, 66, 104, 188, 250, 309)
"""Angles of the two views of six samples, in degrees; the views of the fourth lie far apart."""

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
BIAS = torch.tensor([0, 1, 0, 1, 0, 1])
PARTLY = torch.tensor([0, 0, 1, -1, -1, -1])
QUEUE, QUEUE_LABELS = (5, 95, 190, 280), torch.tensor([0, 1, 2, 2])
PROTOTYPES = (45, 130, 270)
SIDE = torch.tensor(
    [[1.0, 0.0, 0.0], [1.0, 0.3, 0.0], [0.8, 0.8, 0.0], [0.7, 0.9, 0.0], [0.0, 0.0, 1.0], [0.0, 0.1, 1.0]]
)
"""What describes the samples: the first two classes are akin, the third is not."""

TAU = 0.2

Panel = Callable[[Tensor, Tensor], Tensor]


def on_circle(degrees: Tensor | tuple[int, ...]) -> Tensor:
    """Unit rows [n, 2] at these angles."""
    radians = torch.as_tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], 1)


def _rows(z0: Tensor, z1: Tensor) -> Tensor:
    return torch.cat([z0, z1])


def _with_prototypes(loss: torch.nn.Module) -> torch.nn.Module:
    """A loss whose prototypes lie on the circle too, without biases."""
    loss = loss.double()
    with torch.no_grad():
        for name, parameter in loss.named_parameters():
            parameter.copy_(on_circle(PROTOTYPES) if name == "weight" else torch.zeros_like(parameter))
    return loss


def _bregman() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return losses.BregmanLoss(2, networks=8, hidden=16, temperature=TAU).double().eval()


def panels() -> dict[str, tuple[str, Panel]]:
    """By loss: what to look at, and the loss of two views."""
    queue, labels, twice = on_circle(QUEUE), LABELS.repeat(2), LABELS.repeat(2)
    ids, partly = torch.arange(6).repeat(2), PARTLY.repeat(2)
    novel = torch.tensor([False, False, False, True, True, True]).repeat(2)
    side = SIDE.double().repeat(2, 1)
    universum = on_circle((150, 235, 300, 15, 62, 100, 150, 235, 300, 15, 62, 100))
    return {
        "NTXent": ("own view pulls, all others push", lambda a, b: losses.NTXentLoss(temperature=TAU)(a, b)),
        "DCL": ("the same, near pairs pull on", lambda a, b: losses.DCLLoss(temperature=TAU)(a, b)),
        "SupCon": ("its class pulls", lambda a, b: losses.SupConLoss(temperature=TAU)(_rows(a, b), labels)),
        "XSample": (
            "akin classes push less",
            lambda a, b: losses.XSampleLoss(temperature=TAU, graph_temperature=0.3)(_rows(a, b), side),
        ),
        "CACR": ("far pairs pull, near strangers push", lambda a, b: losses.CACRLoss()([a, b])),
        "CLIP": ("across views only", lambda a, b: losses.CLIPLoss()(a, b, 1 / TAU)),
        "SigLIP": ("pair by pair", lambda a, b: losses.SigLIPLoss()(a, b, 1 / TAU, -1.0)),
        "CMC": ("CLIP over all pairs of views", lambda a, b: losses.CMCLoss(temperature=TAU)([a, b])),
        "MMCL": ("linear: away from the mean", lambda a, b: losses.MMCLLoss(phi="identity", psi="identity")(a, b)),
        "UnpairedMMCL": (
            "nearest found, not given",
            lambda a, b: losses.UnpairedMMCLLoss(temperature=TAU, matching="argmax")(a, b),
        ),
        "SpectralContrastive": ("squares instead of exponentials", lambda a, b: losses.SpectralContrastiveLoss()(a, b)),
        "AlignUniform": ("pairs meet, rows spread", lambda a, b: losses.AlignUniformLoss()(a, b)),
        "HardNegativeInfoNCE": (
            "near strangers push harder",
            lambda a, b: losses.HardNegativeInfoNCELoss(temperature=TAU, beta=2.0)(a, b),
        ),
        "DebiasedInfoNCE": (
            "less push: some are kin",
            lambda a, b: losses.DebiasedInfoNCELoss(temperature=TAU, tau_plus=0.1)(a, b),
        ),
        "InfoNCE": ("queue pushes the first view", lambda a, b: losses.InfoNCELoss(temperature=TAU)(a, b, queue)),
        "SCE": (
            "queue rows akin to the key pull",
            lambda a, b: losses.SCELoss(temperature=TAU, target_temperature=0.2)(a, b, queue),
        ),
        "MoCHi": (
            "with mixed negatives",
            lambda a, b: losses.MoCHiLoss(temperature=TAU, hardest=2, mixed=8, query_mixed=4)(
                a, b, queue, generator=torch.Generator().manual_seed(0)
            ),
        ),
        "InterCLR": ("margin slackens the pull", lambda a, b: losses.InterCLRLoss(temperature=TAU)(a, b, queue)),
        "NNCLR": ("to the own key's nearest in the queue", lambda a, b: losses.NNCLRLoss(temperature=TAU)(a, b, queue)),
        "FNC": (
            "nearest strangers pull",
            lambda a, b: losses.FNCLoss(temperature=TAU, top_k=2, threshold=0.7)([a, b]),
        ),
        "ReLIC": (
            "and both views predict alike",
            lambda a, b: losses.ReLICLoss(temperature=TAU)([a, b], [a.detach(), b.detach()]),
        ),
        "RenyiCL": (
            "one pool for the batch",
            lambda a, b: losses.RenyiCLLoss(temperature=TAU, alpha=1 / 36)([a, b], [a.detach(), b.detach()]),
        ),
        "Bregman": ("and a learnt divergence", lambda a, b: _bregman()(a, b)),
        "UniCon": (
            "away from mixed images",
            lambda a, b: losses.UniConLoss(temperature=TAU)(_rows(a, b), universum, labels, ids),
        ),
        "ResCom": (
            "rare classes weigh more",
            lambda a, b: losses.ResComLoss([100, 10, 1], temperature=TAU, beta=0.9)(
                _rows(a, b), twice, queue, QUEUE_LABELS
            ),
        ),
        "EpsSupInfoNCE": (
            "one positive at a time",
            lambda a, b: losses.EpsSupInfoNCELoss(temperature=TAU)(_rows(a, b), labels),
        ),
        "EpsSupCon": (
            "a margin to the others",
            lambda a, b: losses.EpsSupConLoss(temperature=TAU)(_rows(a, b), labels),
        ),
        "FairKL": (
            "equal spread with and without bias",
            lambda a, b: losses.FairKLLoss()(_rows(a, b), labels, BIAS.repeat(2)),
        ),
        "ESupCon": (
            "class and its prototype pull",
            lambda a, b: _with_prototypes(losses.ESupConLoss(3, 2, temperature=TAU))(_rows(a, b), labels),
        ),
        "PaCo": (
            "centre first, class second",
            lambda a, b: _with_prototypes(losses.PaCoLoss(3, 2, temperature=TAU))(_rows(a, b), labels, _rows(a, b)),
        ),
        "OpenCon": (
            "three sets, each on its own",
            lambda a, b: losses.OpenConLoss()(_rows(a, b), partly, labels, novel, ids),
        ),
    }


def arrows(panel: Panel) -> Tensor:
    """The step of gradient descent on the angle of every view, [2 n], the longest being 1."""
    angles = (torch.tensor(FIRST + SECOND, dtype=torch.float64)).requires_grad_()
    a, b = on_circle(angles).split(len(FIRST))
    (slope,) = torch.autograd.grad(panel(a, b), angles)
    return -slope / slope.abs().max()


def draw(path: Path) -> Path:
    """Draw all panels into one file."""
    from matplotlib.figure import Figure

    every = panels()
    columns = 5
    lines = -(-len(every) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.7 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns).flat)
    for axis, (name, (what, panel)) in zip(axes, every.items(), strict=False):
        _panel(axis, arrows(panel), queue=name in ("InfoNCE", "SCE", "MoCHi", "InterCLR", "NNCLR", "ResCom"))
        axis.set_title(rf"$\bf{{{name}}}$" + f"\n{what}", fontsize=9)
    for axis in axes[len(every) :]:
        axis.remove()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return path


def _panel(axis: Any, steps: Tensor, *, queue: bool) -> None:
    """One circle: samples by colour, first views filled, second views hollow, arrows along the tangent."""
    from matplotlib.patches import Circle

    axis.add_patch(Circle((0, 0), 1, fill=False, color="lightgray", linewidth=1))
    points = on_circle(FIRST + SECOND)
    tangents = torch.stack([-points[:, 1], points[:, 0]], 1) * 0.55 * steps[:, None]
    n = len(FIRST)
    for k, (point, arrow) in enumerate(zip(points.tolist(), tangents.tolist(), strict=True)):
        colour = ("tab:blue", "tab:orange", "tab:green")[int(LABELS[k % n])]
        axis.annotate(
            "",
            xy=(point[0] + arrow[0], point[1] + arrow[1]),
            xytext=point,
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0},
        )
        axis.plot(*point, "o", color=colour, markersize=5, markerfacecolor=colour if k < n else "white")
    for a, b in zip(points[:n].tolist(), points[n:].tolist(), strict=True):
        axis.plot((a[0], b[0]), (a[1], b[1]), color="lightgray", linewidth=0.8, zorder=0)
    if queue:
        axis.plot(*on_circle(QUEUE).T.tolist(), "x", color="black", markersize=6)
    axis.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
    axis.axis("off")


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "loss_gradients.png"
    print(draw(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
