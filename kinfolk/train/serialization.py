"""Frozen dataclasses to plain YAML and back, with errors that say what exists."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Turn a config into plain dicts, lists and scalars; a dataclass with a ``kind`` keeps it as its first key.

    Args:
        value: A dataclass instance, or anything that its fields may hold (tuples become lists).

    Raises:
        TypeError: For a value that YAML could not give back.

    Example:
        >>> from kinfolk.train.optimizers import SGDConfig
        >>> encode(SGDConfig(learning_rate=0.06))["kind"]
        'sgd'
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"kind": value.kind, **fields} if hasattr(value, "kind") else fields
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a config holds dataclasses, tuples, numbers, strings and None; found {type(value).__name__}")


def decode(cls: type[T], data: Any, *, path: str = "config") -> T:
    """Build the dataclass ``cls`` from what `encode` gave, checking every key and type.

    Args:
        cls: A dataclass, or a union of dataclasses that each have a ``kind``.
        data: What a YAML file held.
        path: Where ``data`` stands in the document; errors begin with it.

    Raises:
        ValueError: For an unknown or missing key, an unknown kind or a value of the wrong type, saying what exists.

    Example:
        >>> from kinfolk.train.optimizers import SGDConfig
        >>> decode(SGDConfig, {"kind": "sgd", "learning_rate": 0.06}).learning_rate
        0.06
    """
    return _decode(cls, data, path)


def flatten(data: Any, path: str = "") -> dict[str, Any]:
    """Give every leaf of an encoded config its dotted name, e.g. ``{"method.temperature": 0.2}``.

    Example:
        >>> flatten({"method": {"temperature": 0.2}, "views": [1, 2]})
        {'method.temperature': 0.2, 'views.0': 1, 'views.1': 2}
    """
    if isinstance(data, dict):
        children = list(data.items())
    elif isinstance(data, list):
        children = [(str(index), item) for index, item in enumerate(data)]
    else:
        return {path: data}
    return {name: leaf for key, item in children for name, leaf in flatten(item, f"{path}.{key}".lstrip(".")).items()}


def _decode(expected: Any, data: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Annotated:
        return _decode(arguments[0], data, path)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, data, path)
    if origin is Literal:
        if data not in arguments:
            raise ValueError(f"{path} must be one of {', '.join(map(repr, arguments))}, found {data!r}")
        return data
    if origin is tuple:
        return _decode_tuple(arguments, data, path)
    if dataclasses.is_dataclass(expected):
        return _decode_dataclass(expected, data, path)
    return _decode_scalar(expected, data, path)


def _decode_union(members: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in members:
        return None
    only = [member for member in members if dataclasses.is_dataclass(member)]
    if len(only) == 1 and not hasattr(only[0], "kind"):
        return _decode_dataclass(only[0], data, path)
    configs: dict[str, Any] = {vars(member)["kind"]: member for member in members if dataclasses.is_dataclass(member)}
    if configs:
        return _decode_dataclass(_member(configs, data, path), data, path)
    errors = []
    for member in members:
        if member is not type(None):
            try:
                return _decode(member, data, path)
            except ValueError as error:
                errors.append(str(error))
    raise ValueError("; or ".join(errors))


def _member(configs: dict[str, Any], data: Any, path: str) -> Any:
    known = ", ".join(sorted(configs))
    if not isinstance(data, dict):
        raise ValueError(f"{path} must be a mapping with a kind (one of {known}), found {data!r}")
    if "kind" not in data:
        raise ValueError(f"{path} needs a kind; known kinds: {known}")
    if data["kind"] not in configs:
        raise ValueError(f"{path}.kind is {data['kind']!r}; known kinds: {known}")
    return configs[data["kind"]]


def _decode_dataclass(cls: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{path} must be a mapping with the fields of {cls.__name__}, found {data!r}")
    kind = getattr(cls, "kind", None)
    if kind is not None and data.get("kind", kind) != kind:
        raise ValueError(f"{path}.kind must be {kind!r}, found {data['kind']!r}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    given = {key: value for key, value in data.items() if not (key == "kind" and kind is not None)}
    for key in given:
        if key not in fields:
            raise ValueError(
                f"{path} has no key {key!r}{_suggestion(key, fields)}; {cls.__name__} has {', '.join(fields)}"
            )
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in given]:
        raise ValueError(f"{path} lacks {', '.join(missing)}, which {cls.__name__} has no default for")
    hints = typing.get_type_hints(cls, include_extras=False)
    return cls(**{key: _decode(hints[key], value, f"{path}.{key}") for key, value in given.items()})


def _suggestion(key: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(key), fields, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _decode_tuple(arguments: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"{path} must be a list, found {data!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(data)
    if len(arguments) != len(data):
        raise ValueError(f"{path} must be a list of {len(arguments)}, found {len(data)} entries: {data!r}")
    return tuple(
        _decode(kind, item, f"{path}.{index}") for index, (kind, item) in enumerate(zip(arguments, data, strict=True))
    )


def _decode_scalar(expected: type, data: Any, path: str) -> Any:
    if expected is float and isinstance(data, str):
        # YAML 1.1 reads 1e-3 (no dot) as a string; people write it so.
        try:
            return float(data)
        except ValueError:
            pass
    if expected is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    if isinstance(data, expected) and (expected is bool or not isinstance(data, bool)):
        return data
    raise ValueError(f"{path} must be {_article(expected.__name__)}, found {data!r} ({type(data).__name__})")


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
