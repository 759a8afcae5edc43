"""Wrappers: other columns and images of any source, lazily, and every config through YAML."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import yaml

from kinfolk.data.derived import (
    CaptionNoiseConfig,
    ColouredConfig,
    CompositeConfig,
    CorruptedConfig,
    DerivedSource,
    FewLabelsConfig,
    ImbalancedConfig,
    LabelNoiseConfig,
    LooseCaptionsConfig,
    OpenWorldConfig,
    TexturedConfig,
    UnpairedConfig,
    with_columns,
    with_images,
)
from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.train.serialization import decode, encode

CONFIGS = [
    ImbalancedConfig(rule="long-tail", factor=50, supervised=True),
    LabelNoiseConfig(share=0.2, rule="asymmetric", class_map=(1, 0)),
    FewLabelsConfig(per_class=3),
    FewLabelsConfig(share=0.1, seed=4),
    CaptionNoiseConfig(share=0.5),
    OpenWorldConfig(known=0.3, random_classes=True),
    UnpairedConfig(paired=0.2, overlap=0.5),
    LooseCaptionsConfig("captions.txt"),
    ColouredConfig(rho=0.995, target="foreground"),
    TexturedConfig("some/folder", rho=0.999, held_out=True),
    CompositeConfig("some/folder", test="mixed-next"),
    CompositeConfig(),
    CorruptedConfig("procedural_frost", severity=5, train=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_every_config_survives_yaml(config: Any) -> None:
    assert decode(type(config), yaml.safe_load(yaml.safe_dump(encode(config)))) == config


def test_kinds_are_distinct() -> None:
    types = {type(config) for config in CONFIGS}
    assert len({config.kind for config in CONFIGS}) == len(types) == 11


class Decoded(Source):
    """A source that is not in memory; sample 2 cannot be read, and the next takes its place."""

    in_memory = False

    def __init__(self, count: int = 6) -> None:
        self.name, self.channels, self.image_size, self.class_names = "decoded", 1, (4, 4), None
        self.ids = torch.arange(count) + 10
        self.columns = {"labels": torch.arange(count) % 2}
        self.reads = 0

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        self.reads += len(indices)
        return indices.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()

    def fetch(self, indices: torch.Tensor) -> dict[str, Any]:
        taken = torch.where(indices == 2, 3, indices)
        batch = super().fetch(taken)
        return {**batch, "skipped": ["sample 2"]} if bool((indices == 2).any()) else batch


def brighter(batch: dict[str, Any], positions: torch.Tensor) -> dict[str, Any]:
    return {"images": batch["images"] + 100, "saliency": batch["images"]}


def test_a_source_that_decodes_is_not_read_beforehand() -> None:
    source = Decoded()
    derived = with_images(source, brighter)
    assert source.reads == 0
    assert not derived.in_memory
    assert derived.fetch(torch.tensor([4]))["images"].unique().tolist() == [104]
    assert derived.read(torch.tensor([5])).unique().tolist() == [105]


def test_what_a_change_adds_is_in_every_batch() -> None:
    assert with_images(Decoded(), brighter).fetch(torch.tensor([4]))["saliency"].unique().tolist() == [4]


def test_what_a_change_adds_becomes_a_column_in_memory() -> None:
    whole = Decoded().read(torch.arange(3))
    derived = with_images(ArraySource(whole), brighter)
    assert isinstance(derived, ArraySource)
    assert torch.equal(derived.columns["saliency"], whole)
    assert torch.equal(derived.images, whole + 100)


def test_a_substitute_keeps_its_own_id_and_columns() -> None:
    source = DerivedSource(Decoded(), columns={"labels": torch.arange(6)}, change=brighter)
    batch = source.fetch(torch.tensor([1, 2]))
    assert batch["ids"].tolist() == [11, 13]
    assert batch["labels"].tolist() == [1, 3]
    assert batch["images"][:, 0, 0, 0].tolist() == [101, 103]
    assert batch["skipped"] == ["sample 2"]


def test_new_ids_are_in_the_batch_and_the_old_ones_are_not() -> None:
    derived = with_columns(Decoded(), {}, ids=torch.arange(6) + 50)
    assert derived.fetch(torch.tensor([0, 5]))["ids"].tolist() == [50, 55]
    assert derived.fetch(torch.tensor([2]))["ids"].tolist() == [53]


def test_columns_can_be_removed_and_images_are_shared() -> None:
    source = ArraySource(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    derived = with_columns(source, {"labels": None})
    assert isinstance(derived, ArraySource)
    assert derived.labels is None
    assert derived.images.data_ptr() == source.images.data_ptr()


def test_workers_get_a_copy_that_reads_the_same() -> None:
    source = Decoded()
    splits = Splits(source, source)
    for config in (CorruptedConfig("snow"), ColouredConfig(), LabelNoiseConfig(), FewLabelsConfig(per_class=1)):
        derived = config.apply(splits).test
        copy = pickle.loads(pickle.dumps(derived))
        assert torch.equal(copy.read(torch.tensor([1, 5])), derived.read(torch.tensor([1, 5])))


def test_a_subset_of_a_derived_source_reads_the_same_samples() -> None:
    derived = CorruptedConfig("gaussian_noise").apply(Splits(Decoded(), Decoded())).test
    part = derived.subset(torch.tensor([5, 0]))
    assert torch.equal(part.read(torch.tensor([0])), derived.read(torch.tensor([5])))


class Table(Decoded):
    """Rows of features."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.image_size = 7, (1, 1)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(indices), 7, 1, 1)


def test_tables_have_labels_to_change_but_no_pictures() -> None:
    splits = Splits(Table(), Table())
    assert FewLabelsConfig(per_class=1).apply(splits).train.read(torch.tensor([0])).shape == (1, 7, 1, 1)
    with pytest.raises(ValueError, match=r"samples of 7x1x1, which is no picture"):
        CorruptedConfig("fog").apply(splits)
