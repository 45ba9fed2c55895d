"""Several texts of one prompt, and the keys of a method as arguments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.errors import CapacityError, SpecError
from unisono.records import Limits

MEMBERS = [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture
def pair() -> Iterator[Ensemble]:
    with Ensemble.load({"members": MEMBERS}, batch=4) as ensemble:
        yield ensemble


def test_each_continuation_can_be_drawn_again_alone(pair: Ensemble) -> None:
    several = pair.generate(" the cat", n=4, max_new_tokens=12, draw="1 seed:18446744073709551614")
    assert [text.seed for text in several] == [2**64 - 2, 2**64 - 1, 0, 1]
    assert len({text.data for text in several}) > 1
    for text in several:
        assert pair.generate(" the cat", max_new_tokens=12, draw=f"1 seed:{text.seed}").data == text.data


@pytest.mark.parametrize(
    ("n", "keys", "message"),
    [
        (0, {"draw": 1}, "n is 0: it must be a whole number from 1 to 10,000"),
        (10_001, {"draw": 1}, "n is 10001: it must be a whole number from 1 to 10,000"),
        (True, {"draw": 1}, "n is true"),
        (2, {}, "n is 2, but nothing is drawn: all 2 texts would be the same"),
        (2, {"draw": "beam_width:2"}, "n is 2, but nothing is drawn"),
    ],
)
def test_impossible_numbers_are_refused(pair: Ensemble, n: int, keys: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        pair.generate("Hello", n=n, **keys)  # type: ignore[call-overload]
    assert message in refusal.value.message
    assert refusal.value.hint
    assert pair.generate("Hello", max_new_tokens=2)


def test_more_than_there_are_slots_for_are_written_in_waves(pair: Ensemble) -> None:
    several = pair.generate(" the cat", n=10, max_new_tokens=6, draw="1 seed:3")
    assert [text.seed for text in several] == list(range(3, 13))
    alone = pair.generate(" the cat", max_new_tokens=6, draw="1 seed:12")
    assert several[-1].data == alone.data


def test_other_texts_that_hold_the_slots_are_named(pair: Ensemble) -> None:
    with pair.stream("Hello", max_new_tokens=50) as stream:
        next(stream)
        with pytest.raises(CapacityError, match="3 of 4 slots are free") as refusal:
            pair.generate("Hello", draw="beam_width:4")
        assert "finish a text" in str(refusal.value.hint)


def test_a_failure_gives_all_slots_back(pair: Ensemble) -> None:
    with pytest.raises(SpecError):
        pair.generate("Hello", n=2, draw=1, gate="confidence:2")
    assert len(pair.generate("Hello", n=4, draw=1, max_new_tokens=3)) == 4


def test_the_keys_of_a_file_are_arguments_too(pair: Ensemble) -> None:
    plain = pair.generate(" the cat", max_new_tokens=20)
    for keys in (
        {"combine": "geometric"},
        {"draw": {"repetition_penalty": 2.0}},
        {"combine": {"rule": "max", "truncate": 2}, "draw": "one-member"},
    ):
        if "one-member" in keys.values():
            with pytest.raises(SpecError, match="one-member draws from the weighted mean"):
                pair.generate(" the cat", **keys)
            continue
        assert pair.generate(" the cat", max_new_tokens=20, **keys).usage.pieces
    assert pair.generate(" the cat", max_new_tokens=20).data == plain.data


def test_a_beam_of_a_file_finds_its_slots_and_waits_for_them_in_a_batch() -> None:
    with Ensemble.load({"members": MEMBERS, "sampling": "beam_width:3"}, batch=1) as ensemble:
        alone = ensemble.generate(" the cat", max_new_tokens=8)
        assert alone.usage.pieces
    with Ensemble.load({"members": MEMBERS}, batch=4) as ensemble:
        beam = ensemble.method.but(draw="beam_width:3")
        prompts = [" the cat", "Hello", " the cat", "Sofia"]
        requests = [
            Request(str(number), Prompt(text=text), Limits(8), method=beam if number % 2 == 0 else None)
            for number, text in enumerate(prompts)
        ]
        results = {request.id: result for request, result in ensemble.generate_batch(requests)}
        assert results.keys() == {"0", "1", "2", "3"}
        assert results["0"].data == results["2"].data == alone.data  # type: ignore[union-attr]
        wide = Request("w", Prompt(text="x"), method=ensemble.method.but(draw="beam_width:5"))
        [(_, refused)] = ensemble.generate_batch([wide])
        assert "beam_width is 5, but there are slots for 4" in str(refused)


def test_lists_of_prompts_give_lists_and_requests_take_options(pair: Ensemble) -> None:
    prompts = [" the cat", "Hello", "Sofia"]
    alone = [pair.generate(text, max_new_tokens=6, temperature=0.9, seed=4) for text in prompts]
    together = pair.generate(prompts, max_new_tokens=6, temperature=0.9, seed=4)
    assert [text.data for text in together] == [text.data for text in alone]
    requests = [Request(text, Prompt(text=text), max_new_tokens=6, temperature=0.9, seed=4) for text in prompts]
    wrong = Request("wrong", Prompt(text="x"), temprature=1)  # type: ignore[call-arg]
    results = {request.id: result for request, result in pair.generate_batch([wrong, *requests])}
    assert [results[text].data for text in prompts] == [text.data for text in alone]  # type: ignore[union-attr]
    assert "did you mean 'temperature'" in str(results["wrong"])
    twice = Request("n", Prompt(text="Hello"), n=2, temperature=1, seed=4, max_new_tokens=3)
    assert {result.seed for _, result in pair.generate_batch([twice])} == {4, 5}  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="list of prompts"):
        pair.generate(prompts, n=2)  # type: ignore[call-overload]
    with pytest.warns(FutureWarning, match="generate"):
        assert len(pair.continuations(2, "Hello", draw=1, max_new_tokens=2)) == 2


def test_an_open_stream_goes_on_while_others_are_generated(pair: Ensemble) -> None:
    alone = pair.generate("Hello", max_new_tokens=9)
    with pair.stream("Hello", max_new_tokens=9) as stream:
        first = next(stream)
        list(pair.generate_batch([Request("1", Prompt(text="Sofia"), max_new_tokens=30)]))
        assert first + "".join(stream) == alone.text == stream.generation.text
