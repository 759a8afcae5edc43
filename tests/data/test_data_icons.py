"""Icons: what a collection says, drawing and dropping, shards; and the real set where it is prepared."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kinfolk.data import prepare
from kinfolk.data.prepare.icon_sets import PERMISSIVE, concept_of, read_collection
from kinfolk.data.prepare.icons import draw_icons
from kinfolk.data.sources.base import Source
from kinfolk.data.sources.icons import IconsConfig, icon_names
from kinfolk.train.serialization import decode, encode

REAL = Path(__file__).parents[2] / ".data" / "icons"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="needs .data/icons: `kinfolk data prepare icons --out .data/icons`"
)


def square(x: int, side: int, fill: str = "currentColor") -> dict[str, Any]:
    return {"body": f'<path fill="{fill}" d="M{x} {x}h{side}v{side}h-{side}z"/>'}


def a_set(licence: str | None, icons: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {"name": "A set", "author": {"name": "someone"}, "license": {"title": licence, "spdx": licence}}
    return {"info": about, "icons": icons, "width": 24, "height": 24, **more}


SETS = {
    "aa": a_set(
        "MIT",
        {
            "heart": square(2, 4),
            "heart-outline": square(2, 5),
            "star-24-filled": square(3, 6),
            "gone": square(1, 1) | {"hidden": True},
            "white": square(0, 9, "#fff"),
        },
        suffixes={"24-filled": "24 Filled"},
        categories={"Love & Feelings": ["heart"], "OfOneSet": ["star-24-filled"]},
        aliases={"love": {"parent": "heart"}},
    ),
    "bb": a_set(
        "Apache-2.0",
        {"baseline-heart": square(2, 7, "#f00"), "star": square(3, 6), "moon": square(9, 9)},
        prefixes={"baseline": "Baseline"},
        categories={"LoveFeelings": ["baseline-heart"]},
    ),
    "cc": a_set("CC0-1.0", {"star": square(5, 8), "heart": square(1, 3)}, categories={"Love and Feelings": ["heart"]}),
    "dd": a_set("CC-BY-NC-4.0", {"star": square(6, 9)}),
    "ee": a_set("GPL-3.0-or-later", {"star": square(6, 10)}),
    "ff": a_set(None, {"star": square(6, 11)}),
}


@pytest.fixture
def tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "downloads" / "iconify-json-2.9.9.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {"collections": {}, **{f"json/{prefix}": known for prefix, known in SETS.items()}}.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}.json")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("KINFOLK_DOWNLOADS", str(path.parent))
    return path


@pytest.fixture
def prepared(tarball: Path, tmp_path: Path) -> Path:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    return prepare("icons", tmp_path / "icons")


def texts(source: Source) -> set[str]:
    assert source.text is not None
    return set(source.text)


def test_only_permissive_licences_are_read_and_the_rest_is_listed(tarball: Path) -> None:
    collection = read_collection(tarball)
    assert list(collection.sets) == ["aa", "bb", "cc"]
    assert collection.left_out == {"CC-BY-NC-4.0": {"dd": 1}, "GPL-3.0-or-later": {"ee": 1}, "unknown": {"ff": 1}}
    assert not [licence for licence in PERMISSIVE if any(word in licence for word in ("NC", "GPL", "SA", "ND"))]


def test_hidden_icons_and_aliases_are_passed_over_and_the_order_is_shuffled(tarball: Path) -> None:
    icons = read_collection(tarball).icons
    assert {icon.name for icon in icons if icon.set_name == "aa"} == {
        "heart",
        "heart-outline",
        "star-24-filled",
        "white",
    }
    assert [icon.set_name for icon in icons] != sorted(icon.set_name for icon in icons)
    assert [icon.order for icon in icons] == sorted(icon.order for icon in icons)


def test_concepts_are_names_without_style_and_categories_are_shared_words(tarball: Path) -> None:
    icons = {(icon.set_name, icon.name): icon for icon in read_collection(tarball).icons}
    hearts = {key for key, icon in icons.items() if icon.concept == "heart"}
    assert hearts == {("aa", "heart"), ("aa", "heart-outline"), ("bb", "baseline-heart"), ("cc", "heart")}
    assert icons["aa", "star-24-filled"].concept == "star"
    assert icons["aa", "star-24-filled"].text == "star 24 filled"
    assert {icons[key].category for key in hearts} == {"love feelings", None}  # three sets, spelled three ways
    assert icons["aa", "star-24-filled"].category is None  # one set only


@pytest.mark.parametrize(
    ("name", "prefixes", "suffixes", "concept"),
    [
        ("arrow-left-24-filled", [], ["24-filled"], "arrow-left"),
        ("star-outline-rounded", [], ["outline-rounded", "rounded"], "star"),
        ("traffic-light", [], [], "traffic-light"),
        ("traffic-light-light", [], ["light"], "traffic"),
        ("baseline-10k", ["baseline"], [], "10k"),
        ("artist-medium-dark-skin-tone", [], [], "artist"),
        ("outline", [], [], "outline"),
        ("baseline", ["baseline"], [], "baseline"),
    ],
)
def test_style_words_are_taken_off_and_a_name_is_never_empty(
    name: str, prefixes: list[str], suffixes: list[str], concept: str
) -> None:
    assert concept_of(name, prefixes=prefixes, suffixes=suffixes) == concept


def test_drawings_are_black_or_coloured_on_white_and_failures_have_reasons() -> None:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    start = '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 2 1" color="black">'
    left = '<path fill="{}" d="M0 0h1v1h-1z"/></svg>'
    black, red, blank, broken = draw_icons(
        [start + left.format("currentColor"), start + left.format("#f00"), start + "</svg>", "<svg"]
    )
    assert (blank, broken) == ("shows nothing", "cannot be drawn")
    pictures = [Image.open(io.BytesIO(bytes(picture))) for picture in (black, red)]  # type: ignore[arg-type]
    assert [(picture.mode, picture.size) for picture in pictures] == [("L", (64, 64)), ("RGB", (64, 64))]
    # a wide box is centred, not stretched
    assert [pictures[0].getpixel(at) for at in ((8, 32), (8, 8), (48, 32))] == [0, 255, 255]
    assert pictures[1].getpixel((8, 32)) == (255, 0, 0)


def test_prepared_icons_are_shards_with_names_licences_and_counts(prepared: Path) -> None:
    record = json.loads((prepared / "prepared.json").read_text())
    # of nine icons one is white on white, and two stars are one picture
    assert (record["pictures"], record["dropped"]) == (7, {"shows nothing": 1, "the same picture as another": 1})
    assert record["sets_left_out"]["unknown"] == {"ff": 1}
    licences = (prepared / "LICENSES.md").read_text()
    assert "| `bb` | A set | someone | [Apache-2.0]() |" in licences
    assert "- GPL-3.0-or-later: ee (1)" in licences
    assert icon_names(prepared) == (["heart", "moon", "star", "white"], ["aa", "bb", "cc"])


def test_a_slice_is_some_concepts_of_several_sets_with_their_ids(prepared: Path, tmp_path: Path) -> None:
    part = prepare("icons", tmp_path / "slice", only=1)
    whole = IconsConfig(root=str(prepared), test_fraction=0.0).load().train
    sliced = IconsConfig(root=str(part), test_fraction=0.0).load().train
    assert len(sliced.columns["groups"].unique()) == 1
    assert len(sliced.bias_labels.unique()) > 1
    known = dict(zip(whole.ids.tolist(), whole.text, strict=True))
    assert all(known[i] == text for i, text in zip(sliced.ids.tolist(), sliced.text, strict=True))
    with pytest.raises(ValueError, match="2 concepts are drawn by several sets; only=3"):
        prepare("icons", tmp_path / "more", only=3)


def test_concepts_are_split_never_pictures_and_sets_are_bias_labels(prepared: Path) -> None:
    for seed in range(4):
        splits = IconsConfig(root=str(prepared), test_fraction=0.34, seed=seed).load()
        assert not set(splits.train.columns["groups"].tolist()) & set(splits.test.columns["groups"].tolist())
        assert len(splits.train) + len(splits.test) == 7
    names, sets = icon_names(prepared)
    whole = IconsConfig(root=str(prepared), test_fraction=0.0).load().train
    heart = whole.columns["groups"] == names.index("heart")
    assert {sets[b] for b in whole.bias_labels[heart].tolist()} == {"aa", "bb", "cc"}
    assert whole.class_names == ("love feelings",)
    assert sorted(whole.labels.tolist()) == [-1] * 4 + [0] * 3


def test_whole_sets_are_held_out_where_styles_shall_be_new(prepared: Path) -> None:
    for seed in range(3):
        splits = IconsConfig(root=str(prepared), split="set", test_fraction=0.34, seed=seed).load()
        assert not set(splits.train.bias_labels.tolist()) & set(splits.test.bias_labels.tolist())
        assert len(splits.train) + len(splits.test) == 7
        assert len(splits.test) > 0


def test_the_concepts_with_the_most_icons_and_a_split_by_picture(prepared: Path) -> None:
    splits = IconsConfig(root=str(prepared), labels="concept", concepts=2, split="picture", test_fraction=0.34).load()
    assert splits.train.class_names == splits.test.class_names == ("heart", "star")
    counts = splits.train.labels.bincount().tolist(), splits.test.labels.bincount().tolist()
    assert counts == ([2, 1], [1, 1]) or counts == ([3, 1], [1, 1])
    assert not set(splits.train.ids.tolist()) & set(splits.test.ids.tolist())
    with pytest.raises(ValueError, match="split must be 'concept', 'set' or 'picture'; found 'image'"):
        IconsConfig(split="image")  # type: ignore[arg-type]


def test_fewer_hands_limits_and_labels_by_concept(prepared: Path) -> None:
    def load(**options: Any) -> Source:
        return IconsConfig(root=str(prepared), test_fraction=0.0, **options).load().train

    assert texts(load(min_hands=3)) == {"heart", "heart outline", "baseline heart"}
    by_concept = load(labels="concept", min_hands=2)
    assert by_concept.class_names == ("heart", "star")
    assert {
        (text.split()[-1] == "star" or "star" in text, label)
        for text, label in zip(by_concept.text, by_concept.labels.tolist(), strict=True)
    } == {(False, 0), (True, 1)}
    assert [len(load(limit=n)) for n in (3, 100)] == [3, 7]
    assert load(limit=3, seed=1).ids.tolist() == load(limit=3, seed=1).ids.tolist()
    assert len({tuple(load(limit=3, seed=seed).ids.tolist()) for seed in range(8)}) > 1
    with pytest.raises(ValueError, match=r"no concept of .* is drawn by 9 sets; ask for fewer min_hands"):
        load(min_hands=9)


def test_renderings_are_other_sets_drawings_of_the_concept(prepared: Path) -> None:
    source = IconsConfig(root=str(prepared), test_fraction=0.0, renderings=True, most_renderings=3).load().train
    batch = source.fetch(torch.arange(len(source)))
    assert batch["renderings"].shape == (7, 3, 3, 32, 32)
    counts = dict(zip(source.text, batch["rendering_count"].tolist(), strict=True))
    assert (counts["moon"], counts["baseline heart"]) == (1, 3)


def test_a_config_survives_yaml_and_wrong_choices_are_named(tmp_path: Path) -> None:
    config = IconsConfig(image_size=[16, 16], limit=5)  # type: ignore[arg-type]
    assert decode(IconsConfig, encode(config)) == config
    for options, message in (
        ({"labels": "set"}, "labels must be 'category' or 'concept'"),
        ({"channels": 4}, "channels 1 or 3"),
        ({"min_hands": 0}, "min_hands must be at least 1; found 0"),
        ({"test_limit": 0}, "test_limit must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            IconsConfig(**options)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"has no names.json; `kinfolk data prepare icons`"):
        IconsConfig(root=str(tmp_path)).load()


@needs_real
def test_the_real_set_has_three_hundred_thousand_different_pictures() -> None:
    record = json.loads((REAL / "prepared.json").read_text())
    if record["only"] is not None:
        pytest.skip("only a slice is prepared")
    assert record["pictures"] >= 300_000
    shards = json.loads((REAL / "kinfolk.json").read_text())["parts"]["train"]["shards"]
    assert all((REAL / shard).is_file() for shard in shards)
