from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kinfolk.train.checkpoint import (
    Position,
    checkpoints,
    random_states,
    remove_partial,
    restore_checkpoint,
    save_checkpoint,
    set_random_states,
)
from kinfolk.train.files import atomic_path, write_text


class Twins(nn.Module):
    """A module under two names and buffers of other types, as an EMA method with a queue has."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.alias = self.encoder
        self.register_buffer("pointer", torch.tensor(5))
        self.register_buffer("queue", torch.randn(4, 2).T)


def _trained() -> tuple[Twins, torch.optim.Optimizer]:
    method = Twins()
    optimizer = torch.optim.AdamW(method.parameters())
    method.encoder(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return method, optimizer


def test_everything_comes_back(tmp_path: Path) -> None:
    method, optimizer = _trained()
    path = save_checkpoint(tmp_path, method, optimizer, position=Position(7, 1, 3, 2.5))
    drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: NPY002

    other = Twins()
    other_optimizer = torch.optim.AdamW(other.parameters())
    assert restore_checkpoint(path, other, other_optimizer) == Position(7, 1, 3, 2.5)
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    for one, two in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == drawn  # noqa: NPY002


def test_training_state_is_tensors_and_plain_values(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *_trained(), position=Position(1))
    state = torch.load(path / "training.pt", weights_only=True)
    assert set(state) == {"position", "optimizer", "random"}


def test_normal_draws_continue_too() -> None:
    random.gauss(0, 1), np.random.standard_normal()  # both keep a second draw back  # noqa: NPY002
    states = random_states()
    first = (random.gauss(0, 1), np.random.standard_normal())  # noqa: NPY002
    set_random_states(states)
    assert (random.gauss(0, 1), np.random.standard_normal()) == first  # noqa: NPY002


def test_the_newest_two_stay(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        save_checkpoint(tmp_path, *_trained(), position=Position(step))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000009", "step-00000010"]


def test_what_is_half_written_is_never_picked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, *_trained(), position=Position(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, *_trained(), position=Position(2))
    (tmp_path / ".partial-step-00000003-1").mkdir()
    (tmp_path / "step-12").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000001"]
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-12"]


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nothing") == []


def test_weights_of_another_method_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, *_trained(), position=Position(1))
    with pytest.raises(RuntimeError, match="queue"):
        restore_checkpoint(path, nn.Linear(3, 2))


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("ne")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
