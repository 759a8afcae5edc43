"""Where images come from: one file per kind, each with a frozen config that loads a training and a test part."""

from kinfolk.data.sources.arrays import ArraysConfig
from kinfolk.data.sources.base import ArraySource, Source, Splits
from kinfolk.data.sources.convert import stack_to_uint8, to_uint8
from kinfolk.data.sources.digits import DigitsConfig
from kinfolk.data.sources.fashion_mnist import FashionMNISTConfig
from kinfolk.data.sources.files import FileSource
from kinfolk.data.sources.folder import ImageFolderConfig
from kinfolk.data.sources.hold_out import hold_out
from kinfolk.data.sources.idx import read_idx
from kinfolk.data.sources.mapping import MappingSource

__all__ = [
    "ArraySource",
    "ArraysConfig",
    "DigitsConfig",
    "FashionMNISTConfig",
    "FileSource",
    "ImageFolderConfig",
    "MappingSource",
    "Source",
    "Splits",
    "hold_out",
    "read_idx",
    "stack_to_uint8",
    "to_uint8",
]
