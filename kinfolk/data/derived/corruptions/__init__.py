"""The usual 15 corruptions at 5 severities, batched, as functions of seed and sample id."""

from kinfolk.data.derived.corruptions.config import CorruptedConfig, Corruption, corrupt
from kinfolk.data.derived.corruptions.severities import CORRUPTIONS

__all__ = ["CORRUPTIONS", "CorruptedConfig", "Corruption", "corrupt"]
