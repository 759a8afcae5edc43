"""The MLP encoder: its shapes, who sees whom in a batch, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kinfolk.nn.mlp import MLPConfig


@pytest.mark.parametrize(
    ("config", "width"),
    [(MLPConfig(), 256), (MLPConfig(hidden=(8, 4)), 4), (MLPConfig(hidden=(), feature_dim=3), 3),
     (MLPConfig(hidden=(8,), norm="layer", dropout=0.5, feature_dim=5), 5)],
)  # fmt: skip
def test_rows_and_images_become_features(config: MLPConfig, width: int) -> None:
    for channels, size in ((30, (1, 1)), (1, (3, 4))):
        encoder = config.build(channels=channels, image_size=size).eval()
        assert encoder(torch.rand(2, channels, *size)).shape == (2, width)
        assert encoder.feature_dim == width


@pytest.mark.parametrize(("norm", "sees"), [("batch", True), ("layer", False), ("none", False)])
def test_only_batch_norm_lets_rows_see_one_another(norm: str, sees: bool) -> None:
    encoder = MLPConfig(hidden=(16,), norm=norm).build(channels=6, image_size=(1, 1))  # type: ignore[arg-type]
    rows = torch.randn(5, 6, 1, 1)
    alone = encoder(rows)[:2]
    rows[2:] += 3
    assert bool((encoder(rows)[:2] != alone).any()) is sees


def test_a_list_from_yaml_is_a_tuple_and_unfit_settings_are_refused() -> None:
    assert MLPConfig(hidden=[4, 2]).hidden == (4, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a layer"):
        MLPConfig(hidden=())
    with pytest.raises(ValueError, match="widths of at least 1"):
        MLPConfig(hidden=(4, 0))
    with pytest.raises(ValueError, match="norm must be one of batch, layer, none"):
        MLPConfig(norm="group")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dropout must be"):
        MLPConfig(dropout=1.0)
    with pytest.raises(ValueError, match=r"takes 6 numbers per sample, found \(2, 7, 1, 1\)"):
        MLPConfig().build(channels=6, image_size=(1, 1))(torch.zeros(2, 7, 1, 1))
