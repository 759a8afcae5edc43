"""Real digits in batches that are a pure function of the step, and the five methods in small settings."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from kinfolk.methods import CACRConfig, MoCoConfig, SimCLRConfig, SupConConfig, XCLRConfig
from kinfolk.nn import HeadConfig, SmallConvConfig

_HEAD = HeadConfig(hidden=32, out_dim=16)
CONFIGS = {
    "simclr": SimCLRConfig(head=HeadConfig(hidden=32, out_dim=16, norm="batch")),
    "moco": MoCoConfig(queue_size=160, momentum=0.9, batch_norm_splits=4, head=_HEAD),
    "moco-symmetric": MoCoConfig(queue_size=160, momentum=0.9, momentum_steps=60, symmetric=True, head=_HEAD),
    "supcon": SupConConfig(head=_HEAD),
    "xclr": XCLRConfig(head=_HEAD),
    "cacr": CACRConfig(),
}


@pytest.fixture(scope="session")
def digits():
    """Return `batch(step, views=2, n=64)`: moved and noisy views of digits with ids, labels and a side embedding."""
    data = load_digits()
    images = torch.from_numpy(data.images / 16).float()[:, None]
    labels = torch.from_numpy(data.target).long()

    def batch(step: int, *, views: int = 2, n: int = 64) -> dict:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randperm(len(images), generator=generator)[:n]

        def view() -> torch.Tensor:
            theta = torch.eye(2, 3).repeat(n, 1, 1) + 0.15 * torch.randn(n, 2, 3, generator=generator)
            moved = F.grid_sample(
                images[ids], F.affine_grid(theta, (n, 1, 8, 8), align_corners=False), align_corners=False
            )
            return (moved + 0.05 * torch.randn(moved.shape, generator=generator)).clamp(0, 1)

        side = F.one_hot(labels[ids], 10).float()
        return {"views": [view() for _ in range(views)], "ids": ids, "labels": labels[ids], "text_embedding": side}

    return batch


@pytest.fixture(params=list(CONFIGS))
def config(request):
    """Return each method's config in turn."""
    return CONFIGS[request.param]


@pytest.fixture
def build():
    """Return `build(config, norm=, seed=, relation=)`: the method around a small encoder of digits."""

    def make(config, *, norm: str = "batch", seed: int = 0, relation=None):
        torch.manual_seed(seed)
        encoder = SmallConvConfig(width=8, depth=2, norm=norm, pool="flatten", feature_dim=32)
        return config.build(encoder.build(channels=1, image_size=(8, 8)), relation=relation)

    return make
