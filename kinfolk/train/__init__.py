"""Training: a complete config, one straight-line loop, runs that are folders."""

from kinfolk.train.calibration import calibrate as calibrate
from kinfolk.train.checkpoint import checkpoints as checkpoints
from kinfolk.train.config import DerivedConfig as DerivedConfig
from kinfolk.train.config import EncoderConfig as EncoderConfig
from kinfolk.train.config import MethodConfig as MethodConfig
from kinfolk.train.config import OptimizerConfig as OptimizerConfig
from kinfolk.train.config import RelationConfig as RelationConfig
from kinfolk.train.config import SamplerConfig as SamplerConfig
from kinfolk.train.config import SourceConfig as SourceConfig
from kinfolk.train.config import TrainConfig as TrainConfig
from kinfolk.train.config import from_yaml as from_yaml
from kinfolk.train.config import load_config as load_config
from kinfolk.train.config import to_yaml as to_yaml
from kinfolk.train.evaluation import embed_run as embed_run
from kinfolk.train.evaluation import evaluate_run as evaluate_run
from kinfolk.train.fine_tuning import FineTuningConfig as FineTuningConfig
from kinfolk.train.fine_tuning import fine_tune as fine_tune
from kinfolk.train.gradient_cache import cached_backward as cached_backward
from kinfolk.train.gradient_cache import split_rows as split_rows
from kinfolk.train.lars import LARS as LARS
from kinfolk.train.lars import LARSConfig as LARSConfig
from kinfolk.train.loop import fit as fit
from kinfolk.train.optimizers import AdamWConfig as AdamWConfig
from kinfolk.train.optimizers import SGDConfig as SGDConfig
from kinfolk.train.optimizers import cosine_schedule as cosine_schedule
from kinfolk.train.processes import reduce_gradients as reduce_gradients
from kinfolk.train.runs import EncoderFile as EncoderFile
from kinfolk.train.runs import Run as Run
from kinfolk.train.runs import load_encoder as load_encoder
from kinfolk.train.runs import load_method as load_method
from kinfolk.train.tracking import read_metrics as read_metrics

__all__ = [
    "LARS",
    "AdamWConfig",
    "DerivedConfig",
    "EncoderConfig",
    "EncoderFile",
    "FineTuningConfig",
    "LARSConfig",
    "MethodConfig",
    "OptimizerConfig",
    "RelationConfig",
    "Run",
    "SGDConfig",
    "SamplerConfig",
    "SourceConfig",
    "TrainConfig",
    "cached_backward",
    "calibrate",
    "checkpoints",
    "cosine_schedule",
    "embed_run",
    "evaluate_run",
    "fine_tune",
    "fit",
    "from_yaml",
    "load_config",
    "load_encoder",
    "load_method",
    "read_metrics",
    "reduce_gradients",
    "split_rows",
    "to_yaml",
]
