"""From one line of text to a part of a run's config, so that the command line can swap what a recipe has."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import yaml

from kinfolk.recipes.sources import source_config
from kinfolk.train import (
    DerivedConfig,
    EncoderConfig,
    MethodConfig,
    OptimizerConfig,
    RelationConfig,
    SamplerConfig,
    TrainConfig,
)
from kinfolk.train.serialization import decode, encode

PARTS: dict[str, Any] = {
    "derived": DerivedConfig,
    "encoder": EncoderConfig,
    "method": MethodConfig,
    "optimizer": OptimizerConfig,
    "relation": RelationConfig,
    "sampler": SamplerConfig,
}


def part_config(part: str, text: str) -> Any:
    """Read a part of a config from a line such as ``imbalanced rule=long-tail factor=100``.

    The first word is the kind; settings follow as ``name=value``, values in YAML's form, dots for nested ones.

    Args:
        part: one of `PARTS`.
        text: the line.

    Raises:
        ValueError: For a kind or a setting that does not exist, or a value of the wrong type; the message says what
            there is.

    Example:
        >>> part_config("sampler", "class-balanced per_class=4").per_class
        4
        >>> part_config("relation", "captions perplexity=15 encoder.name=wordllama").encoder.name
        'wordllama'
    """
    try:
        kind, *settings = shlex.split(text) or [""]
    except ValueError as error:
        raise ValueError(f"{part}: {text!r} cannot be taken apart: {error}") from None
    data: dict[str, Any] = {"kind": kind}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{part} {kind}: settings are written name=value; found {setting!r}")
        place = data
        *parents, leaf = name.replace("-", "_").split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{part} {kind}: {parent} has a value already, so {setting!r} cannot be set within it")
        try:
            place[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"{part} {kind}: the value in {setting!r} is no YAML; a list is [1, 2]") from None
    return decode(PARTS[part], data, path=part)


def with_field(config: TrainConfig, field: str, text: str) -> TrainConfig:
    """Return a config with one field changed.

    Args:
        config: a run's config.
        field: a dotted name, ``data``, or a part. For ``data`` the text is what ``--data`` takes; for a part it is
            ``KIND NAME=VALUE ...`` or, for ``derived`` and ``relation``, ``none``. What is derived comes after what
            the config derives already.
        text: the value in YAML's form: ``0.1``, ``true``, ``[knn, geometry]``.

    Raises:
        ValueError: for a field that does not exist, or a value of the wrong type.

    Example:
        >>> from kinfolk.recipes import recipe
        >>> with_field(recipe("simclr-digits"), "method.temperature", "0.5").method.temperature
        0.5
        >>> with_field(recipe("simclr-digits"), "derived", "few-labels per_class=3").derived[0].per_class
        3
    """
    field = field.replace("-", "_")
    if field == "data":
        return replace(config, source=source_config(text))
    if field == "derived":
        return config if text == "none" else replace(config, derived=(*config.derived, part_config(field, text)))
    if field == "relation" and text == "none":
        return replace(config, relation=None)
    if field in PARTS:
        return replace(config, **{field: part_config(field, text)})
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"the value in {field}={text} is no YAML; a list is [1, 2]") from None
    data: dict[str, Any] = encode(config)
    place: Any = data
    *parents, leaf = field.split(".")
    for depth, parent in enumerate(parents):
        if isinstance(place, list) and parent.isdecimal() and int(parent) < len(place):
            place = place[int(parent)]
        elif isinstance(place, dict) and isinstance(place.get(parent), dict | list):
            place = place[parent]
        else:
            raise ValueError(f"{field} cannot be set: there is no {'.'.join(parents[: depth + 1])} with fields here")
    if isinstance(place, list):
        if not leaf.isdecimal() or int(leaf) >= len(place):
            raise ValueError(f"{field} cannot be set: {'.'.join(parents)} is a list of {len(place)}")
        place[int(leaf)] = value
    else:
        place[leaf] = value
    return decode(TrainConfig, data)
