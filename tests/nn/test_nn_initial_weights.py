"""Weights from other people's checkpoints: which names agree, what is left out and said, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kinfolk.nn import SmallConvConfig
from kinfolk.nn.adapter import AdaptedEncoder
from kinfolk.nn.initial_weights import load_initial_weights


def encoder(seed: int, channels: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return SmallConvConfig(width=4, depth=2).build(channels=channels, image_size=(8, 8))


def state(**more: Tensor) -> dict[str, Tensor]:
    return encoder(1).state_dict() | more


def named(prefix: str, **more: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state().items()} | more


def without(*names: str) -> dict[str, Tensor]:
    return {name: value for name, value in state().items() if not name.startswith(names)}


HEAD = {"fc.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(10)}
KEYS = {f"encoder_k.{name}": value + 1 for name, value in encoder(2).state_dict().items()}
FORMS: list[tuple[str, Any, str]] = [
    ("plain", state(), ""),
    ("nested", {"state_dict": state(), "epoch": 3}, ""),
    ("twice nested", {"model": {"state_dict": state()}}, ""),
    ("data parallel", {"state_dict": named("module.")}, "module."),
    ("lightning", {"state_dict": named("backbone."), "epoch": 3}, "backbone."),
    ("moco", {"state_dict": named("module.encoder_q.", queue=torch.zeros(4), **KEYS)}, "module.encoder_q."),
    ("with a head", state(**HEAD), ""),
    ("of another library", without("standardise."), ""),
    ("without counters", {k: v for k, v in state().items() if "num_batches" not in k}, ""),
]


@pytest.mark.parametrize(("saved", "prefix"), [pytest.param(s, p, id=name) for name, s, p in FORMS])
def test_every_form_of_a_checkpoint_gives_the_same_weights(saved: Any, prefix: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "theirs.pt")
    files = [tmp_path / "theirs.pt"]
    if all(isinstance(value, Tensor) for value in saved.values()):  # safetensors files are not nested
        save_file(saved, tmp_path / "theirs.safetensors")
        files.append(tmp_path / "theirs.safetensors")
    for file in files:
        target = encoder(5)
        taken = load_initial_weights(target, file)
        assert taken.prefix == prefix
        assert taken.missing == taken.mismatched == ()
        images = torch.rand(4, 3, 8, 8)
        assert torch.equal(target.eval()(images), encoder(1).eval()(images))


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    torch.save({"state_dict": named("module.encoder_q.", queue=torch.zeros(4)) | {
        f"module.encoder_q.{name}": value for name, value in HEAD.items()}}, tmp_path / "theirs.pt")  # fmt: skip
    taken = load_initial_weights(encoder(5), tmp_path / "theirs.pt")
    assert taken.loaded == len(state())
    assert taken.heads == ("fc.weight", "fc.bias")
    assert taken.unused == ("queue",)
    assert f"{len(state())} tensors loaded" in taken.summary()
    assert "head fc.weight, fc.bias; unused queue" in taken.summary()


def test_names_that_lack_the_encoders_own_wrapper_fit_too(tmp_path: Path) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    torch.save(inner.state_dict(), tmp_path / "theirs.pt")
    target = AdaptedEncoder(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), feature_dim=72)
    assert load_initial_weights(target, tmp_path / "theirs.pt").loaded == 2
    assert torch.equal(target.state_dict()["module.0.weight"], inner.state_dict()["0.weight"])


def test_a_folder_holds_a_run_and_one_of_transformers_is_for_its_own_encoder(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "encoder.safetensors")
    assert load_initial_weights(encoder(5), tmp_path).loaded == len(state())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="name it in an encoder of kind 'transformers'"):
        load_initial_weights(encoder(5), tmp_path)


WIDE = state(**{"blocks.0.0.weight": torch.zeros(4, 1, 3, 3)})


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (
            WIDE,
            r"other shape \(1\): blocks.0.0.weight: \(4, 1, 3, 3\) in the checkpoint, \(4, 3, 3, 3\) in the encoder",
        ),
        (without("blocks.1"), r"missing \(5\): blocks.1.0.weight, .*ask for a partial load"),
        (state(**{"blocks.2.0.weight": torch.zeros(1)}), r"without a place \(1\): blocks.2.0.weight"),
        ({"stem.weight": torch.zeros(3)}, "no tensor of .* fits the encoder: it has stem.weight; the encoder has"),
        ({"epoch": 3}, "holds no tensors by name, but a mapping with epoch"),
        ([torch.zeros(3)], "holds no tensors by name, but list"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(saved: Any, message: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "theirs.pt")
    target = encoder(5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_initial_weights(target, tmp_path / "theirs.pt")
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


@pytest.mark.parametrize(("saved", "missing", "mismatched"), [(WIDE, 0, 1), (without("blocks.1"), 5, 0)])
def test_a_partial_load_takes_what_fits_and_says_what_not(
    saved: dict, missing: int, mismatched: int, tmp_path: Path
) -> None:
    torch.save(saved, tmp_path / "theirs.pt")
    target = encoder(5)
    taken = load_initial_weights(target, tmp_path / "theirs.pt", partial=True)
    assert (len(taken.missing), len(taken.mismatched)) == (missing, mismatched)
    kept, given, fresh = target.state_dict(), state(), encoder(5).state_dict()
    key = "blocks.1.0.weight"
    assert torch.equal(kept[key], fresh[key] if missing else given[key])
    assert torch.equal(kept["blocks.0.1.weight"], given["blocks.0.1.weight"])


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("run while loading",))


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(FileNotFoundError, match=r"no encoder weights at .*encoder.safetensors; init takes"):
        load_initial_weights(encoder(5), tmp_path)
    for name, content in (("a.safetensors", b"nothing"), ("a.pt", b"nothing"), ("b.pt", b""), ("c.pt", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a readable|is no torch file"):
            load_initial_weights(encoder(5), tmp_path / name)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="holds more than tensors, which loading could execute"):
        load_initial_weights(encoder(5), tmp_path / "evil.pt")
    assert "run while loading" not in capsys.readouterr().out
