"""The library tells what is reasoned apart from the text: whole, in streams and for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from support.reasoners import ANSWER, ASK, PLAIN, THINKER, THOUGHT, make_reasoners
from unisono.async_ensemble import AsyncEnsemble
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ensemble import Ensemble
from unisono.errors import SpecError

BOTH = {"members": [THINKER, PLAIN]}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_reasoners()
    yield
    FAKE_MODELS.clear()


def test_reasoning_is_an_option_of_a_text() -> None:
    with Ensemble.load(BOTH) as both:
        assert both.generate(messages=ASK).reasoning == THOUGHT
        off = both.generate(messages=ASK, reasoning="off")
        assert (off.reasoning, off.text) == (None, ANSWER)
        limited = both.generate(messages=ASK, reasoning={"max_pieces": 3})
        assert (limited.reasoning, limited.text, limited.usage.reasoning) == ("Hm", ANSWER, 3)
        assert both.generate(messages=ASK).to_json()["reasoning"] == THOUGHT
        with pytest.raises(SpecError, match="reasoning is 'much'"):
            both.generate(messages=ASK, reasoning="much")


def test_a_stream_yields_the_text_and_knows_what_was_reasoned_before_it() -> None:
    with Ensemble.load(BOTH) as both:
        with both.stream(messages=ASK) as stream:
            first = next(stream)
            assert stream.reasoning == THOUGHT
            assert first + "".join(stream) == ANSWER
        assert stream.reasoning == stream.generation.reasoning
        with both.stream(messages=ASK, max_new_tokens=4) as stream:
            assert list(stream) == []
            assert stream.reasoning == stream.generation.reasoning
            assert stream.reasoning
        with both.stream(messages=ASK, reasoning="off") as stream:
            assert "".join(stream) == ANSWER
            assert stream.reasoning == ""


def test_the_parts_of_a_stream_come_in_their_order() -> None:
    with Ensemble.load(BOTH) as both, both.stream(messages=ASK) as stream:
        found = []
        for part, text in stream.parts():
            found.append((part, text))
            if part == "reasoning":
                assert stream.reasoning == "".join(text for _, text in found)
    assert "".join(text for part, text in found if part == "reasoning") == THOUGHT
    assert "".join(text for part, text in found if part == "answer") == ANSWER
    assert [part for part, _ in found] == sorted((part for part, _ in found), reverse=True)
    assert len(found) > 5


def test_streams_for_asyncio_tell_the_same() -> None:
    async def main() -> None:
        async with await AsyncEnsemble.load(BOTH, batch=2) as both:
            found = [each async for each in both.stream(messages=ASK).parts()]
            assert "".join(text for part, text in found if part == "reasoning") == THOUGHT
            assert "".join(text for part, text in found if part == "answer") == ANSWER
            stream = both.stream(messages=ASK)
            with pytest.raises(RuntimeError, match="still being written"):
                _ = stream.generation
            assert "".join([text async for text in stream]) == ANSWER
            assert stream.reasoning == stream.generation.reasoning == THOUGHT
            assert (await both.generate(messages=ASK, reasoning="off")).reasoning is None

    asyncio.run(main())
