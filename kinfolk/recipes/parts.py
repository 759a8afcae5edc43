"""From one line of text to a part of a run's config, so that the command line can swap what a recipe has."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from kinfolk.train import DerivedConfig, EncoderConfig, MethodConfig, OptimizerConfig, RelationConfig, SamplerConfig
from kinfolk.train.serialization import decode

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
