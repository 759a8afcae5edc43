"""Where samples come from: one file per kind, each with a frozen config that loads a training and a test part."""

from kinfolk.data.sources.arrays import ArraysConfig as ArraysConfig
from kinfolk.data.sources.base import ArraySource as ArraySource
from kinfolk.data.sources.base import Source as Source
from kinfolk.data.sources.base import Splits as Splits
from kinfolk.data.sources.base import Subset as Subset
from kinfolk.data.sources.cifar import CIFARConfig as CIFARConfig
from kinfolk.data.sources.convert import stack_to_uint8 as stack_to_uint8
from kinfolk.data.sources.convert import to_uint8 as to_uint8
from kinfolk.data.sources.digits import DigitsConfig as DigitsConfig
from kinfolk.data.sources.emoji import EmojiConfig as EmojiConfig
from kinfolk.data.sources.encoded import EncodedSource as EncodedSource
from kinfolk.data.sources.fashion_mnist import FashionMNISTConfig as FashionMNISTConfig
from kinfolk.data.sources.files import FileSource as FileSource
from kinfolk.data.sources.folder import ImageFolderConfig as ImageFolderConfig
from kinfolk.data.sources.hold_out import hold_out as hold_out
from kinfolk.data.sources.huggingface import HuggingFaceConfig as HuggingFaceConfig
from kinfolk.data.sources.icons import IconsConfig as IconsConfig
from kinfolk.data.sources.idx import read_idx as read_idx
from kinfolk.data.sources.imagenet import ImageNetConfig as ImageNetConfig
from kinfolk.data.sources.mapping import MappingSource as MappingSource
from kinfolk.data.sources.renderings import with_renderings as with_renderings
from kinfolk.data.sources.shards import ShardsConfig as ShardsConfig
from kinfolk.data.sources.shards import ShardSource as ShardSource
from kinfolk.data.sources.stl10 import STL10Config as STL10Config
from kinfolk.data.sources.streaming import StreamSource as StreamSource
from kinfolk.data.sources.table import TableConfig as TableConfig
from kinfolk.data.sources.table import TableSource as TableSource

__all__ = [
    "ArraySource",
    "ArraysConfig",
    "CIFARConfig",
    "DigitsConfig",
    "EmojiConfig",
    "EncodedSource",
    "FashionMNISTConfig",
    "FileSource",
    "HuggingFaceConfig",
    "IconsConfig",
    "ImageFolderConfig",
    "ImageNetConfig",
    "MappingSource",
    "STL10Config",
    "ShardSource",
    "ShardsConfig",
    "Source",
    "Splits",
    "StreamSource",
    "Subset",
    "TableConfig",
    "TableSource",
    "hold_out",
    "read_idx",
    "stack_to_uint8",
    "to_uint8",
    "with_renderings",
]
