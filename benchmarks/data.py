"""Images a second from files to augmented views and to training steps: kinfolk, one image at a time, other libraries.

Everyone reads the same files and draws views of the same strengths. Four parts: files to views; views alone, from
images that are decoded; a training step of a three-convolution encoder with NT-Xent on them; and the share of such a
step that decoding and augmentation take, with the cache of decoded images empty (the first epoch) and full.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks import machine, pipelines
from benchmarks.image_sets import SETS, ImageSet
from benchmarks.pipelines import OURS, PIL, Views, Way, source_of
from benchmarks.table import Row, Table
from benchmarks.timing import in_turns
from kinfolk.data import CachedSource, PlainSampler, ViewMaker
from kinfolk.losses import NTXentLoss
from kinfolk.nn import ProjectionHead, SmallConvNet

DECODE, VIEWS, TRAINING, SHARE = "files to views", "views alone", "training", "share of a step"
OK = "ok"
COLUMNS = (
    *("part", "set", "images", "count", "batch", "contender", "version", "workers", "status"),
    *("images / second", "fastest", "slowest", "repeats", "speed / one at a time", "decode share", "views share"),
    *("mean", "deviation", *machine.COLUMNS),
)
TOLERANCE = 0.05
"""Views whose mean or standard deviation is further from those of the PIL views are other views, and not timed."""
_LOOKED_AT = 512


@dataclass(frozen=True)
class Settings:
    """Sizes and repeats of a run."""

    sets: tuple[str, ...] = tuple(SETS)
    count: int = 2048
    batch: int = 256
    workers: tuple[int, ...] = (0, 2)
    repeats: int = 5
    budget: float = 60.0
    """Seconds after which a contender takes no further repeat."""
    folder: Path | None = None
    """A folder that other packages were installed into."""

    @property
    def images(self) -> int:
        """Images of a pass: full batches only."""
        return self.count // self.batch * self.batch


def smoke() -> Settings:
    """Return sizes that show that everything runs."""
    return Settings(sets=("small",), count=16, batch=8, workers=(0,), repeats=1)


class Trainer:
    """The encoder of the recipes with its projection head, and a step of it."""

    def __init__(self, size: int) -> None:
        torch.manual_seed(0)
        encoder = SmallConvNet(channels=3, image_size=(size, size))
        self.model = nn.Sequential(encoder, ProjectionHead(encoder.feature_dim, norm="batch"))
        self.loss = NTXentLoss(temperature=0.2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, views: Views) -> None:
        """Learn from a batch."""
        both = self.model(torch.cat(views)).chunk(2)
        self.optimizer.zero_grad()
        self.loss(*both).backward()
        self.optimizer.step()


def measure(settings: Settings, path: Path) -> list[Row]:
    """Measure every part for every set of images, write rows to a CSV file as they come and return them."""
    table, about = Table(path, COLUMNS), machine.describe("cpu")
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.sets:
            files = Path(folder) / name
            shown = SETS[name].write(files, settings.count)
            for row in _set(settings, SETS[name], files):
                known: Row = {"set": name, "images": shown, "count": settings.count, "batch": settings.batch}
                table.add(known | row | about)
                print(_line(table.rows[-1]), flush=True)
    return table.rows


def _set(s: Settings, images: ImageSet, folder: Path) -> Iterator[Row]:
    every = list(ways(s, images, folder))
    yield from (_row(DECODE, way) | {"status": f"absent: {way.absent}"} for way in every if way.absent)
    there = [way for way in every if not way.absent]
    looks = {way.name: _look(way) for way in there}
    same = [way for way in there if is_alike(looks[way.name], looks[PIL])]
    for way in there:
        if way not in same:
            yield _row(DECODE, way) | looks[way.name] | {"status": "other views: not timed"}
    trainer, of = Trainer(images.size), (folder, images.size, images.config)
    cached = [pipelines.kinfolk_cached(*of, batch=s.batch, cold=cold) for cold in (True, False)]
    passes = {way: _pass(way) for way in [*same, *cached]}
    yield from (row | looks.get(str(row["contender"]), {}) for row in _timed(s, DECODE, passes, s.images))
    alone = {way: way.views for way in same if way.views is not None and way.workers == 0}
    yield from _timed(s, VIEWS, alone, s.batch)
    trained = [way for way in same if way.name in (OURS, PIL)] + cached
    yield from _timed(s, TRAINING, {way: _pass(way, trainer.step) for way in trained}, s.images)
    yield from _shares(s, images, folder, trainer)


def ways(s: Settings, images: ImageSet, folder: Path) -> Iterator[Way]:
    """Everyone who makes views from files, with every number of workers."""
    of = (folder, images.size, images.config)
    for workers in s.workers:
        yield pipelines.kinfolk(*of, batch=s.batch, workers=workers)
        yield pipelines.pil(*of, batch=s.batch, workers=workers)
        yield pipelines.kornia(*of, batch=s.batch, workers=workers)
        yield pipelines.albumentations(*of, batch=s.batch, workers=workers, packages=s.folder)


def is_alike(look: Row, other: Row) -> bool:
    """Whether views have about the brightness and the contrast of others; NaN is not alike."""
    return all(abs(float(str(look[key])) - float(str(other[key]))) < TOLERANCE for key in ("mean", "deviation"))


def _look(way: Way) -> Row:
    """Mean and standard deviation of some hundred views, which must be what training takes."""
    assert way.views is not None
    found = way.views()
    first, second = found
    assert first.dtype == torch.float32
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    while sum(map(len, found)) < _LOOKED_AT:
        found += way.views()
    seen = torch.cat(found)
    assert 0 <= float(seen.amin()) <= float(seen.amax()) <= 1 + 1e-6, way.name
    return {"mean": float(seen.mean()), "deviation": float(seen.std())}


def _pass(way: Way, use: Callable[[Views], None] = lambda views: None) -> Callable[[], None]:
    def once() -> None:
        for views in way.batches():
            use(views)

    return once


def _timed(s: Settings, part: str, functions: Mapping[Way, Callable[[], object]], images: int) -> Iterable[Row]:
    """Rates of all in turns, after one call that starts workers, and how they stand to the fastest of PIL's."""
    for function in functions.values():
        function()
    keys = {f"{way.name}, {way.workers}": way for way in functions}
    times = in_turns({key: functions[way] for key, way in keys.items()}, repeats=s.repeats, budget=s.budget)
    rates = {key: images / found.median for key, found in times.items()}
    yardstick = max(rates[key] for key, way in keys.items() if way.name == PIL)
    for key, way in keys.items():
        found = times[key].values
        row = _row(part, way) | {"status": OK, "images / second": rates[key], "repeats": len(found)}
        row |= {"fastest": images / min(found), "slowest": images / max(found)}
        yield row | {"speed / one at a time": rates[key] / yardstick}


def _shares(s: Settings, images: ImageSet, folder: Path, trainer: Trainer) -> Iterator[Row]:
    """Decoding and augmentation in this process as shares of a step, the cache empty and then full."""
    source = source_of(folder, images.size)
    for name in ("empty", "full"):
        spent = []
        for epoch in range(s.repeats):
            kept = CachedSource(source)
            if name == "full":
                kept.read(torch.arange(len(source)))
            spent.append(_spent(s, kept, ViewMaker(images.config, seed=0), trainer, epoch))
        decode, views, steps = sorted(spent, key=sum)[len(spent) // 2]
        total = decode + views + steps
        row: Row = {"part": SHARE, "contender": f"{OURS}, cache {name}", "workers": 0, "status": OK}
        row |= {"decode share": decode / total, "views share": views / total, "images / second": s.images / total}
        yield row | {"repeats": len(spent)}


def _spent(
    s: Settings, source: CachedSource, maker: ViewMaker, trainer: Trainer, epoch: int
) -> tuple[float, float, float]:
    """Seconds of an epoch for decoding, views and steps."""
    sampler, spent = PlainSampler(len(source), batch_size=s.batch, seed=0), [0.0, 0.0, 0.0]
    for step in range(sampler.steps_per_epoch):
        times = [time.perf_counter()]
        batch = source.fetch(sampler.batch(epoch, step))
        times.append(time.perf_counter())
        views = maker(batch["images"], batch["ids"], epoch=epoch)
        times.append(time.perf_counter())
        trainer.step(views)
        times.append(time.perf_counter())
        for k in range(3):
            spent[k] += times[k + 1] - times[k]
    return spent[0], spent[1], spent[2]


def _row(part: str, way: Way) -> Row:
    return {"part": part, "contender": way.name, "version": way.version, "workers": way.workers}


def _line(row: Row) -> str:
    rate = row.get("images / second")
    text = f"{row['set']}, {row['part']}: {row['contender']}, {row['workers']} workers: {row['status']}"
    share = row.get("views share")
    text += "" if rate is None else f", {float(str(rate)):,.0f} images/s"
    return text if share is None else f"{text}, decode {row['decode share']:.0%}, views {share:.0%} of a step"
