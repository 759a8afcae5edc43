"""Emoji: classes, captions, hold-out by concept, pinned pixels; and the real set where it is prepared."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kinfolk.data.sources.base import Source, Splits
from kinfolk.data.sources.concepts import hold_out_concepts, merge_small_classes
from kinfolk.data.sources.emoji import EMOJI_HANDS, EmojiConfig
from kinfolk.train.serialization import decode, encode

REAL = Path(__file__).parents[2] / ".data" / "emoji"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="needs .data/emoji: `kinfolk data prepare emoji --out .data/emoji`"
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Six concepts of two subcategories by three hands, one of them in two skin tones."""
    records: list[dict[str, Any]] = []
    for i in range(6):
        for tone in ("", "1F3FF-1F3FB") if i == 2 else ("",):
            for place, hand in enumerate(EMOJI_HANDS):
                name = f"{hand}/{i}{tone}.png"
                (tmp_path / hand).mkdir(exist_ok=True)
                picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
                picture.paste((10 * i, 80 * place, 255 * bool(tone), 255), (0, 0, 32, 64))
                picture.save(tmp_path / name)
                subcategory = "bug" if i % 2 else "bird"
                records.append(
                    {"file_name": name, "text": f"name {i}", "keywords": ["a", "b c"] if i else [], "hand": hand}
                    | {"category": "Animals", "subcategory": subcategory, "concept": f"c{i}", "skin_tone": tone}
                    | {"pixels": f"{name}-{i}"}
                )
    write(tmp_path, records)
    return tmp_path


def write(folder: Path, records: list[dict[str, Any]]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")


def concepts(source: Source) -> set[int]:
    return set(source.columns["groups"].tolist())


def load(root: Path, **options: Any) -> Splits:
    return EmojiConfig(root=str(root), **{"min_concepts": 1, "test_fraction": 0.34, **options}).load()


def test_every_hand_and_tone_of_a_concept_is_on_one_side(small: Path) -> None:
    splits = load(small)
    assert not concepts(splits.train) & concepts(splits.test)
    assert concepts(splits.train) | concepts(splits.test) == set(range(6))
    assert len(splits.train) + len(splits.test) == 21
    by_class = Counter(splits.test.labels[splits.test.bias_labels == 0].tolist())
    assert set(by_class) == {0, 1}  # stratified


def test_what_is_known_beside_the_pixels(small: Path) -> None:
    train = load(small, test_fraction=0.0).train
    assert train.class_names == ("bird", "bug")
    assert train.text[0] == "name 0"
    assert train.text[3] == "name 1 (a, b c)"
    assert train.columns["hierarchy"][3] == "Animals/bug/c1"
    dark = train.columns["attributes"][:, 0] == 5
    assert train.columns["attributes"][dark].tolist() == [[5.0, 1.0]] * 3
    assert train.bias_labels.tolist()[:3] == [0, 1, 2]
    assert load(small, test_fraction=0.0, caption="name").train.text[3] == "name 1"
    by_category = load(small, test_fraction=0.0, labels="category").train
    assert (by_category.class_names, set(by_category.labels.tolist())) == (("Animals",), {0})


def test_hands_and_tones_choose_pictures_and_change_neither_ids_nor_parts(small: Path) -> None:
    whole, fewer = load(small), load(small, hands=("openmoji", "google"), skin_tones=False)
    assert len(fewer.train) + len(fewer.test) == 12
    assert concepts(fewer.test) == concepts(whole.test)
    assert set(fewer.train.ids.tolist()) < set(whole.train.ids.tolist())
    file_of = [json.loads(line)["file_name"] for line in (small / "metadata.jsonl").read_text().splitlines()]
    hands = [file_of[i].partition("/")[0] for i in fewer.train.ids.tolist()]
    assert [("openmoji", "google")[b] for b in fewer.train.bias_labels.tolist()] == hands


def test_pixels_are_on_white_averaged_and_the_same_from_the_cache(small: Path) -> None:
    options: dict[str, Any] = {"test_fraction": 0.0, "image_size": (4, 4), "saliency": True}
    first = load(small, **options).train
    assert first.images[3, :, 0].T.tolist() == [[10, 0, 0]] * 2 + [[255, 255, 255]] * 2
    assert first.columns["saliency"][3, 0, 0].tolist() == [255, 255, 0, 0]
    odd = load(small, test_fraction=0.0, image_size=(1, 3)).train.images[3, 0, 0]
    assert odd.tolist() == [10, 132, 255]  # half covered in the middle: (10 + 255) / 2
    for path in small.glob("*/*.png"):
        path.unlink()  # now only the cache can know
    again = load(small, **options).train
    assert torch.equal(again.images, first.images)
    next(small.glob(".cache/*4x4.npy")).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="missing"):
        load(small, **options)


def test_a_limit_takes_training_pictures_only(small: Path) -> None:
    whole, part = load(small), load(small, limit=2)
    assert len(part.train) == 2 < len(whole.train)
    assert set(part.train.ids.tolist()) < set(whole.train.ids.tolist())
    assert torch.equal(part.test.ids, whole.test.ids)


def test_renderings_are_the_same_tone_by_the_other_hands(small: Path) -> None:
    train = load(small, test_fraction=0.0, renderings=True, image_size=(1, 1)).train
    at = 9  # concept 2, two tones, by google
    assert train.columns["attributes"][at].tolist() == [5.0, 1.0]
    batch = train.fetch(torch.tensor([at]))
    assert batch["rendering_count"].tolist() == [3]
    assert torch.equal(batch["renderings"][0], load(small, test_fraction=0.0, image_size=(1, 1)).train.images[9:12])


def test_concepts_that_are_drawn_alike_are_on_one_side() -> None:
    names = [f"c{i}" for i in range(40)]
    alike = [min(i, i ^ 1) if i < 20 else i for i in range(40)]  # 0 and 1, 2 and 3, ... share a picture
    for seed in range(5):
        held = hold_out_concepts(names, strata=[0] * 40, fraction=0.3, seed=seed, alike=alike)
        for i in range(0, 20, 2):
            assert (f"c{i}" in held) == (f"c{i + 1}" in held)
    apart = hold_out_concepts(names, strata=[0] * 40, fraction=0.3, seed=0)
    assert len(apart) == 12
    assert any((f"c{i}" in apart) != (f"c{i + 1}" in apart) for i in range(0, 20, 2))  # this could have failed


def test_small_classes_are_joined_with_the_next_smallest_of_their_category() -> None:
    sizes = {("A", "one"): 1, ("A", "five"): 5, ("A", "two"): 2, ("A", "nine"): 9, ("B", "lone"): 2, ("C", "big"): 7}
    classes, within, names = [], [], []
    for (category, name), size in sizes.items():
        for i in range(size):
            for _hand in range(2):  # every concept twice: concepts are counted, not pictures
                classes.append(name)
                within.append(category)
                names.append(f"{name}{i}")
    merged = merge_small_classes(classes, within=within, concepts=names, least=4)
    assert sorted(set(merged)) == ["big", "five + one + two", "lone", "nine"]
    assert Counter(merged)["five + one + two"] == 16
    assert merge_small_classes(classes, within=within, concepts=names, least=1) == classes


def test_a_config_survives_yaml_and_lists_become_tuples() -> None:
    config = EmojiConfig(hands=["twitter", "google"], image_size=[16, 16])  # type: ignore[arg-type]
    assert config.hands == ("twitter", "google")
    assert decode(EmojiConfig, encode(config)) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hands": ("apple",)}, r"hands must be some of google, twitter, openmoji, each once; found \('apple',\)"),
        ({"hands": ("google", "google")}, "each once"),
        ({"hands": ()}, "hands must be"),
        ({"image_size": (0, 9)}, "from 1 to 64"),
        ({"image_size": (96, 96)}, "from 1 to 64"),
        ({"labels": "name"}, "labels must be"),
        ({"caption": "long"}, "caption 'keywords' or 'name'"),
        ({"min_concepts": 0}, "min_concepts must be at least 1"),
    ],
)
def test_wrong_choices_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiConfig(**options)


def test_what_is_missing_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINFOLK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"emoji was not found in .*emoji or .data/emoji. Fetch it with `kinfolk"
    ):
        EmojiConfig().load()
    with pytest.raises(FileNotFoundError, match=r"has no metadata.jsonl; `kinfolk data prepare emoji` writes"):
        EmojiConfig(root=str(tmp_path)).load()
    write(tmp_path, [{"file_name": "x.png"}])
    with pytest.raises(ValueError, match=r"line 1 has no category, concept, hand, .* prepare the data set anew"):
        EmojiConfig(root=str(tmp_path)).load()
    (tmp_path / "metadata.jsonl").write_text("{not json\n")
    with pytest.raises(ValueError, match="line 1 is no JSON object"):
        EmojiConfig(root=str(tmp_path)).load()


@needs_real
def test_the_real_set_has_the_published_counts() -> None:
    record = json.loads((REAL / "prepared.json").read_text())
    splits = EmojiConfig(root=str(REAL)).load()
    if record["only"] is not None:
        pytest.skip("only a slice is prepared")
    assert len(splits.train) + len(splits.test) == 11_358
    assert len(concepts(splits.train)) + len(concepts(splits.test)) == 1_911
    assert not concepts(splits.train) & concepts(splits.test)
    assert len(splits.train.class_names) == 92
    both = torch.cat([splits.train.labels, splits.test.labels])
    groups = torch.cat([splits.train.columns["groups"], splits.test.columns["groups"]])
    sizes = [len(groups[both == c].unique()) for c in range(92)]
    assert (min(sizes), max(sizes)) == (5, 259)


@needs_real
def test_no_real_picture_is_in_both_parts() -> None:
    splits = EmojiConfig(root=str(REAL)).load()
    pixels = [json.loads(line)["pixels"] for line in (REAL / "metadata.jsonl").read_text().splitlines()]
    train, test = ({pixels[i] for i in part.ids.tolist()} for part in (splits.train, splits.test))
    assert not train & test
