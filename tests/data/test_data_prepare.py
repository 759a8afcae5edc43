"""Preparing data sets; and that the data room needs none of its optional packages to be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kinfolk.data import (
    DigitsConfig,
    FashionMNISTConfig,
    inspect_source,
    prepare,
)
from kinfolk.data.sources.fashion_mnist import IDX_STEMS

REAL = Path(__file__).parents[2] / ".data" / "fashion-mnist"

needs_real = pytest.mark.skipif(
    not REAL.is_dir(),
    reason="needs .data/fashion-mnist: `kinfolk data prepare fashion-mnist --out .data/fashion-mnist`",
)


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (folder / name).chmod(0o755)


@needs_real
def test_what_is_there_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert prepare("fashion-mnist", REAL) == REAL


@needs_real
@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to make a package")
def test_a_package_becomes_the_four_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real unpacking, of a package made here; only the download is replaced."""
    content = tmp_path / "package"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN" / "control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n"
    )
    target = content / "usr" / "share" / "datasets" / "fashion-mnist"
    target.mkdir(parents=True)
    for path in REAL.iterdir():
        shutil.copy(path, target)
    deb = tmp_path / "made.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(content), str(deb)], check=True, capture_output=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "apt-get", f"cp {deb} dataset-fashion-mnist_1_all.deb")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    out = prepare("fashion-mnist", tmp_path / "new" / "set")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{stem}.gz" for stem in IDX_STEMS)
    assert len(FashionMNISTConfig(root=str(out)).load().test) == 10_000
    assert sorted(path.name for path in out.parent.iterdir()) == ["set"]  # nothing temporary is left
    (out / f"{IDX_STEMS[0]}.gz").write_bytes(b"damaged")
    prepare("fashion-mnist", out)
    assert len(FashionMNISTConfig(root=str(out)).load().train) == 60_000


def test_a_package_that_cannot_be_fetched_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    program(programs, "dpkg-deb", "exit 0")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(
        RuntimeError, match=r"could not be fetched .*Unable to locate package\). Try `apt-get update`"
    ) as e:
        prepare("fashion-mnist", tmp_path / "set")
    assert "by hand" in str(e.value)
    assert not (tmp_path / "set").exists()


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"needs apt-get and dpkg-deb.*train-images-idx3-ubyte\.gz.* by hand"):
        prepare("fashion-mnist", tmp_path / "set")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="kinfolk prepares fashion-mnist, emoji, icons, textures, wordnet; found 'mnist'"
    ):
        prepare("mnist", tmp_path)


def test_without_optional_packages_the_room_works_and_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    script = f"""
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("PIL", "sklearn", "scipy", "torchvision"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
import torch
from kinfolk.data import *
views = ViewMaker(photo_views(), seed=0)(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2), epoch=0)
print(views[0].shape)
for config in (DigitsConfig(), ImageFolderConfig({str(tmp_path)!r})):
    try:
        config.load()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "torch.Size([2, 3, 8, 8])",
        'the digits data set needs sklearn, which is not installed: pip install "kinfolk[train]"',
        'decoding image files needs PIL, which is not installed: pip install "kinfolk[train]"',
    ]


def test_digits_have_no_copies_between_the_parts() -> None:
    report = inspect_source(DigitsConfig().load())
    assert (report["duplicates_across"], report["train"]["duplicates"]) == (0, 0)
