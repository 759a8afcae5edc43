"""Every kind of source as one union, for fields of configs that hold any of them."""

from __future__ import annotations

from kinfolk.data.sources.arrays import ArraysConfig
from kinfolk.data.sources.cifar import CIFARConfig
from kinfolk.data.sources.digits import DigitsConfig
from kinfolk.data.sources.emoji import EmojiConfig
from kinfolk.data.sources.fashion_mnist import FashionMNISTConfig
from kinfolk.data.sources.folder import ImageFolderConfig
from kinfolk.data.sources.huggingface import HuggingFaceConfig
from kinfolk.data.sources.icons import IconsConfig
from kinfolk.data.sources.imagenet import ImageNetConfig
from kinfolk.data.sources.shards import ShardsConfig
from kinfolk.data.sources.stl10 import STL10Config
from kinfolk.data.sources.table import TableConfig

SourceConfig = (
    DigitsConfig
    | FashionMNISTConfig
    | EmojiConfig
    | IconsConfig
    | ImageFolderConfig
    | ShardsConfig
    | HuggingFaceConfig
    | CIFARConfig
    | STL10Config
    | ImageNetConfig
    | ArraysConfig
    | TableConfig
)
