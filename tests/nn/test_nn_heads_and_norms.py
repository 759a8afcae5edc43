from __future__ import annotations

import pytest
import torch
from torch import nn

from kinfolk.nn import HeadConfig, ProjectionHead, SmallConvConfig, SplitBatchNorm, split_batch_norm


@pytest.mark.parametrize(
    ("config", "kinds", "shapes"),
    [
        (HeadConfig(), [nn.Linear, nn.ReLU, nn.Linear], [(12, 12), (128, 12)]),
        (HeadConfig(layers=1, out_dim=5), [nn.Linear], [(5, 12)]),
        (
            HeadConfig(hidden=7, out_dim=3, layers=3, norm="batch"),
            [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear],
            [(7, 12), (7, 7), (3, 7)],
        ),
    ],
    ids=repr,
)
def test_head_layout(config, kinds, shapes):
    head = config.build(12)
    assert [type(step) for step in head.steps] == kinds
    assert [tuple(step.weight.shape) for step in head.steps if isinstance(step, nn.Linear)] == shapes
    assert head(torch.rand(4, 12)).shape == (4, head.out_dim) == (4, shapes[-1][0])


def test_a_head_without_layers_hands_the_features_through():
    head = HeadConfig(layers=0).build(9)
    features = torch.rand(3, 9)
    assert head(features) is features
    assert head.out_dim == 9
    assert not list(head.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": -1}, "layers must be 0"),
        ({"out_dim": 0}, "out_dim must be at least 1, found 0"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"norm": "layer"}, "norm must be 'none' or 'batch', found 'layer'"),
    ],
)
def test_wrong_head_settings_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        ProjectionHead(8, **settings)


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 2, 5), (13, 3, 4)], ids=str)
def test_split_batch_norm_is_batch_norm_of_each_group(shape):
    torch.manual_seed(0)
    layer, x = SplitBatchNorm(3, splits=4), torch.randn(shape) * 3 + 1
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[x.ndim]
    parts, means = [], []
    for part in x.tensor_split(4):
        plain = kind(3)
        plain.load_state_dict(layer.state_dict())
        parts.append(plain(part))
        means.append(plain.running_mean)
    torch.testing.assert_close(layer(x), torch.cat(parts))
    torch.testing.assert_close(layer.running_mean, torch.stack(means).mean(0))
    assert int(layer.num_batches_tracked) == 1


def test_one_group_and_eval_mode_are_plain_batch_norm():
    x, plain, split = torch.randn(10, 4), nn.BatchNorm1d(4), SplitBatchNorm(4, splits=1)
    for _ in range(3):
        torch.testing.assert_close(split(x), plain(x))
    torch.testing.assert_close(split.running_var, plain.running_var)
    many = SplitBatchNorm(4, splits=5).eval()
    many.load_state_dict(plain.state_dict())
    torch.testing.assert_close(many(x), plain.eval()(x))


def test_cumulative_statistics_and_small_batches():
    split, plain = SplitBatchNorm(2, splits=1, momentum=None), nn.BatchNorm1d(2, momentum=None)
    for batch in torch.randn(4, 6, 2):
        split(batch), plain(batch)
    torch.testing.assert_close(split.running_mean, plain.running_mean)
    x = torch.randn(3, 2)  # too few for two groups of two: one group
    torch.testing.assert_close(SplitBatchNorm(2, splits=8)(x), nn.BatchNorm1d(2)(x))


def test_converting_keeps_parameters_statistics_and_exported_weights():
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
    parameters = list(encoder.parameters())
    encoder(torch.rand(16, 1, 8, 8))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    images = torch.rand(5, 1, 8, 8)
    expected = encoder.eval()(images)
    encoder.train()

    assert split_batch_norm(encoder, splits=4) is encoder
    assert sum(isinstance(m, SplitBatchNorm) for m in encoder.modules()) == 3
    assert not any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
    assert all(a is b for a, b in zip(encoder.parameters(), parameters, strict=True))
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    plain = SmallConvConfig(width=4).build(channels=1, image_size=(8, 8))
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(plain.eval()(images), expected)
    torch.testing.assert_close(encoder.eval()(images), expected)


def test_converting_a_batch_norm_itself_keeps_its_mode_and_splits_are_checked():
    layer = split_batch_norm(nn.BatchNorm1d(3).eval(), splits=2)
    assert isinstance(layer, SplitBatchNorm)
    assert not layer.training
    assert "splits=2" in repr(layer)
    with pytest.raises(ValueError, match="splits must be at least 1, found 0"):
        split_batch_norm(nn.Linear(2, 2), splits=0)
    with pytest.raises(ValueError, match=r"expected an input \[b, 3, ...\], found \(3,\)"):
        layer(torch.rand(3))
