"""Data: sources of samples, sets derived from them, augmented views, samplers, and relations between samples."""

from kinfolk.data.cache import CachedSource as CachedSource
from kinfolk.data.cache import cached as cached
from kinfolk.data.derived import CaptionNoiseConfig as CaptionNoiseConfig
from kinfolk.data.derived import ClassCaptionsConfig as ClassCaptionsConfig
from kinfolk.data.derived import ColouredConfig as ColouredConfig
from kinfolk.data.derived import CompositeConfig as CompositeConfig
from kinfolk.data.derived import CorruptedConfig as CorruptedConfig
from kinfolk.data.derived import DerivedSource as DerivedSource
from kinfolk.data.derived import FewLabelsConfig as FewLabelsConfig
from kinfolk.data.derived import ImbalancedConfig as ImbalancedConfig
from kinfolk.data.derived import LabelledPartConfig as LabelledPartConfig
from kinfolk.data.derived import LabelNoiseConfig as LabelNoiseConfig
from kinfolk.data.derived import LooseCaptionsConfig as LooseCaptionsConfig
from kinfolk.data.derived import OpenWorldConfig as OpenWorldConfig
from kinfolk.data.derived import TexturedConfig as TexturedConfig
from kinfolk.data.derived import UnpairedConfig as UnpairedConfig
from kinfolk.data.derived import UnpairedSplits as UnpairedSplits
from kinfolk.data.derived import corrupt as corrupt
from kinfolk.data.derived import shot_groups as shot_groups
from kinfolk.data.derived.attached import RenderingsConfig as RenderingsConfig
from kinfolk.data.derived.attached import SaliencyConfig as SaliencyConfig
from kinfolk.data.graph_inspection import inspect_graph as inspect_graph
from kinfolk.data.graph_inspection_text import format_graph_inspection as format_graph_inspection
from kinfolk.data.inspection import format_inspection as format_inspection
from kinfolk.data.inspection import inspect_source as inspect_source
from kinfolk.data.loader import BatchReader as BatchReader
from kinfolk.data.loader import StreamSampler as StreamSampler
from kinfolk.data.loader import resident as resident
from kinfolk.data.prepare import prepare as prepare
from kinfolk.data.relations import AttributesConfig as AttributesConfig
from kinfolk.data.relations import CaptionsConfig as CaptionsConfig
from kinfolk.data.relations import ClassNamesConfig as ClassNamesConfig
from kinfolk.data.relations import ClassTable as ClassTable
from kinfolk.data.relations import ClassTableConfig as ClassTableConfig
from kinfolk.data.relations import DistanceConfig as DistanceConfig
from kinfolk.data.relations import EqualLabels as EqualLabels
from kinfolk.data.relations import HierarchyConfig as HierarchyConfig
from kinfolk.data.relations import KNNConfig as KNNConfig
from kinfolk.data.relations import LabelsConfig as LabelsConfig
from kinfolk.data.relations import Mixed as Mixed
from kinfolk.data.relations import MixedConfig as MixedConfig
from kinfolk.data.relations import Neighbours as Neighbours
from kinfolk.data.relations import Pairwise as Pairwise
from kinfolk.data.relations import PseudoLabelsConfig as PseudoLabelsConfig
from kinfolk.data.relations import Relation as Relation
from kinfolk.data.relations import SideEmbeddings as SideEmbeddings
from kinfolk.data.relations import SideEmbeddingsConfig as SideEmbeddingsConfig
from kinfolk.data.relations import WordNet as WordNet
from kinfolk.data.relations import relation_config as relation_config
from kinfolk.data.relations import temperature_for_perplexity as temperature_for_perplexity
from kinfolk.data.saliency import attach_saliency as attach_saliency
from kinfolk.data.saliency import compute_saliency as compute_saliency
from kinfolk.data.saliency import saliency_masks as saliency_masks
from kinfolk.data.samplers import BucketSampler as BucketSampler
from kinfolk.data.samplers import BucketSamplerConfig as BucketSamplerConfig
from kinfolk.data.samplers import CaptionedSampler as CaptionedSampler
from kinfolk.data.samplers import CaptionedSamplerConfig as CaptionedSamplerConfig
from kinfolk.data.samplers import ClassBalancedSampler as ClassBalancedSampler
from kinfolk.data.samplers import ClassBalancedSamplerConfig as ClassBalancedSamplerConfig
from kinfolk.data.samplers import DistinctSampler as DistinctSampler
from kinfolk.data.samplers import DistinctSamplerConfig as DistinctSamplerConfig
from kinfolk.data.samplers import PlainSampler as PlainSampler
from kinfolk.data.samplers import PlainSamplerConfig as PlainSamplerConfig
from kinfolk.data.samplers import ShardSamplerConfig as ShardSamplerConfig
from kinfolk.data.samplers.shards import ShardSampler as ShardSampler
from kinfolk.data.samplers.shards import shard_numbers as shard_numbers
from kinfolk.data.shard_writer import ShardWriter as ShardWriter
from kinfolk.data.sharding import shard as shard
from kinfolk.data.sheet import sample_sheet as sample_sheet
from kinfolk.data.sources import ArraysConfig as ArraysConfig
from kinfolk.data.sources import ArraySource as ArraySource
from kinfolk.data.sources import CIFARConfig as CIFARConfig
from kinfolk.data.sources import DigitsConfig as DigitsConfig
from kinfolk.data.sources import EmojiConfig as EmojiConfig
from kinfolk.data.sources import EncodedSource as EncodedSource
from kinfolk.data.sources import FashionMNISTConfig as FashionMNISTConfig
from kinfolk.data.sources import FileSource as FileSource
from kinfolk.data.sources import HuggingFaceConfig as HuggingFaceConfig
from kinfolk.data.sources import IconsConfig as IconsConfig
from kinfolk.data.sources import ImageFolderConfig as ImageFolderConfig
from kinfolk.data.sources import ImageNetConfig as ImageNetConfig
from kinfolk.data.sources import MappingSource as MappingSource
from kinfolk.data.sources import ShardsConfig as ShardsConfig
from kinfolk.data.sources import ShardSource as ShardSource
from kinfolk.data.sources import Source as Source
from kinfolk.data.sources import Splits as Splits
from kinfolk.data.sources import STL10Config as STL10Config
from kinfolk.data.sources import StreamSource as StreamSource
from kinfolk.data.sources import Subset as Subset
from kinfolk.data.sources import TableConfig as TableConfig
from kinfolk.data.sources import TableSource as TableSource
from kinfolk.data.sources import with_renderings as with_renderings
from kinfolk.data.sources.streaming import Stream as Stream
from kinfolk.data.sources.streaming import shuffle_buffer as shuffle_buffer
from kinfolk.data.text import TextEncoderConfig as TextEncoderConfig
from kinfolk.data.text import encode_texts as encode_texts
from kinfolk.data.views import AnyViewsConfig as AnyViewsConfig
from kinfolk.data.views import ColourSpaceViewsConfig as ColourSpaceViewsConfig
from kinfolk.data.views import MultiViewsConfig as MultiViewsConfig
from kinfolk.data.views import ViewMaker as ViewMaker
from kinfolk.data.views import ViewsConfig as ViewsConfig
from kinfolk.data.views import autoaugment_views as autoaugment_views
from kinfolk.data.views import byol_views as byol_views
from kinfolk.data.views import cmc_views as cmc_views
from kinfolk.data.views import digits_views as digits_views
from kinfolk.data.views import drawing_views as drawing_views
from kinfolk.data.views import fashion_views as fashion_views
from kinfolk.data.views import hard_views as hard_views
from kinfolk.data.views import moco_v2_views as moco_v2_views
from kinfolk.data.views import multi_crop_views as multi_crop_views
from kinfolk.data.views import photo_views as photo_views
from kinfolk.data.views import relic_views as relic_views
from kinfolk.data.views import rgb_to_lab as rgb_to_lab
from kinfolk.data.views import simclr_photo_views as simclr_photo_views
from kinfolk.data.views import simclr_views as simclr_views
from kinfolk.data.views import supcon_views as supcon_views
from kinfolk.data.views import to_float as to_float
from kinfolk.data.views import weak_strong_views as weak_strong_views
from kinfolk.data.views import weak_views as weak_views
from kinfolk.data.views.table import TableViewsConfig as TableViewsConfig
from kinfolk.data.views.table import make_views as make_views

__all__ = [
    "AnyViewsConfig",
    "ArraySource",
    "ArraysConfig",
    "AttributesConfig",
    "BatchReader",
    "BucketSampler",
    "BucketSamplerConfig",
    "CIFARConfig",
    "CachedSource",
    "CaptionNoiseConfig",
    "CaptionedSampler",
    "CaptionedSamplerConfig",
    "CaptionsConfig",
    "ClassBalancedSampler",
    "ClassBalancedSamplerConfig",
    "ClassCaptionsConfig",
    "ClassNamesConfig",
    "ClassTable",
    "ClassTableConfig",
    "ColourSpaceViewsConfig",
    "ColouredConfig",
    "CompositeConfig",
    "CorruptedConfig",
    "DerivedSource",
    "DigitsConfig",
    "DistanceConfig",
    "DistinctSampler",
    "DistinctSamplerConfig",
    "EmojiConfig",
    "EncodedSource",
    "EqualLabels",
    "FashionMNISTConfig",
    "FewLabelsConfig",
    "FileSource",
    "HierarchyConfig",
    "HuggingFaceConfig",
    "IconsConfig",
    "ImageFolderConfig",
    "ImageNetConfig",
    "ImbalancedConfig",
    "KNNConfig",
    "LabelNoiseConfig",
    "LabelledPartConfig",
    "LabelsConfig",
    "LooseCaptionsConfig",
    "MappingSource",
    "Mixed",
    "MixedConfig",
    "MultiViewsConfig",
    "Neighbours",
    "OpenWorldConfig",
    "Pairwise",
    "PlainSampler",
    "PlainSamplerConfig",
    "PseudoLabelsConfig",
    "Relation",
    "RenderingsConfig",
    "STL10Config",
    "SaliencyConfig",
    "ShardSampler",
    "ShardSamplerConfig",
    "ShardSource",
    "ShardWriter",
    "ShardsConfig",
    "SideEmbeddings",
    "SideEmbeddingsConfig",
    "Source",
    "Splits",
    "Stream",
    "StreamSampler",
    "StreamSource",
    "Subset",
    "TableConfig",
    "TableSource",
    "TableViewsConfig",
    "TextEncoderConfig",
    "TexturedConfig",
    "UnpairedConfig",
    "UnpairedSplits",
    "ViewMaker",
    "ViewsConfig",
    "WordNet",
    "attach_saliency",
    "autoaugment_views",
    "byol_views",
    "cached",
    "cmc_views",
    "compute_saliency",
    "corrupt",
    "digits_views",
    "drawing_views",
    "encode_texts",
    "fashion_views",
    "format_graph_inspection",
    "format_inspection",
    "hard_views",
    "inspect_graph",
    "inspect_source",
    "make_views",
    "moco_v2_views",
    "multi_crop_views",
    "photo_views",
    "prepare",
    "relation_config",
    "relic_views",
    "resident",
    "rgb_to_lab",
    "saliency_masks",
    "sample_sheet",
    "shard",
    "shard_numbers",
    "shot_groups",
    "shuffle_buffer",
    "simclr_photo_views",
    "simclr_views",
    "supcon_views",
    "temperature_for_perplexity",
    "to_float",
    "weak_strong_views",
    "weak_views",
    "with_renderings",
]
