"""From what is known about a data set's samples to the target graph of a batch."""

from kinfolk.data.relations.attributes import AttributesConfig as AttributesConfig
from kinfolk.data.relations.base import Relation as Relation
from kinfolk.data.relations.base import temperature_for_perplexity as temperature_for_perplexity
from kinfolk.data.relations.captions import CaptionsConfig as CaptionsConfig
from kinfolk.data.relations.catalogue import RELATIONS as RELATIONS
from kinfolk.data.relations.catalogue import RelationConfig as RelationConfig
from kinfolk.data.relations.catalogue import relation_config as relation_config
from kinfolk.data.relations.class_names import ClassNamesConfig as ClassNamesConfig
from kinfolk.data.relations.class_table import ClassTable as ClassTable
from kinfolk.data.relations.class_table import ClassTableConfig as ClassTableConfig
from kinfolk.data.relations.distance import DistanceConfig as DistanceConfig
from kinfolk.data.relations.hierarchy import HierarchyConfig as HierarchyConfig
from kinfolk.data.relations.labels import EqualLabels as EqualLabels
from kinfolk.data.relations.labels import LabelsConfig as LabelsConfig
from kinfolk.data.relations.mixed import Mixed as Mixed
from kinfolk.data.relations.mixed import MixedConfig as MixedConfig
from kinfolk.data.relations.neighbours import KNNConfig as KNNConfig
from kinfolk.data.relations.neighbours import Neighbours as Neighbours
from kinfolk.data.relations.pairwise import Pairwise as Pairwise
from kinfolk.data.relations.pseudo_labels import PseudoLabelsConfig as PseudoLabelsConfig
from kinfolk.data.relations.side_embeddings import SideEmbeddings as SideEmbeddings
from kinfolk.data.relations.side_embeddings import SideEmbeddingsConfig as SideEmbeddingsConfig
from kinfolk.data.relations.wordnet import WordNet as WordNet

__all__ = [
    "RELATIONS",
    "AttributesConfig",
    "CaptionsConfig",
    "ClassNamesConfig",
    "ClassTable",
    "ClassTableConfig",
    "DistanceConfig",
    "EqualLabels",
    "HierarchyConfig",
    "KNNConfig",
    "LabelsConfig",
    "Mixed",
    "MixedConfig",
    "Neighbours",
    "Pairwise",
    "PseudoLabelsConfig",
    "Relation",
    "RelationConfig",
    "SideEmbeddings",
    "SideEmbeddingsConfig",
    "WordNet",
    "relation_config",
    "temperature_for_perplexity",
]
