"""Encoders of transformers from a local folder: pooling, preprocessing, other sizes, a run without the folder."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kinfolk.nn.transformers_encoder import TransformersConfig

transformers = pytest.importorskip("transformers", reason="needs transformers")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "image_size": 16, "patch_size": 8}
    configs = {
        "vit": transformers.ViTConfig(**small),
        "dinov2": transformers.Dinov2Config(**small),
        "resnet": transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"),
        "grey": transformers.ViTConfig(**small, num_channels=1),
        "bert": transformers.BertConfig(**{**small, "vocab_size": 9, "max_position_embeddings": 8}),
    }
    torch.manual_seed(0)
    for name, config in configs.items():
        transformers.AutoModel.from_config(config).save_pretrained(root / name)
        described = {"image_mean": MEAN, "image_std": STD, "do_normalize": name != "resnet"}
        (root / name / "preprocessor_config.json").write_text(json.dumps(described))
    return {name: str(root / name) for name in configs}


@pytest.mark.parametrize(
    ("name", "pooling", "width"),
    [("vit", "pooler", 16), ("vit", "cls", 16), ("vit", "mean", 16), ("dinov2", "pooler", 16), ("dinov2", "cls", 16),
     ("resnet", "pooler", 8), ("resnet", "mean", 8)],
)  # fmt: skip
def test_features_are_those_of_the_model_on_preprocessed_images(
    folders: dict[str, str], name: str, pooling: Any, width: int
) -> None:
    encoder = TransformersConfig(folders[name], pooling=pooling).build(channels=3, image_size=(16, 16)).eval()
    images = torch.rand(2, 3, 16, 16)
    pixels = images
    if name != "resnet":  # whose processor does not normalise
        pixels = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    output = transformers.AutoModel.from_pretrained(folders[name]).eval()(pixel_values=pixels)
    last = output.last_hidden_state
    wanted = {
        "pooler": output.pooler_output.flatten(1),
        "cls": last[:, 0] if last.ndim == 3 else None,
        "mean": last.mean((2, 3)) if last.ndim == 4 else last.mean(1),
    }[pooling]
    assert encoder.feature_dim == width
    torch.testing.assert_close(encoder(images), wanted)


@pytest.mark.parametrize("name", ["vit", "dinov2", "resnet"])
def test_other_sizes_are_taken(folders: dict[str, str], name: str) -> None:
    for size in ((24, 24), (16, 32)):
        encoder = TransformersConfig(folders[name]).build(channels=3, image_size=size)
        assert encoder(torch.rand(2, 3, *size)).shape == (2, encoder.feature_dim)


def test_grey_images_are_three_equal_channels_and_alpha_is_dropped(folders: dict[str, str]) -> None:
    config = TransformersConfig(folders["vit"], pooling="cls")
    rgb, grey, rgba = (config.build(channels=c, image_size=(16, 16)).eval() for c in (3, 1, 4))
    image = torch.rand(2, 1, 16, 16)
    three = image.expand(-1, 3, -1, -1)
    torch.testing.assert_close(grey(image), rgb(three))
    torch.testing.assert_close(rgba(torch.cat([three, torch.rand(2, 1, 16, 16)], dim=1)), rgb(three))
    with pytest.raises(ValueError, match=r"takes images \[b, 1, H, W\], found \(2, 3, 16, 16\)"):
        grey(three)
    one = TransformersConfig(folders["grey"], mean=(0.5,), std=(0.5,)).build(channels=1, image_size=(16, 16))
    assert one(image).shape == (2, 16)
    with pytest.raises(ValueError, match="takes 1 channels, and images have 3"):
        TransformersConfig(folders["grey"], mean=(0.5,), std=(0.5,)).build(channels=3, image_size=(16, 16))


def test_weights_without_gradient_are_those_that_features_do_not_depend_on(folders: dict[str, str]) -> None:
    encoder = TransformersConfig(folders["dinov2"], pooling="mean").build(channels=3, image_size=(16, 16)).train()
    encoder(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in encoder.parameters())
    frozen = TransformersConfig(folders["resnet"], frozen=True).build(channels=3, image_size=(16, 16)).train()
    assert not frozen.model.training
    assert not frozen(torch.rand(2, 3, 16, 16)).requires_grad


def test_random_weights_are_another_start(folders: dict[str, str]) -> None:
    config = TransformersConfig(folders["vit"], pretrained=False)
    torch.manual_seed(1)
    built = config.build(channels=3, image_size=(16, 16))
    saved = TransformersConfig(folders["vit"]).build(channels=3, image_size=(16, 16))
    key = "model.embeddings.cls_token"
    assert not torch.equal(built.state_dict()[key], saved.state_dict()[key])


def test_the_stored_config_builds_the_same_architecture_without_the_folder(folders: dict[str, str]) -> None:
    for name in ("vit", "resnet"):
        config = TransformersConfig(folders[name], pooling="mean")
        encoder = config.build(channels=1, image_size=(16, 16)).eval()
        stored = config.stored(encoder)
        again = (
            TransformersConfig(**{**vars(stored), "name": "gone/away"}).build(channels=1, image_size=(16, 16)).eval()
        )
        again.load_state_dict(encoder.state_dict())
        images = torch.rand(2, 1, 16, 16)
        assert torch.equal(again(images), encoder(images))


def test_a_run_loads_its_encoder_after_the_folder_is_gone(tmp_path: Path, folders: dict[str, str]) -> None:
    from kinfolk.train.config import to_yaml
    from kinfolk.train.runs import EncoderFile, Run, export_encoder, load_encoder

    shutil.copytree(folders["vit"], tmp_path / "model")
    config: Any = TransformersConfig(str(tmp_path / "model"))
    encoder = config.build(channels=3, image_size=(16, 16)).eval()
    description = EncoderFile(config, 3, (16, 16), encoder.feature_dim, "simclr", "photos", "none")
    export_encoder(Run(tmp_path), encoder, description)
    shutil.rmtree(tmp_path / "model")
    assert "architecture" in to_yaml(config.stored(encoder))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_encoder(tmp_path)(images), encoder(images))


def test_unfit_models_and_settings_are_refused(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it is not a folder here, and the hub does not have it"):
        TransformersConfig(str(tmp_path / "absent")).build(channels=3, image_size=(16, 16))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no model that transformers knows"):
        TransformersConfig(str(tmp_path)).build(channels=3, image_size=(16, 16))
    with pytest.raises(ValueError, match="takes input_ids, not images"):
        TransformersConfig(folders["bert"]).build(channels=3, image_size=(16, 16))
    with pytest.raises(ValueError, match="has no first token"):
        TransformersConfig(folders["resnet"], pooling="cls").build(channels=3, image_size=(16, 16))
    with pytest.raises(ValueError, match="pooling must be"):
        TransformersConfig("a", pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give mean and std together"):
        TransformersConfig("a", mean=(0.5,))
    assert TransformersConfig("a", mean=[0.5], std=[0.5]).mean == (0.5,)  # type: ignore[arg-type]


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "kinfolk\[hf\]"'):
        TransformersConfig("a").build(channels=3, image_size=(16, 16))
