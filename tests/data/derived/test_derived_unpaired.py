"""Unpaired parts: exact counts, no way from one modality to the other, and a truth that scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinfolk.data.derived import (
    LooseCaptionsConfig,
    TextPart,
    UnpairedConfig,
    UnpairedSplits,
    with_columns,
    with_images,
)
from kinfolk.data.sources.base import ArraySource, Source, Splits, Subset


def pairs(count: int = 60) -> ArraySource:
    numbers = torch.arange(count)
    return ArraySource(
        numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous(),
        numbers % 5,
        ids=numbers + 100,
        text=[f"number {i}" for i in range(count)],
        text_embedding=numbers[:, None].to(torch.float32),
        columns={"groups": numbers, "hierarchy": [f"all/{i}" for i in range(count)]},
    )


def shown(source: Source) -> list[int]:
    return source.read(torch.arange(len(source)))[:, 0, 0, 0].tolist()


def said(part: TextPart) -> list[int]:
    return [int(text.split()[1]) for text in part.columns["text"]]


@pytest.mark.parametrize(
    ("paired", "overlap", "counts"), [(0.1, 1.0, (6, 54, 54)), (0.5, 0.0, (30, 15, 15)), (0.0, 0.5, (0, 40, 20))]
)
def test_parts_have_exact_counts(paired: float, overlap: float, counts: tuple[int, int, int]) -> None:
    whole = pairs()
    parts = UnpairedConfig(paired=paired, overlap=overlap).parts(Splits(whole, whole))
    size, count, shared = counts
    assert len(parts.paired) == size
    assert len(parts.images) == len(parts.texts) == count
    both = set(shown(parts.images)) & set(said(parts.texts))
    assert len(both) == (count if overlap == 1 else shared if overlap else 0)
    alone = set(shown(parts.images)) | set(said(parts.texts))
    assert not alone & set(shown(parts.paired))


def test_the_truth_finds_every_caption_that_is_there() -> None:
    whole = pairs()
    parts = UnpairedConfig(overlap=0.5).parts(Splits(whole, whole))
    numbers = said(parts.texts)
    for image, position in zip(shown(parts.images), parts.truth.tolist(), strict=True):
        assert (numbers[position] == image) if position >= 0 else (image not in numbers)


def test_neither_position_nor_id_leads_from_image_to_caption() -> None:
    whole = pairs(60)
    parts = UnpairedConfig(paired=0.0).parts(Splits(whole, whole))
    images, texts = torch.tensor(shown(parts.images)), torch.tensor(said(parts.texts))
    assert int((images == texts).sum()) <= 5
    assert not set(parts.images.ids.tolist()) & set(parts.texts.ids.tolist())
    assert min(parts.images.ids.tolist() + parts.texts.ids.tolist()) > int(whole.ids.max())
    for order in (images, texts):  # ids follow the shuffled order, not the old one
        assert abs(float(torch.corrcoef(torch.stack([order.float(), torch.arange(60.0)]))[0, 1])) < 0.4


def test_images_alone_say_nothing_of_their_caption_and_captions_nothing_of_their_image() -> None:
    whole = pairs()
    parts = UnpairedConfig().parts(Splits(whole, whole))
    assert set(parts.images.fetch(torch.tensor([0]))) == {"images", "ids", "labels"}
    assert set(parts.texts.fetch(torch.tensor([0]))) == {"ids", "text", "text_embedding"}


def test_embeddings_stay_with_their_captions_and_labels_with_their_images() -> None:
    whole = pairs()
    parts = UnpairedConfig().parts(Splits(whole, whole))
    batch = parts.texts.fetch(torch.tensor([3, 0]))
    assert [f"number {int(row)}" for row in batch["text_embedding"]] == batch["text"]
    assert parts.images.labels is not None
    assert parts.images.labels.tolist() == [number % 5 for number in shown(parts.images)]


def test_pairs_stay_as_they_were() -> None:
    whole = pairs()
    paired = UnpairedConfig(paired=0.3).parts(Splits(whole, whole)).paired
    batch = paired.fetch(torch.arange(len(paired)))
    assert batch["text"] == [f"number {i - 100}" for i in batch["ids"].tolist()]


def test_the_seed_decides_everything() -> None:
    whole = pairs()
    first, again, other = (UnpairedConfig(seed=s).parts(Splits(whole, whole)) for s in (0, 0, 1))
    assert shown(first.images) == shown(again.images)
    assert said(first.texts) == said(again.texts)
    assert shown(first.images) != shown(other.images)
    assert said(first.texts) != said(other.texts)


def test_a_source_without_captions_is_refused() -> None:
    bare = ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="an unpaired set needs captions"):
        UnpairedConfig().parts(Splits(bare, bare))


def test_too_few_samples_are_refused() -> None:
    whole = pairs(4)
    with pytest.raises(ValueError, match="0 of 4 samples are left to break up"):
        UnpairedConfig(paired=1.0).parts(Splits(whole, whole))
    with pytest.raises(ValueError, match="from 0 to 1"):
        UnpairedConfig(overlap=1.5)


def test_a_truth_of_another_length_is_refused() -> None:
    whole = pairs(6)
    parts = UnpairedConfig().parts(Splits(whole, whole))
    with pytest.raises(ValueError, match="one entry per image without caption"):
        UnpairedSplits(parts.paired, parts.images, parts.texts, parts.test, parts.truth[:2])


def test_in_one_part_images_alone_have_no_caption_and_the_captions_lie_beside() -> None:
    whole = pairs()
    config = UnpairedConfig(paired=0.25, overlap=0.5)
    splits, parts = config.apply(Splits(whole, whole)), config.parts(Splits(whole, whole))
    train = splits.train
    assert len(train) == len(parts.paired) + len(parts.images)
    assert shown(train) == shown(parts.paired) + shown(parts.images)
    assert train.ids.tolist() == parts.paired.ids.tolist() + parts.images.ids.tolist()
    assert train.text == [*(parts.paired.text or ()), *[""] * len(parts.images)]
    assert list(train.loose_captions) == parts.texts.columns["text"]
    assert set(train.columns) == {"labels", "text", "true_text"}
    assert train.columns["true_text"] == [f"number {image}" for image in shown(train)]
    assert splits.test is whole
    changed = with_columns(train, {"labels": None})
    assert list(changed.loose_captions) == list(train.loose_captions)
    few = UnpairedConfig(paired=0.25, overlap=0.5, alone=False).apply(Splits(whole, whole))
    assert few.train.text == parts.paired.text
    assert not few.train.loose_captions
    assert few.reference is whole


def test_samples_without_a_caption_are_left_out() -> None:
    whole = pairs()
    texts = [text if i % 3 else " " for i, text in enumerate(whole.text or [])]
    train = UnpairedConfig(paired=0.25).apply(Splits(with_columns(whole, {"text": texts}), whole)).train
    assert len(train) == 40
    assert all(text.strip() for text in train.loose_captions)
    assert all(text.strip() for text in train.columns["true_text"])


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_probes_see_what_they_saw_and_new_ids_are_new_to_them(overlap: float) -> None:
    whole = pairs()
    more = with_columns(whole, {}, ids=whole.ids + 1000)
    for alone in (True, False):
        splits = UnpairedConfig(paired=0.25, overlap=overlap, alone=alone).apply(Splits(whole, whole, probe=more))
        assert splits.reference is more
        assert UnpairedConfig(alone=alone).apply(Splits(whole, whole)).reference is whole
    fresh = UnpairedConfig(paired=0.0, overlap=overlap).apply(Splits(whole, whole, probe=more)).train.ids
    assert int(fresh.min()) > int(more.ids.max())
    with pytest.raises(ValueError, match="leaves the pairs, and paired=0 makes none; raise paired"):
        UnpairedConfig(paired=0, alone=False).apply(Splits(whole, whole))


def test_captions_of_a_file_lie_beside_a_source(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a cat\n\n  a dog \na cat\n", encoding="utf-8-sig")
    whole = pairs()
    splits = LooseCaptionsConfig(str(file)).apply(Splits(whole, whole))
    assert list(splits.train.loose_captions) == ["a cat", "a dog", "a cat"]
    assert not whole.loose_captions
    part = splits.train.subset(torch.arange(5))
    for derived in (part, part.subset(torch.arange(2)), Subset(splits.train, torch.arange(2)), with_columns(part, {})):
        assert list(derived.loose_captions) == ["a cat", "a dog", "a cat"]
    brighter = with_images(splits.train, lambda batch, _: {"images": batch["images"] + 1})
    assert list(brighter.loose_captions) == ["a cat", "a dog", "a cat"]
    with pytest.raises(FileNotFoundError, match=r"no file .*other\.txt with captions"):
        LooseCaptionsConfig(str(tmp_path / "other.txt")).apply(Splits(whole, whole))
    file.write_text("\n")
    with pytest.raises(ValueError, match="has no caption; write one on each line"):
        LooseCaptionsConfig(str(file)).apply(Splits(whole, whole))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        LooseCaptionsConfig(str(file)).apply(Splits(whole, whole))
    with pytest.raises(ValueError, match="must name a text file"):
        LooseCaptionsConfig(" ")
