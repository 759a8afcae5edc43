"""A name for what an encoder computes, made of its content: weights, settings, and the code of its classes."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, Enum, Path, np.generic, torch.dtype,
          torch.device, torch.layout, torch.memory_format)  # fmt: skip
_MACHINERY = frozenset(vars(nn.Module()))  # what every module has: tensors, modules and hooks are taken one by one
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_DIGEST = 16  # bytes


class UnknownContent(Exception):
    """Something in an encoder that may decide what it computes and cannot be read, such as a closure."""


def encoder_fingerprint(encoder: nn.Module) -> str:
    """Hash all that decides which features an encoder gives in evaluation mode.

    Read are every parameter and buffer (name, dtype, shape and bytes), every other attribute of every submodule and of
    its classes, and for every class and function the file of its code. What the code imports from other files is not
    followed, but for the version of torch. Neither names of runs nor dates are looked at, and not whether a module is
    in training mode.

    Args:
        encoder: any module; nothing in it is changed. Tensors on a GPU are copied to the CPU one by one.

    Returns:
        32 hexadecimal digits.

    Raises:
        UnknownContent: for what cannot be read: hooks, closures, classes made in a function, objects without Python
            code, scripted modules, sharded tensors.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = encoder_fingerprint(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> encoder_fingerprint(layer) == before
        False
    """
    reading = _Reading()
    reading.add(torch.__version__)
    reading.add(encoder)
    return reading.hash.hexdigest()


def tensor_digest(x: Tensor) -> bytes:
    """Hash a tensor's dtype, shape and bytes, wherever it lies.

    Example:
        >>> tensor_digest(torch.zeros(2)) == tensor_digest(torch.zeros(2, dtype=torch.int32))
        False
    """
    digest = hashlib.blake2b(f"{x.dtype}{tuple(x.shape)}".encode(), digest_size=_DIGEST)
    digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


class _Reading:
    """One walk over everything that hangs on an encoder; each thing is announced, so that none can pass for another."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=_DIGEST)
        self.seen: dict[int, int] = {}

    def say(self, *words: str | bytes) -> None:
        for word in words:
            raw = word.encode() if isinstance(word, str) else word
            self.hash.update(len(raw).to_bytes(8, "little") + raw)

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.say(type(value).__name__, repr(value))
        elif isinstance(value, Tensor):
            self.add_tensor(value)
        elif isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise UnknownContent("an array of objects")
            self.say("array", str(value.dtype), repr(value.shape), value.tobytes())
        elif isinstance(value, Mapping):
            self.add_all("mapping", [part for item in value.items() for part in item])
        elif isinstance(value, (list, tuple)):
            self.add_all(type(value).__name__, value)
        elif isinstance(value, (set, frozenset)):
            self.add_all("set", sorted(value, key=repr))  # strings come in another order in every process
        elif isinstance(value, functools.partial):
            self.add_all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, MethodType):
            self.add_all("method", [value.__func__, value.__self__])
        elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
            self.add_code(value)
        else:
            self.add_object(value)

    def add_all(self, kind: str, values: Any) -> None:
        self.say(kind, str(len(values)))
        for value in values:
            self.add(value)

    def add_tensor(self, x: Tensor) -> None:
        if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided or x.is_meta or x.is_quantized:
            raise UnknownContent(f"a tensor of type {type(x).__name__}, {x.layout}, on {x.device}")
        self.say("tensor", tensor_digest(x))

    def add_code(self, code: Any) -> None:
        """A class or a function: its name, and the file that says what it does; a class's settings may be others."""
        self.say("code", str(code.__module__), code.__qualname__)
        if isinstance(code, BuiltinFunctionType):
            if not isinstance(code.__self__, type(sys)):
                raise UnknownContent(f"the method {code.__qualname__} of an object")
            return
        if isinstance(code, FunctionType):
            if code.__closure__:
                raise UnknownContent(f"the closure {code.__qualname__}")
            self.add((code.__code__.co_firstlineno, code.__defaults__, code.__kwdefaults__))
        if isinstance(code, type):
            if "<locals>" in code.__qualname__:  # its methods may be closures
                raise UnknownContent(f"the class {code.__qualname__}, made in a function")
            if id(code) in self.seen:
                return
            self.seen[id(code)] = len(self.seen)
            self.add({name: held for name, held in vars(code).items() if _is_setting(name, held)})
        if code.__module__ != "builtins":
            self.say(_source(code.__module__))

    def add_object(self, value: Any) -> None:
        """A module or an object of a Python class: the code of its classes, and every attribute."""
        known = id(value) in self.seen
        self.say("object", str(self.seen.setdefault(id(value), len(self.seen))))
        if known:
            return
        kinds = type(value).__mro__[:-1]
        elsewhere = any(kind.__module__ == "builtins" or vars(kind).get("__slots__") for kind in kinds)
        if elsewhere or not hasattr(value, "__dict__"):  # what it holds is not, or not all, among its attributes
            raise UnknownContent(f"an object of type {type(value).__qualname__}")
        for kind in kinds:
            self.add_code(kind)
        held = vars(value)
        if isinstance(value, torch.jit.ScriptModule):
            raise UnknownContent("a scripted module")
        if isinstance(value, nn.Module):
            if any(held.get(hooks) for hooks in _HOOKS):
                raise UnknownContent(f"a hook of {type(value).__qualname__}")
            parts = {name: held[name] for name in ("_parameters", "_buffers", "_modules")}
            held = parts | {name: held[name] for name in sorted(held.keys() - _MACHINERY)}
        self.add(held)


def _is_setting(name: str, held: Any) -> bool:
    """Whether something on a class is a number, a string, a tensor or the like, which code may have changed since."""
    return not name.startswith("__") and isinstance(held, (*_PLAIN, Tensor, np.ndarray, list, tuple, set, dict))


@functools.cache
def _source(module: str) -> bytes:
    """Digest of the Python file of a module, once per process: a file that is edited later is not what runs."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py") or not Path(file).is_file():
        raise UnknownContent(f"code without a file, in {module}")
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=_DIGEST).digest()
