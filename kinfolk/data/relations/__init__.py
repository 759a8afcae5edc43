"""From what is known about a data set's samples to the target graph of a batch."""

from kinfolk.data.relations.base import Relation, temperature_for_perplexity
from kinfolk.data.relations.class_table import ClassTable, ClassTableConfig
from kinfolk.data.relations.side_embeddings import SideEmbeddings, SideEmbeddingsConfig

__all__ = [
    "ClassTable",
    "ClassTableConfig",
    "Relation",
    "SideEmbeddings",
    "SideEmbeddingsConfig",
    "temperature_for_perplexity",
]
