"""A slot opened as a copy gives the numbers of a slot that read the same, on real models and to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.covering import ALL
from unisono.backends.base import Backend, Feed, LoadRequest, ModelSource, Slot
from unisono.backends.registry import BACKENDS, installed, make_loader
from unisono.config.demo import demo_path

LONG = "The ship sailed north, and nobody on board knew what the captain had written in the log. " * 40
TOKENS = {"smollm2-135m-instruct": 150, "gemma3-270m": 560}
"""Of a prompt: more than half of a slot, and than the sliding window of Gemma 3, which is 512."""
MORE = 9
CUT = 30
"""Where the window has long left what stands there, when all of the prompt is read."""

pytestmark = pytest.mark.models


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (backend, name),
            id=f"{backend}-{name}",
            marks=pytest.mark.skipif(not installed(BACKENDS[backend]), reason=f"{backend} is not installed"),
        )
        for backend in ("llamacpp", "transformers")
        for name in ("smollm2-135m-instruct", "gemma3-270m")
    ],
)
def loaded(request: pytest.FixtureRequest) -> Iterator[tuple[Backend, list[int]]]:
    """A backend, the ids of a prompt, and `MORE` that follow."""
    backend, name = request.param
    source, longest = ModelSource("gguf", str(demo_path(name))), 740 if ALL else TOKENS[name]
    loader = make_loader(backend, LoadRequest(name="copied", source=source, context=2 * longest - 60, slots=6))
    ids = loader.tokenizer().encode_prompt(LONG)
    made = loader.load(lambda fraction, words: None)
    yield made, ids[: longest + MORE]
    made.unload()


def read(backend: Backend, slot: Slot, ids: list[int]) -> np.ndarray:
    return np.array(backend.advance([Feed(slot, ids)]))


def test_a_copy_and_a_fresh_slot_give_the_same_logits(loaded: tuple[Backend, list[int]]) -> None:
    backend, ids = loaded
    prompt = len(ids) - MORE
    original, fresh = backend.open(), backend.open()
    for slot in (original, fresh):
        read(backend, slot, ids[:prompt])
    copy = backend.open(original)
    read(backend, original, ids[7:9])  # what the original reads now is no part of the copy
    for step in (ids[prompt : prompt + 1], ids[prompt + 1 :]):
        np.testing.assert_array_equal(read(backend, copy, step), read(backend, fresh, step))
    for slot in (copy, fresh):
        backend.rewind(slot, CUT)
    np.testing.assert_array_equal(read(backend, copy, ids[99:102]), read(backend, fresh, ids[99:102]))
    for slot in (original, fresh, copy):
        backend.close(slot)


def test_a_slot_copied_and_given_back_before_anything_is_read_is_like_new(loaded: tuple[Backend, list[int]]) -> None:
    backend, ids = loaded
    first, second = backend.open(), backend.open()
    read(backend, first, ids[:40])
    read(backend, second, ids[50:70])
    backend.close(backend.open(first))
    other = backend.open(second)
    backend.close(first)
    empty = backend.open()
    copy = backend.open(other)
    backend.close(other)
    fresh = backend.open()
    expected = [read(backend, empty, ids[:9]), read(backend, second, ids[9:10])]
    np.testing.assert_array_equal(read(backend, fresh, ids[:9]), expected[0])
    np.testing.assert_array_equal(read(backend, copy, ids[9:10]), expected[1])
    for slot in (second, empty, copy, fresh):
        backend.close(slot)


def test_copies_that_wait_are_not_touched_by_others(loaded: tuple[Backend, list[int]]) -> None:
    backend, ids = loaded
    prompt = len(ids) - MORE
    long, short = backend.open(), backend.open()
    read(backend, long, ids[:prompt])
    read(backend, short, ids[50:70])
    copy = backend.open(long)
    backend.close(long)
    second = backend.open(short)  # may well take the slot that ``copy`` is still to be made of
    third = backend.open(copy)
    expected = read(backend, short, ids[:1])
    np.testing.assert_array_equal(read(backend, second, ids[:1]), expected)
    np.testing.assert_array_equal(read(backend, copy, ids[9:12]), read(backend, third, ids[9:12]))
    fresh = backend.open()
    read(backend, fresh, ids[:prompt])
    backend.rewind(copy, prompt)
    np.testing.assert_array_equal(read(backend, copy, ids[20:21]), read(backend, fresh, ids[20:21]))
    for slot in (short, copy, second, third, fresh):
        backend.close(slot)
