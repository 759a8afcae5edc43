"""What each of two processes computes with batch norm over both; run by `test_nn_synchronised_norm.py`.

Arguments: rank, file of the store, folder for results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from kinfolk.nn import FeatureQueue, SynchronisedBatchNorm

CASES = {  # rows of each rank, shape of a row, type, whether affine
    "unequal": ((5, 2), (3, 4, 2), torch.float64, True),
    "one row each": ((1, 1), (3,), torch.float64, True),
    "empty": ((6, 0), (3, 2), torch.float64, True),
    "not affine": ((2, 3), (3,), torch.float64, False),
    "far from 0": ((40, 24), (3, 4, 4), torch.float32, True),
    "half": ((8, 8), (3,), torch.bfloat16, True),
}


def inputs(case: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the joined batch and the joined upstream gradient, split by rank."""
    sizes, shape, dtype, _ = CASES[case]
    generator = torch.Generator().manual_seed(len(case))
    x, grad = (torch.randn(sum(sizes), *shape, dtype=torch.float64, generator=generator) for _ in range(2))
    x = x * 0.01 + 1000 if case == "far from 0" else x * 3 + 1
    return list(x.to(dtype).split(list(sizes))), list(grad.to(dtype).split(list(sizes)))


def layer_of(case: str, cls: type[nn.Module]) -> nn.Module:
    """Return the layer, with parameters that matter."""
    _, shape, dtype, affine = CASES[case]
    layer = cls(shape[0], affine=affine).to(torch.float64 if dtype == torch.float64 else torch.float32)
    if affine:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.5, -0.5, 2.0]))
            layer.bias.copy_(torch.tensor([0.1, 0.2, -3.0]))
    return layer


def passes(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the output and all gradients of two training steps on the same input, and the layer's state."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        layer.zero_grad()
        x.grad = None
        out = layer(x)
        out.backward(grad)
    grads = {f"grad {name}": parameter.grad for name, parameter in layer.named_parameters()}
    return {"out": out.detach(), "grad x": x.grad, **grads, **layer.state_dict()}


def main(rank: int, store: str, folder: Path) -> None:
    """Compute every case, and what a queue says when its copies differ."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {
        case: passes(layer_of(case, SynchronisedBatchNorm), *(part[rank] for part in inputs(case))) for case in CASES
    }
    queue = FeatureQueue(8, 2, generator=torch.Generator().manual_seed(0))
    queue.enqueue(torch.ones(3, 2))
    try:
        queue.enqueue(torch.ones(3, 2) * torch.tensor([1.0, rank]))
        found["queue"] = "no error"
    except ValueError as error:
        found["queue"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
