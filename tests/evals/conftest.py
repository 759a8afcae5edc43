"""What robustness is measured on: digits, and a small encoder that knows them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.data import DigitsConfig
from kinfolk.evals import Subject
from kinfolk.nn import SmallConvConfig


@pytest.fixture(scope="session")
def subject() -> Subject:
    """Digits and a small encoder, trained for a second."""
    digits = DigitsConfig().load()
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=8).build(channels=1, image_size=(8, 8))
    model = nn.Sequential(encoder, nn.Linear(encoder.feature_dim, 10))
    held = list(model.parameters())
    images, labels = digits.train.read(torch.arange(len(digits.train))).float() / 255, digits.train.labels
    assert labels is not None
    for step in range(60):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        slopes = torch.autograd.grad(F.cross_entropy(model(images[rows]), labels[rows]), held)
        with torch.no_grad():
            torch._foreach_add_(held, slopes, alpha=-0.3)
    few = digits.train.subset(torch.arange(400))
    return Subject.of("trained", encoder.eval(), train=few, test=digits.test)
