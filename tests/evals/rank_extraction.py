"""What one rank extracts and measures, and the processes that do it: forks of one interpreter that imported everything.

Run as a script with a folder that holds ``digits.pt``, it leaves ``WORLD-RANK.pt`` there for one and for two ranks.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kinfolk.data.sources import ArraySource
from kinfolk.evals import EvaluationConfig, FeatureEvaluator, Features, FeatureSplits, extract
from kinfolk.evals.encoder_fingerprint import encoder_fingerprint
from kinfolk.evals.feature_cache import FeatureCache
from kinfolk.nn import SmallConvConfig

WORLDS = (1, 2)
PASSES: list[int] = []


class Encoder(nn.Module):
    """Counts its passes; its set of strings is in another order in every process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = SmallConvConfig(width=8).build(channels=1, image_size=(8, 8))
        self.names = {"alpha", "beta", "gamma", "delta"}

    def forward(self, images: Tensor) -> Tensor:
        PASSES.append(len(images))
        return self.inner(images)


class Failing(Encoder):
    """Fails on one rank."""

    def forward(self, images: Tensor) -> Tensor:
        if dist.get_rank() == 1:
            raise ValueError("out of order")
        return super().forward(images)


class HalfReadable(ArraySource):
    """Nothing from id 4 on can be read; the first sample stands in for it, as in sources of files."""

    def fetch(self, indices: Tensor) -> dict[str, Any]:
        readable = self.ids[indices] < 4
        batch = super().fetch(torch.where(readable, indices, 0))
        return batch if bool(readable.all()) else {**batch, "skipped": ["torn"]}


def data(n: int, kind: type[ArraySource] = ArraySource) -> ArraySource:
    """Images whose order is not that of their ids, some unlabelled."""
    generator = torch.Generator().manual_seed(n)
    order = torch.arange(n) if kind is HalfReadable else torch.randperm(n, generator=generator)
    images = torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    columns = {"labels": torch.arange(n) % 4 - 1, "groups": torch.arange(n) // 2, "bias_labels": torch.arange(n) % 2}
    return kind(images, ids=10 * order if kind is ArraySource else order, columns=columns)


def measured(splits: FeatureSplits) -> list[tuple[str, str, float]]:
    """Every number of every protocol that reads features alone."""
    evaluators = [one for one in EvaluationConfig.smoke().evaluators() if isinstance(one, FeatureEvaluator)]
    return [(one.protocol, found.name, found.value) for one in evaluators for found in one.run(splits)]


def said(call: Callable[[], Any]) -> str:
    """The type and text of the error that a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def columns_of(features: Features) -> dict[str, Tensor | None]:
    return {name: getattr(features, name) for name in ("rows", "ids", "labels", "groups", "bias_labels")}


def answers(rank: int, folder: Path) -> dict[str, Any]:
    encoder, found = Encoder(), {}
    for n in (33, 3, 16):  # 9, 1 and 4 batches of 4
        PASSES.clear()
        found[f"{n} samples"] = columns_of(extract(encoder, data(n), batch_size=4, over_ranks=True))
        found[f"passes for {n}"] = list(PASSES)
    twice = torch.arange(16).roll(3).repeat(2)
    found["every sample twice"] = columns_of(extract(encoder, data(16), batch_size=5, indices=twice, over_ranks=True))
    train, test = (ArraySource(**part) for part in torch.load(folder / "digits.pt"))
    shared = {"batch_size": 64, "over_ranks": True}
    found["measured"] = measured(FeatureSplits(extract(encoder, train, **shared), extract(encoder, test, **shared)))
    found["half readable"] = columns_of(extract(encoder, data(8, HalfReadable), batch_size=4, over_ranks=True))
    found["fingerprint"] = encoder_fingerprint(encoder)
    cache = FeatureCache(folder / f"kept-{dist.get_world_size()}")
    first = extract(encoder, data(33), batch_size=4, cache=cache, over_ranks=True)
    PASSES.clear()
    second = extract(encoder, data(33), batch_size=4, cache=cache, over_ranks=True)
    found["kept"] = torch.equal(first.rows, second.rows), list(PASSES)
    if dist.get_world_size() > 1:
        sizes = 4 + rank
        found["one fails"] = said(lambda: extract(Failing(), data(33), over_ranks=True))
        found["other batches"] = said(lambda: extract(encoder, data(33), batch_size=sizes, over_ranks=True))
        found["alone"] = columns_of(extract(encoder, data(33), batch_size=4)) if rank == 1 else {}
    return found


def run(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("error")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / f'store-{world}'}",
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(seconds=60),
        )
        torch.save(answers(rank, folder), folder / f"{world}-{rank}.pt")
        dist.barrier()  # a rank that is done must not leave while another is still busy
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{world}-{rank}.error").write_text(traceback.format_exc())
        os._exit(1)


def start(folder: Path) -> None:
    """Run every world, one after the other."""
    context = multiprocessing.get_context("fork")
    for world in WORLDS:
        running = [context.Process(target=run, args=(rank, world, folder)) for rank in range(world)]
        for process in running:
            process.start()
        for process in running:
            process.join(timeout=120)
            process.kill()


if __name__ == "__main__":
    import rank_extraction  # under the name that tests import it by, which is part of what a class is

    rank_extraction.start(Path(sys.argv[1]))
