"""Frames are read as they were written, and what is no frame is refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from unisono.backends.wire import ALIGNED, START, TYPES, FrameError, read_frame, write_frame

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
HEADS = st.dictionaries(st.text().filter(lambda key: key != "arrays"), JSON, max_size=4)
ARRAYS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(list(TYPES.values())).flatmap(
        lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    max_size=4,
)


def joined(head: dict[str, Any], **arrays: np.ndarray[Any, Any]) -> bytes:
    return b"".join(write_frame(head, arrays))


@given(head=HEADS, arrays=ARRAYS)
def test_a_frame_is_read_as_it_was_written(head: dict[str, Any], arrays: dict[str, Any]) -> None:
    data = b"".join(write_frame(head, arrays))
    frame = read_frame(data)
    assert frame.head == head
    assert list(frame.arrays) == list(arrays)
    for name, array in arrays.items():
        read = frame.arrays[name]
        assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes())


@given(data=st.binary(max_size=200), at=st.integers(0, 400), bit=st.integers(0, 7))
def test_changed_bytes_are_a_frame_or_a_frame_error(data: bytes, at: int, bit: int) -> None:
    whole = bytearray(joined({"a": [1]}, x=np.arange(7, dtype=np.float32), y=np.ones((2, 3), np.int32)))
    whole[at % len(whole)] ^= 1 << bit
    for attempt in (bytes(whole), bytes(whole[: at % len(whole)]), data, joined({})[: START.size] + data):
        try:
            read = read_frame(attempt)
        except FrameError:
            continue
        assert sum(array.nbytes for array in read.arrays.values()) <= len(attempt)


def test_arrays_are_views_of_what_was_read() -> None:
    data = bytearray(joined({}, x=np.zeros(3, np.float32)))
    frame = read_frame(data)
    data[-4:] = np.float32(5).tobytes()
    assert frame.arrays["x"].tolist() == [0, 0, 5]


def head_of(head: object, body: bytes = b"") -> bytes:
    text = (head if isinstance(head, str) else json.dumps(head)).encode()
    text = text.ljust(-(-(START.size + len(text)) // ALIGNED) * ALIGNED - START.size)
    return START.pack(b"unisono", 1, len(text)) + text + body


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"<html>no frame</html>", "does not begin as a frame"),
        (START.pack(b"unisono", 2, 0), "version 2; this is version 1"),
        (START.pack(b"unisono", 1, 2**32 - 1) + b"{}", "longer than what is there"),
        (START.pack(b"unisono", 1, 13) + b'{"arrays":[]}', "multiple of 64"),
        (head_of("[1"), "not JSON"),
        (head_of("[" * 5000), "not JSON"),
        (head_of([]), "no JSON object"),
        (head_of('{"a":1,"a":2,"arrays":[]}'), "a key twice"),
        (head_of('{"a":NaN,"arrays":[]}'), "NaN"),
        (head_of({}), "no list of arrays"),
        (head_of({"arrays": [["x", "f4", [1]]]}), "not \\[name, type, shape, offset\\]"),
        (head_of({"arrays": [["x", "f2", [1], 0]]}), "not \\[name, type, shape, offset\\]"),
        (head_of({"arrays": [["x", "f4", [-1], 0]]}), "a shape that cannot be"),
        (head_of({"arrays": [["x", "f4", [True], 0]]}, bytes(4)), "a shape that cannot be"),
        (head_of({"arrays": [["x", "f4", [1] * 5, 0]]}, bytes(4)), "a shape that cannot be"),
        (head_of({"arrays": [["x", "f4", [10**12], 0]]}, bytes(4)), "a shape that cannot be"),
        (head_of({"arrays": [["x", "f4", [4, 4], 0]]}, bytes(4)), "ends at 64, and 4 bytes follow"),
        (head_of({"arrays": [["x", "f4", [1], 64]]}, bytes(68)), "begins at 64, not at 0"),
        (head_of({"arrays": [["x", "f4", [0], 0]]}, bytes(4)), "4 bytes follow"),
        (head_of({"arrays": [["x", "f4", [0], 0], ["x", "f4", [0], 0]]}), "two arrays 'x'"),
        (head_of({"arrays": [["x", "u1", [1], 0], ["y", "u1", [1], 64]]}, b"\1" * 65), "other than zeros"),
    ],
)
def test_what_is_no_frame_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        read_frame(data)


def test_an_array_that_is_wanted_has_to_be_there_and_as_it_is_wanted() -> None:
    frame = read_frame(joined({}, x=np.zeros((2, 2), np.float32)))
    assert frame.array("x", "f4", 2).shape == (2, 2)
    with pytest.raises(FrameError, match="no array 'y'"):
        frame.array("y", "f4", 2)
    with pytest.raises(FrameError, match="'x' is f4 of 2 axes, not i4 of 1 axes"):
        frame.array("x", "i4", 1)
    with pytest.raises(ValueError, match="int64"):
        write_frame({}, {"x": np.zeros(2, np.int64)})
