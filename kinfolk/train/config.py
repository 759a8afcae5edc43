"""The complete description of a run, and its YAML form."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from kinfolk.data import (
    BucketSamplerConfig,
    CaptionedSamplerConfig,
    ClassBalancedSamplerConfig,
    ColourSpaceViewsConfig,
    DistinctSamplerConfig,
    MultiViewsConfig,
    PlainSamplerConfig,
    ShardSamplerConfig,
    Splits,
    StreamSource,
    TableViewsConfig,
    ViewsConfig,
)
from kinfolk.data.derived import (
    CaptionNoiseConfig,
    ClassCaptionsConfig,
    ColouredConfig,
    CompositeConfig,
    CorruptedConfig,
    FewLabelsConfig,
    ImbalancedConfig,
    LabelledPartConfig,
    LabelNoiseConfig,
    LooseCaptionsConfig,
    OpenWorldConfig,
    TexturedConfig,
    UnpairedConfig,
)
from kinfolk.data.derived.attached import RenderingsConfig, SaliencyConfig
from kinfolk.data.relations import RelationConfig
from kinfolk.data.sources.catalogue import SourceConfig
from kinfolk.evals import EvaluationConfig
from kinfolk.methods import (
    AdversarialConfig,
    BregmanConfig,
    CACRConfig,
    CLIPConfig,
    CMCConfig,
    CrossEntropyConfig,
    EpsSupConfig,
    ESupConConfig,
    ExConConfig,
    FineTuneConfig,
    FNCConfig,
    GPaCoConfig,
    IFNDConfig,
    InterCLRConfig,
    MoCHiConfig,
    MoCoConfig,
    NNCLRConfig,
    OpenConConfig,
    PaCoConfig,
    ReLICConfig,
    RenyiCLConfig,
    ResComConfig,
    SCEConfig,
    SimCLRConfig,
    SupConConfig,
    UniConConfig,
    XCLRConfig,
)
from kinfolk.nn import (
    ColourBranchesConfig,
    MLPConfig,
    ResNet18Config,
    ResNet50Config,
    SmallConvConfig,
    TimmConfig,
    TransformersConfig,
)
from kinfolk.train.lars import LARSConfig
from kinfolk.train.optimizers import AdamWConfig, SGDConfig
from kinfolk.train.serialization import decode, encode, flatten

# One union per kind; the command line and the YAML files both read these.
DerivedConfig = (
    ImbalancedConfig
    | LabelNoiseConfig
    | ClassCaptionsConfig
    | CaptionNoiseConfig
    | UnpairedConfig
    | LooseCaptionsConfig
    | FewLabelsConfig
    | ColouredConfig
    | TexturedConfig
    | CompositeConfig
    | CorruptedConfig
    | OpenWorldConfig
    | SaliencyConfig
    | RenderingsConfig
    | LabelledPartConfig
)
ViewSettings = ViewsConfig | MultiViewsConfig | ColourSpaceViewsConfig | TableViewsConfig
SamplerConfig = (
    PlainSamplerConfig
    | ClassBalancedSamplerConfig
    | CaptionedSamplerConfig
    | DistinctSamplerConfig
    | BucketSamplerConfig
    | ShardSamplerConfig
)
EncoderConfig = (
    SmallConvConfig
    | ResNet18Config
    | ResNet50Config
    | ColourBranchesConfig
    | MLPConfig
    | TransformersConfig
    | TimmConfig
)
MethodConfig = (
    SimCLRConfig
    | MoCoConfig
    | SupConConfig
    | XCLRConfig
    | CACRConfig
    | CMCConfig
    | ReLICConfig
    | RenyiCLConfig
    | BregmanConfig
    | AdversarialConfig
    | MoCHiConfig
    | SCEConfig
    | NNCLRConfig
    | IFNDConfig
    | FNCConfig
    | InterCLRConfig
    | FineTuneConfig
    | ESupConConfig
    | ExConConfig
    | EpsSupConfig
    | ResComConfig
    | PaCoConfig
    | GPaCoConfig
    | OpenConConfig
    | CrossEntropyConfig
    | UniConConfig
    | CLIPConfig
)
OptimizerConfig = AdamWConfig | SGDConfig | LARSConfig


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run depends on; two runs with equal configs on one machine give equal weights.

    A config of your own works in Python wherever one of a union's members does: a frozen dataclass with a ``kind`` and
    the same ``build`` or ``load``. Only reading it back from YAML needs it in the union.

    Raises:
        ValueError: For numbers out of range, naming the field.

    Example:
        >>> from kinfolk.recipes import recipe
        >>> config = recipe("simclr-digits")
        >>> from_yaml(to_yaml(config)) == config
        True
    """

    name: str
    """What the run is called, in the model card and as the default folder."""
    source: SourceConfig
    """Where the images come from."""
    views: ViewSettings
    """How an image becomes several augmented views."""
    encoder: EncoderConfig
    """The network that is trained, evaluated and exported."""
    method: MethodConfig
    """The training method and its loss."""
    relation: RelationConfig | None = None
    """How samples relate beyond their own views, for methods that take a similarity graph."""
    derived: tuple[DerivedConfig, ...] = ()
    """What is made of the source before training, in order: an imbalanced, noisy, biased or open-world version."""
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    """How weights are updated."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The protocols that the encoder is measured with at the end."""
    seed: int = 0
    """Seed of initial weights, order of samples and augmentation."""
    batch_size: int = 256
    """Samples in a step, over all processes."""
    chunk_size: int | None = None
    """Samples per process that the encoder takes at once; the loss sees the whole batch. None takes all at once."""
    sync_batch_norm: bool = True
    """With several processes, let batch norm take its statistics from all of them, as one process would."""
    epochs: int = 100
    """Passes over the training images."""
    max_steps_per_epoch: int | None = None
    """End every epoch after so many steps; None takes all images."""
    image_views: int | None = None
    """Augmented views in all of training, rounded to whole steps; then `epochs` counts for nothing. Equal numbers make
    runs with other batch sizes, numbers of views or amounts of data comparable."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises linearly, before it follows a cosine down."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; None leaves it as it is."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward pass; auto means bf16 on a GPU that has it, else fp32."""
    sampler: SamplerConfig = field(default_factory=PlainSamplerConfig)
    """How a batch is drawn: a shuffled pass, equally many samples of every class, no caption twice, or by buckets."""
    workers: int = 0
    """Processes that read images beside the training process."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Where decoded images are kept for later epochs; auto means in memory if they fit."""
    cache_limit_mb: int = 4096
    """Largest size of the decoded images that auto keeps, in MiB."""
    device: str = "auto"
    """Where to train: auto, cpu or cuda."""
    checkpoint_every_epochs: int = 10
    """Epochs between two checkpoints."""
    checkpoint_every_steps: int | None = None
    """Steps between two checkpoints, in addition to those by epoch."""
    log_every: int = 10
    """Steps between two records in metrics.jsonl."""

    def load(self) -> Splits:
        """Load the source and derive from it what the config names, in order.

        Raises:
            ValueError: If something is to be derived from a stream, of which only the first samples are at hand.
        """
        splits = self.source.load()
        if self.derived and isinstance(splits.train, StreamSource):
            kinds = ", ".join(repr(derived.kind) for derived in self.derived)
            raise ValueError(
                f"{splits.train.name} is a stream, and {kinds} would be made of its first {len(splits.train)} samples"
                " only; read it with streaming=False, or leave derived out"
            )
        for derived in self.derived:
            splits = derived.apply(splits)
        return splits

    def __post_init__(self) -> None:
        _at_least(1, batch_size=self.batch_size, epochs=self.epochs, log_every=self.log_every)
        _at_least(1, checkpoint_every_epochs=self.checkpoint_every_epochs)
        _at_least(0, seed=self.seed, workers=self.workers, cache_limit_mb=self.cache_limit_mb)
        if isinstance(self.sampler, str):
            raise ValueError(f"sampler must be a config such as ClassBalancedSamplerConfig(); found {self.sampler!r}")
        for name in ("checkpoint_every_steps", "chunk_size", "max_steps_per_epoch", "image_views"):
            if getattr(self, name) is not None:
                _at_least(1, **{name: getattr(self, name)})
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the steps, at least 0 and less than 1; found {self.warmup}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None, found {self.clip_norm}")
        for name, choices in (("precision", ("auto", "fp32", "bf16")), ("device", ("auto", "cpu", "cuda")),
                              ("cache", ("auto", "memory", "disk", "none"))):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; found {getattr(self, name)!r}")


def to_yaml(config: Any) -> str:
    """Write any config dataclass as YAML: every field, each tagged with its ``kind`` where it has one."""
    return yaml.safe_dump(encode(config), sort_keys=False, allow_unicode=True, width=100)


def from_yaml(text: str, cls: Any = TrainConfig) -> Any:
    """Read back what `to_yaml` wrote, or what someone wrote by hand; fields with a default may be left out.

    Args:
        text: The YAML document.
        cls: The dataclass, or union of dataclasses, that it describes.

    Raises:
        ValueError: For text that is no YAML mapping, an unknown key or kind, or a value of the wrong type; the message
            says what exists.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"this is not YAML: {error}") from None
    return decode(cls, _in_todays_form(data) if cls is TrainConfig else data)


def _in_todays_form(data: Any) -> Any:
    """Read what earlier versions wrote: views had one kind, which was not named, and samplers were names."""
    if not isinstance(data, dict):
        return data
    views, sampler = data.get("views"), data.get("sampler")
    if isinstance(views, dict):
        data = data | {"views": {"kind": ViewsConfig.kind} | views}
    return data | {"sampler": {"kind": sampler}} if isinstance(sampler, str) else data


def load_config(run: str | Path) -> TrainConfig:
    """Read the config of a run.

    Args:
        run: The run's folder, or a YAML file of the same form.

    Raises:
        FileNotFoundError: If there is no run, or no file, of that name.
        ValueError: If the file does not describe a run.
    """
    path = Path(run)
    file = path if path.suffix in (".yaml", ".yml") else path / "config.yaml"
    if not file.is_file():
        raise FileNotFoundError(
            f"no run at {path}: {file} does not exist; a run is the folder that `kinfolk train` made"
        )
    try:
        return from_yaml(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def differences(written: str, given: TrainConfig) -> list[str]:
    """Say in which fields a config differs from one that `to_yaml` wrote, one line each; empty when they are equal."""
    # A setting that an older version did not have stands for its default, within parts too. A config of someone's own,
    # which from_yaml does not know, is compared as a document, so that it can be resumed too.
    try:
        document = encode(from_yaml(written))
    except ValueError:
        defaults = {f.name: encode(f.default) for f in fields(TrainConfig) if f.default is not MISSING}
        document = defaults | _in_todays_form(yaml.safe_load(written))
    old, new = flatten(document), flatten(encode(given))
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: (old.get(name, "absent"), new.get(name, "absent")) for name in names}
    return [f"{name}: {was!r} in the run, {now!r} now" for name, (was, now) in pairs.items() if was != now]


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be {least} or more, found {number}")
