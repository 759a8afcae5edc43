from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import pytest
import yaml

from kinfolk.recipes import RECIPES, recipe
from kinfolk.train import TrainConfig, from_yaml, load_config, to_yaml
from kinfolk.train.config import differences
from kinfolk.train.serialization import decode, encode, flatten


@dataclass(frozen=True)
class Cat:
    kind: ClassVar[str] = "cat"
    weight: float = 4.0
    name: str | None = None


@dataclass(frozen=True)
class Dog:
    kind: ClassVar[str] = "dog"
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class House:
    pet: Cat | Dog
    door: tuple[float, float] = (1.0, 2.0)
    colour: Literal["red", "blue"] = "red"
    cellar: bool = False
    floors: int = 1
    spare: Dog | None = None


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_yaml(name: str) -> None:
    config = recipe(name)
    assert from_yaml(to_yaml(config)) == config


def test_yaml_is_complete_and_tagged() -> None:
    data = yaml.safe_load(to_yaml(recipe("moco-digits")))
    assert [data[part]["kind"] for part in ("source", "encoder", "method", "optimizer")] == [
        "digits", "small-conv", "moco", "adamw"]  # fmt: skip
    assert set(TrainConfig.__dataclass_fields__) == set(data)
    assert data["method"]["queue_size"] == recipe("moco-digits").method.queue_size


def test_nested_kinds_tuples_and_none_come_back() -> None:
    house = House(pet=Dog(sizes=(3, 1)), door=(0.5, 1.0), spare=Dog(), cellar=True)
    assert decode(House, encode(house)) == house
    assert decode(House, encode(replace(house, pet=Cat(name="Mia"), spare=None))).pet == Cat(name="Mia")


def test_what_people_write_is_understood() -> None:
    house = decode(House, yaml.safe_load("{pet: {kind: cat, weight: 1e-3}, door: [1, 2]}"))
    assert house.pet.weight == 0.001
    assert [type(number) for number in house.door] == [float, float]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{pet: {kind: cow}}", r"config\.pet\.kind is 'cow'; known kinds: cat, dog"),
        ("{pet: {weight: 3}}", r"config\.pet needs a kind; known kinds: cat, dog"),
        ("{pet: cat}", r"config\.pet must be a mapping with a kind \(one of cat, dog\), found 'cat'"),
        (
            "{pet: {kind: cat, wieght: 3}}",
            r"config\.pet has no key 'wieght' \(did you mean 'weight'\?\); Cat has weight, name",
        ),
        ("{pet: {kind: cat, weight: heavy}}", r"config\.pet\.weight must be a float, found 'heavy' \(str\)"),
        ("{pet: {kind: cat, weight: true}}", r"weight must be a float, found True"),
        ("{pet: {kind: cat}, floors: 1.5}", r"config\.floors must be an int, found 1\.5"),
        ("{pet: {kind: cat}, floors: true}", r"config\.floors must be an int"),
        ("{pet: {kind: cat}, colour: green}", r"config\.colour must be one of 'red', 'blue', found 'green'"),
        ("{pet: {kind: cat}, door: [1]}", r"config\.door must be a list of 2, found 1 entries"),
        ("{pet: {kind: dog, sizes: 3}}", r"config\.pet\.sizes must be a list, found 3"),
        ("{pet: {kind: dog, sizes: [1, x]}}", r"config\.pet\.sizes\.1 must be an int, found 'x'"),
        ("{}", r"config lacks pet, which House has no default for"),
        ("[]", r"config must be a mapping with the fields of House"),
    ],
)
def test_errors_say_what_exists(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_yaml(text, House)


def test_what_is_no_yaml_says_so() -> None:
    with pytest.raises(ValueError, match="this is not YAML"):
        from_yaml("{pet: [")


def test_encode_refuses_what_yaml_could_not_give_back() -> None:
    with pytest.raises(TypeError, match="found object"):
        encode(object())


def test_flatten_names_every_leaf() -> None:
    assert flatten({"a": {"b": 1}, "c": [{"d": None}]}) == {"a.b": 1, "c.0.d": None}


def test_differences_name_the_fields() -> None:
    config = recipe("simclr-digits")
    changed = replace(config, seed=3, method=replace(config.method, temperature=0.5))
    assert differences(to_yaml(config), config) == []
    assert differences(to_yaml(config), changed) == [
        "method.temperature: 0.1 in the run, 0.5 now",
        "seed: 0 in the run, 3 now",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, found 0"),
        ({"epochs": -1}, "epochs must be 1 or more"),
        ({"warmup": 1.0}, "warmup is a share of the steps"),
        ({"clip_norm": 0.0}, "clip_norm must be positive or None"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16; found 'fp16'"),
        ({"sampler": "random"}, r"sampler must be a config such as ClassBalancedSamplerConfig\(\); found 'random'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda"),
        ({"checkpoint_every_steps": 0}, "checkpoint_every_steps must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_numbers_out_of_range(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(recipe("simclr-digits"), **change)


def test_load_config_reads_a_file_or_a_run(tmp_path) -> None:
    config = recipe("cacr-digits")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path) == load_config(tmp_path / "config.yaml") == config


def test_load_config_errors_name_the_place(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no run at"):
        load_config(tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text("name: x\n")
    with pytest.raises(ValueError, match=r"config\.yaml: config lacks source, views, encoder, method"):
        load_config(tmp_path)
