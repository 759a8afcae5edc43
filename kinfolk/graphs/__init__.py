"""Target graphs: how strongly each anchor should be related to each candidate, as data."""

from kinfolk.graphs.base import NormalisedGraph as NormalisedGraph
from kinfolk.graphs.base import SimilarityGraph as SimilarityGraph
from kinfolk.graphs.base import as_graph as as_graph
from kinfolk.graphs.classes import ClassGraph as ClassGraph
from kinfolk.graphs.dense import DenseGraph as DenseGraph
from kinfolk.graphs.kernel import KernelGraph as KernelGraph
from kinfolk.graphs.label import LabelGraph as LabelGraph
from kinfolk.graphs.label import checked_labels as checked_labels
from kinfolk.graphs.mixture import MixtureGraph as MixtureGraph
from kinfolk.graphs.pair import PairGraph as PairGraph
from kinfolk.graphs.sparse import SparseGraph as SparseGraph

__all__ = [
    "ClassGraph",
    "DenseGraph",
    "KernelGraph",
    "LabelGraph",
    "MixtureGraph",
    "NormalisedGraph",
    "PairGraph",
    "SimilarityGraph",
    "SparseGraph",
]
