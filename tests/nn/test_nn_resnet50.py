"""ResNet-50: its size, its blocks, and weights saved by other libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.nn import ResNet18Config, ResNet50, ResNet50Config, load_initial_weights
from kinfolk.nn.resnet50 import BottleneckBlock

CONFIGS = [ResNet50Config(width=4), ResNet50Config(width=4, norm="group", stem="small")]


class Published(nn.Module):
    """A ResNet with torchvision's names, written apart from ours: stages of blocks, each of some convolutions."""

    def __init__(self, counts: tuple[int, ...], width: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.expansion, incoming = 4 if bottleneck else 1, width
        for stage, count in enumerate(counts):
            blocks, inner = [], width * 2**stage
            for index in range(count):
                stride = 2 if stage and not index else 1
                kernels = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
                widths = [incoming, *[inner] * (len(kernels) - 1), inner * self.expansion]
                block = nn.Module()
                for k, (kernel, step) in enumerate(kernels):
                    conv = nn.Conv2d(widths[k], widths[k + 1], kernel, step, kernel // 2, bias=False)
                    setattr(block, f"conv{k + 1}", conv)
                    setattr(block, f"bn{k + 1}", nn.BatchNorm2d(widths[k + 1]))
                if stride != 1 or incoming != widths[-1]:
                    conv = nn.Conv2d(incoming, widths[-1], 1, stride, bias=False)
                    block.downsample = nn.Sequential(conv, nn.BatchNorm2d(widths[-1]))
                blocks.append(block)
                incoming = widths[-1]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(incoming, 10)

    def features(self, images: Tensor) -> Tensor:
        maps = F.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                out, count = maps, 3 if self.expansion == 4 else 2
                for k in range(1, count + 1):
                    out = getattr(block, f"bn{k}")(getattr(block, f"conv{k}")(out))
                    out = out.relu() if k < count else out
                maps = (out + (block.downsample(maps) if hasattr(block, "downsample") else maps)).relu()
        return maps.mean((2, 3))


def test_it_has_the_known_number_of_parameters() -> None:
    count = sum(p.numel() for p in ResNet50(channels=3).parameters())
    assert count == 25_557_032 - 2_049_000  # ImageNet's ResNet-50 without its classifier
    assert ResNet50(channels=3, width=2).feature_dim == 64


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (33, 40))], ids=str)
def test_it_keeps_the_contract_of_an_encoder(config: ResNet50Config, channels: int, size: tuple[int, int]) -> None:
    encoder = config.build(channels=channels, image_size=size)
    features = encoder(torch.rand(3, channels, *size))
    assert features.shape == (3, encoder.feature_dim)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    images = torch.rand(4, channels, *size).double()
    encoder.eval().double()
    torch.testing.assert_close(encoder(images)[2:3], encoder(images[2:3]), rtol=1e-9, atol=1e-9)


def test_a_bottleneck_block_equals_its_formula() -> None:
    block = BottleneckBlock(4, 3, stride=2, norm="batch").eval().double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    maps = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    inner = block.norm1(F.conv2d(maps, block.conv1.weight)).clamp(min=0)
    inner = block.norm2(F.conv2d(inner, block.conv2.weight, stride=2, padding=1)).clamp(min=0)
    straight = block.norm3(F.conv2d(inner, block.conv3.weight))
    around = block.shortcut[1](F.conv2d(maps, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(maps), (straight + around).clamp(min=0))


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "backbone."])
@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (ResNet50Config(width=4, mean=(0.0,), std=(1.0,)), (3, 4, 6, 3)),
        (ResNet18Config(stem="imagenet", width=4, mean=(0.0,), std=(1.0,)), (2, 2, 2, 2)),
    ],
    ids=["resnet50", "resnet18"],
)
def test_published_weights_give_published_features(
    config: ResNet50Config | ResNet18Config, counts: tuple[int, ...], prefix: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = Published(counts, 4, bottleneck=config.kind == "resnet50")
    theirs.features(torch.rand(8, 3, 64, 64))  # so that running statistics are not those of a fresh one
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "theirs.pt")
    ours = config.build(channels=3, image_size=(64, 64)).eval()
    taken = load_initial_weights(ours, tmp_path / "theirs.pt")
    assert (taken.prefix, taken.heads, taken.unused) == (prefix, ("fc.weight", "fc.bias"), ())
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs.eval().features(images))


def test_own_weights_load_as_before(tmp_path: Path) -> None:
    first, second = (ResNet50Config(width=2).build(channels=1, image_size=(16, 16)).eval() for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "ours.pt")
    load_initial_weights(second, tmp_path / "ours.pt")
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(first(images), second(images))


def test_wrong_settings_are_explained() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, found 0"):
        ResNet50Config(width=0).build(channels=3, image_size=(8, 8))
    with pytest.raises(ValueError, match=r"image_size must be \(H, W\) in pixels, found \(8,\)"):
        ResNet50Config().build(channels=3, image_size=(8,))
    with pytest.raises(ValueError, match="stem must be 'small' or 'imagenet', found 'big'"):
        ResNet50Config(stem="big").build(channels=3, image_size=(8, 8))
