"""Data sets out of npm and Debian packages; the packages are made here, in the layout of the real ones."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from kinfolk.data import ImageFolderConfig, prepare
from kinfolk.data.prepare.clients import Downloads, tar_members
from kinfolk.data.sources.emoji import EmojiConfig

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to make a package")
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><circle cx="36" cy="36" r="{r}" fill="#fcea2b"/></svg>'
)
TABLE = [
    ("263A-FE0F", "white_smiling_face", "Smileys & Emotion", "face-affection", ()),
    ("1F44B", "wave", "People & Body", "hand-fingers-open", ("1F3FB", "1F3FF")),
    ("0023-FE0F-20E3", "hash", "Symbols", "keycap", ()),
]


def npm_package(folder: Path, name: str, files: Mapping[str, bytes | str]) -> Path:
    path = folder / name
    with tarfile.open(path, "w:gz") as tar:
        for file, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def png(*colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def emoji_packages(folder: Path) -> None:
    table, pictures, rows, svgs = [], [], ["hexcode,annotation"], {}
    for i, (code, short, category, subcategory, tones) in enumerate(TABLE):
        forms = {
            tone: {"unified": f"{code}-{tone}", "image": f"{code}-{tone}.png".lower(), "has_img_google": True}
            for tone in tones
        }
        entry = {"unified": code, "image": f"{code.lower()}.png", "name": short.upper(), "short_name": short}
        table.append(entry | {"category": category, "subcategory": subcategory, "skin_variations": forms})
        pictures += [form["image"] for form in (entry, *forms.values())]
        plain = code.replace("-FE0F", "")  # OpenMoji's spelling, which leaves the selector out
        rows.append(f"{plain},the {short}")
        for tone in ("", *tones):
            svgs[f"color/svg/{plain}{'-' * bool(tone)}{tone}.svg"] = SVG.format(
                r=8 + 4 * i + 2 * tones.index(tone) if tone else 7 + 4 * i
            )
    for place, hand in enumerate(("google", "twitter")):
        images = {f"img/{hand}/64/{name}": png(40 * place + 5, 30 * i, 9, 255) for i, name in enumerate(pictures)}
        other_sizes = {f"img/{hand}/sheets/64.png": b"not read"}
        npm_package(
            folder,
            f"emoji-datasource-{hand}-16.0.0.tgz",
            {"emoji.json": json.dumps(table), **images, **other_sizes},
        )
    npm_package(folder, "openmoji-17.0.0.tgz", {"data/openmoji.csv": "\n".join(rows), **svgs})
    words = {"\u263a\ufe0f": ["the_white_smiling_face", "blush", "happy_face"], "👋": ["hello"]}
    npm_package(folder, "emojilib-4.0.3.tgz", {"dist/emoji-en-US.json": json.dumps(words)})


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    monkeypatch.setenv("KINFOLK_DOWNLOADS", str(folder))
    return folder


def test_emoji_packages_become_pictures_and_metadata(downloads: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    emoji_packages(downloads)
    said: list[str] = []
    out = prepare("emoji", tmp_path / "set", progress=said.append)
    records = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert len(records) == 5 * 3
    smile, wave, dark = records[0], records[3], records[9]
    assert smile["file_name"] == "google/263a-fe0f.png"
    assert (smile["text"], smile["keywords"]) == (
        "the white_smiling_face",
        ["the white smiling face", "blush", "happy face"],
    )
    assert (wave["concept"], wave["skin_tone"], wave["keywords"]) == ("wave", "", ["hello"])
    assert (dark["concept"], dark["skin_tone"], dark["text"]) == ("wave", "1F3FF", wave["text"])
    assert [record["hand"] for record in records[:3]] == ["google", "twitter", "openmoji"]
    for record in records:
        with Image.open(out / record["file_name"]) as picture:
            assert picture.size == (64, 64)
    assert len({record["pixels"] for record in records}) == 15
    assert "CC-BY-SA-4.0" in (out / "LICENSES.md").read_text()
    assert json.loads((out / "prepared.json").read_text())["pictures"] == 15
    assert any("twitter" in line for line in said)
    assert len(EmojiConfig(root=str(out), test_fraction=0.0).load().train) == 15


def test_a_slice_has_all_hands_of_some_concepts_and_the_whole_replaces_it(downloads: Path, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    emoji_packages(downloads)

    def concepts(out: Path) -> set[str]:
        records = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
        return {f"{record['concept']} by {record['hand']}" for record in records}

    out = prepare("emoji", tmp_path / "set", only=1)
    assert len(concepts(out)) == 3
    stamp = (out / "prepared.json").stat().st_mtime_ns
    prepare("emoji", out, only=1)
    assert (out / "prepared.json").stat().st_mtime_ns == stamp  # left alone
    assert len(concepts(prepare("emoji", out))) == 9
    assert len(concepts(prepare("emoji", out, only=1))) == 9  # a part never replaces the whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads", "set"]
    with pytest.raises(ValueError, match="there are 3 emoji; only=4"):
        prepare("emoji", tmp_path / "more", only=4)
    assert not (tmp_path / "more").exists()


def test_what_cannot_be_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only a part of emoji or icons can be prepared; wordnet comes whole"):
        prepare("wordnet", tmp_path / "x", only=3)
    with pytest.raises(ValueError, match="at least 1; found 0"):
        prepare("emoji", tmp_path / "x", only=0)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"holds something else than wordnet \(it has no prepared.json\)"):
        prepare("wordnet", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    other = tmp_path / "other"
    other.mkdir()
    (other / "prepared.json").write_text('{"name": "icons", "only": null}')
    with pytest.raises(ValueError, match="holds icons, not emoji"):
        prepare("emoji", other)


def test_without_npm_the_message_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    monkeypatch.delenv("KINFOLK_DOWNLOADS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    message = r"needs npm, which this machine has not. Or fetch `npm pack \S+@16.0.0` elsewhere and put \S+-16.0.0.tgz"
    with pytest.raises(RuntimeError, match=message) as error:
        prepare("emoji", tmp_path / "data" / "emoji")
    assert "$KINFOLK_DOWNLOADS" in str(error.value)
    assert str(tmp_path / "data") in str(error.value)
    assert not any((tmp_path / "data").iterdir())


def test_npm_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    monkeypatch.delenv("KINFOLK_DOWNLOADS", raising=False)
    program(tmp_path, "npm", "echo 'npm ERR! network' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"could not be fetched \(`npm pack .*: npm ERR! network\)"):
        prepare("emoji", tmp_path / "emoji")


def test_fetched_packages_are_kept_where_downloads_are_kept(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("resvg_py", reason='drawing needs resvg-py: pip install "kinfolk[icons]"')
    elsewhere = tmp_path / "registry"
    elsewhere.mkdir()
    emoji_packages(elsewhere)
    program(elsewhere, "npm", f'cp {elsewhere}/"$(echo $2 | sed s/@/-/)".tgz .')
    monkeypatch.setenv("PATH", f"{elsewhere}:{os.environ['PATH']}")
    prepare("emoji", tmp_path / "set")
    assert sorted(path.name for path in downloads.iterdir()) == sorted(path.name for path in elsewhere.glob("*.tgz"))


def test_of_several_versions_the_newest_is_taken(tmp_path: Path) -> None:
    for version in ("2.2.99", "2.10.1", "2.2.535"):
        npm_package(tmp_path, f"iconify-json-{version}.tgz", {})
    npm_package(tmp_path, "iconify-json-3.0.0.tgz", {})
    downloads = Downloads.for_folder(tmp_path / "icons", work=tmp_path / "work")
    assert downloads.npm("@iconify/json", "2.2.535").name == "iconify-json-2.10.1.tgz"


def test_a_damaged_tarball_is_named(tmp_path: Path) -> None:
    path = npm_package(tmp_path, "x-1.0.0.tgz", {"a": os.urandom(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(RuntimeError, match=r"x-1.0.0.tgz is damaged or no tarball .* fetch it again"):
        list(tar_members(path, under="a"))


@needs_dpkg
def test_wordnet_is_its_two_files_with_the_licence(downloads: Path, tmp_path: Path) -> None:
    files = {f"usr/share/wordnet/{name}": f"{name}\n" for name in ("data.noun", "index.noun", "noun.exc", "data.verb")}
    debian_package(downloads, "wordnet-base", files)
    out = prepare("wordnet", tmp_path / "wordnet")
    names = ["LICENSES.md", "data.noun", "index.noun", "noun.exc", "prepared.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / "data.noun").read_text() == "data.noun\n"
    assert "the licence of wordnet-base" in (out / "LICENSES.md").read_text()


@needs_dpkg
def test_textures_become_an_image_folder(downloads: Path, tmp_path: Path) -> None:
    buffer, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32), (90, 60, 30)).save(buffer, "JPEG")
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("textures/wall/a.jpg", "textures/wall/b.JPG", "textures/sky/deep/c.jpg", "env/moon/up.jpg"):
            packed.writestr(name, buffer.getvalue())
        packed.writestr("textures/wall/d.tga", b"another format")
    debian_package(downloads, "openarena-081-textures", {"usr/share/games/pak4-textures.pk3": archive.getvalue()})
    out = prepare("textures", tmp_path / "textures")
    splits = ImageFolderConfig(str(out), image_size=(8, 8), test_fraction=0.0).load()
    assert splits.train.class_names == ("env-moon", "sky-deep", "wall")
    assert torch.bincount(splits.train.labels).tolist() == [1, 1, 2]
    assert "GPL-2" in (out / "LICENSES.md").read_text()


def debian_package(folder: Path, name: str, files: Mapping[str, bytes | str]) -> None:
    content = folder.parent / f"{name}-content"
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n"
    licence = {f"usr/share/doc/{name}/copyright": f"the licence of {name}\n"}
    for path, data in {"DEBIAN/control": control, **licence, **files}.items():
        (content / path).parent.mkdir(parents=True, exist_ok=True)
        (content / path).write_bytes(data.encode() if isinstance(data, str) else data)
    deb = folder / f"{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(content), str(deb)], check=True, capture_output=True)


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (folder / name).chmod(0o755)
