"""Relations from captions and class names, and temperatures that follow from a perplexity."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kinfolk.data.relations.base import temperature_for_perplexity
from kinfolk.data.relations.captions import CaptionsConfig
from kinfolk.data.relations.class_names import ClassNamesConfig, name_similarities
from kinfolk.data.relations.class_table import ClassTable, ClassTableConfig
from kinfolk.data.relations.distance import DistanceConfig
from kinfolk.data.relations.labels import LabelsConfig
from kinfolk.data.relations.mixed import MixedConfig
from kinfolk.data.relations.perplexity import typical_batches
from kinfolk.data.relations.side_embeddings import SideEmbeddings, SideEmbeddingsConfig
from kinfolk.data.sources import ArraySource
from kinfolk.data.text import TextEncoder, TextEncoderConfig
from kinfolk.data.text.encoders import LocatedEncoder

CAPTIONS = ["a cat", "a dog", "a cat", "fire truck", "two cats"]
IDS = torch.tensor([4, 9, 2, 7, 5])
HAS_WORDLLAMA = importlib.util.find_spec("wordllama") is not None and importlib.util.find_spec("tokenizers") is not None


class Letters(TextEncoder):
    """Encodes a text by how often it has each letter."""

    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[text.count(chr(c)) for c in range(97, 123)] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KINFOLK_CACHE", str(tmp_path))


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Letters:
    fake = Letters()
    located = LocatedEncoder("letters", "letters 1", "", lambda: fake)
    monkeypatch.setattr(TextEncoderConfig, "locate", lambda config: located)
    return fake


def source(captions: list[str], **more: object) -> ArraySource:
    images = torch.zeros(len(captions), 1, 2, 2, dtype=torch.uint8)
    return ArraySource(images, ids=IDS[: len(captions)], text=captions, **more)


def cosines(texts: list[str]) -> torch.Tensor:
    rows = torch.nn.functional.normalize(torch.from_numpy(Letters().encode(texts)), dim=1)
    return rows @ rows.T


def test_captions_relate_by_the_cosine_of_their_vectors(letters: Letters) -> None:
    relation = CaptionsConfig(temperature=0.2).build(source(CAPTIONS))
    assert sorted(letters.asked) == sorted(set(CAPTIONS))
    graph = relation.for_batch(IDS[[3, 0, 1, 2]], 2)
    expected = cosines([CAPTIONS[i] for i in (3, 0, 1, 2)] * 2) / 0.2
    torch.testing.assert_close(graph.log_weights((0, 8), (0, 8)), expected, atol=0.01, rtol=0)
    assert relation.about == "captions by letters 1"


def test_captions_of_a_part_keep_their_samples(letters: Letters) -> None:
    part = source(CAPTIONS).subset(torch.tensor([3, 1]))
    relation = CaptionsConfig(temperature=1.0).build(part)
    found = relation.for_batch(torch.tensor([9, 7]), 1).log_weights((0, 2), (0, 2))
    torch.testing.assert_close(found, cosines(["a dog", "fire truck"]), atol=2e-3, rtol=0)


def test_empty_captions_are_named_or_take_the_mean_aloud(letters: Letters, capsys: pytest.CaptureFixture) -> None:
    data = source(["a cat", " ", "a dog", "", "two cats"])
    with pytest.raises(ValueError, match=r"2 of 5 captions are empty, such as those of ids \[9, 7\]. Write them"):
        CaptionsConfig().build(data)
    relation = CaptionsConfig(temperature=1.0, empty="mean").build(data)
    assert "2 of 5 captions are empty, such as those of ids [9, 7]; they take the mean" in capsys.readouterr().err
    found = relation.for_batch(IDS, 1).log_weights((0, 5), (0, 5))
    rows = torch.nn.functional.normalize(torch.from_numpy(Letters().encode(["a cat", "a dog", "two cats"])), dim=1)
    mean = torch.nn.functional.normalize(rows.mean(0), dim=0)
    torch.testing.assert_close(found[1, [0, 2, 4]], rows @ mean, atol=2e-3, rtol=0)
    assert found[1, 3] == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="5 of 5 captions are empty"):
        CaptionsConfig(empty="mean").build(source([""] * 5))
    with pytest.raises(ValueError, match="empty must be 'raise' or 'mean'"):
        CaptionsConfig(empty="skip")
    with pytest.raises(ValueError, match="a caption graph needs 'text', and 'arrays' knows nothing beside the images"):
        CaptionsConfig().build(ArraySource(torch.zeros(2, 1, 2, 2, dtype=torch.uint8)))


def test_class_names_make_sentences_and_a_table(letters: Letters) -> None:
    data = source(CAPTIONS, labels=torch.tensor([0, 1, 0, 2, 0]), class_names=["cat", "pet_dog", "fire  truck"])
    relation = ClassNamesConfig(template="one {}", temperature=0.3).build(data)
    assert sorted(letters.asked) == ["one cat", "one fire truck", "one pet dog"]
    expected = cosines(["one cat", "one pet dog", "one fire truck"])
    torch.testing.assert_close(relation.similarities, expected, atol=2e-3, rtol=0)
    assert relation.for_batch(IDS[:2], 1).shape == (2, 2)
    with pytest.raises(ValueError, match=r"template must have one \{\} for the class name; found 'a photo'"):
        ClassNamesConfig(template="a photo")
    with pytest.raises(ValueError, match="labels without names"):
        ClassNamesConfig().build(source(CAPTIONS, labels=torch.tensor([0, 1, 0, 2, 0])))
    with pytest.raises(ValueError, match=r"must not be empty; those of classes \[1\]"):
        name_similarities(["cat", " "], TextEncoderConfig())


@pytest.mark.skipif(not HAS_WORDLLAMA, reason="wordllama is not installed: pip install --no-deps wordllama")
def test_real_sentences_relate_by_meaning() -> None:
    data = source(["grinning face", "smiling face", "fire truck"])
    relation = CaptionsConfig(TextEncoderConfig("wordllama"), temperature=0.1).build(data)
    weights = relation.for_batch(data.ids, 1).to_dense()
    assert weights[0, 1] > 5 * weights[0, 2]
    table = name_similarities(["cat", "dog", "truck"], TextEncoderConfig("wordllama"))
    assert table[0, 1] > table[0, 2]


def vectors(count: int, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("perplexity", [5.0, 20.0])
def test_a_settled_relation_has_the_perplexity_that_it_was_asked_for(perplexity: float) -> None:
    waiting = SideEmbeddings(torch.arange(300), vectors(300), temperature=0.1).with_perplexity(perplexity)
    relation = waiting.settled(batch_size=64, views=2, seed=3)
    found = [relation.summary(ids, 2)["perplexity"] for ids in typical_batches(torch.arange(300), 64, seed=3)]
    assert np.mean(found) == pytest.approx(perplexity, rel=1e-3)
    fresh = [relation.summary(ids, 2)["perplexity"] for ids in typical_batches(torch.arange(300), 64, seed=4)]
    assert np.mean(fresh) == pytest.approx(perplexity, rel=0.15)  # batches that it has not seen
    assert waiting.settled(batch_size=64, views=2, seed=3).temperature == relation.temperature
    larger = waiting.settled(batch_size=256, views=2, seed=3)
    assert larger.temperature < relation.temperature  # more rows share the target, so it must be sharper


def test_a_relation_that_waits_cannot_be_used_by_mistake() -> None:
    waiting = SideEmbeddings(torch.arange(8), vectors(8), temperature=0.1).with_perplexity(3)
    for use in (lambda: waiting.for_batch(torch.arange(4), 2), lambda: waiting.temperature):
        with pytest.raises(ValueError, match=r"follows from perplexity 3 .* call settled\(batch_size=..., views=...\)"):
            use()
    assert waiting.with_temperature(0.2).temperature == 0.2
    never = SideEmbeddings(torch.arange(8), vectors(8), temperature=0.1)
    assert never.settled(batch_size=4, views=2) is never


def test_configs_ask_for_a_perplexity() -> None:
    columns = {"times": torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e8}
    data = ArraySource(
        torch.zeros(60, 1, 2, 2, dtype=torch.uint8),
        torch.arange(60) % 30,
        text_embedding=vectors(60),
        columns=columns,
    )
    configs = [
        SideEmbeddingsConfig(perplexity=12),
        ClassTableConfig(groups=(), path=None, perplexity=12),
        DistanceConfig(perplexity=12),
        DistanceConfig(kernel="gaussian", perplexity=12),
    ]
    for config in configs:
        relation = config.build(data).settled(batch_size=60, views=2)
        assert relation.summary(data.ids, 2)["perplexity"] == pytest.approx(12, rel=1e-3)
    mixed = MixedConfig((configs[0], LabelsConfig(), configs[2])).build(data)
    settled = mixed.settled(batch_size=60, views=2)
    assert settled.parts[0].temperature == configs[0].build(data).settled(batch_size=60, views=2).temperature
    assert settled.settled(batch_size=60, views=2) is settled
    assert "temperature" not in settled.summary(data.ids, 2)


def test_impossible_wishes_are_explained() -> None:
    table = ClassTable(torch.arange(20), torch.arange(20) % 2, torch.eye(2), temperature=0.1)
    with pytest.raises(ValueError, match="perplexity 5 cannot be reached: 20 samples with 1 views give 9 to 19"):
        table.with_perplexity(5).settled(batch_size=64, views=1)
    with pytest.raises(ValueError, match="above 1; found 1"):
        table.with_perplexity(1)
    with pytest.raises(ValueError, match=r"above 1; found 0\.5"):
        SideEmbeddingsConfig(perplexity=0.5)
    labels = LabelsConfig().build(ArraySource(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1])))
    for use in (lambda: labels.with_temperature(0.1), lambda: labels.temperature):
        with pytest.raises(ValueError, match="EqualLabels has no temperature: its samples relate or do not"):
            use()
    with pytest.raises(ValueError, match="has no temperature that a perplexity could choose"):
        labels.with_perplexity(5)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        CaptionsConfig(temperature=math.nan)


def test_the_temperature_of_a_gaussian_kernel_is_its_width() -> None:
    times = torch.rand(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 500
    data = ArraySource(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), columns={"times": times[:, 0]})
    relation = DistanceConfig(kernel="gaussian", scale=9.0).build(data)
    found = temperature_for_perplexity(relation, data.ids, 1, perplexity=7)
    assert relation.with_temperature(found).summary(data.ids, 1)["perplexity"] == pytest.approx(7, rel=1e-6)
