"""The channel: plain data comes back as it was, and hostile bytes have one named outcome."""

import contextlib
import math
import socket
import struct
import threading
import time
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evolvent_engineer import wire

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | arrays.arrays(
        arrays.integer_dtypes() | arrays.floating_dtypes(sizes=(16, 32, 64)) | arrays.boolean_dtypes(),
        arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def parts(value: object) -> tuple[bytes, bytearray]:
    frame = b"".join(wire.encode(value))
    header, buffers = wire.measure(frame[: wire.PREFIX_SIZE], 2**30)
    start = wire.PREFIX_SIZE + header
    assert len(frame) == start + buffers
    return frame[wire.PREFIX_SIZE : start], bytearray(frame[start:])


def same(left: Any, right: Any) -> bool:
    match left, right:
        case np.ndarray(), np.ndarray():
            return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        case list(), list():
            return len(left) == len(right) and all(map(same, left, right))
        case dict(), dict():
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        case _:
            return type(left) is type(right) and left == right


@given(PLAIN)
def test_what_is_encoded_comes_back(value: Any) -> None:
    assert same(value, wire.decode(*parts(value)))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_a_value_or_one_error(header: bytes, buffers: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.decode(header, bytearray(buffers))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("|O", [1]), ("<f8", [-1]), ("<f8", [2**62, 4]), ("<f8", [1.0]), ("<M8[s]", [1]), ("<f8", [1] * 33),
        ("<V8", [1]), ("<f8,<f8", [1]), ("<f8", "1"), ("<f8", [True]), (1, [1]), ("<f16", [1]), ("<i3", [1]),
    ],
)  # fmt: skip
def test_a_lying_array_is_refused(dtype: Any, shape: Any) -> None:
    header = msgpack.packb(msgpack.ExtType(1, msgpack.packb([dtype, shape])))

    with pytest.raises(wire.WireError):
        wire.decode(header, bytearray(64))


def test_other_extensions_are_refused() -> None:
    for code in (0, 2, 5, 127):
        with pytest.raises(wire.WireError, match="extension"):
            wire.decode(msgpack.packb(msgpack.ExtType(code, b"x")), bytearray())
    assert 1.5 == wire.decode(msgpack.packb(msgpack.Timestamp(1, 500_000_000)), bytearray())


@pytest.mark.parametrize("value", [object(), {1: 2}, [{3}], 2**70, np.array([object()]), np.array(["text"]), 1j])
def test_what_is_not_plain_does_not_cross(value: object) -> None:
    try:
        encoded = parts(value)
    except wire.NotPlainError:
        return
    with pytest.raises(wire.WireError):  # keys that are no text are refused by the reader
        wire.decode(*encoded)


def test_a_list_that_holds_itself_does_not_cross() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(wire.NotPlainError):
        wire.encode(loop)


def test_large_lists_must_be_arrays() -> None:
    with pytest.raises(wire.NotPlainError, match="arrays"):
        wire.encode([math.pi] * 500_000)

    assert 4_000_000 < wire.size(np.zeros(500_000)) < 4_000_100


def test_a_claimed_length_reserves_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack("<IQ", 10, 2**40))
        with pytest.raises(wire.WireError, match="may cross"):
            wire.receive(ours, limit=2**30)


def test_a_sender_that_stalls_is_left_at_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack("<IQ", 10, 0) + b"123")
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.receive(ours, limit=0, deadline=began + 0.05)
        with pytest.raises(TimeoutError):
            wire.send(ours, np.zeros(10_000_000), deadline=began + 0.1)

        assert time.monotonic() - began < 1


def test_a_channel_that_closes_within_a_frame_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(struct.pack("<IQ", 10, 0) + b"123")
        theirs.close()
        with pytest.raises(EOFError):
            wire.receive(ours, limit=0)


def test_large_arrays_arrive_whole_and_writable() -> None:
    ours, theirs = socket.socketpair()
    sent = {"a": np.arange(3_000_000.0), "b": np.asfortranarray(np.arange(12).reshape(3, 4))}
    with ours, theirs:
        sender = threading.Thread(target=wire.send, args=(theirs, sent))
        sender.start()
        got = wire.receive(ours, limit=2**26)
        sender.join()

    assert same(sent, got)
    got["a"][0] = 1.0
