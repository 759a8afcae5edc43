"""Images without captions and captions without images: who is matched when, what the loss makes of it, what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data import CaptionedSamplerConfig, UnpairedConfig
from kinfolk.methods import CLIPConfig, Partners, PartnersConfig, TrainingPlan
from kinfolk.methods.clip import weighted_mean
from kinfolk.nn import HeadConfig, TextTransformerConfig
from kinfolk.recipes import recipe
from kinfolk.train import fit

TEXT = TextTransformerConfig(width=16, layers=1, heads=2, length=16)
PAIRED = ["zero", "", "", "one", "", ""]
IDS = torch.tensor([2, 3, 5, 8, 13, 21])
LOOSE = ["two", "three", "four"]
SHOWN = torch.tensor([[9.0, 9, 9], [0, 1, 0], [1, 0, 0], [9, 9, 9], [0, 0.9, 0], [0, 0, 1]])  # a row per image
SAID = {"two": [1.0, 0, 0], "three": [0.0, 1, 0], "four": [0.0, 0, 1]}


def plan(steps: int = 10, *, loose: list[str] = LOOSE) -> TrainingPlan:
    return TrainingPlan(steps, 5, IDS, lambda module: SHOWN, PAIRED, loose)


def said(texts: list[str]) -> Tensor:
    return torch.tensor([SAID[text] for text in texts])


def after(steps: int, config: PartnersConfig, *, loose: list[str] = LOOSE) -> Partners:
    partners = Partners(config)
    partners.begin(plan(loose=loose))
    for _ in range(steps):
        partners.after_step(nn.Identity(), said, temperature=0.1)
    return partners


def found(partners: Partners) -> list[str]:
    return [partners.captions[i] if i >= 0 else "" for i in partners.columns.tolist()]


@pytest.mark.parametrize(
    ("how", "captions"),
    [
        ("argmax", ["three", "two", "three", "four"]),
        ("mutual", ["three", "two", "", "four"]),
        ("assignment", ["three", "two", "", "four"]),
    ],
)
def test_images_without_a_caption_find_the_nearest(how: Any, captions: list[str]) -> None:
    partners = after(3, PartnersConfig(how, start=0.3))
    assert partners.ids.tolist() == [3, 5, 13, 21]
    if how != "assignment":
        assert found(partners) == captions
    else:  # of two equal cosines either may win
        assert sorted(filter(None, found(partners))) == ["four", "three", "two"]
    matched = partners.columns >= 0
    assert bool((partners.confidence[matched] > 0.3).all())
    assert bool((partners.confidence[~matched] == 0).all())


@pytest.mark.parametrize("how", ["mutual", "assignment", "sinkhorn"])
def test_a_caption_said_twice_goes_to_two_images(how: Any) -> None:
    once, twice = (after(3, PartnersConfig(how, start=0.3), loose=[*LOOSE, *more]) for more in ([], ["three"]))
    assert found(once).count("three") == (1 if how != "sinkhorn" else 2)
    assert found(twice) == ["three", "two", "three", "four"]
    assert twice.captions == LOOSE
    assert twice.confidence[0] > 0.9
    assert once.confidence[0] < 0.75


def test_more_captions_than_images_leave_captions_over() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(300, 12, generator=generator), dim=1)
    partners = Partners(PartnersConfig("sinkhorn", start=0.3))
    words = [f"{i}" for i in range(300)]
    partners.begin(TrainingPlan(10, 5, torch.arange(31), lambda module: rows[:31], ["pair", *[""] * 30], words))
    for _ in range(3):
        partners.after_step(nn.Identity(), lambda texts: rows[[int(text) for text in texts]], temperature=0.02)
    assert found(partners) == words[1:31]
    assert bool((partners.confidence > 0.9).all())


@pytest.mark.parametrize("how", ["argmax", "mutual", "assignment", "sinkhorn"])
def test_an_image_that_cannot_be_read_finds_nobody(how: Any) -> None:
    shown = SHOWN.clone()
    shown[1] = 0.0
    partners = Partners(PartnersConfig(how, start=0.3))
    partners.begin(plan()._replace(features=lambda module: shown))
    for _ in range(3):
        partners.after_step(nn.Identity(), said, temperature=0.1)
    assert found(partners) == ["", "two", "three", "four"]
    assert partners.confidence[0] == 0


def test_a_run_goes_on_with_the_captions_that_it_began_with() -> None:
    first, other = (
        after(steps, PartnersConfig("argmax"), loose=loose) for steps, loose in ((3, LOOSE), (0, LOOSE[:2]))
    )
    with pytest.raises(ValueError, match="not those that this run began with; resume with the same ones"):
        nn.ModuleList([other]).load_state_dict(nn.ModuleList([first]).state_dict())


def test_rounds_come_at_their_shares_and_none_at_the_end() -> None:
    reached = [int(after(steps, PartnersConfig("argmax", start=0.3, every=0.35)).reached) for steps in range(11)]
    assert reached == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_only_cosines_say_who_belongs_to_whom() -> None:
    turned = ["four", "two", "three"]
    first = after(3, PartnersConfig("mutual"))
    again = after(3, PartnersConfig("mutual"), loose=turned)
    assert found(first) == found(again)
    assert torch.equal(first.confidence, again.confidence)


def test_a_batch_is_completed_and_pairs_stay_as_they_are() -> None:
    partners = after(3, PartnersConfig("mutual"))
    batch = {"ids": torch.tensor([13, 2, 21, 3]), "text": ["", "zero", "", ""], "true_text": ["x", "y", "four", "z"]}
    completed = partners.complete(batch)
    assert batch["text"][0] == ""
    assert completed["text"][1:] == ["zero", "four", "three"]
    assert completed["text"][0] in LOOSE  # there as a negative only
    weight = completed["pair_weight"]
    assert weight[:2].tolist() == [0, 1]
    assert bool((weight[2:] < 1).all() and (weight[2:] > 0.3).all())
    health = partners.health(completed)
    assert health["matched_share"].item() == pytest.approx(2 / 3)
    assert health["match_precision"].item() == 0.5
    assert "match_precision" not in partners.health(partners.complete({key: batch[key] for key in ("ids", "text")}))


def test_before_the_first_round_images_alone_weigh_nothing() -> None:
    completed = after(0, PartnersConfig("mutual")).complete({"ids": IDS, "text": PAIRED})
    assert completed["pair_weight"].tolist() == [1, 0, 0, 1, 0, 0]
    assert all(completed["text"])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_pair_counts_with_its_weight_and_every_row_is_a_negative(loss: Any, digits: Any, build: Any) -> None:
    method, batch = build(CLIPConfig(text=TEXT, loss=loss, logit_bias=-2.0)).double(), digits(0, n=7)
    batch = {**batch, "views": [batch["views"][0].double()]}
    weight = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.25, 0.0, 1.0], dtype=torch.float64)
    images, texts = (F.normalize(side, dim=1) for side in method.embed(batch))
    logits = method.log_scale.exp() * images @ texts.T
    if loss == "softmax":
        own = torch.arange(7)
        values = (F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")) / 2
    else:
        signs = 2 * torch.eye(7, dtype=torch.float64) - 1
        questions = -F.logsigmoid(signs * (logits + method.bias))
        values = questions + torch.diag(weight - 1) * questions  # only its own question is doubted
        expected = values.sum() / 7
    if loss == "softmax":
        expected = (weight * values).sum() / weight.sum()
    embedded = [side.detach().requires_grad_() for side in method.embed(batch)]
    terms = method.terms(embedded, {**batch, "pair_weight": weight})
    assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-9)
    own = (images * texts).sum(1)
    assert terms["positive_cosine"].item() == pytest.approx(((weight * own).sum() / weight.sum()).item(), abs=1e-6)
    terms["loss"].backward()
    assert all(bool((side.grad.norm(dim=1) > 1e-6).all()) for side in embedded)
    whole = method.terms(method.embed(batch), {**batch, "pair_weight": torch.ones_like(weight)})["loss"]
    assert whole.item() == pytest.approx(method(batch)["loss"].item(), abs=1e-12)


def test_a_batch_in_which_nothing_weighs_teaches_nothing() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = weighted_mean(values, torch.zeros(2))
    loss.backward()
    assert loss.item() == 0
    assert values.grad.tolist() == [0, 0]


def test_a_run_finds_partners_and_more_and_more_of_them_are_right(tmp_path: Path) -> None:
    config = recipe("clip-digits")
    config = replace(
        config,
        derived=(*config.derived, UnpairedConfig(paired=0.1)),
        method=replace(config.method, partners=PartnersConfig("sinkhorn", start=0.4, every=0.2)),
        sampler=CaptionedSamplerConfig(),
        epochs=10,
        log_every=1,
        evaluation=replace(config.evaluation, protocols=("zero_shot",)),
    )
    run = fit(config, out=tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["matched_share"] for line in lines if "matched_share" in line} == {0, 1}
    lines = [line for line in lines if "match_precision" in line]
    assert {line["matched_share"] for line in lines} == {1}
    rounds = [line["match_precision"] for line in lines if line["matched_share"]]
    first, last = sum(rounds[:10]) / 10, sum(rounds[-10:]) / 10
    assert first > 0.25  # ten names: chance is a tenth
    assert last > first + 0.1
    assert last > 0.75


def test_matches_are_state() -> None:
    first, second = (after(steps, PartnersConfig("argmax")) for steps in (3, 0))
    second.load_state_dict(first.state_dict())
    assert found(first) == found(second)
    assert second.progress.share() == first.progress.share()


def test_errors_say_what_to_do(digits: Any, build: Any) -> None:
    with pytest.raises(ValueError, match="how must be none, argmax, mutual, assignment or sinkhorn; found 'best'"):
        PartnersConfig("best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start and every are shares of training; found"):
        PartnersConfig("mutual", every=0)
    with pytest.raises(ValueError, match="partners need caption_share 0"):
        CLIPConfig(caption_share=0.5, partners=PartnersConfig("mutual"))
    for captions, loose in ((PAIRED, []), (["a"] * 6, LOOSE), ([""] * 6, LOOSE), (None, LOOSE)):
        with pytest.raises(ValueError, match=r"found \d pairs, \d images with an empty caption and \d captions"):
            Partners(PartnersConfig("mutual")).begin(plan()._replace(captions=captions, loose_captions=loose))
    with pytest.raises(ValueError, match="a stream does not say which there are"):
        Partners(PartnersConfig("mutual")).begin(plan()._replace(ids=None))
    with pytest.raises(ValueError, match=r"call method.begin\(TrainingPlan"):
        Partners(PartnersConfig("mutual")).complete({"ids": IDS, "text": PAIRED})
    with pytest.raises(ValueError, match=r"need each image's text and id; found batch keys \['ids'\]"):
        after(0, PartnersConfig("mutual")).complete({"ids": IDS})
    with pytest.raises(ValueError, match="an image whose caption is a guess has no further pairs"):
        CLIPConfig(loss="sigmoid", same_caption="known", partners=PartnersConfig("mutual"))
    assert after(0, PartnersConfig("mutual"), loose=["", *LOOSE, " "]).captions == LOOSE
    with pytest.raises(ValueError, match="1 images without a caption are not among those of"):
        after(0, PartnersConfig("mutual")).complete({"ids": torch.tensor([2, 4]), "text": ["zero", ""]})
    method = build(CLIPConfig(text=TEXT, head=HeadConfig(layers=1)))
    with pytest.raises(ValueError, match="1 of 4 images have an empty caption"):
        method({**digits(0, n=4), "text": ["one", "two", " ", "three"]})
    with pytest.raises(TypeError, match="captions must be strings, '' where there is none; found NoneType"):
        method({**digits(0, n=4), "text": ["one", "two", None, "three"]})
