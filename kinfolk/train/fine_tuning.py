"""Fine-tuning a run's encoder on shares of the labels, beside the same network from random weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from kinfolk.data import FewLabelsConfig, LabelledPartConfig, PlainSamplerConfig, TableViewsConfig, ViewsConfig
from kinfolk.data.derived.classes import class_count, required_labels
from kinfolk.evals import EvaluationConfig, Measurement, Record, extract, markdown_table
from kinfolk.evals.class_accuracy import accuracies
from kinfolk.methods.fine_tune import FineTune, FineTuneConfig
from kinfolk.nn import encoder_dim
from kinfolk.train.batches import views_per_step
from kinfolk.train.checkpoint import checkpoints, restore_checkpoint
from kinfolk.train.config import OptimizerConfig, TrainConfig, ViewSettings, differences, load_config
from kinfolk.train.device import resolve_device
from kinfolk.train.files import write_text
from kinfolk.train.loop import fit
from kinfolk.train.optimizers import AdamWConfig
from kinfolk.train.processes import on_first_rank
from kinfolk.train.runs import Run, build_method, describe_encoder
from kinfolk.train.serialization import encode

RECORDS_FILE = "evals-fine-tuning.json"
Encoder = Literal["trained", "untrained"]

_START_FILE = "encoder.sha256"
_NO_EVALUATION = EvaluationConfig(protocols=(), baselines=False, max_train_rows=1, max_test_rows=1)
_CHECKPOINT_STEPS = 1000
_RECORDED = ("method", "optimizer", "views", "batch_size", "warmup", "clip_norm")


@dataclass(frozen=True)
class FineTuningConfig:
    """On how many labels, how often and how long an encoder is fine-tuned.

    Raises:
        ValueError: for no share or seed, shares outside (0, 1], shares or seeds that repeat, or sizes below 1.

    Example:
        >>> FineTuningConfig(fractions=[0.1], seeds=[0, 1]).fractions
        (0.1,)
    """

    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of every class's labels, rounded, at least one label of each."""
    seeds: tuple[int, ...] = (0,)
    """One training each: which labels, order and augmentation; and from random weights, which weights."""
    method: FineTuneConfig = field(default_factory=FineTuneConfig)
    """What is trained, and how."""
    optimizer: OptimizerConfig = field(default_factory=lambda: AdamWConfig(learning_rate=3e-3))
    """How weights are updated."""
    image_views: int = 200_000
    """Augmented views of every training, the same for few labels as for many."""
    batch_size: int = 128
    """Samples in a step; all there are where fewer are labelled."""
    views: ViewSettings | None = None
    """The augmentation; None takes the run's geometry (crop, flip, rotation, zoom, shift) in one view of each image."""
    from_scratch: bool = True
    """Whether the same network is trained from random weights beside."""

    def __post_init__(self) -> None:
        for name in ("fractions", "seeds"):
            values = tuple(getattr(self, name))  # as YAML reads them
            object.__setattr__(self, name, values)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must hold at least one value, each once; found {values}")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"fractions must lie in (0, 1], found {self.fractions}; 1 % is 0.01")
        for name in ("image_views", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")


def fine_tune(run: str | os.PathLike[str], *, out: str | Path, config: FineTuningConfig | None = None) -> list[Record]:
    """Train a run's encoder further with a linear classifier on shares of the labels, and from random weights too.

    Both have the same labels, order, augmentation and number of steps; from random weights the encoder learns at the
    full rate. What is measured is the network after its last step, on the unaugmented test images; a class that no
    label was given for counts as errors. What was derived for pretraining alone is undone: labels come from the part
    that probes are fitted on, see `LabelledPartConfig`.

    The folder holds an ordinary run for every training under ``ENCODER/SHARE-percent/seed-S``, and at the end
    ``evals-fine-tuning.json`` and ``README.md``. A finished training is never repeated and one that was begun is
    continued: the same call goes on with what was interrupted, and more shares or seeds run only what is new.

    Args:
        run: a finished run.
        out: the folder of this fine-tuning.
        config: shares, seeds, budget and optimiser; None takes the defaults.

    Returns:
        Accuracy and balanced accuracy of "trained" and "untrained" encoders for every share, means over the seeds.

    Raises:
        FileNotFoundError: If there is no finished run.
        ValueError: If the data have no labels, or the folder holds trainings with other settings or from another
            encoder.

    Reference: Chen, Kornblith, Norouzi, Hinton (2020), A Simple Framework for Contrastive Learning of Visual
    Representations.

    Example:
        >>> import tempfile
        >>> from kinfolk.recipes import recipe, smoke
        >>> quiet = EvaluationConfig(protocols=(), baselines=False)
        >>> run = fit(replace(smoke(recipe("simclr-digits")), evaluation=quiet), out=tempfile.mkdtemp())
        >>> short = FineTuningConfig(fractions=(0.1,), image_views=256)
        >>> records = fine_tune(run, out=tempfile.mkdtemp(), config=short)
        >>> [(record.encoder, record.metric) for record in records if record.metric.startswith("acc")]
        [('trained', 'accuracy, 10 % of labels'), ('untrained', 'accuracy, 10 % of labels')]
    """
    config, folder, start = config or FineTuningConfig(), Path(out), Path(run)
    labels_used = describe_encoder(start).labels_used
    on_first_rank(lambda: _check_start(start, folder))
    encoders: tuple[Encoder, ...] = ("trained", "untrained") if config.from_scratch else ("trained",)
    records: list[Record] = []
    for encoder in encoders:
        for fraction in config.fractions:
            draws = []
            for seed in config.seeds:
                training = _planned(config, start, encoder=encoder, fraction=fraction, seed=seed)
                part = Run(folder / encoder / f"{100 * fraction:g}-percent" / f"seed-{seed}")
                _train(training, part, init=start if encoder == "trained" else None)
                draws.append(_tested(training, part))
            records += _joined(draws, encoder=encoder, fraction=fraction, config=config, labels_used=labels_used)
    on_first_rank(lambda: _write(folder, records))
    return records


def _planned(config: FineTuningConfig, run: Path, *, encoder: Encoder, fraction: float, seed: int) -> TrainConfig:
    """The complete config of one training."""
    pretraining = load_config(run)
    derived: tuple[Any, ...] = (*pretraining.derived, LabelledPartConfig())
    if fraction < 1:
        derived = (*derived, FewLabelsConfig(share=fraction, seed=seed), LabelledPartConfig())
    splits = replace(pretraining, derived=derived).load()
    required_labels(splits.test, needed_for="the test of a fine-tuned encoder", complete=False)
    if len(splits.train) < 2:
        raise ValueError(
            f"batch norm needs two labelled samples at least, {_share(fraction)} leave {len(splits.train)}"
        )
    views = _weaker(pretraining.views) if config.views is None else config.views
    batch_size = min(config.batch_size, len(splits.train))
    steps = max(1, round(config.image_views / (batch_size * views.count)))
    passes = -(-steps // (len(splits.train) // batch_size))
    rate = config.method.encoder_rate if encoder == "trained" else 1.0
    method: Any = replace(config.method, classes=class_count(splits.train, splits.test), encoder_rate=rate)
    return replace(
        pretraining,
        name=f"{pretraining.name}, {encoder}, {_share(fraction)}",
        derived=derived,
        views=views,
        encoder=describe_encoder(run).encoder,
        method=method,
        relation=None,
        optimizer=config.optimizer,
        evaluation=_NO_EVALUATION,
        seed=seed,
        batch_size=batch_size,
        chunk_size=None,
        sampler=PlainSamplerConfig(),
        image_views=config.image_views,
        epochs=passes,
        max_steps_per_epoch=None,
        checkpoint_every_epochs=passes,  # a pass over a few labels is too short for a checkpoint of its own
        checkpoint_every_steps=_CHECKPOINT_STEPS,
    )


def _weaker(views: ViewSettings) -> ViewSettings:
    """One view without what is there to make contrast hard; groups of views and pairs of colour spaces as they are."""
    if isinstance(views, TableViewsConfig):
        return replace(views, count=1)
    if not isinstance(views, ViewsConfig):
        return views
    off = dict.fromkeys(("jitter", "grey", "blur", "solarize", "erasing", "cutout", "background"), 0.0)
    return replace(views, count=1, policy="none", renderings="own", **off)  # type: ignore[arg-type]


def _train(config: TrainConfig, part: Run, *, init: Path | None) -> None:
    """Train from where it stands; nothing where that is done.

    Raises:
        ValueError: when the folder holds a training with other settings; the message names the fields.
    """
    begun = part.config_file.is_file()
    if begun and (changed := differences(part.config_file.read_text(encoding="utf-8"), config)):
        raise ValueError(
            f"{part.folder} holds a training with other settings: {'; '.join(changed)}. Give the settings that it was"
            " begun with, or another folder."
        )
    if begun and part.is_finished:
        return
    fit(config, out=part.folder, resume=begun, init=init)


def _tested(config: TrainConfig, part: Run) -> list[Measurement]:
    """The measurements of a finished training, read where they are there."""
    file = part.folder / RECORDS_FILE
    if not file.is_file():
        on_first_rank(lambda: write_text(file, json.dumps([asdict(one) for one in _test(config, part)], indent=1)))
    return [Measurement(**one) for one in json.loads(file.read_text(encoding="utf-8"))]


def _test(config: TrainConfig, part: Run) -> Iterator[Measurement]:
    """Measure the whole network as the last step left it, on the labelled test images."""
    splits = config.load()
    method = build_method(config, splits.train)
    assert isinstance(method, FineTune)
    position = restore_checkpoint(checkpoints(part.checkpoints)[-1], method)
    network = nn.Sequential(method.encoder, method.classifier)
    logits = extract(network, splits.test, device=resolve_device(config.device))
    test = logits.labelled()
    assert test.labels is not None
    facts = {
        "labels": len(splits.train),
        "n_test": len(test),
        "unlabelled_dropped": len(logits) - len(test),
        "feature_dim": encoder_dim(method.encoder),
        "steps": position.step,
        "image_views": position.step * views_per_step(config),
        **{name: encode(getattr(config, name)) for name in _RECORDED},
    }
    yield from accuracies(test.rows.argmax(1), test.labels, details=facts)


def _joined(
    draws: Sequence[Sequence[Measurement]],
    *,
    encoder: Encoder,
    fraction: float,
    config: FineTuningConfig,
    labels_used: Any,
) -> list[Record]:
    """One record a metric, over the trainings of all seeds."""
    joined = []
    for same in zip(*draws, strict=True):
        values = [one.value for one in same]
        one = Measurement.from_draws(f"{same[0].name}, {_share(fraction)}", values, better=same[0].better)
        details = {name: value for name, value in same[0].details.items() if name != "accuracy_by_class"}
        joined.append(
            Record(
                encoder,
                "fine-tuning",
                one.name,
                one.value,
                **{name: getattr(one, name) for name in ("sd", "low", "high", "draws", "better")},
                labels_used=labels_used if encoder == "trained" else "none",
                parameters={
                    "fraction": fraction,
                    "seeds": list(config.seeds),
                    "values": values,
                    "layer": "logits",
                    "normalisation": "batch norm without affine map",
                    **details,
                },
            )
        )
    return joined


def _share(fraction: float) -> str:
    return f"{100 * fraction:g} % of labels"


def _check_start(run: Path, folder: Path) -> None:
    """Remember from which weights a folder's trainings start, and refuse others."""
    file = folder / _START_FILE
    weights = hashlib.sha256((run / "encoder.safetensors").read_bytes()).hexdigest()
    if file.is_file() and file.read_text(encoding="utf-8").strip() != weights:
        raise ValueError(
            f"{folder} holds trainings that start from other weights than {run} has now; give another folder."
        )
    write_text(file, weights + "\n")


def _write(folder: Path, records: list[Record]) -> None:
    """Write the records, and the table with what one must know to read it."""
    found = {"records": [record.to_dict() for record in records]}
    write_text(folder / RECORDS_FILE, json.dumps(found, indent=1) + "\n")
    first = records[0].parameters
    note = (
        'The encoder and a linear classifier, trained on the labelled part; "untrained" is the same network from'
        f" random weights. {first['image_views']:,} image views each, measured after the last step on"
        f" {first['n_test']:,} test images; seeds {', '.join(map(str, first['seeds']))}."
    )
    write_text(folder / "README.md", f"# Fine-tuning\n\n{markdown_table(records, notes=(note,))}\n")
