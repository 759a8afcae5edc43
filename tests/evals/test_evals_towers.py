"""Zero-shot classification and retrieval between images and texts, against loops over every pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kinfolk.data import ArraySource
from kinfolk.evals import RawPixels, Subject, TextRetrieval, ZeroShot
from kinfolk.recipes import recipe, smoke
from kinfolk.train import evaluate_run, fit
from kinfolk.train.evaluation import labels_used

NAMES = ("red-fox", "blue_whale", "cat", "dog", "emu", "gnu", "yak")


class Letters(nn.Module):
    """Towers whose images are vectors already, and whose texts count letters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(128, 4)
        self.dropout = nn.Dropout(0.5)
        self.seen: list[str] = []

    def encode_images(self, images: Tensor) -> Tensor:
        return self.dropout(images.flatten(1) - 0.4)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.seen += texts
        return self.dropout(torch.stack([self.letters(torch.tensor([ord(c) for c in text])).mean(0) for text in texts]))


def subject_of(
    *, labels: Sequence[int] | None = None, text: Sequence[str] | None = None, towers: nn.Module | None = None
) -> Subject:
    generator = torch.Generator().manual_seed(1)
    count = len(labels if labels is not None else text or [])
    images = torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    ids = torch.randperm(count, generator=generator)
    source = ArraySource(
        images, None if labels is None else torch.tensor(labels), ids=ids, text=text, class_names=NAMES
    )
    pixels = RawPixels(channels=1, image_size=(2, 2))
    return Subject.of("trained", pixels, train=source, test=source, towers=towers, batch_size=3)


def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    a, b = (nn.functional.normalize(t.double(), dim=1) for t in (rows, columns))
    return a @ b.T


def images_of(subject: Subject) -> Tensor:
    return subject.test.fetch(torch.arange(len(subject.test)))["images"].double().flatten(1) / 255 - 0.4


@torch.no_grad()
def test_zero_shot_takes_the_nearest_mean_of_prompts() -> None:
    towers = Letters()
    labels = [0, 1, 2, 3, 4, 5, 6, 0, 2, 2, -1]
    subject = subject_of(labels=labels, towers=towers)
    found = {m.name: m.value for m in ZeroShot(templates=("{}", "one {}")).run(subject)}
    towers.eval()
    means = []
    for name in NAMES:
        read = name.replace("-", " ").replace("_", " ")
        prompts = nn.functional.normalize(towers.encode_text([read, f"one {read}"]).double(), dim=1)
        means.append(prompts.mean(0))
    scores = cosines(images_of(subject), torch.stack(means))
    known = [i for i, label in enumerate(labels) if label >= 0]
    right = [int(scores[i].argmax()) == labels[i] for i in known]
    five = [labels[i] in scores[i].topk(5).indices.tolist() for i in known]
    assert found["accuracy"] == pytest.approx(sum(right) / 10)
    assert found["top-5 accuracy"] == pytest.approx(sum(five) / 10)
    assert towers.training is False


def test_only_classes_of_the_test_part_are_candidates() -> None:
    towers = Letters()
    found = list(ZeroShot(templates=("{}",)).run(subject_of(labels=[2, 3, 3, 2], towers=towers)))
    assert sorted(set(towers.seen)) == ["cat", "dog"]
    assert "top-5 accuracy" not in [m.name for m in found]
    assert found[0].details["classes"] == 2


@torch.no_grad()
def test_retrieval_counts_the_first_hit_both_ways() -> None:
    towers = Letters()
    captions = ["a cat", "a dog", "a cat", "an emu", "two gnus", "a yak and an emu", "fox"]
    subject = subject_of(text=captions, towers=towers)
    found = {m.name: m.value for m in TextRetrieval(recall_at=(1, 2)).run(subject)}
    towers.eval()
    distinct = sorted(set(captions))
    scores = cosines(images_of(subject), towers.encode_text(distinct))
    to_text = [1 + int((row > row[distinct.index(own)]).sum()) for row, own in zip(scores, captions, strict=True)]
    to_image = []
    for column, caption in zip(scores.T, distinct, strict=True):
        best = max(float(column[i]) for i, own in enumerate(captions) if own == caption)
        to_image.append(1 + int((column > best).sum()))
    for name, ranks in (("image to text", to_text), ("text to image", to_image)):
        for k in (1, 2):
            assert found[f"R@{k}, {name}"] == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks))
        assert found[f"median rank, {name}"] == pytest.approx(float(torch.tensor(ranks).double().quantile(0.5)))


def test_images_without_a_caption_are_neither_asked_nor_found() -> None:
    told = subject_of(text=["a", "", "b", " ", "cc"], towers=Letters())
    whole = {m.name: m.value for m in TextRetrieval(recall_at=(1, 2)).run(told)}
    kept = told.test.subset(torch.tensor([0, 2, 4]))
    subject = Subject.of("trained", RawPixels(channels=1, image_size=(2, 2)), train=kept, test=kept, towers=Letters())
    assert whole == {m.name: m.value for m in TextRetrieval(recall_at=(1, 2)).run(subject)}
    assert TextRetrieval().missing(subject_of(text=["", " "], towers=Letters())) == "no captions"


@pytest.mark.parametrize("evaluator", [ZeroShot(), TextRetrieval()])
def test_rows_of_texts_that_are_not_finite_are_no_measurement(evaluator: ZeroShot | TextRetrieval) -> None:
    towers = Letters()
    towers.letters.weight.data[ord("c")] = float("nan")
    subject = subject_of(labels=[0, 1, 2], text=["a", "b", "cc"], towers=towers)
    with pytest.raises(ValueError, match=r"text tower's rows must be finite, but \d+ of \d+ are not, first '.*c.*'"):
        list(evaluator.run(subject))


def test_towers_are_measured_in_eval_mode_and_left_as_they_were() -> None:
    towers = Letters().train()
    subject = subject_of(text=["a", "b", "c", "d"], towers=towers)
    first, second = ([m.value for m in TextRetrieval().run(subject)] for _ in range(2))
    assert first == second  # dropout would draw
    assert towers.training


@pytest.mark.parametrize("evaluator", [ZeroShot(), TextRetrieval()])
def test_what_is_lacking_is_said(evaluator: ZeroShot | TextRetrieval) -> None:
    bare = subject_of(labels=[0, 1])
    assert evaluator.missing(bare) == "no text towers"
    assert list(evaluator.run(bare)) == []
    assert TextRetrieval().missing(subject_of(labels=[0, 1], towers=Letters())) == "no captions"


@pytest.mark.parametrize("templates", [(), ("a photo",)])
def test_templates_without_a_place_for_the_name_are_refused(templates: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="templates must be prompts"):
        ZeroShot(templates=templates)
    with pytest.raises(ValueError, match="at least one k"):
        TextRetrieval(recall_at=(0,))


def test_a_run_measures_its_towers_and_does_so_again(tmp_path: Path) -> None:
    config = smoke(recipe("clip-digits-moved"))
    config = replace(config, evaluation=config.evaluation.of("knn", "zero_shot", "text_retrieval"))
    fit(config, out=tmp_path / "run")
    records = evaluate_run(tmp_path / "run")
    found = {(r.encoder, r.metric): r.value for r in records if r.protocol in ("zero-shot", "text retrieval")}
    assert {encoder for encoder, _ in found} == {"trained"}
    assert 0 <= found["trained", "accuracy"] <= 1
    assert 1 <= found["trained", "median rank, image to text"] <= 10
    again = {(r.encoder, r.metric): r.value for r in evaluate_run(tmp_path / "run") if (r.encoder, r.metric) in found}
    assert again == found


def test_captions_made_of_labels_count_as_labels() -> None:
    assert labels_used(recipe("clip-digits")) == "all"
    assert labels_used(replace(recipe("clip-digits"), derived=())) == "none"
    assert labels_used(recipe("clip-emoji")) == "none"
