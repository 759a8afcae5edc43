"""Features on disk: found again by content alone, and never in place of what the encoder would give."""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinfolk.data.sources import ArraySource, DigitsConfig
from kinfolk.data.views import ViewMaker, ViewsConfig
from kinfolk.evals import RawPixels, extract, extract_views
from kinfolk.evals.encoder_fingerprint import UnknownContent, encoder_fingerprint, tensor_digest
from kinfolk.evals.feature_cache import FeatureCache, _shrink
from kinfolk.nn import MLPConfig, ResNet18Config, SmallConvConfig

PASSES: list[int] = []  # images of every forward pass; outside the encoder, whose content it would change


class Encoder(nn.Module):
    """Counts its forward passes, and has one of everything that decides what it computes."""

    hidden: Tensor
    listed: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(16, 5)
        self.norm = nn.BatchNorm1d(5)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(5, 16, generator=generator))
            self.layer.bias.zero_()
        self.register_buffer("listed", torch.ones(5))
        self.register_buffer("hidden", torch.ones(5), persistent=False)
        self.plain = torch.ones(5)
        self.scale = 2.0
        self.settings = {"power": (1, 2), "names": {"a", "b"}}
        self.activation = F.relu
        self.unregistered = [nn.Linear(1, 1, bias=False)]

    def forward(self, images: Tensor) -> Tensor:
        PASSES.append(len(images))
        return self.activation(self.norm(self.layer(images.flatten(1)))) * self.scale * self.hidden * self.plain


class Namesake(Encoder):
    """The same weights under other code."""

    def forward(self, images: Tensor) -> Tensor:
        return -super().forward(images)


def source(n: int = 10, **given) -> ArraySource:
    generator = torch.Generator().manual_seed(1)
    return ArraySource(torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8), **given)


def passes(call: Callable[[], object]) -> list[int]:
    PASSES.clear()
    call()
    return list(PASSES)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "kept")


def test_a_second_extraction_gives_the_same_bits_without_the_encoder(cache: FeatureCache) -> None:
    encoder, data = Encoder(), source(labels=torch.arange(10) % 3)
    plain = extract(encoder, data, batch_size=4)
    first = extract(encoder, data, batch_size=4, cache=cache)
    PASSES.clear()
    second = extract(encoder, data, batch_size=4, cache=cache)
    assert PASSES == []
    for found in (first, second):
        assert torch.equal(found.rows, plain.rows)
        assert torch.equal(found.labels, plain.labels)
    second.rows.zero_()  # a caller's own rows, not a window on the file
    assert torch.equal(extract(encoder, data, batch_size=4, cache=cache).rows, plain.rows)


def set_bit(x: Tensor) -> None:
    with torch.no_grad():
        x.view(-1).view(torch.int32)[0] ^= 1


CHANGES: dict[str, Callable[[Encoder], object]] = {
    "the last bit of a weight": lambda e: set_bit(e.layer.weight),
    "a running mean": lambda e: set_bit(e.norm.running_mean),
    "a buffer": lambda e: set_bit(e.listed),
    "a buffer outside the state dict": lambda e: set_bit(e.hidden),
    "a tensor that is no buffer": lambda e: set_bit(e.plain),
    "a module in a list": lambda e: set_bit(e.unregistered[0].weight),
    "a number": lambda e: setattr(e, "scale", 2.5),
    "a number's type": lambda e: setattr(e, "scale", 2),
    "a nested setting": lambda e: e.settings.update(power=(1, 3)),
    "a function": lambda e: setattr(e, "activation", F.gelu),
    "a function's setting": lambda e: setattr(e, "activation", functools.partial(F.leaky_relu, negative_slope=0.1)),
    "epsilon of a layer": lambda e: setattr(e.norm, "eps", 1e-3),
    "the code": lambda e: setattr(e, "__class__", Namesake),
    "precision": lambda e: e.norm.half(),
    "a layer's kind": lambda e: setattr(e, "norm", nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_an_encoder_is_another_encoder(change: str) -> None:
    encoder = Encoder()
    before = encoder_fingerprint(encoder)
    CHANGES[change](encoder)
    assert encoder_fingerprint(encoder) != before


def test_a_changed_weight_or_pixel_is_computed_again(cache: FeatureCache) -> None:
    encoder, data = Encoder(), source()
    extract(encoder, data, batch_size=4, cache=cache)
    data.images[5, 0, 0, 0] ^= 1  # in the second batch
    assert passes(lambda: extract(encoder, data, batch_size=4, cache=cache)) == [4]
    set_bit(encoder.layer.bias)
    assert passes(lambda: extract(encoder, data, batch_size=4, cache=cache)) == [4, 4, 2]
    assert torch.equal(extract(encoder, data, cache=cache).rows, extract(encoder, data).rows)


def test_names_ids_labels_and_modes_are_no_content(cache: FeatureCache) -> None:
    encoder = Encoder()
    rows = extract(encoder, source(), cache=cache).rows
    other = source(ids=torch.arange(50, 60), labels=torch.zeros(10, dtype=torch.int64), name="renamed")
    twin = copy.deepcopy(encoder).train().requires_grad_(False)
    PASSES.clear()
    found = extract(twin, other, cache=cache)
    assert PASSES == []
    assert torch.equal(found.rows, rows)
    assert found.ids.tolist() == list(range(50, 60))
    assert found.labels is not None


def test_batches_are_found_whatever_comes_around_them(cache: FeatureCache) -> None:
    encoder, data = Encoder(), source()
    extract(encoder, data, batch_size=4, cache=cache, indices=torch.arange(8))
    assert passes(lambda: extract(encoder, data, batch_size=4, cache=cache)) == [2]
    assert passes(lambda: extract(encoder, data, batch_size=5, cache=cache)) == [5, 5]


def test_views_are_kept_too(cache: FeatureCache) -> None:
    encoder, maker = Encoder(), ViewMaker(ViewsConfig(count=2, shift=0.2), seed=3)
    first = extract_views(encoder, source(), maker, cache=cache)
    PASSES.clear()
    second = extract_views(encoder, source(), maker, cache=cache)
    assert PASSES == []
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], first[1])


def test_autocast_makes_other_features(cache: FeatureCache) -> None:
    encoder, data = Encoder(), source()
    full = extract(encoder, data, cache=cache).rows
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = extract(encoder, data, cache=cache).rows
    assert not torch.equal(full, half)
    assert torch.equal(extract(encoder, data, cache=cache).rows, full)


def test_two_dtypes_of_one_shape_and_bytes_differ() -> None:
    x = torch.arange(6, dtype=torch.int32).reshape(2, 3)
    digests = {tensor_digest(y) for y in (x, x.view(torch.float32), x.reshape(3, 2), x.T, x.T.contiguous())}
    assert len(digests) == 4  # the last two are one and the same


def test_raw_pixels_are_not_kept(cache: FeatureCache) -> None:
    extract(RawPixels(channels=1, image_size=(4, 4)), source(), cache=cache)
    assert not cache.folder.exists()


class Power:
    def __init__(self, power: float) -> None:
        self.power = power

    def raised(self, x: Tensor) -> Tensor:
        return x**self.power


class Slotted:
    __slots__ = ("power",)


class AlsoSlotted(Slotted):
    """Its power is not in its `__dict__`."""


def test_a_class_that_lists_itself_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "kinds", [Encoder, Namesake], raising=False)
    assert encoder_fingerprint(Encoder()) != encoder_fingerprint(Namesake())


def test_a_bound_method_is_its_function_and_its_object() -> None:
    encoder, prints = Encoder(), set()
    for power in (2.0, 3.0, 3.0):
        encoder.activation = Power(power).raised
        prints.add(encoder_fingerprint(encoder))
    assert len(prints) == 2


def test_what_a_class_holds_counts_as_what_its_object_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder()
    monkeypatch.setattr(Encoder, "power", 2, raising=False)
    before = encoder_fingerprint(encoder)
    monkeypatch.setattr(Encoder, "power", 3)
    assert encoder_fingerprint(encoder) != before


def closure(encoder: Encoder) -> None:
    power = 2
    encoder.activation = lambda x: x**power


def local_class(encoder: Encoder) -> None:
    power = 2

    class Raised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**power

    encoder.activation = Raised()


UNKNOWN: dict[str, tuple[Callable[[Encoder], object], str]] = {
    "closure": (closure, "the closure closure.<locals>.<lambda>"),
    "slots": (lambda e: setattr(e, "settings", AlsoSlotted()), "an object of type AlsoSlotted"),
    "local class": (local_class, "the class local_class.<locals>.Raised, made in a function"),
    "traced": (lambda e: setattr(e, "activation", torch.jit.trace(nn.ReLU(), torch.ones(1))), "a scripted module"),
    "hook": (lambda e: e.norm.register_forward_hook(lambda *_: None), "a hook of BatchNorm1d"),
    "generator": (lambda e: setattr(e, "noise", torch.Generator()), "an object of type Generator"),
    "bound method": (lambda e: setattr(e, "activation", torch.ones(1).add), "the method .* of an object"),
    "sparse tensor": (lambda e: setattr(e, "plain", torch.eye(5).to_sparse()), "a tensor of type Tensor, .*sparse"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_cannot_be_read_is_not_kept_and_said(kind: str, cache: FeatureCache, caplog) -> None:
    encoder = Encoder()
    change, what = UNKNOWN[kind]
    change(encoder)
    with pytest.raises(UnknownContent, match=what):
        encoder_fingerprint(encoder)
    with (
        caplog.at_level(logging.INFO, logger="kinfolk.evals.feature_cache"),
        cache.around(lambda images: images.flatten(1), encoder=encoder, device=torch.device("cpu")) as encode,
    ):
        assert encode(torch.ones(2, 3)).tolist() == [[1, 1, 1]] * 2
    assert "features of Encoder are not kept: it holds" in caplog.text
    assert not cache.folder.exists()


def test_attributes_that_point_back_end() -> None:
    encoder = Encoder()
    encoder.__dict__["owner"] = [encoder]
    assert encoder_fingerprint(encoder) != encoder_fingerprint(Encoder())


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_file_is_computed_again(damage: str, cache: FeatureCache, caplog) -> None:
    encoder = Encoder()
    rows = extract(encoder, source(), cache=cache).rows
    (file,) = cache.folder.iterdir()
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes({"cut": raw[:-7], "empty": b"", "flipped": raw}[damage])
    PASSES.clear()
    assert torch.equal(extract(encoder, source(), cache=cache).rows, rows)
    assert PASSES == [10]
    assert f"{file} is damaged and is computed again" in caplog.text
    assert passes(lambda: extract(encoder, source(), cache=cache)) == []


def test_the_longest_unused_go_first_and_nothing_else(cache: FeatureCache) -> None:
    encoder, data = Encoder(), source(12)
    extract(encoder, data, batch_size=4, cache=cache)
    foreign = cache.folder / "notes.txt"
    foreign.write_text("mine" * 100)
    for age, file in enumerate(cache.folder.glob("*.features")):
        os.utime(file, (1e9 - age, 1e9 - age))
    extract(encoder, data, batch_size=4, cache=cache, indices=torch.arange(4, 8))  # in use
    (cache.folder / "0.partial").write_bytes(b"left by a killed process")
    os.utime(cache.folder / "0.partial", (1e8, 1e8))
    size = max(file.stat().st_size for file in cache.folder.glob("*.features"))
    _shrink(cache.folder, size)
    assert {file.suffix for file in cache.folder.iterdir()} == {".features", ".txt"}
    assert passes(lambda: extract(encoder, data, batch_size=4, cache=cache)) == [4, 4]
    assert foreign.exists()


def test_the_folder_stays_within_its_limit(tmp_path: Path) -> None:
    cache, wide = FeatureCache(tmp_path, limit_mb=1), nn.Sequential(nn.Flatten(), nn.Linear(16, 4000))
    for seed in range(3):  # 0.8 MB each
        data = ArraySource(torch.full((50, 1, 4, 4), seed, dtype=torch.uint8))
        extract(wide, data, cache=cache)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1e6
    assert len(list(tmp_path.iterdir())) == 1


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit_mb must be at least 1, got 0; give no cache to keep nothing"):
        FeatureCache(tmp_path, limit_mb=0)


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    encoder, cache = Encoder(), FeatureCache(tmp_path / "file" / "kept")
    assert passes(lambda: extract(encoder, source(), batch_size=4, cache=cache)) == [4, 4, 2]
    assert caplog.text.count("features are not kept") == 1
    assert "Name a folder with KINFOLK_CACHE" in caplog.text


def test_the_default_folder_is_that_of_the_other_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINFOLK_CACHE", str(tmp_path))
    assert FeatureCache().folder == tmp_path / "features"


def test_many_at_once_share_a_folder(cache: FeatureCache) -> None:
    encoder = SmallConvConfig(width=4, depth=1).build(channels=1, image_size=(4, 4)).eval()
    expected = extract(encoder, source(), batch_size=2).rows
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: extract(encoder, source(), batch_size=2, cache=cache).rows, range(8)))
    assert all(torch.equal(rows, expected) for rows in found)
    assert [file.suffix for file in cache.folder.iterdir()] == [".features"] * 5


@pytest.mark.parametrize(
    "encoder",
    [
        SmallConvConfig(width=4).build(channels=1, image_size=(8, 8)),
        ResNet18Config(width=4).build(channels=1, image_size=(8, 8)),
        MLPConfig(hidden=(4,)).build(channels=64, image_size=(1, 1)),
        nn.TransformerEncoderLayer(8, 2, activation="gelu"),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_common_encoders_can_be_read(encoder: nn.Module) -> None:
    assert encoder_fingerprint(encoder) == encoder_fingerprint(copy.deepcopy(encoder))


def test_digits_have_the_same_features_with_and_without(cache: FeatureCache) -> None:
    test = DigitsConfig().load().test
    encoder = SmallConvConfig(width=8).build(channels=1, image_size=(8, 8))
    plain, first, second = (extract(encoder, test, cache=kept).rows for kept in (None, cache, cache))
    assert torch.equal(plain, first)
    assert torch.equal(plain, second)
