"""What each process of a training computes; run by `test_train_ranks.py`, and imported by it for one process.

Arguments: a folder for results, then groups of parts (names joined by commas), each group for two processes of its own.
"""

from __future__ import annotations

import copy
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import kinfolk.train.loop as loop
from kinfolk import distributed
from kinfolk.data import ClassTableConfig, DigitsConfig, Source
from kinfolk.evals.extraction import extract
from kinfolk.losses import CLIPLoss, NTXentLoss
from kinfolk.methods import (
    CMC,
    AdversarialConfig,
    BregmanConfig,
    CACRConfig,
    CLIPConfig,
    CMCConfig,
    CrossEntropyConfig,
    EpsSupConfig,
    ESupConConfig,
    ExConConfig,
    FalseNegativesConfig,
    FNCConfig,
    GPaCoConfig,
    IFNDConfig,
    InterCLRConfig,
    Method,
    MoCHiConfig,
    MoCo,
    MoCoConfig,
    NNCLRConfig,
    OpenConConfig,
    PaCoConfig,
    PartnersConfig,
    ReLICConfig,
    RenyiCLConfig,
    ResComConfig,
    SCEConfig,
    SimCLRConfig,
    SupConConfig,
    TrainingPlan,
    UniConConfig,
    XCLRConfig,
)
from kinfolk.nn import Attack, HeadConfig, SmallConvConfig, SynchronisedBatchNorm, TextTransformerConfig
from kinfolk.recipes import recipe, smoke
from kinfolk.train import (
    SGDConfig,
    TrainConfig,
    cached_backward,
    fit,
    reduce_gradients,
    split_rows,
)
from kinfolk.train.device import make_accelerator, prepare
from kinfolk.train.gradient_cache import join_rows
from kinfolk.train.step import forward_backward

HEAD = HeadConfig(hidden=8, out_dim=6)
RELATION = ClassTableConfig(groups=(("0", "6", "8", "9"), ("1", "4", "7"), ("2", "3", "5")), within=0.85)


class LearntTemperature(Method):
    """SimCLR whose temperature is learnt: a parameter of the loss, not of what embeds."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.log_temperature = encoder, nn.Parameter(torch.tensor(-1.0))

    def embed(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        return tuple(self.encoder(view) for view in batch["views"])

    def terms(
        self, embeddings: Sequence[Tensor], batch: Mapping[str, Any], *, keys: Sequence[Tensor] = ()
    ) -> dict[str, Tensor]:
        return {"loss": NTXentLoss(temperature=self.log_temperature.exp())(*embeddings, ids=batch["ids"])}


@dataclass(frozen=True)
class LearntTemperatureConfig:
    def build(self, encoder: nn.Module, *, relation: object = None) -> LearntTemperature:
        return LearntTemperature(encoder)


@dataclass(frozen=True)
class TwoBranchesConfig:
    """CMC with memory banks, whose branches see one view of a digit each."""

    def build(self, encoder: nn.Module, *, relation: object = None) -> CMC:
        pair = nn.Module()
        pair.branches = nn.ModuleList([encoder, copy.deepcopy(encoder)])
        return CMCConfig(temperature=0.3, bank=True, bank_negatives=50, head=HEAD).build(pair)


TEXT = TextTransformerConfig(width=8, layers=1, heads=2, length=12)
NEAREST = FalseNegativesConfig(detector="similarity", share=0.3, start=0.0)
COUNTED: dict[str, Any] = {"classes": 10, "class_counts": (90,) * 3 + (9,) * 7}
METHODS = {
    "simclr": SimCLRConfig(head=HEAD),
    "moco": MoCoConfig(queue_size=20, head=HEAD),
    "moco-symmetric": MoCoConfig(queue_size=20, symmetric=True, head=HEAD),
    "supcon": SupConConfig(head=HEAD),
    "esupcon": ESupConConfig(classes=10, head=HEAD),
    "eps-sup": EpsSupConfig(head=HEAD),
    "excon": ExConConfig(classes=10, background=True, start=0.0, head=HEAD),
    "fair-kl": EpsSupConfig(loss="con", fair_weight=0.5, head=HEAD),
    "rescom": ResComConfig(**COUNTED, queue_per_class=2, head=HEAD),
    "paco": PaCoConfig(**COUNTED, queue_size=20, momentum=0.8, head=HEAD),
    "gpaco": GPaCoConfig(**COUNTED, queue_size=20, head=HEAD),
    "opencon": OpenConConfig(classes=10, labelled_classes=5, ramp=0.0, prior_weight=0.5, head=HEAD),
    "cross-entropy": CrossEntropyConfig(**COUNTED, logit_adjustment=1.0, contrast_weight=0.5, head=HEAD),
    "unicon": UniConConfig(head=HEAD),
    "unicon-cutmix": UniConConfig(mixer="cutmix", head=HEAD),
    "xclr": XCLRConfig(head=HEAD),
    "xclr-relation": XCLRConfig(head=HEAD),
    "clip": CLIPConfig(text=TEXT, same_caption="known", image_weight=0.5),
    "clip-relation": CLIPConfig(text=TEXT, caption_share=0.4, image_weight=0.5),
    "siglip": CLIPConfig(text=TEXT, loss="sigmoid", same_caption="known"),
    "clip-partners": CLIPConfig(text=TEXT, partners=PartnersConfig("argmax", start=0.0, every=0.4)),
    "cacr": CACRConfig(head=HEAD),
    "cacr-queue": CACRConfig(queue_size=20, momentum=0.8, head=HEAD),
    "cmc-bank": TwoBranchesConfig(),
    "ifnd": IFNDConfig(queue_size=20, clusters=(5, 12), start=0.0, cluster_every=0.3, head=HEAD),
    "fnc": FNCConfig(top_k=3, threshold=0.3, start=0.0, head=HEAD),
    "inter-clr": InterCLRConfig(queue_size=20, clusters=9, negatives=7, head=HEAD),
    # Ranks draw apart, so with mixtures two of them are not one.
    "mochi": MoCHiConfig(queue_size=20, mixed=0, query_mixed=0, head=HEAD),
    "sce": SCEConfig(queue_size=20, head=HEAD, predictor=HEAD),
    "nnclr": NNCLRConfig(queue_size=20, head=HEAD, predictor=HEAD),
    "relic": ReLICConfig(momentum=0.8, head=HEAD, predictor=HEAD),
    "renyi-cl": RenyiCLConfig(momentum=0.8, head=HEAD, predictor=HEAD),
    "bregman": BregmanConfig(networks=6, hidden=4, dropout=0.0, head=HEAD),
    "learnt-temperature": LearntTemperatureConfig(),
    "adversarial": AdversarialConfig(attack=Attack(0.05, 2, 0.03), head=HEAD),
    "adversarial-similarity": AdversarialConfig(attack=Attack(0.05, 1, 0.03), false_negatives=NEAREST, head=HEAD),
    "simclr-eliminating": SimCLRConfig(false_negatives=NEAREST, head=HEAD),
    "simclr-composed-relation": SimCLRConfig(decoupled=True, false_negatives=NEAREST, head=HEAD),
    "moco-composed-relation": MoCoConfig(queue_size=20, decoupled=True, false_negatives=NEAREST, head=HEAD),
}

SIZES = [(name, None) for name in METHODS] + [(name, 3) for name in ("simclr", "moco", "xclr-relation", "ifnd", "paco")]
"""Methods and the chunks that ranks train them in. In one process every method is tried in chunks, and `unequal` chunks
are on ranks too."""


@functools.cache
def digits() -> Source:
    """Return the training images, read once."""
    return DigitsConfig().load().train


def method_of(name: str) -> Method:
    """Return a method in float64 around an encoder that treats each sample by itself."""
    torch.manual_seed(0)
    encoder = SmallConvConfig(width=4, depth=2, norm="group", pool="flatten", feature_dim=8)
    relation = RELATION.build(digits()) if name.endswith("-relation") else None
    method = METHODS[name].build(encoder.build(channels=1, image_size=(8, 8)), relation=relation)
    source = digits()
    captions, loose = None, []
    if name == "clip-partners":
        captions, loose = captions_of(source.ids, source.labels), [f"digit {label}" for label in range(10)]
    method.begin(
        TrainingPlan(
            3,
            2,
            source.ids,
            lambda module: extract(copy.deepcopy(module).float(), source, over_ranks=True).rows,
            captions,
            loose,
        )
    )
    return method.double()


def captions_of(ids: Tensor, labels: Tensor | None) -> list[str]:
    """Return a caption for every third image, and nothing for the others."""
    assert labels is not None
    return ["" if sample % 3 else f"digit {label}" for sample, label in zip(ids.tolist(), labels.tolist(), strict=True)]


def batch_of(name: str, step: int, *, n: int = 14) -> dict[str, Any]:
    """Return real digits in as many noisy views as the method takes."""
    generator = torch.Generator().manual_seed(step)
    source = digits()
    data = source.fetch(torch.randperm(len(source), generator=generator)[:n])
    images = data["images"].double() / 255
    views = [
        (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        for _ in range(3 if name in ("cacr", "cacr-queue", "excon", "relic", "fnc") else 2)
    ]
    side = torch.randn(n, 3, generator=generator).double()
    known = {"ids": data["ids"], "labels": data["labels"], "bias_labels": data["ids"] % 3}
    if name == "opencon":  # an open world: the first five digits are known, most of their samples labelled
        known["labels"] = data["labels"].where((data["labels"] < 5) & (data["ids"] % 4 > 0), -1)
    text = [f"digit {label}" for label in known["labels"].tolist()]
    if name == "clip-partners":
        text = captions_of(data["ids"], data["labels"])
    return {"views": views, **known, "text": text, "text_embedding": side}


def share_of(batch: Any, sizes: Sequence[int], rank: int) -> Any:
    """Return a rank's rows of a batch."""
    start = sum(sizes[:rank])
    keep = slice(start, start + sizes[rank])
    return {k: [view[keep] for view in v] if k == "views" else v[keep] for k, v in batch.items()}


def steps(name: str, *, chunk_size: int | None, rank: int, world: int) -> dict[str, Tensor]:
    """Return the loss, every gradient and the state after three steps as the trainer takes them."""
    method = method_of(name)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    accelerator = make_accelerator("cpu", "fp32")
    model, stepper = prepare(accelerator, method, optimizer)
    for step in range(3):
        stepper.zero_grad()
        batch = share_of(batch_of(name, step), [14 // world] * world, rank)
        terms = forward_backward(model, batch, accelerator, chunk_size=chunk_size)
        stepper.step()
        method.after_step()
    found = {f"grad {key}": p.grad for key, p in method.named_parameters() if p.grad is not None}
    return {"loss": terms["loss"].detach(), **found, **method.state_dict()}


def unequal(name: str, *, rank: int, world: int) -> dict[str, Tensor]:
    """Return loss and gradients where one rank has three chunks and the other one."""
    method, batch = method_of(name), batch_of(name, 0)
    sizes, size = ([11, 3], 4) if world > 1 else ([14], 14)
    share = method.prepare(share_of(batch, sizes, rank))
    chunks = split_rows(share, size)
    with torch.no_grad():
        keys = join_rows([method.embed_keys(chunk) for chunk in chunks])
    loss = cached_backward(method.embed, chunks, lambda found: method.terms(found, share, keys=keys)["loss"])
    reduce_gradients(method.parameters())
    mean = distributed.all_reduce(loss) / world
    return {"loss": mean, **{f"grad {k}": p.grad for k, p in method.named_parameters() if p.grad is not None}}


def wrapped(*, rank: int, world: int) -> dict[str, Tensor]:
    """Return a loop of one's own: two wrapped encoders, unequal chunks, a rank without rows, a learnt scale."""
    torch.manual_seed(0)
    encoders: list[nn.Module] = [nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, 3)).double() for d in (4, 2)]
    scale = nn.Parameter(torch.tensor(5.0, dtype=torch.float64))
    parameters = [p for encoder in encoders for p in encoder.parameters()]
    if world > 1:
        encoders = [nn.parallel.DistributedDataParallel(encoder) for encoder in encoders]
    for step, sizes in enumerate(([9, 4], [13, 0], [2, 11])):
        for parameter in (*parameters, scale):
            parameter.grad = None
        rows = torch.randn(13, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        own = rows.split(sizes)[rank] if world > 1 else rows
        cached_backward(
            lambda chunk: {"image": encoders[0](chunk[:, :4]), "text": encoders[1](chunk[:, 4:])},
            split_rows(own, 3),
            lambda found: CLIPLoss()(found["image"], found["text"], scale),
            modules=encoders,
        )
        reduce_gradients([scale])
        with torch.no_grad():
            for parameter in (*parameters, scale):
                parameter -= 0.1 * parameter.grad
    return {str(number): parameter.detach() for number, parameter in enumerate((*parameters, scale))}


@dataclass(frozen=True)
class Dropping(MoCoConfig):
    """MoCo with dropout in the head: random numbers of every rank's own."""

    def build(self, encoder: nn.Module, *, relation: object = None) -> MoCo:
        method = super().build(encoder)
        for head in (method.head, method.twin.head.module):
            head.steps.append(nn.Dropout(0.2))
        return method


def config_of(name: str) -> TrainConfig:
    """Return a short run of digits: six steps over two epochs."""
    base = smoke(recipe("simclr-digits"))
    method = {
        "group": SimCLRConfig(head=HEAD),
        "batch": SimCLRConfig(head=replace(HEAD, norm="batch")),
        "local": SimCLRConfig(head=HEAD),
        "moco": MoCoConfig(head=HEAD, queue_size=80),
        "dropping": Dropping(head=HEAD, queue_size=80),
        "infinite": SimCLRConfig(head=HEAD),
    }[name]
    return replace(
        base,
        encoder=replace(base.encoder, norm="group" if name in ("group", "moco") else "batch"),
        method=method,
        # SGD: Adam divides by the size of a gradient, and so makes rounding as large as a step.
        optimizer=SGDConfig(learning_rate=0.02) if name != "local" else SGDConfig(learning_rate=1e-30, weight_decay=0),
        clip_norm=None,  # it would hide a factor
        evaluation=replace(base.evaluation, protocols=("knn",)),
        batch_size=48,
        max_steps_per_epoch=3,
        chunk_size=10 if name in ("moco", "dropping") else None,
        sync_batch_norm=name != "local",
        checkpoint_every_steps=2,
        log_every=1,
    )


def run(what: str, folder: Path, *, rank: int, world: int) -> None:
    """Do one part of the battery and leave what it gave."""
    if what == "chunks":
        found = {f"{name} {size}": steps(name, chunk_size=size, rank=rank, world=world) for name, size in SIZES}
        found |= {f"{name} unequal": unequal(name, rank=rank, world=world) for name in METHODS}
        torch.save(found | {"wrapped": wrapped(rank=rank, world=world)}, folder / f"chunks-{rank}.pt")
    elif what == "infinite":
        made = loop.make_batch
        loop.make_batch = lambda *a, **k: _spoilt(made(*a, **k), spoil=rank == world - 1)
        try:
            fit(config_of(what), out=folder / what)
        except FloatingPointError as error:
            (folder / f"error-{rank}.txt").write_text(str(error))
        loop.make_batch = made
    elif what == "refused":
        errors = [_error(lambda: fit(config_of("group"), out=folder / "group"), FileExistsError)]
        layer = nn.Sequential(nn.Linear(2, 3), SynchronisedBatchNorm(3))
        chunks = split_rows(torch.randn(8, 2), 4 if rank else 2)
        errors.append(_error(lambda: cached_backward(layer, chunks, torch.sum), ValueError))
        (folder / f"refused-{rank}.txt").write_text("\n".join(errors))
    elif what == "killed":
        made, count = loop.make_batch, iter(range(100))
        loop.make_batch = lambda *a, **k: made(*a, **k) if next(count) < 5 else os.kill(os.getpid(), signal.SIGKILL)
        fit(config_of("dropping"), out=folder / what)
    elif what == "resumed":
        fit(config_of("dropping"), out=folder / "killed", resume=True)
    else:
        fit(config_of(what), out=folder / what)


def _error(action: Callable[[], object], kind: type[Exception]) -> str:
    try:
        action()
    except kind as error:
        return str(error)
    return "no error"


def _spoilt(batch: dict[str, Any], *, spoil: bool) -> dict[str, Any]:
    if spoil:
        batch["views"][0][0] = torch.nan
    return batch


def in_its_own_process(parts: str, folder: Path, *, rank: int, world: int) -> None:
    """Join the group as ``torchrun`` would have it, do the parts one after the other, and leave."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    # The address is not used, since the group meets in a file.
    os.environ |= {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "localhost"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{parts}", rank=rank, world_size=world)
    for part in parts.split(","):
        run(part, folder, rank=rank, world=world)
    dist.destroy_process_group()


def main(groups: Sequence[str], folder: Path) -> None:
    """Do each group of parts in two new processes; print how they ended, and list the files that are then there."""
    torch.set_num_threads(1)
    DigitsConfig().load()  # loaded here once, scikit-learn and what an optimiser imports need not be by every process
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    for number, parts in enumerate(groups):
        children = []
        for rank in range(2):
            if not (child := os.fork()):
                try:
                    in_its_own_process(parts, folder, rank=rank, world=2)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(child)
        print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
        (folder / f"files-{number}.txt").write_text("\n".join(str(p.relative_to(folder)) for p in folder.rglob("*")))


if __name__ == "__main__":
    main(sys.argv[2:], Path(sys.argv[1]))
