"""Data: sources of images, augmented views, samplers, and relations between samples."""

from kinfolk.data.cache import CachedSource as CachedSource
from kinfolk.data.cache import cached as cached
from kinfolk.data.inspection import format_inspection as format_inspection
from kinfolk.data.inspection import inspect_source as inspect_source
from kinfolk.data.loader import BatchReader as BatchReader
from kinfolk.data.loader import resident as resident
from kinfolk.data.prepare import prepare as prepare
from kinfolk.data.relations import ClassTable as ClassTable
from kinfolk.data.relations import ClassTableConfig as ClassTableConfig
from kinfolk.data.relations import Relation as Relation
from kinfolk.data.relations import SideEmbeddings as SideEmbeddings
from kinfolk.data.relations import SideEmbeddingsConfig as SideEmbeddingsConfig
from kinfolk.data.relations import temperature_for_perplexity as temperature_for_perplexity
from kinfolk.data.samplers import ClassBalancedSampler as ClassBalancedSampler
from kinfolk.data.samplers import PlainSampler as PlainSampler
from kinfolk.data.sources import ArraysConfig as ArraysConfig
from kinfolk.data.sources import ArraySource as ArraySource
from kinfolk.data.sources import DigitsConfig as DigitsConfig
from kinfolk.data.sources import FashionMNISTConfig as FashionMNISTConfig
from kinfolk.data.sources import FileSource as FileSource
from kinfolk.data.sources import ImageFolderConfig as ImageFolderConfig
from kinfolk.data.sources import MappingSource as MappingSource
from kinfolk.data.sources import Source as Source
from kinfolk.data.sources import Splits as Splits
from kinfolk.data.views import ViewMaker as ViewMaker
from kinfolk.data.views import ViewsConfig as ViewsConfig
from kinfolk.data.views import digits_views as digits_views
from kinfolk.data.views import drawing_views as drawing_views
from kinfolk.data.views import fashion_views as fashion_views
from kinfolk.data.views import photo_views as photo_views
from kinfolk.data.views import simclr_views as simclr_views
from kinfolk.data.views import to_float as to_float

__all__ = [
    "ArraySource",
    "ArraysConfig",
    "BatchReader",
    "CachedSource",
    "ClassBalancedSampler",
    "ClassTable",
    "ClassTableConfig",
    "DigitsConfig",
    "FashionMNISTConfig",
    "FileSource",
    "ImageFolderConfig",
    "MappingSource",
    "PlainSampler",
    "Relation",
    "SideEmbeddings",
    "SideEmbeddingsConfig",
    "Source",
    "Splits",
    "ViewMaker",
    "ViewsConfig",
    "cached",
    "digits_views",
    "drawing_views",
    "fashion_views",
    "format_inspection",
    "inspect_source",
    "photo_views",
    "prepare",
    "resident",
    "simclr_views",
    "temperature_for_perplexity",
    "to_float",
]
