"""Training methods, one a file: which views, which modules, which loss, and what happens after a step."""

from kinfolk.methods.base import Method as Method
from kinfolk.methods.cacr import CACR as CACR
from kinfolk.methods.cacr import CACRConfig as CACRConfig
from kinfolk.methods.fine_tune import FineTune as FineTune
from kinfolk.methods.fine_tune import FineTuneConfig as FineTuneConfig
from kinfolk.methods.moco import MoCo as MoCo
from kinfolk.methods.moco import MoCoConfig as MoCoConfig
from kinfolk.methods.momentum import MomentumConfig as MomentumConfig
from kinfolk.methods.plan import TrainingPlan as TrainingPlan
from kinfolk.methods.simclr import SimCLR as SimCLR
from kinfolk.methods.simclr import SimCLRConfig as SimCLRConfig
from kinfolk.methods.supcon import SupCon as SupCon
from kinfolk.methods.supcon import SupConConfig as SupConConfig
from kinfolk.methods.xclr import XCLR as XCLR
from kinfolk.methods.xclr import XCLRConfig as XCLRConfig

__all__ = [
    "CACR",
    "XCLR",
    "CACRConfig",
    "FineTune",
    "FineTuneConfig",
    "Method",
    "MoCo",
    "MoCoConfig",
    "MomentumConfig",
    "SimCLR",
    "SimCLRConfig",
    "SupCon",
    "SupConConfig",
    "TrainingPlan",
    "XCLRConfig",
]
