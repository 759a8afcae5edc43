"""Modules that methods are made of: encoders, heads, moving averages, queues, banks and clusters."""

from kinfolk.nn.adapter import AdaptedEncoder as AdaptedEncoder
from kinfolk.nn.adapter import as_encoder as as_encoder
from kinfolk.nn.adapter import encoder_dim as encoder_dim
from kinfolk.nn.attack import Attack as Attack
from kinfolk.nn.attack import Attacked as Attacked
from kinfolk.nn.attack import pgd_attack as pgd_attack
from kinfolk.nn.attack import worst_in_ball as worst_in_ball
from kinfolk.nn.branches import ColourBranches as ColourBranches
from kinfolk.nn.branches import ColourBranchesConfig as ColourBranchesConfig
from kinfolk.nn.class_queue import ClassQueue as ClassQueue
from kinfolk.nn.clusters import SphericalClusters as SphericalClusters
from kinfolk.nn.clusters import spherical_k_means as spherical_k_means
from kinfolk.nn.ema import EMATwin as EMATwin
from kinfolk.nn.encoders import SmallConvConfig as SmallConvConfig
from kinfolk.nn.encoders import SmallConvNet as SmallConvNet
from kinfolk.nn.heads import HeadConfig as HeadConfig
from kinfolk.nn.heads import ProjectionHead as ProjectionHead
from kinfolk.nn.initial_weights import InitialWeights as InitialWeights
from kinfolk.nn.initial_weights import load_initial_weights as load_initial_weights
from kinfolk.nn.memory_bank import MemoryBank as MemoryBank
from kinfolk.nn.mixers import boxes_of_area as boxes_of_area
from kinfolk.nn.mixers import cut_mix as cut_mix
from kinfolk.nn.mixers import draw_from_other_classes as draw_from_other_classes
from kinfolk.nn.mixers import mix as mix
from kinfolk.nn.mlp import MLPConfig as MLPConfig
from kinfolk.nn.mlp import MLPEncoder as MLPEncoder
from kinfolk.nn.modes import evaluating as evaluating
from kinfolk.nn.momentum import MomentumTwin as MomentumTwin
from kinfolk.nn.norms import SplitBatchNorm as SplitBatchNorm
from kinfolk.nn.norms import SynchronisedBatchNorm as SynchronisedBatchNorm
from kinfolk.nn.norms import split_batch_norm as split_batch_norm
from kinfolk.nn.norms import synchronise_batch_norm as synchronise_batch_norm
from kinfolk.nn.online_clusters import OnlineClusters as OnlineClusters
from kinfolk.nn.progress import Progress as Progress
from kinfolk.nn.prototypes import Prototypes as Prototypes
from kinfolk.nn.queue import FeatureQueue as FeatureQueue
from kinfolk.nn.queue import QueueSnapshot as QueueSnapshot
from kinfolk.nn.resnet import ResNet18 as ResNet18
from kinfolk.nn.resnet import ResNet18Config as ResNet18Config
from kinfolk.nn.resnet50 import ResNet50 as ResNet50
from kinfolk.nn.resnet50 import ResNet50Config as ResNet50Config
from kinfolk.nn.standardise import Standardise as Standardise
from kinfolk.nn.text_transformer import TextTransformer as TextTransformer
from kinfolk.nn.text_transformer import TextTransformerConfig as TextTransformerConfig
from kinfolk.nn.timm_encoder import TimmConfig as TimmConfig
from kinfolk.nn.timm_encoder import TimmEncoder as TimmEncoder
from kinfolk.nn.transformers_encoder import TransformersConfig as TransformersConfig
from kinfolk.nn.transformers_encoder import TransformersEncoder as TransformersEncoder

__all__ = [
    "AdaptedEncoder",
    "Attack",
    "Attacked",
    "ClassQueue",
    "ColourBranches",
    "ColourBranchesConfig",
    "EMATwin",
    "FeatureQueue",
    "HeadConfig",
    "InitialWeights",
    "MLPConfig",
    "MLPEncoder",
    "MemoryBank",
    "MomentumTwin",
    "OnlineClusters",
    "Progress",
    "ProjectionHead",
    "Prototypes",
    "QueueSnapshot",
    "ResNet18",
    "ResNet18Config",
    "ResNet50",
    "ResNet50Config",
    "SmallConvConfig",
    "SmallConvNet",
    "SphericalClusters",
    "SplitBatchNorm",
    "Standardise",
    "SynchronisedBatchNorm",
    "TextTransformer",
    "TextTransformerConfig",
    "TimmConfig",
    "TimmEncoder",
    "TransformersConfig",
    "TransformersEncoder",
    "as_encoder",
    "boxes_of_area",
    "cut_mix",
    "draw_from_other_classes",
    "encoder_dim",
    "evaluating",
    "load_initial_weights",
    "mix",
    "pgd_attack",
    "spherical_k_means",
    "split_batch_norm",
    "synchronise_batch_norm",
    "worst_in_ball",
]
