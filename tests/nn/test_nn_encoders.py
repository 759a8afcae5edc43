from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kinfolk.nn import ResNet18, ResNet18Config, SmallConvConfig, SmallConvNet, Standardise

CONFIGS = [
    SmallConvConfig(width=8),
    SmallConvConfig(width=8, norm="group", pool="flatten", feature_dim=24),
    SmallConvConfig(width=5, depth=1, pool="flatten"),
    ResNet18Config(width=8),
    ResNet18Config(width=8, norm="group", stem="imagenet"),
]
SIZES = [(1, (8, 8)), (3, (9, 11)), (4, (28, 28)), (3, (64, 40))]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize(("channels", "size"), SIZES, ids=str)
def test_every_encoder_keeps_the_contract(config, channels, size):
    encoder = config.build(channels=channels, image_size=size)
    features = encoder(torch.rand(3, channels, *size))
    assert features.shape == (3, encoder.feature_dim)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_eval_mode_encodes_each_image_by_itself(config):
    encoder = config.build(channels=1, image_size=(12, 12)).eval()
    images = torch.rand(5, 1, 12, 12)
    torch.testing.assert_close(encoder(images)[2:3], encoder(images[2:3]), rtol=1e-5, atol=1e-5)


def test_group_norm_keeps_samples_apart_in_training_and_batch_norm_does_not():
    images, others = torch.rand(1, 1, 8, 8), torch.rand(2, 3, 1, 8, 8)
    for norm, apart in (("group", True), ("batch", False)):
        encoder = SmallConvConfig(width=8, norm=norm).build(channels=1, image_size=(8, 8)).train()
        a, b = (encoder(torch.cat([images, company]))[0] for company in others)
        assert torch.allclose(a, b, atol=1e-6) is apart


@pytest.mark.parametrize(
    ("size", "strides"), [(28, [2, 2, 2]), (8, [2, 1, 1]), (13, [2, 2, 1]), (64, [2, 2, 2]), (5, [1, 1, 1])]
)
def test_a_small_image_keeps_its_layout(size, strides):
    encoder = SmallConvNet(channels=1, image_size=(size, size), width=4)
    assert [block[0].stride[0] for block in encoder.blocks] == strides
    maps = encoder.blocks(torch.rand(2, 1, size, size))
    assert min(maps.shape[2:]) >= min(size, 4)


def test_widths_double_up_to_four_times():
    encoder = SmallConvNet(channels=1, image_size=(32, 32), width=4, depth=5)
    assert [block[0].out_channels for block in encoder.blocks] == [4, 8, 16, 16, 16]
    assert encoder.feature_dim == 16


def test_default_cost_of_a_view_stays_under_ten_megaflop():
    encoder = SmallConvConfig().build(channels=1, image_size=(28, 28)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.rand(1, 1, 28, 28))
    assert 1e6 < counter.get_total_flops() < 10e6


def test_average_pooling_ignores_where_and_flatten_does_not():
    @torch.no_grad()
    def shifted_difference(pool):
        torch.manual_seed(0)
        encoder = SmallConvNet(channels=1, image_size=(32, 32), width=4, pool=pool).eval()
        image = torch.full((1, 1, 32, 32), 0.5)
        image[..., 12:16, 12:16] = 1.0
        a, b = encoder(image), encoder(image.roll(8, -1))  # 8 pixels are a whole step of the last map
        return ((a - b).norm() / a.norm()).item()

    assert shifted_difference("average") < 1e-3
    assert shifted_difference("flatten") > 1e-2


def test_average_pooling_takes_other_sizes_and_flatten_says_why_not():
    assert SmallConvNet(channels=1, image_size=(8, 8))(torch.rand(2, 1, 12, 12)).shape == (2, 128)
    with pytest.raises(ValueError, match=r"built for images of \(8, 8\), found \(12, 12\)"):
        SmallConvNet(channels=1, image_size=(8, 8), pool="flatten")(torch.rand(2, 1, 12, 12))


def test_resnet18_has_the_known_number_of_parameters():
    def count(**settings):
        return sum(p.numel() for p in ResNet18(channels=3, **settings).parameters())

    # ImageNet's ResNet-18 has 11,689,512 with its classifier of 513,000; the small stem has 9,408 - 1,728 fewer.
    assert count(stem="imagenet") == 11_689_512 - 513_000
    assert count() == 11_168_832
    assert ResNet18(channels=3).feature_dim == 512


@pytest.mark.parametrize(
    ("stem", "size", "side"), [("small", 8, 1), ("small", 32, 4), ("imagenet", 64, 2), ("imagenet", 8, 1)]
)
def test_resnet_stems_reduce_the_map_as_published(stem, size, side):
    encoder = ResNet18(channels=3, width=4, stem=stem)
    assert encoder.stages(encoder.stem(torch.rand(2, 3, size, size))).shape == (2, 32, side, side)


def test_a_basic_block_equals_its_formula():
    from kinfolk.nn.resnet import BasicBlock

    block = BasicBlock(4, 8, stride=2, norm="batch").eval().double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    maps = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    inner = block.norm1(F.conv2d(maps, block.conv1.weight, stride=2, padding=1)).clamp(min=0)
    straight = block.norm2(F.conv2d(inner, block.conv2.weight, padding=1))
    around = block.shortcut[1](F.conv2d(maps, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(maps), (straight + around).clamp(min=0))


def test_standardise_per_channel_and_saved():
    layer = Standardise(3, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    out = layer(torch.ones(2, 3, 4, 4))
    assert out[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert set(layer.state_dict()) == {"mean", "std"}


def test_encoders_explain_wrong_images():
    encoder = SmallConvConfig(width=4).build(channels=3, image_size=(8, 8))
    with pytest.raises(TypeError, match=r"floating-point images in \[0, 1\], found torch.uint8; divide"):
        encoder(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"takes images \[b, 3, H, W\], found \(2, 1, 8, 8\)"):
        encoder(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SmallConvConfig(norm="layer"), "norm must be 'batch' or 'group', found 'layer'"),
        (SmallConvConfig(pool="max"), "pool must be 'average' or 'flatten', found 'max'"),
        (SmallConvConfig(depth=0), "depth must be at least 1, found 0"),
        (SmallConvConfig(width=-1), "width must be at least 1, found -1"),
        (SmallConvConfig(feature_dim=0), "feature_dim must be at least 1"),
        (SmallConvConfig(mean=(0.5, 0.5)), "mean must have 1 or 3 entries"),
        (SmallConvConfig(std=(0.0,)), "std must be positive"),
        (ResNet18Config(stem="big"), "stem must be 'small' or 'imagenet', found 'big'"),
        (ResNet18Config(width=0), "width must be at least 1"),
    ],
    ids=repr,
)
def test_wrong_settings_are_explained(config, message):
    with pytest.raises(ValueError, match=message):
        config.build(channels=3, image_size=(8, 8))


@pytest.mark.parametrize("config", [SmallConvConfig(), ResNet18Config()], ids=repr)
def test_wrong_images_are_explained_before_anything_is_built(config):
    for size in ((0, 8), (8,)):
        with pytest.raises(ValueError, match=r"image_size must be \(H, W\) in pixels"):
            config.build(channels=1, image_size=size)
    with pytest.raises(ValueError, match="channels must be at least 1, found 0"):
        config.build(channels=0, image_size=(8, 8))
