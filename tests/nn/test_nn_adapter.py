from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kinfolk.nn import SmallConvConfig, as_encoder, encoder_dim


class Nosy(nn.Module):
    """Does what a dry run must not let through: counts calls in eval mode, draws random numbers, writes to a buffer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return self.body(images) + torch.rand(())


def test_feature_dim_is_found_and_the_output_flattened():
    encoder = as_encoder(nn.Conv2d(3, 5, 3), channels=3, image_size=(8, 10))
    assert encoder.feature_dim == encoder_dim(encoder) == 5 * 6 * 8
    images = torch.rand(2, 3, 8, 10)
    torch.testing.assert_close(encoder(images), encoder.module(images).flatten(1))


@pytest.mark.parametrize("training", [True, False])
def test_the_dry_run_leaves_no_trace(training):
    module = Nosy().train(training)
    module.body[1].eval()  # a frozen batch norm inside a module that trains
    before, modes = copy.deepcopy(module.state_dict()), [m.training for m in module.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    as_encoder(module, channels=3, image_size=(8, 8))
    assert torch.equal(torch.rand(4), expected)
    assert [m.training for m in module.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_the_adapter_trains_and_keeps_the_modules_weights():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    encoder = as_encoder(module, channels=1, image_size=(8, 8))
    encoder(torch.rand(2, 1, 8, 8)).sum().backward()
    assert module[1].weight.grad is not None
    assert set(encoder.state_dict()) == {"module.1.weight", "module.1.bias"}


def test_a_double_precision_module_is_asked_in_its_own_precision():
    assert as_encoder(nn.Conv2d(1, 2, 3).double(), channels=1, image_size=(8, 8)).feature_dim == 72


def test_an_encoder_comes_back_unchanged():
    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
    assert as_encoder(encoder, channels=1, image_size=(8, 8)) is encoder


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: {"pooler_output": x}, TypeError, "returned dict; wrap it in a module whose forward picks"),
        (lambda x: (x, x), TypeError, "returned tuple"),
        (lambda x: x.long(), TypeError, "returned torch.int64"),
        (lambda x: x.sum(), ValueError, r"returned \(\); the first dimension must stay the batch"),
        (lambda x: x.mean(0), ValueError, r"to \[2, ...\], Returns returned \(3, 8, 8\)"),
        (lambda x: x[:, :0], ValueError, r"returned \(2, 0, 8, 8\)"),
    ],
)
def test_outputs_that_are_no_features_are_explained(make, error, message):
    with pytest.raises(error, match=message):
        as_encoder(Returns(make), channels=3, image_size=(8, 8))


def test_a_module_for_other_images_is_explained_and_keeps_its_mode():
    module = nn.Conv2d(3, 4, 3)
    with pytest.raises(
        ValueError, match=r"Conv2d does not accept images \(2, 1, 8, 8\).*Check channels and image_size"
    ):
        as_encoder(module, channels=1, image_size=(8, 8))
    assert module.training


def test_a_module_without_feature_dim_is_told_about_as_encoder():
    with pytest.raises(TypeError, match=r"Linear has None; adapt it with kinfolk\.nn\.as_encoder"):
        encoder_dim(nn.Linear(2, 2))
