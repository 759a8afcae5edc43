"""Training methods, one a file: which views, which modules, which loss, and what happens after a step."""

from kinfolk.methods.adversarial import Adversarial as Adversarial
from kinfolk.methods.adversarial import AdversarialConfig as AdversarialConfig
from kinfolk.methods.base import Method as Method
from kinfolk.methods.bregman import Bregman as Bregman
from kinfolk.methods.bregman import BregmanConfig as BregmanConfig
from kinfolk.methods.cacr import CACR as CACR
from kinfolk.methods.cacr import CACRConfig as CACRConfig
from kinfolk.methods.clip import CLIP as CLIP
from kinfolk.methods.clip import CLIPConfig as CLIPConfig
from kinfolk.methods.cmc import CMC as CMC
from kinfolk.methods.cmc import CMCConfig as CMCConfig
from kinfolk.methods.contrast import QueueContrast as QueueContrast
from kinfolk.methods.contrast import ViewContrast as ViewContrast
from kinfolk.methods.cross_entropy import CrossEntropy as CrossEntropy
from kinfolk.methods.cross_entropy import CrossEntropyConfig as CrossEntropyConfig
from kinfolk.methods.e_sup_con import ESupCon as ESupCon
from kinfolk.methods.e_sup_con import ESupConConfig as ESupConConfig
from kinfolk.methods.eps_sup import EpsSup as EpsSup
from kinfolk.methods.eps_sup import EpsSupConfig as EpsSupConfig
from kinfolk.methods.ex_con import ExCon as ExCon
from kinfolk.methods.ex_con import ExConConfig as ExConConfig
from kinfolk.methods.false_negatives import FalseNegatives as FalseNegatives
from kinfolk.methods.false_negatives import FalseNegativesConfig as FalseNegativesConfig
from kinfolk.methods.fine_tune import FineTune as FineTune
from kinfolk.methods.fine_tune import FineTuneConfig as FineTuneConfig
from kinfolk.methods.fnc import FNC as FNC
from kinfolk.methods.fnc import FNCConfig as FNCConfig
from kinfolk.methods.ifnd import IFND as IFND
from kinfolk.methods.ifnd import IFNDConfig as IFNDConfig
from kinfolk.methods.inter_clr import InterCLR as InterCLR
from kinfolk.methods.inter_clr import InterCLRConfig as InterCLRConfig
from kinfolk.methods.mochi import MoCHi as MoCHi
from kinfolk.methods.mochi import MoCHiConfig as MoCHiConfig
from kinfolk.methods.moco import MoCo as MoCo
from kinfolk.methods.moco import MoCoConfig as MoCoConfig
from kinfolk.methods.momentum import MomentumConfig as MomentumConfig
from kinfolk.methods.nnclr import NNCLR as NNCLR
from kinfolk.methods.nnclr import NNCLRConfig as NNCLRConfig
from kinfolk.methods.open_con import OpenCon as OpenCon
from kinfolk.methods.open_con import OpenConConfig as OpenConConfig
from kinfolk.methods.paco import GPaCo as GPaCo
from kinfolk.methods.paco import GPaCoConfig as GPaCoConfig
from kinfolk.methods.paco import PaCo as PaCo
from kinfolk.methods.paco import PaCoConfig as PaCoConfig
from kinfolk.methods.partners import Partners as Partners
from kinfolk.methods.partners import PartnersConfig as PartnersConfig
from kinfolk.methods.plan import TrainingPlan as TrainingPlan
from kinfolk.methods.predicting import ClassCountsConfig as ClassCountsConfig
from kinfolk.methods.predicting import ClassesConfig as ClassesConfig
from kinfolk.methods.predicting import PredictingMethod as PredictingMethod
from kinfolk.methods.relic import ReLIC as ReLIC
from kinfolk.methods.relic import ReLICConfig as ReLICConfig
from kinfolk.methods.renyi_cl import RenyiCL as RenyiCL
from kinfolk.methods.renyi_cl import RenyiCLConfig as RenyiCLConfig
from kinfolk.methods.rescom import ResCom as ResCom
from kinfolk.methods.rescom import ResComConfig as ResComConfig
from kinfolk.methods.sce import SCE as SCE
from kinfolk.methods.sce import SCEConfig as SCEConfig
from kinfolk.methods.simclr import SimCLR as SimCLR
from kinfolk.methods.simclr import SimCLRConfig as SimCLRConfig
from kinfolk.methods.supcon import SupCon as SupCon
from kinfolk.methods.supcon import SupConConfig as SupConConfig
from kinfolk.methods.text_tower import SentenceTower as SentenceTower
from kinfolk.methods.text_tower import SentenceTowerConfig as SentenceTowerConfig
from kinfolk.methods.text_tower import TransformersTower as TransformersTower
from kinfolk.methods.text_tower import TransformersTowerConfig as TransformersTowerConfig
from kinfolk.methods.uni_con import UniCon as UniCon
from kinfolk.methods.uni_con import UniConConfig as UniConConfig
from kinfolk.methods.xclr import XCLR as XCLR
from kinfolk.methods.xclr import XCLRConfig as XCLRConfig

__all__ = [
    "CACR",
    "CLIP",
    "CMC",
    "FNC",
    "IFND",
    "NNCLR",
    "SCE",
    "XCLR",
    "Adversarial",
    "AdversarialConfig",
    "Bregman",
    "BregmanConfig",
    "CACRConfig",
    "CLIPConfig",
    "CMCConfig",
    "ClassCountsConfig",
    "ClassesConfig",
    "CrossEntropy",
    "CrossEntropyConfig",
    "ESupCon",
    "ESupConConfig",
    "EpsSup",
    "EpsSupConfig",
    "ExCon",
    "ExConConfig",
    "FNCConfig",
    "FalseNegatives",
    "FalseNegativesConfig",
    "FineTune",
    "FineTuneConfig",
    "GPaCo",
    "GPaCoConfig",
    "IFNDConfig",
    "InterCLR",
    "InterCLRConfig",
    "Method",
    "MoCHi",
    "MoCHiConfig",
    "MoCo",
    "MoCoConfig",
    "MomentumConfig",
    "NNCLRConfig",
    "OpenCon",
    "OpenConConfig",
    "PaCo",
    "PaCoConfig",
    "Partners",
    "PartnersConfig",
    "PredictingMethod",
    "QueueContrast",
    "ReLIC",
    "ReLICConfig",
    "RenyiCL",
    "RenyiCLConfig",
    "ResCom",
    "ResComConfig",
    "SCEConfig",
    "SentenceTower",
    "SentenceTowerConfig",
    "SimCLR",
    "SimCLRConfig",
    "SupCon",
    "SupConConfig",
    "TrainingPlan",
    "TransformersTower",
    "TransformersTowerConfig",
    "UniCon",
    "UniConConfig",
    "ViewContrast",
    "XCLRConfig",
]
