"""The IDX file format of MNIST and its kin: big-endian arrays with a four-byte magic number, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file.

    The file begins with two zero bytes, a byte for the type and one for the number of axes, then each axis' length as a
    big-endian uint32, then the values. Gzip is recognised by its content, not by the name.

    Returns:
        An array in native byte order, writable.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not IDX, or holds fewer or more bytes than its header says.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "pair"
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        ...     read_idx(path).tolist()
        [7, 9]
    """
    data = _content(Path(path))
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        raise ValueError(f"{path} is not an IDX file: it begins with {data[:4].hex(' ')}, expected 00 00 TYPE AXES")
    axes = data[3]
    start = 4 + 4 * axes
    if len(data) < start:
        raise ValueError(f"{path} is truncated: its header needs {start} bytes, it has {len(data)}")
    shape = struct.unpack(f">{axes}I", data[4:start])
    dtype = np.dtype(_DTYPES[data[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{path} should hold {expected} bytes for shape {shape}; it has {len(data)}. Fetch it again.")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}); fetch it again") from error
