"""The audit of pairs on planted errors, its detection scores against loops, and its page on real digits."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kinfolk.cli import main
from kinfolk.data import CaptionNoiseConfig, ClassCaptionsConfig, DigitsConfig
from kinfolk.data.derived.wrapper import with_columns
from kinfolk.evals.pair_audit import audit_pairs, detection
from kinfolk.recipes import recipe, smoke
from kinfolk.report.audit import write_audit
from kinfolk.train import fit


def planted(*, wrong: int, groups: int = 40, size: int = 10, noise: float = 0.3) -> tuple:
    """Groups of like images with captions of their own; the captions of the first of some groups are exchanged."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(groups, 24, generator=generator), dim=1)
    owner = torch.arange(groups).repeat_interleave(size)
    images, texts = (
        centres[owner] + noise * torch.randn(len(owner), 24, generator=generator) / 24**0.5 for _ in range(2)
    )
    chosen = torch.arange(wrong) * size
    texts[chosen] = texts[chosen.roll(1)]
    truth = torch.zeros(len(owner), dtype=torch.bool)
    truth[chosen] = True
    return images, texts, [f"{i}" for i in range(len(owner))], truth


def test_planted_errors_come_first_and_are_suspected() -> None:
    images, texts, captions, truth = planted(wrong=30)
    found = audit_pairs(images, texts, captions)
    assert truth[found.order[:30]].all()
    assert torch.equal(found.suspected, truth)


@pytest.mark.parametrize("noise", [0.3, 1.2])
def test_where_nothing_is_wrong_little_is_suspected(noise: float) -> None:
    images, texts, captions, _ = planted(wrong=0, noise=noise)
    found = audit_pairs(images, texts, captions)
    assert found.suspected.double().mean() < 0.03
    assert found.wrong_share < 0.1


def test_unrelated_images_and_captions_all_look_like_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(300, 24, generator=generator) for _ in range(2))
    found = audit_pairs(images, texts, [str(i) for i in range(300)])
    assert found.wrong_share > 0.85
    assert found.suspected.double().mean() > 0.8


def test_the_share_of_wrong_pairs_is_estimated() -> None:
    for wrong in (10, 40):
        images, texts, captions, _ = planted(wrong=wrong, noise=0.6)
        assert audit_pairs(images, texts, captions).wrong_share == pytest.approx(wrong / 400, abs=0.02)


def test_captions_of_equal_rows_are_alike() -> None:
    rows = F.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    found = audit_pairs(rows.repeat(2, 1), rows.repeat(2, 1), [f"{i}" for i in range(120)], most_alike=200)
    assert {(i, j) for i, j in found.alike.tolist()} == {(i, i + 60) for i in range(60)}


def test_two_witnesses_find_more_than_either_alone() -> None:
    images, texts, captions, truth = planted(wrong=40, noise=1.2)
    found = audit_pairs(images, texts, captions)
    scores = [
        detection(found.suspected, suspicion, truth)["average precision"]
        for suspicion in (found.suspicion, -found.similarity, -found.agreement)
    ]
    assert scores[0] > max(scores[1:]) > 0.2  # a tenth would be chance


def test_suspicion_is_in_standard_deviations() -> None:
    images, texts, captions, _ = planted(wrong=3, groups=5, size=4)
    found = audit_pairs(images, texts, captions, neighbours=3)
    parts = [(value - value.mean()) / value.std() for value in (found.similarity, found.agreement)]
    torch.testing.assert_close(found.suspicion, -(parts[0] + parts[1]) / 2)


def test_agreement_is_the_mean_over_look_alikes_less_that_over_all() -> None:
    images, texts, captions, _ = planted(wrong=3, groups=5, size=4)
    found = audit_pairs(images, texts, captions, neighbours=3)
    pictures, words = (F.normalize(t.double(), dim=1) for t in (images, texts))
    for i in range(20):
        near = [j for j in (pictures @ pictures[i]).argsort(descending=True).tolist() if j != i][:3]
        expected = (sum(float(words[i] @ words[j]) for j in near) / 3) - float(words[i] @ words.mean(0))
        assert float(found.agreement[i]) == pytest.approx(expected)


def test_captions_that_fit_each_other_are_listed_once() -> None:
    rows = torch.eye(6)
    rows[1] = rows[0] + 0.01 * torch.eye(6)[1]
    images, texts = rows.repeat(2, 1), rows.repeat(2, 1)
    captions = ["a cat", "a kitten", "a dog", "a cow", "a fox", "a yak"] * 2
    images[0], images[1] = rows[1], rows[0]  # each a hair nearer to the other's caption
    found = audit_pairs(images, texts, captions, neighbours=2)
    pairs = [{captions[i], captions[j]} for i, j in found.alike.tolist()]
    assert pairs == [{"a cat", "a kitten"}]


def test_detection_counts_what_it_says() -> None:
    suspicion = torch.tensor([0.9, 0.8, 0.7, 0.6])
    wrong, found = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    scores = detection(found, suspicion, wrong)
    assert scores == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "average precision": (1 + 2 / 3) / 2, "precision at the true number": 0.5}
    )
    nothing = detection(torch.zeros(4, dtype=torch.bool), suspicion, torch.zeros(4, dtype=torch.bool))
    assert all(value != value for value in nothing.values())


@pytest.mark.parametrize(
    ("images", "texts", "captions"), [((2, 3), (2, 3), 2), ((4, 3), (3, 3), 4), ((4, 3), (4, 3), 3)]
)
def test_what_is_no_list_of_pairs_is_refused(images: tuple, texts: tuple, captions: int) -> None:
    with pytest.raises(ValueError, match="at least three pairs and a row for each"):
        audit_pairs(torch.ones(images), torch.ones(texts), ["a"] * captions)


def test_rows_that_are_not_finite_and_no_neighbours_are_refused() -> None:
    rows = torch.eye(4)
    with pytest.raises(ValueError, match="neighbours must be at least 1 and most_alike at least 0; found 0 and 100"):
        audit_pairs(rows, rows, list("abcd"), neighbours=0)
    broken = rows.clone()
    broken[2, 0] = float("nan")
    with pytest.raises(ValueError, match="rows of texts must be finite; found 1"):
        audit_pairs(rows, broken, list("abcd"))


def test_one_caption_for_all_is_no_mismatch() -> None:
    found = audit_pairs(torch.eye(4), torch.ones(4, 4), ["a"] * 4)
    assert not found.suspected.any()
    assert found.wrong_share == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "run"
    config = smoke(recipe("clip-digits"))
    fit(replace(config, evaluation=config.evaluation.of("knn"), epochs=8, max_steps_per_epoch=None), out=folder)
    return folder


def test_the_page_lists_every_pair_and_says_how_many_wrong_ones_were_found(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "page"
    derive = ["--derive", 'class-captions template="the digit {}"', "--derive", "caption-noise share=0.1"]
    assert main(["data", "audit", str(run), "digits", *derive, "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "index.html")
    with (out / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    splits = CaptionNoiseConfig(share=0.1).apply(ClassCaptionsConfig("the digit {}").apply(DigitsConfig().load()))
    assert {int(row["id"]): row["caption"] for row in rows} == dict(
        zip(splits.train.ids.tolist(), splits.train.text, strict=True)
    )
    suspicion = [float(row["suspicion"]) for row in rows]
    assert suspicion == sorted(suspicion, reverse=True)
    wrong = [row["caption"] != row["true"] for row in rows]
    first = sum(wrong)
    assert sum(wrong[:first]) / first > 0.3  # a tenth would be chance
    page = (out / "index.html").read_text()
    assert f"{first} of 1,437 are wrong" in page
    assert "this audit" in page
    assert (out / "suspects.png").stat().st_size > 10_000


def test_runs_and_sources_that_cannot_be_audited_are_refused(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["data", "audit", str(run), "digits", "--out", str(tmp_path / "page")]) == 2
    assert "an audit looks at captions" in capsys.readouterr().err
    config = smoke(recipe("simclr-digits"))
    fit(replace(config, evaluation=config.evaluation.of("knn"), epochs=1), out=tmp_path / "simclr")
    captioned = ClassCaptionsConfig().apply(DigitsConfig().load()).train
    with pytest.raises(ValueError, match="was trained by SimCLR, which has no text tower"):
        write_audit(tmp_path / "simclr", captioned, tmp_path / "page")
    few = with_columns(captioned, {"text": ["a", "b", *[""] * (len(captioned) - 2)]})
    with pytest.raises(ValueError, match=r"at least three pairs; 'digits.*' has 2 captions"):
        write_audit(run, few, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_images_without_a_caption_are_no_pairs(run: Path, tmp_path: Path) -> None:
    captioned = ClassCaptionsConfig().apply(DigitsConfig().load()).train.subset(torch.arange(60))
    texts = [text if i % 3 else " " for i, text in enumerate(captioned.text or [])]
    found = write_audit(run, with_columns(captioned, {"text": texts}), tmp_path / "page")
    assert len(found.suspicion) == 40
    told = captioned.subset(torch.arange(60)[torch.arange(60) % 3 > 0])
    assert torch.equal(found.suspicion, write_audit(run, told, tmp_path / "told").suspicion)
