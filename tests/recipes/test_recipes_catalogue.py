from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kinfolk.data import (
    ArraysConfig,
    ArraySource,
    CIFARConfig,
    DigitsConfig,
    FashionMNISTConfig,
    ImageFolderConfig,
    ImageNetConfig,
)
from kinfolk.data.sources.fashion_mnist import FASHION_CLASSES
from kinfolk.recipes import DATASETS, RECIPES, recipe, smoke, source_config
from kinfolk.train import fit

SMALL = ("digits", "digits-moved", "fashion-mnist", "emoji")
LARGE = {"cifar10": CIFARConfig, "cifar100": CIFARConfig, "imagenet": ImageNetConfig}


def test_every_method_has_a_recipe_for_small_data() -> None:
    """The five first methods for every set, any other for digits and for at least one set of real size."""
    assert {
        f"{method}-{data}" for method in ("simclr", "moco", "supcon", "xclr", "cacr") for data in SMALL
    } <= RECIPES.keys()
    methods = {name.removesuffix("-digits") for name in RECIPES if name.endswith("-digits")}
    for method in methods - {"fine-tune"}:
        assert {f"{method}-fashion-mnist", f"{method}-emoji"} & RECIPES.keys(), method


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("-table")])
def test_a_recipe_is_what_its_name_says(name: str) -> None:
    config = recipe(name)
    assert config.name == name
    if name.endswith(tuple(LARGE)):
        assert type(config.source) is LARGE[name.rpartition("-")[2]]
    elif name == "simclr-emoji-hands":
        assert config.source == DATASETS["emoji-hands"]
    else:
        assert config.source == DATASETS[next(data for data in reversed(SMALL) if name.endswith(f"-{data}"))]
    assert (config.relation is not None) == (config.method.kind == "xclr" or name.startswith("clip-captions"))


@pytest.mark.parametrize("data", ["digits", "digits-moved", "fashion-mnist"])
def test_methods_share_the_encoder_and_the_number_of_views(data: str) -> None:
    configs = [recipe(f"{method}-{data}") for method in ("simclr", "moco", "supcon", "xclr", "cacr")]
    assert len({config.encoder for config in configs}) == 1
    assert len({config.epochs * config.views.count for config in configs}) == 1
    assert recipe(f"cacr-{data}").views.count == 5


def test_an_unknown_recipe_lists_what_exists() -> None:
    with pytest.raises(
        ValueError, match=r"no recipe 'simclr-digit' \(did you mean simclr-digits\?\); recipes: simclr-digits, moco"
    ):
        recipe("simclr-digit")


def _write_idx(folder: Path, train: int, test: int) -> None:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            with gzip.open(folder / f"{name}.gz", "wb") as file:
                file.write(header + array.tobytes())


@pytest.mark.parametrize("method", ["simclr", "moco", "supcon", "xclr", "cacr"])
def test_fashion_mnist_recipes_run_on_files_of_that_form(method: str, tmp_path: Path) -> None:
    _write_idx(tmp_path / "data", 320, 60)
    config = smoke(recipe(f"{method}-fashion-mnist"))
    config = replace(config, source=FashionMNISTConfig(root=str(tmp_path / "data")), epochs=1)
    run = fit(config, out=tmp_path / "run")
    assert [record["step"] for record in run.metrics if record["event"] == "train"] == [1, 2, 3, 4]
    assert len(run.records) > 20


@pytest.mark.parametrize("name", ["xclr-digits", "xclr-fashion-mnist"])
def test_class_tables_spread_mass_beyond_the_own_class(name: str) -> None:
    """The graph says more than equal labels, and the own class still has most of it."""
    config, labels = recipe(name), torch.arange(10).repeat_interleave(20)
    names = FASHION_CLASSES if "fashion" in name else tuple("0123456789")
    source = ArraySource(torch.zeros(200, 1, 28, 28, dtype=torch.uint8), labels, class_names=names)
    summary = config.relation.build(source).summary(source.ids, 2)
    assert 0.55 < summary["own_class_mass"] < 0.8
    assert 40 < summary["perplexity"] < 120  # 39 rows of the own class, and some share of those related


def test_source_config_recognises_what_people_have(tmp_path: Path) -> None:
    _write_idx(tmp_path / "idx", 2, 1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.npz").touch()
    (tmp_path / "a.csv").touch()
    assert source_config("digits-moved") == DigitsConfig(moved=True)
    assert source_config(str(tmp_path / "idx")) == FashionMNISTConfig(root=str(tmp_path / "idx"), class_names=None)
    assert source_config(str(tmp_path / "photos")) == ImageFolderConfig(path=str(tmp_path / "photos"))
    assert source_config(str(tmp_path / "a.npz")) == ArraysConfig(path=str(tmp_path / "a.npz"))
    (tmp_path / "a.doc").touch()
    with pytest.raises(ValueError, match=r"a\.doc is not something to read samples from; data is one of digits"):
        source_config(str(tmp_path / "a.doc"))
    with pytest.raises(
        FileNotFoundError, match=r"no data set and no path 'imagenet'; data is one of digits, digits-moved"
    ):
        source_config("imagenet")
