"""The loader: the same batches with and without workers, resumed where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data import DigitsConfig, ImageFolderConfig, PlainSampler, Source, batches


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(30):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return ImageFolderConfig(str(folder), image_size=(8, 8), memory_limit_mb=0, test_fraction=0.0).load().train


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
        for one, two in zip(first, second, strict=True)
    )


def test_order_and_content_do_not_depend_on_workers(files: Source) -> None:
    sampler = PlainSampler(30, batch_size=7, seed=0)
    here = list(batches(files, sampler, 3))
    assert [batch["ids"].tolist() for batch in here] == [files.ids[sampler.batch(3, s)].tolist() for s in range(4)]
    for workers in (1, 2):
        assert same(here, list(batches(files, sampler, 3, workers=workers)))


def test_a_resumed_epoch_goes_on(files: Source) -> None:
    sampler = PlainSampler(30, batch_size=7, seed=0)
    whole = list(batches(files, sampler, 0))
    assert same(whole[3:], list(batches(files, sampler, 0, start_step=3)))
    assert same(whole[3:], list(batches(files, sampler, 0, start_step=3, workers=1)))
    assert list(batches(files, sampler, 0, start_step=4)) == []


def test_global_random_state_is_left_alone(files: Source) -> None:
    state = torch.get_rng_state()
    list(batches(files, PlainSampler(30, batch_size=15, seed=0), 0, workers=1))
    assert torch.equal(state, torch.get_rng_state())


def test_sources_in_memory_start_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils.data

    digits = DigitsConfig().load().train
    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", None)
    found = next(batches(digits, PlainSampler(len(digits), batch_size=100, seed=0), 0, workers=4))
    assert found["images"].shape == (100, 1, 8, 8)


def test_an_error_in_a_worker_names_the_file(files: Source, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = ImageFolderConfig(str(tmp_path), memory_limit_mb=0, test_fraction=0.0).load().train
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a.png cannot be read"):
        list(batches(source, PlainSampler(1, batch_size=1, seed=0), 0, workers=1))


def test_start_steps_beyond_the_epoch_are_refused(files: Source) -> None:
    with pytest.raises(ValueError, match="from 0 to the epoch's 4 steps; found 5"):
        batches(files, PlainSampler(30, batch_size=7, seed=0), 0, start_step=5)
