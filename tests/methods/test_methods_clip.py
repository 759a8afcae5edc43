"""CLIP, SigLIP and their mixtures against the definitions in loops; towers, locks, and what cannot be trained."""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kinfolk.data import ClassTableConfig
from kinfolk.data.text import TextEncoderConfig
from kinfolk.methods import CLIPConfig, SentenceTowerConfig, TrainingPlan, TransformersTowerConfig, XCLRConfig
from kinfolk.methods.clip import caption_ids
from kinfolk.nn import HeadConfig, TextTransformer, TextTransformerConfig
from kinfolk.nn.text_transformer import byte_tokens
from kinfolk.train import cached_backward, split_rows

TEXT = TextTransformerConfig(width=16, layers=1, heads=2, length=16)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TABLE = ClassTableConfig(groups=(("0", "6", "8", "9"), ("1", "4", "7"), ("2", "3", "5")), within=0.8, temperature=0.3)


def double(method: torch.nn.Module, batch: dict) -> tuple[Any, dict]:
    return method.double(), {**batch, "views": [view.double() for view in batch["views"]]}


def logits_of(method: Any, batch: dict) -> tuple[list[Tensor], float]:
    *images, text = method.embed(batch)
    texts = F.normalize(text, dim=1)
    return [F.normalize(image, dim=1) @ texts.T for image in images], float(method.log_scale.detach().exp())


def cross_entropy_by_loops(logits: Tensor, target: Tensor, kept: Tensor) -> float:
    total = 0.0
    for i in range(len(logits)):
        partition = math.log(sum(math.exp(logits[i, j]) for j in range(logits.shape[1]) if kept[i, j]))
        total += sum(float(target[i, j]) * (partition - float(logits[i, j])) for j in range(logits.shape[1]))
    return total / len(logits)


@pytest.mark.parametrize("known", [False, True])
def test_clip_is_the_mean_over_views_and_directions(known, digits, build):
    config = CLIPConfig(text=TEXT, same_caption="known" if known else "negative")
    method, batch = double(build(config), digits(0, n=9))
    cosines, scale = logits_of(method, batch)
    equal = torch.tensor([[a == b for a in batch["text"]] for b in batch["text"]])
    own = torch.eye(9, dtype=torch.bool)
    assert (equal & ~own).any()
    kept = own | ~equal if known else torch.ones_like(own)
    sides = [s for c in cosines for s in (scale * c, scale * c.T)]
    expected = sum(cross_entropy_by_loops(side.detach(), own.double(), kept) for side in sides) / 4
    assert method(batch)["loss"].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("known", [False, True])
def test_siglip_asks_every_pair(known, digits, build):
    config = CLIPConfig(text=TEXT, loss="sigmoid", same_caption="known" if known else "negative", logit_bias=-4.0)
    method, batch = double(build(config), digits(0, views=1, n=7))
    (cosines,), scale = logits_of(method, batch)
    expected = 0.0
    for i in range(7):
        for j in range(7):
            pair = i == j or (known and batch["text"][i] == batch["text"][j])
            logit = scale * cosines[i, j].item() - 4.0
            expected += math.log1p(math.exp(-logit if pair else logit)) / 7
    assert method(batch)["loss"].item() == pytest.approx(expected, abs=1e-9)
    assert scale == pytest.approx(10.0)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_caption_share_mixes_own_pair_and_relation(share, digits, build, source):
    relation = TABLE.build(source)
    config = CLIPConfig(text=TEXT, caption_share=share)
    method, batch = double(build(config, relation=relation), digits(0, views=1, n=8))
    (cosines,), scale = logits_of(method, batch)
    weights = relation.for_batch(batch["ids"], 1).row_normalised().to_dense().double()
    target = (1 - share) * torch.eye(8) + share * weights
    kept = torch.ones(8, 8, dtype=torch.bool)
    logits = scale * cosines.detach()
    expected = sum(cross_entropy_by_loops(side, target, kept) for side in (logits, logits.T)) / 2
    assert method(batch)["loss"].item() == pytest.approx(expected, abs=1e-6)  # the table is in single precision


def test_no_caption_share_is_clip_and_views_beside_are_x_clr(digits, build, source):
    relation, batch = TABLE.build(source), digits(0)
    head = HeadConfig(layers=1)
    clip = build(CLIPConfig(text=TEXT)).eval()
    beside = build(CLIPConfig(text=TEXT, image_weight=0.5, image_temperature=0.2), relation=relation).eval()
    images = build(XCLRConfig(temperature=0.2, head=head), relation=relation).eval()
    beside.load_state_dict(clip.state_dict())
    images.load_state_dict({k: v for k, v in clip.state_dict().items() if k.startswith(("encoder.", "head."))})
    terms = beside(batch)
    torch.testing.assert_close(terms["contrastive"], clip(batch)["loss"].detach())
    torch.testing.assert_close(terms["image"], images(batch)["loss"].detach())
    torch.testing.assert_close(terms["loss"], terms["contrastive"] + 0.5 * terms["image"])


def test_the_scale_is_learnt_and_stays_below_a_hundred(digits, build):
    method = build(CLIPConfig(text=TEXT, logit_scale=99.0))
    method(digits(0, n=8))["loss"].backward()
    assert method.log_scale.grad.abs() > 0
    with torch.no_grad():
        method.log_scale += 1
    method.after_step()
    assert method.log_scale.exp().item() == pytest.approx(100.0)


@pytest.mark.parametrize("lock", ["image", "text"])
def test_a_locked_tower_stays_as_it_is_and_its_head_learns(lock, digits, build):
    method = build(CLIPConfig(text=TEXT, lock=lock, same_caption="known"))
    tower = method.encoder if lock == "image" else method.text
    before = copy.deepcopy(tower.state_dict())
    method.train()
    assert not any(part.training for part in tower.modules())
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(digits(0))["loss"].backward()
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in tower.state_dict().items())
    head = method.head if lock == "image" else method.text_head
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_cached_step_has_the_gradients_of_a_whole_one(digits, build):
    config = CLIPConfig(text=TEXT, same_caption="known")
    method, batch = double(build(config, norm="group"), digits(0, n=24))
    method(batch)["loss"].backward()
    whole = {name: p.grad.clone() for name, p in method.named_parameters()}
    method.zero_grad()
    cached_backward(method.embed, split_rows(batch, 7), lambda found: method.terms(found, batch)["loss"])
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-8, atol=1e-12)


def test_pictures_and_captions_find_each_other(digits, build):
    method = build(CLIPConfig(text=TEXT, same_caption="known"))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        method(digits(step, views=1))["loss"].backward()
        optimizer.step()
        method.after_step()
    method.eval()
    batch = digits(999, views=1, n=200)
    with torch.no_grad():
        names = method.encode_text(list(NAMES))
        images = method.encode_images(batch["views"][0])
    assert ((images @ names.T).argmax(1) == batch["labels"]).double().mean() > 0.5
    torch.testing.assert_close(images.norm(dim=1), torch.ones(200))


# --- towers


def test_a_text_is_encoded_the_same_whoever_stands_beside_it() -> None:
    torch.manual_seed(0)
    tower = TextTransformer(width=16, heads=2, length=12).double().eval()
    texts = ["a", "", "a longer caption that is cut", "zwölf", "a"]
    together = tower(texts)
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(tower([text])[0], row)
    assert torch.equal(together[0], together[4])
    torch.testing.assert_close(tower(["a longer cap"])[0], together[2])  # what is beyond the length does not enter
    assert tower([]).shape == (0, 16)


def test_the_order_of_letters_matters() -> None:
    tower = TextTransformer(width=16, heads=2).eval()
    assert not torch.allclose(*tower(["dog bites man", "man bites dog"]))


def test_tokens_are_bytes_behind_a_mark() -> None:
    tokens, known = byte_tokens(["é", "abc"], 2)
    assert tokens.tolist() == [[256, 195, 169], [256, 97, 98]]
    assert known.all()


@pytest.mark.parametrize("wrong", ["a cat", [b"a cat"], ["a", None]])
def test_what_is_no_list_of_strings_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="texts must be a list of strings"):
        byte_tokens(wrong, 8)


@pytest.mark.parametrize("settings", [{"width": 10, "heads": 4}, {"layers": 0}, {"length": 0}])
def test_a_transformer_that_cannot_be_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="must be at least 1 and heads must share the width"):
        TextTransformer(**settings)


@pytest.mark.skipif(find_spec("wordllama") is None, reason="wordllama is not installed")
def test_a_sentence_tower_is_frozen_and_encodes_every_text_once(digits, build, monkeypatch) -> None:
    import kinfolk.methods.text_tower as module

    asked: list[list[str]] = []
    encode = module.encode_texts

    def counted(texts, config):
        asked.append(list(texts))
        return encode(texts, config)

    monkeypatch.setattr(module, "encode_texts", counted)
    method = build(CLIPConfig(text=SentenceTowerConfig(TextEncoderConfig("wordllama")), same_caption="known"))
    asked.clear()
    method.begin(TrainingPlan(1, 1, None, lambda module: torch.eye(2), list(NAMES[:9])))
    for step in range(2):
        method(digits(step))["loss"].backward()
    assert asked == [sorted(NAMES[:9]), ["nine"]]
    assert not list(method.text.parameters())
    assert method.text_head.steps[0].weight.grad.abs().sum() > 0
    assert "text.rows" not in method.state_dict()
    torch.testing.assert_close(method.text(["three"]).norm(dim=1), torch.ones(1), rtol=1e-3, atol=0)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with random weights and a tokenizer of letters, as `save_pretrained` writes them."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("language-model")
    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz0123456789 "]
    model = tokenizers.models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.save_pretrained(folder)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(letters), **small)
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_a_language_model_of_transformers_is_a_tower(pooling, language_model, digits, build):
    config = TransformersTowerConfig(language_model, pooling=pooling, length=8)
    method = build(CLIPConfig(text=config, same_caption="known"))
    method(digits(0, n=16))["loss"].backward()
    unused = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    tower = method.text.eval()
    torch.testing.assert_close(tower(["abc", "a longer one"])[0], tower(["abc"])[0], rtol=1e-4, atol=1e-5)
    assert tower([]).shape == (0, 16)


def test_a_text_longer_than_the_models_positions_is_cut(language_model):
    tower = TransformersTowerConfig(language_model, length=10_000).build().eval()
    assert tower.length == 512
    torch.testing.assert_close(tower(["a" * 600]), tower(["a" * 512]))


def test_a_frozen_language_model_stays(language_model, digits, build):
    config = TransformersTowerConfig(language_model, frozen=True)
    method = build(CLIPConfig(text=config, same_caption="known")).train()
    method(digits(0, n=16))["loss"].backward()
    assert not method.text.model.training
    assert all(parameter.grad is None for parameter in method.text.parameters())


def test_a_language_model_that_is_not_there_says_how_to_get_it(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"no language model './nowhere'(?s:.*)save_pretrained"):
        TransformersTowerConfig("./nowhere").build()


# --- what cannot be trained


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge"}, "loss must be softmax or sigmoid"),
        ({"lock": "both"}, "lock must be none, image or text"),
        ({"caption_share": 1.2}, "between 0 and 1"),
        ({"caption_share": 0.5, "loss": "sigmoid"}, "needs loss softmax"),
        ({"caption_share": 0.5, "same_caption": "known"}, "needs caption_share 0"),
        ({"same_caption": "positive"}, "same_caption must be"),
        ({"image_weight": -1.0}, "image_weight must be at least 0"),
        ({"logit_scale": 200.0}, "logit_scale must lie between"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CLIPConfig(**settings)


def test_parts_that_do_not_fit_are_refused(digits, build, source):
    with pytest.raises(ValueError, match="give one, such as --relation captions"):
        build(CLIPConfig(text=TEXT, caption_share=0.5))
    with pytest.raises(ValueError, match="nothing uses the relation"):
        build(CLIPConfig(text=TEXT), relation=TABLE.build(source))
    with pytest.raises(ValueError, match="lead to one space"):
        build(CLIPConfig(text=TEXT, text_head=HeadConfig(out_dim=7)))
    with pytest.raises(ValueError, match="two views of each image; found 1"):
        build(CLIPConfig(text=TEXT, image_weight=1.0))(digits(0, views=1))


def test_a_batch_without_captions_says_where_they_come_from(digits, build):
    method, batch = build(CLIPConfig(text=TEXT)), digits(0, n=6)
    with pytest.raises(ValueError, match=r"found batch keys(?s:.*)class-captions"):
        method({key: value for key, value in batch.items() if key != "text"})
    with pytest.raises(ValueError, match="found 5 for 6 images"):
        method({**batch, "text": batch["text"][:5]})


def test_a_batch_of_one_pair_has_no_negatives_and_no_loss(digits, build):
    terms = build(CLIPConfig(text=TEXT), norm="group")(digits(0, views=1, n=1))
    assert terms["loss"].item() == pytest.approx(0.0, abs=1e-6)


def test_equal_captions_have_equal_numbers_on_every_machine() -> None:
    assert caption_ids(["a cat", "ein Kätzchen", "a cat"]).tolist()[::2] == [caption_ids(["a cat"]).item()] * 2
    assert caption_ids(["a cat"]).item() == 3745569759787347665
