"""Grad-CAM and its mask."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kinfolk.nn import SmallConvConfig
from kinfolk.nn.grad_cam import above_middle, grad_cam


def model():
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=4, depth=3, pool="flatten", feature_dim=6).build(channels=1, image_size=(16, 16))
    return nn.Sequential(encoder, nn.Linear(6, 3)).double().eval()


@pytest.mark.parametrize("name", ["blocks.1.0", "blocks.2"])
def test_it_is_what_captum_says(name):
    captum = pytest.importorskip("captum.attr")
    net, images = model(), torch.rand(5, 1, 16, 16, dtype=torch.float64)
    layer, classes = net[0].get_submodule(name), torch.tensor([0, 1, 2, 1, 0])
    expected = captum.LayerGradCam(net, layer).attribute(images, target=classes)
    expected = F.interpolate(expected.detach(), size=(16, 16), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(grad_cam(net, layer, images, classes), expected)


def test_no_parameter_receives_a_gradient_and_no_hook_stays():
    net, layer = model(), nn.Identity()
    with torch.no_grad():
        found = grad_cam(net, net[0].blocks[0], torch.rand(2, 1, 16, 16).double(), torch.tensor([0, 1]))
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net[0].blocks[0]._forward_hooks
    with pytest.raises(ValueError, match="gives maps"):
        grad_cam(net, layer, torch.rand(2, 1, 16, 16).double(), torch.tensor([0, 1]))


def test_the_mask_does_not_depend_on_a_map_s_scale_or_offset():
    maps = torch.randn(4, 5, 5, dtype=torch.float64)
    assert torch.equal(above_middle(maps), above_middle(8 * maps + 2))
    assert above_middle(torch.zeros(1, 2, 2)).all()
