"""Frames of plain data between processes that do not trust each other.

A frame is `<u32 header bytes> <u64 buffer bytes> <header> <buffers>`. The header is MessagePack; an array in it is
extension 1, `[dtype, shape]`, whose contents follow in the buffers, in order, each at a multiple of 64 bytes.
Reading a frame can run no code: there is one extension, and its type, shape and size are checked. (MessagePack's
own timestamps are read as numbers.)
"""

import math
import re
import socket
import struct
import time
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

HEADER_LIMIT = 4 * 1024 * 1024
"""Bytes of everything but the contents of arrays. One byte can become a 64-byte object, hence no more."""
_PREFIX = struct.Struct("<IQ")
_ARRAY = 1
_ALIGN = 64
_DTYPE = re.compile(r"[<>|](b1|[iu][1248]|f(2|4|8)|c(8|16))")
_MAX_AXES = 32


class WireError(Exception):
    """The other side sent something that is no frame, or too large a one."""


class NotPlainError(TypeError):
    """A value that cannot cross."""


def encode(value: object) -> list[bytes | memoryview]:
    """Encode plain data into the pieces of one frame.

    Raises:
        NotPlainError: something in it is no plain data, or all but the arrays is larger than 4 MiB.
    """
    buffers: list[bytes | memoryview] = []
    try:
        header = msgpack.packb(value, default=lambda item: _extension(item, buffers))
    except (TypeError, ValueError, OverflowError) as error:
        raise NotPlainError(str(error)) from error
    if len(header) > HEADER_LIMIT:
        raise NotPlainError(f"{len(header)} bytes outside of arrays; at most {HEADER_LIMIT} may cross")
    return [_PREFIX.pack(len(header), sum(len(piece) for piece in buffers)), header, *buffers]


def size(value: object) -> int:
    """Count the bytes of a value as encoded: the contents of arrays and everything beside them."""
    return sum(len(piece) for piece in encode(value)) - _PREFIX.size


def _extension(item: object, buffers: list[bytes | memoryview]) -> object:
    if isinstance(item, np.generic):
        return item.item()
    if not isinstance(item, np.ndarray):
        raise NotPlainError(f"{type(item).__module__}.{type(item).__qualname__} is no plain data; use numpy arrays")
    if not _DTYPE.fullmatch(item.dtype.str):
        raise NotPlainError(f"an array of {item.dtype} cannot cross")
    contents = np.ascontiguousarray(item).reshape(-1).view(np.uint8).data
    buffers += [contents, bytes(-len(contents) % _ALIGN)]
    return msgpack.ExtType(_ARRAY, msgpack.packb([item.dtype.str, list(item.shape)]))


def decode(header: bytes | bytearray, buffers: bytearray) -> Any:
    """Decode the two parts of a frame. Arrays are writable views of `buffers`.

    Raises:
        WireError: it is no frame of ours.
    """
    reader = _Arrays(buffers)
    try:
        value = msgpack.unpackb(header, ext_hook=reader.take, strict_map_key=True, timestamp=1)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not a frame: {error}") from error
    if reader.offset != len(buffers):
        raise WireError(f"{len(buffers) - reader.offset} bytes belong to no array")
    return value


class _Arrays:
    """Takes the arrays of one frame out of its buffers, in order."""

    def __init__(self, buffers: bytearray) -> None:
        self._buffers = buffers
        self.offset = 0

    def take(self, code: int, data: bytes) -> NDArray[Any]:
        if code != _ARRAY:
            raise WireError(f"unknown extension {code}")
        dtype, shape = _array_header(data)
        count = math.prod(shape)
        start, length = self.offset, count * dtype.itemsize
        self.offset += length + -length % _ALIGN
        if self.offset > len(self._buffers):
            raise WireError(f"an array of {shape} {dtype} is larger than its frame")
        return np.frombuffer(self._buffers, dtype, count, start).reshape(shape) if count else np.empty(shape, dtype)


def _array_header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    match msgpack.unpackb(data):
        case [str(dtype), [*shape]] if (
            _DTYPE.fullmatch(dtype)
            and len(shape) <= _MAX_AXES
            and all(type(length) is int and 0 <= length < 2**40 for length in shape)
        ):
            return np.dtype(dtype), tuple(shape)
        case _:
            raise WireError("not an array")


def send(channel: socket.socket, value: object, *, deadline: float | None = None) -> None:
    """Send one frame on a blocking socket.

    Raises:
        NotPlainError: the value cannot cross; nothing was sent.
        TimeoutError: not all was taken before `deadline` (`time.monotonic`).
        OSError: the other side is gone.
    """
    for piece in encode(value):
        rest = memoryview(piece)
        while rest:
            channel.settimeout(_remaining(deadline))
            rest = rest[channel.send(rest) :]


def receive(channel: socket.socket, *, limit: int, deadline: float | None = None) -> Any:
    """Receive one frame from a blocking socket; at most `limit` bytes of arrays.

    Raises:
        EOFError: the other side closed before a frame or within one.
        WireError: what came is no frame, or larger than allowed.
        TimeoutError: the frame was not complete before `deadline` (`time.monotonic`).
    """
    header, buffers = measure(bytes(_exactly(channel, _PREFIX.size, deadline)), limit)
    return decode(_exactly(channel, header, deadline), _exactly(channel, buffers, deadline))


PREFIX_SIZE = _PREFIX.size


def measure(prefix: bytes, limit: int) -> tuple[int, int]:
    """Read the two lengths that a frame begins with.

    Raises:
        WireError: either is larger than allowed.
    """
    header, buffers = _PREFIX.unpack(prefix)
    if header > HEADER_LIMIT or buffers > limit:
        raise WireError(f"a frame of {header} + {buffers} bytes; at most {HEADER_LIMIT} + {limit} may cross")
    return header, buffers


def _exactly(channel: socket.socket, length: int, deadline: float | None) -> bytearray:
    """Read into memory that grows with what has come: a claimed length alone reserves nothing."""
    content = bytearray()
    while len(content) < length:
        channel.settimeout(_remaining(deadline))
        piece = channel.recv(min(length - len(content), 1 << 20))
        if not piece:
            raise EOFError("the channel was closed")
        content += piece
    return content


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
