"""The loader: the same batches with and without workers, resumed where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinfolk.data import DigitsConfig, ImageFolderConfig, PlainSampler, Source
from kinfolk.data.loader import BatchReader


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(30):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return ImageFolderConfig(str(folder), image_size=(8, 8), memory_limit_mb=0, test_fraction=0.0).load().train


def batches(source: Source, sampler: PlainSampler, epoch: int, *, start_step: int = 0, workers: int = 0) -> list[dict]:
    with BatchReader(source, sampler, workers=workers) as reader:
        return list(reader.epoch(epoch, start_step=start_step))


def same(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
        for one, two in zip(first, second, strict=True)
    )


def test_order_and_content_do_not_depend_on_workers(files: Source) -> None:
    sampler = PlainSampler(30, batch_size=7, seed=0)
    here = batches(files, sampler, 3)
    assert [batch["ids"].tolist() for batch in here] == [files.ids[sampler.batch(3, s)].tolist() for s in range(4)]
    for workers in (1, 2):
        assert same(here, batches(files, sampler, 3, workers=workers))


def test_a_resumed_epoch_goes_on(files: Source) -> None:
    sampler = PlainSampler(30, batch_size=7, seed=0)
    whole = batches(files, sampler, 0)
    assert same(whole[3:], batches(files, sampler, 0, start_step=3))
    assert same(whole[3:], batches(files, sampler, 0, start_step=3, workers=1))
    assert batches(files, sampler, 0, start_step=4) == []


def test_global_random_state_is_left_alone(files: Source) -> None:
    state = torch.get_rng_state()
    batches(files, PlainSampler(30, batch_size=15, seed=0), 0, workers=1)
    assert torch.equal(state, torch.get_rng_state())


def test_sources_in_memory_start_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils.data

    digits = DigitsConfig().load().train
    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", None)
    found = batches(digits, PlainSampler(len(digits), batch_size=100, seed=0), 0, workers=4)[0]
    assert found["images"].shape == (100, 1, 8, 8)


def test_an_error_in_a_worker_names_the_file(files: Source, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    source = ImageFolderConfig(str(tmp_path), memory_limit_mb=0, test_fraction=0.0).load().train
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a.png cannot be read"):
        batches(source, PlainSampler(1, batch_size=1, seed=0), 0, workers=1)


def test_start_steps_beyond_the_epoch_are_refused(files: Source) -> None:
    with pytest.raises(ValueError, match="from 0 to the epoch's 4 steps; found 5"):
        batches(files, PlainSampler(30, batch_size=7, seed=0), 0, start_step=5)


def test_workers_stay_from_epoch_to_epoch_and_follow_its_order(files: Source) -> None:
    sampler = PlainSampler(30, batch_size=7, seed=0)
    with BatchReader(files, sampler, workers=2) as reader:
        first = list(reader.epoch(0))
        processes = {worker.pid for worker in reader._loader._iterator._workers}  # type: ignore[union-attr]
        assert len(processes) == 2
        abandoned = reader.epoch(1)
        next(abandoned)  # an epoch that ends early, as max_steps_per_epoch makes it
        third = list(reader.epoch(2, start_step=1))
        assert {worker.pid for worker in reader._loader._iterator._workers} == processes  # type: ignore[union-attr]
    assert same(first, batches(files, sampler, 0))
    assert same(third, batches(files, sampler, 2)[1:])


def test_fewer_than_no_workers_are_refused(files: Source) -> None:
    with pytest.raises(ValueError, match="workers must be at least 0; found -1"):
        BatchReader(files, PlainSampler(30, batch_size=7, seed=0), workers=-1)
