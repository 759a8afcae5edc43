"""Features that ranks share out are those of one process, bit for bit, and so is every number measured on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kinfolk.data.sources import DigitsConfig
from kinfolk.evals import extract
from kinfolk.evals.encoder_fingerprint import encoder_fingerprint
from kinfolk.evals.rank_share import computed_over_ranks, share_of

HERE = Path(__file__).parent
Answers = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Number of ranks -> what every rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    splits = DigitsConfig().load()
    chosen = (splits.train.subset(torch.arange(210)), splits.test.subset(torch.arange(110)))
    torch.save([{"images": one.images, "labels": one.labels, "ids": one.ids} for one in chosen], folder / "digits.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "7"}
    script = [sys.executable, str(HERE / "rank_extraction.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=280)
    errors = [file.read_text() for file in sorted(folder.glob("*.error"))]
    assert done.returncode == 0, done.stderr
    assert not errors, "\n".join(errors)
    return {
        world: [torch.load(folder / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]
        for world in (1, 2)
    }


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE))
    import rank_extraction

    return rank_extraction


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert torch.equal(found[name], column), name


@pytest.mark.parametrize("case", ["33 samples", "3 samples", "16 samples", "every sample twice", "half readable"])
def test_both_ranks_have_what_one_process_has(answers: Answers, case: str) -> None:
    ((alone,), both) = answers[1], answers[2]
    for rank in both:
        assert_same(rank[case], alone[case])


def test_nothing_is_missing_or_twice(answers: Answers) -> None:
    assert answers[2][0]["33 samples"]["ids"].tolist() == [10 * i for i in range(33)]
    assert answers[2][1]["every sample twice"]["ids"].tolist() == [10 * i for i in range(16)]
    assert answers[2][1]["half readable"]["ids"].tolist() == [0, 1, 2, 3]
    assert answers[2][1]["half readable"]["groups"].tolist() == [0, 0, 1, 1]


def test_ranks_share_the_work_and_make_the_same_number_of_passes(answers: Answers) -> None:
    (alone,), (first, second) = answers[1], answers[2]
    assert alone["passes for 33"] == [4] * 8 + [1]
    assert first["passes for 33"] == [4] * 5
    assert second["passes for 33"] == [4] * 3 + [1, 1]  # the last batch again
    assert first["passes for 3"] == second["passes for 3"] == [3]
    assert first["passes for 16"] == second["passes for 16"] == [4, 4]


def test_every_protocol_gives_the_same_numbers(answers: Answers) -> None:
    (alone,), (first, second) = answers[1], answers[2]
    assert len(alone["measured"]) > 8
    assert first["measured"] == second["measured"] == alone["measured"]


def test_without_being_asked_a_rank_works_alone(answers: Answers) -> None:
    """Only rank 1 made this call; a collective would have hung."""
    assert_same(answers[2][1]["alone"], answers[1][0]["33 samples"])


def test_another_process_finds_what_the_first_one_kept(answers: Answers, worker: Any) -> None:
    assert {rank["fingerprint"] for world in answers.values() for rank in world} == {
        encoder_fingerprint(worker.Encoder())
    }


def test_ranks_share_a_cache(answers: Answers) -> None:
    assert [rank["kept"] for world in answers.values() for rank in world] == [(True, [])] * 3


def test_a_failure_on_one_rank_is_one_on_all(answers: Answers) -> None:
    first, second = answers[2]
    assert first["one fails"] == "RuntimeError: rank 1 could not compute its share; see the error there."
    assert second["one fails"] == "ValueError: out of order"


def test_ranks_that_were_told_different_things_say_so(answers: Answers) -> None:
    for rank in answers[2]:
        assert rank["other batches"].startswith("ValueError: all ranks must share the same batches; found [9, 7] batch")
        assert "give every rank the same source, indices and batch_size" in rank["other batches"]


def test_shares_are_consecutive_equally_many_and_leave_nothing_out() -> None:
    for parts in range(1, 12):
        for world in range(1, 6):
            shares = [share_of(list(torch.arange(parts)), rank=rank, world=world) for rank in range(world)]
            assert len({len(share) for share in shares}) == 1
            together = [int(part) for share in shares for part in share]
            assert list(dict.fromkeys(together)) == list(range(parts))
            assert together == sorted(together)


def test_one_process_gathers_nothing() -> None:
    parts = torch.arange(6).split(4)
    found = computed_over_ranks(
        lambda mine: {"ids": torch.cat(list(mine))}, parts, names=("ids", "labels"), device=torch.device("cpu")
    )
    assert {name: column.tolist() for name, column in found.items()} == {"ids": [0, 1, 2, 3, 4, 5]}


def test_a_source_of_which_nothing_can_be_read_says_so(worker: Any) -> None:
    source = worker.data(8, worker.HalfReadable)
    with pytest.raises(ValueError, match="none of the 4 samples of 'arrays' can be read"):
        extract(worker.Encoder(), source, indices=torch.arange(4, 8))
