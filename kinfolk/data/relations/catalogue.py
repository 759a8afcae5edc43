"""Every relation's config by the name that the command line has for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from kinfolk.data.relations.attributes import AttributesConfig
from kinfolk.data.relations.captions import CaptionsConfig
from kinfolk.data.relations.class_names import ClassNamesConfig
from kinfolk.data.relations.class_table import ClassTableConfig
from kinfolk.data.relations.distance import DistanceConfig
from kinfolk.data.relations.hierarchy import HierarchyConfig
from kinfolk.data.relations.labels import LabelsConfig
from kinfolk.data.relations.mixed import MixedConfig, PartConfig
from kinfolk.data.relations.neighbours import KNNConfig
from kinfolk.data.relations.pseudo_labels import PseudoLabelsConfig
from kinfolk.data.relations.side_embeddings import SideEmbeddingsConfig
from kinfolk.data.text import TextEncoderConfig

RelationConfig = PartConfig | MixedConfig

RELATIONS: dict[str, Callable[..., PartConfig]] = {
    "captions": CaptionsConfig,
    "class-names": ClassNamesConfig,
    "class-table": ClassTableConfig,
    "side-embeddings": SideEmbeddingsConfig,
    "labels": LabelsConfig,
    "attributes": AttributesConfig,
    "hierarchy": HierarchyConfig,
    "time": DistanceConfig,
    "knn": KNNConfig,
    "pseudo-labels": PseudoLabelsConfig,
}


def relation_config(name: str, **options: Any) -> PartConfig:
    """Return the config of a relation by name.

    Args:
        name: a key of `RELATIONS`.
        options: fields of its config; those that are None keep their default. `encoder` may be a text encoder's name.

    Raises:
        ValueError: for an unknown name, or an option that the relation does not have; the message lists those it has.

    Example:
        >>> relation_config("captions", encoder="wordllama", perplexity=15, k=None).encoder.name
        'wordllama'
        >>> relation_config("knn", k=5)
        KNNConfig(features='pixels', k=5, mutual=False)
    """
    if name not in RELATIONS:
        raise ValueError(f"no relation {name!r}; there are {', '.join(RELATIONS)}")
    make: Any = RELATIONS[name]
    given = {key: value for key, value in options.items() if value is not None}
    has = [field.name for field in fields(make)]
    if unknown := sorted(set(given) - set(has)):
        raise ValueError(f"the relation {name!r} has no {', '.join(unknown)}; it has {', '.join(has)}")
    if isinstance(given.get("encoder"), str):
        given["encoder"] = TextEncoderConfig(given["encoder"])
    return make(**given)
