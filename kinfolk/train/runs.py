"""A run is a folder: making one, and reading back what it holds."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kinfolk.data import ColourSpaceViewsConfig, Source
from kinfolk.data.views.table import make_views
from kinfolk.methods import ClassesConfig, Method, MomentumConfig
from kinfolk.nn.initial_weights import InitialWeights, load_initial_weights
from kinfolk.train.batches import Length, make_sampler, training_length
from kinfolk.train.checkpoint import checkpoints, remove_partial, restore_checkpoint
from kinfolk.train.config import EncoderConfig, TrainConfig, differences, from_yaml, load_config, to_yaml
from kinfolk.train.files import atomic_path, write_text
from kinfolk.train.plan import training_plan
from kinfolk.train.tracking import read_metrics


@dataclass(frozen=True)
class Run:
    """A run's folder and what it holds; any function that takes a run takes this or the folder's path.

    Example:
        >>> run = Run(Path("runs/simclr-digits"))
        >>> run.metrics_file.name
        'metrics.jsonl'
    """

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def config_file(self) -> Path:
        """The complete config."""
        return self.folder / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """One record a line, written while training."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The newest two checkpoints."""
        return self.folder / "checkpoints"

    @property
    def evals_file(self) -> Path:
        """The evaluation's records."""
        return self.folder / "evals.json"

    @property
    def card_file(self) -> Path:
        """The model card."""
        return self.folder / "README.md"

    @property
    def config(self) -> TrainConfig:
        """The run's config, read from its file."""
        return load_config(self.folder)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every record of ``metrics.jsonl``."""
        return read_metrics(self.metrics_file)

    @property
    def is_finished(self) -> bool:
        """Whether training, export and evaluation have come to their end."""
        return any(record["event"] == "end" for record in self.metrics[-1:])

    @property
    def records(self) -> list[dict[str, Any]]:
        """The evaluation's records; an empty list before the run was evaluated."""
        return json.loads(self.evals_file.read_text())["records"] if self.evals_file.exists() else []

    @property
    def notes(self) -> list[str]:
        """What the evaluation left out, and why."""
        return json.loads(self.evals_file.read_text()).get("notes", []) if self.evals_file.exists() else []


@dataclass(frozen=True)
class EncoderFile:
    """What ``encoder.yaml`` says: all that is needed to build the encoder again, and how it was trained."""

    kind: ClassVar[str] = "kinfolk-encoder"
    encoder: EncoderConfig
    channels: int
    image_size: tuple[int, int]
    feature_dim: int
    method: str
    source: str
    labels_used: str


def open_run(config: TrainConfig, folder: Path, *, overwrite: bool, resume: bool) -> Run:
    """Make a new run's folder with its config, or check that an old one may be continued with this config.

    Raises:
        FileExistsError: If the folder holds something and neither ``overwrite`` nor ``resume`` is given.
        FileNotFoundError: If there is nothing to resume.
        ValueError: If the config of a resumed run differs; the message names the fields.
    """
    run = Run(folder)
    if overwrite and resume:
        raise ValueError("overwrite and resume exclude each other: one deletes the run, the other continues it")
    if resume:
        if not run.config_file.is_file():
            raise FileNotFoundError(f"nothing to resume: {folder} is not a run; leave resume out to start one")
        if changed := differences(run.config_file.read_text(encoding="utf-8"), config):
            raise ValueError(
                f"a resumed run keeps its config, and these fields differ in {run.config_file}: {'; '.join(changed)}."
                " Give the run's own values, or start a new run with init."
            )
        remove_partial(run.checkpoints)
        return run
    if folder.is_dir():
        for leftover in folder.glob(".config.*.partial.yaml"):  # killed while it wrote its very first file
            leftover.unlink()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise FileExistsError(
                f"{folder} is not empty; use overwrite to replace it, resume to continue it, or another folder"
            )
        _remove_run(run)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(run.config_file, to_yaml(config))
    return run


def _remove_run(run: Run) -> None:
    """Delete what a run wrote, and nothing that someone else put beside it."""
    if not run.config_file.is_file():
        raise FileExistsError(
            f"{run.folder} is not empty and is not a run, so it is not overwritten; choose another folder"
        )
    for pattern in ("config.yaml", "metrics.jsonl", "encoder.*", "evals*.json", "README.md", ".*.partial*"):
        for path in run.folder.glob(pattern):
            path.unlink()
    for name in ("checkpoints", "report"):
        shutil.rmtree(run.folder / name, ignore_errors=True)


def build_encoder(config: TrainConfig, source: Source) -> nn.Module:
    """Build the encoder with the initial weights that the config's seed gives; global generators stay as they were."""
    channels, image_size = view_shape(config, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.encoder.build(channels=channels, image_size=image_size)


def build_method(
    config: TrainConfig, source: Source, *, encoder: nn.Module | None = None, length: Length | None = None
) -> Method:
    """Build the method around an encoder (a fresh one by default) and the relation over the source, ready to begin.

    Args:
        config: The run.
        source: Its training part.
        encoder: What is trained.
        length: Steps and epochs of the run, if they are known already.
    """
    relation = None if config.relation is None else config.relation.build(source)
    if relation is not None:  # a perplexity that was asked for becomes a temperature here, where the batch is known
        samples, views = config.batch_size, config.views.count
        if isinstance(config.method, MomentumConfig):  # there the target is over a queue
            samples, views = config.method.queue_size + 1, 1
        relation = relation.settled(batch_size=min(samples, len(source)), views=views)
    method = config.method
    if isinstance(method, ClassesConfig):  # and what was left open about the classes becomes the source's
        method = method.settled(source)
    built = method.build(build_encoder(config, source) if encoder is None else encoder, relation=relation)
    if relation is not None and built.relation is None:
        raise ValueError(
            f"the method {method.kind} learns from no relation, and the config has one: leave it out "
            "(--relation none), or take a method that does, such as xclr, simclr or moco."
        )
    if length is None:
        length = training_length(config, make_sampler(config, source, rank=0, world_size=1))
    built.begin(training_plan(source, length))
    return built


def view_shape(config: TrainConfig, source: Source) -> tuple[int, tuple[int, int]]:
    """Channels and ``(H, W)`` of the images that the encoder will see, measured on a view of the first sample.

    Views of a colour space are parts of an image, for the encoder's branches; the encoder takes the whole.
    """
    sample = source.fetch(torch.tensor([0]))
    view = make_views(config.views, source, seed=config.seed).of_batch(sample, epoch=0)[0]
    split = isinstance(config.views, ColourSpaceViewsConfig)
    return source.channels if split else view.shape[1], (view.shape[2], view.shape[3])


def export_encoder(run: Run, encoder: nn.Module, description: EncoderFile) -> None:
    """Write ``encoder.safetensors`` and ``encoder.yaml``, from which the encoder can be built without a network."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_path(run.folder / "encoder.safetensors") as temporary:
        save_file(state, str(temporary))
    if hasattr(description.encoder, "stored"):  # a model by name: its architecture is kept with the run
        description = replace(description, encoder=description.encoder.stored(encoder))
    write_text(run.folder / "encoder.yaml", to_yaml(description))


def describe_encoder(run: str | os.PathLike[str]) -> EncoderFile:
    """Read ``encoder.yaml`` of a finished run.

    Raises:
        FileNotFoundError: If the run has exported no encoder yet.
    """
    file = Path(run) / "encoder.yaml"
    if not file.is_file():
        reason = (
            "it has not finished; continue it with resume"
            if (Path(run) / "config.yaml").is_file()
            else "it is not a run"
        )
        raise FileNotFoundError(f"{Path(run)} has no encoder.yaml: {reason}")
    return from_yaml(file.read_text(encoding="utf-8"), EncoderFile)


def load_encoder(run: str | os.PathLike[str]) -> nn.Module:
    """Load the encoder that a run exported, in eval mode, on the CPU.

    Args:
        run: The run's folder.

    Returns:
        A module from float images ``[b, C, H, W]`` in [0, 1] to features ``[b, feature_dim]``.

    Raises:
        FileNotFoundError: If there is no finished run of that name.
    """
    description = describe_encoder(run)
    encoder = description.encoder.build(channels=description.channels, image_size=description.image_size)
    encoder.load_state_dict(load_file(Path(run) / "encoder.safetensors"))
    return encoder.eval()


def load_method(run: str | os.PathLike[str]) -> Method:
    """Load the whole method (encoder, head, EMA twin, queue) from a run's newest checkpoint, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    config = load_config(Path(run))
    if (Path(run) / "encoder.yaml").is_file():  # a pretrained model need not be there any more
        config = replace(config, encoder=describe_encoder(run).encoder)
    found = checkpoints(Path(run) / "checkpoints")
    if not found:
        raise FileNotFoundError(f"{Path(run)} has no complete checkpoint")
    method = build_method(config, config.load().train)
    restore_checkpoint(found[-1], method)
    return method.eval()


def initialise_encoder(encoder: nn.Module, weights: str | os.PathLike[str], *, partial: bool = False) -> InitialWeights:
    """Start an encoder from the weights of another run, or of someone's checkpoint; see `load_initial_weights`.

    Args:
        encoder: What takes the weights.
        weights: A finished run's folder, or a safetensors or torch file.
        partial: Whether to take what fits when some tensors are missing or have another shape.

    Returns:
        What was taken and what was left out.

    Raises:
        FileNotFoundError: If there are no weights at that place.
        ValueError: If they do not fit; the message lists what differs, with shapes.
    """
    return load_initial_weights(encoder, Path(weights), partial=partial)
