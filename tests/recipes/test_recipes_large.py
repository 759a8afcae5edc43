"""The recipes of CIFAR-10, CIFAR-100 and ImageNet, shrunk, on folders of noise in the published form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfolk.data import ClassNamesConfig, LabelsConfig
from kinfolk.nn import ColourBranchesConfig, ResNet50Config
from kinfolk.recipes import RECIPES, recipe, smoke
from kinfolk.train import LARSConfig, fit

LARGE = [name for name in RECIPES if name.endswith(("-cifar10", "-cifar100", "-imagenet"))]
_SAMPLES = 32


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write the data sets with 32 training and 8 test images of four classes; a long tail takes 4 more to leave 32."""
    generator = np.random.default_rng(0)
    cifar, cifar100, imagenet = (tmp_path_factory.mktemp(name) for name in ("cifar", "cifar100", "imagenet"))
    for name, count in (
        *((f"data_batch_{i}", _SAMPLES // 4 - 1) for i in range(1, 5)),
        ("data_batch_5", 4),
        ("test_batch", 8),
    ):
        records = [bytes([i % 4]) + generator.bytes(3072) for i in range(count)]
        (cifar / f"{name}.bin").write_bytes(b"".join(records))
    (cifar / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")
    for name, count in (("train", _SAMPLES + 4), ("test", 8)):
        records = [bytes([0, i % 4]) + generator.bytes(3072) for i in range(count)]
        (cifar100 / f"{name}.bin").write_bytes(b"".join(records))
    for name, count in (("coarse", 20), ("fine", 100)):
        (cifar100 / f"{name}_label_names.txt").write_text("".join(f"{name}{i}\n" for i in range(count)))
    for part, count in (("train", _SAMPLES), ("val", 8)):
        for i in range(count):
            file = imagenet / part / f"n{i % 4:08d}" / f"n{i % 4:08d}_{i}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(file)
    return {"cifar10": str(cifar), "cifar100": str(cifar100), "imagenet": str(imagenet)}


@pytest.mark.parametrize("name", LARGE)
def test_it_runs_shrunk_on_the_published_form(name: str, folders: dict[str, str], tmp_path: Path) -> None:
    config = smoke(recipe(name))
    source = replace(config.source, root=folders[name.rpartition("-")[2]])
    protocols = replace(config.evaluation, protocols=("knn",), baselines=False)
    if isinstance(config.relation, ClassNamesConfig):  # by another relation of classes: no text encoder is needed here
        config = replace(config, relation=LabelsConfig())
    run = fit(replace(config, source=source, evaluation=protocols, epochs=1, batch_size=16), out=tmp_path / "run")
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2]
    assert run.is_finished


def test_shrinking_takes_large_images_wide_layers_and_processes_away() -> None:
    config = smoke(recipe("simclr-imagenet"))
    assert (config.source.image_size, config.views.size, config.workers) == ((32, 32), (32, 32), 0)
    assert (config.encoder.width, config.batch_size) == (8, 64)
    assert smoke(recipe("simclr-cifar10")).method.head.hidden == 64
    assert smoke(recipe("simclr-digits")).views == recipe("simclr-digits").views


def test_imagenet_recipes_train_a_resnet50_and_the_largest_batches_with_lars() -> None:
    configs = [recipe(name) for name in LARGE if name.endswith("-imagenet")]
    halves = ColourBranchesConfig(ResNet50Config(width=32))  # CMC has an encoder of half the width for each view
    assert {config.encoder for config in configs} == {ResNet50Config(), halves}
    assert all(isinstance(config.optimizer, LARSConfig) for config in configs if config.batch_size == 4096)
    assert all(config.warmup > 0 for config in configs if isinstance(config.optimizer, LARSConfig))
    assert recipe("dcl-imagenet").optimizer.learning_rate == pytest.approx(0.075 * 256**0.5)
    assert recipe("simclr-imagenet").optimizer.learning_rate == pytest.approx(0.075 * 4096**0.5)
