"""The beginning of a text is given: what follows is what would have followed, had it been chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import STORY, make_fakes
from support.thinkers import make_thinkers
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.engine.beginning import Beginning
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.errors import PromptError, SpecError

ASK: Any = [{"role": "user", "content": "Hello"}]
PIECES = 14


@pytest.fixture(scope="module", autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    make_thinkers()
    yield
    FAKE_MODELS.clear()


def loaded(names: str, batch: int = 1, **keys: Any) -> Ensemble:
    return Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"} for name in names], **keys}, batch=batch)


def told(steps: Any) -> list[Any]:
    """Steps without what rounding changes."""
    return [(step.piece, step.mark, step.part, step.voted, pytest.approx(step.p, rel=1e-4)) for step in steps]


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("abc", {}),
    ("b", {}),
    ("ba", {"gate": "first:8"}),
    ("abc", {"gate": "confidence:0.6", "sampling": "temperature:0.9 seed:7 repetition_penalty:1.3"}),
    ("ab", {"temperature": 1.2, "seed": 3, "presence_penalty": 1.0, "speculate": "b"}),
    ("abc", {"constraint": {"regex": "[a-zA-Z ,日本]{9,}"}}),
    ("ab", {"sampling": "mixture temperature:1 seed:5"}),
    ("thp", {}),
    ("hp", {"reasoning": 3}),
    ("op", {}),
    ("s", {"temperature": 0.8, "seed": 2}),
    ("pts", {"reasoning": "off"}),
]


@pytest.mark.parametrize(("names", "ways"), WAYS, ids=str)
@pytest.mark.parametrize("asked", [{"messages": ASK}, {"prompt": "the cat"}], ids=["messages", "raw"])
def test_going_on_from_what_was_chosen_gives_the_same(names: str, ways: dict[str, Any], asked: dict[str, Any]) -> None:
    with loaded(names) as ensemble:
        whole = ensemble.generate(**asked, max_new_tokens=PIECES, trace=True, **ways)
        steps = whole.steps or ()
        for count in (1, 2, 3, 5, 8, whole.usage.pieces - 1):
            if not 0 < count < whole.usage.pieces:
                continue
            given: Any = steps[:count] if count % 2 else [step.to_json() for step in steps[:count]]
            rest = ensemble.generate(**asked, begin=given, max_new_tokens=PIECES - count, trace=True, **ways)
            assert told(rest.steps) == told(steps[count:])
            assert rest.finish_reason == whole.finish_reason
            assert whole.data.endswith(rest.data)
            assert rest.usage.pieces == whole.usage.pieces - count
            assert (whole.reasoning or "").endswith(rest.reasoning or "")


@pytest.mark.parametrize(
    ("pieces", "said", "thought", "pending"),
    [
        ([b"the ", "日".encode()[:1]], "the ", "", b"\xe6"),
        (["reasoning_begin", b" hm ", "日".encode()[:2]], "", "hm ", b""),
        (["reasoning_begin", b"hm", "reasoning_end", b"\n the", "日".encode()[:2]], "the", "hm", b"\xe6\x97"),
        ([b"of a prompt", "reasoning_end", b"the"], "the", "of a prompt", b""),
        (["reasoning_begin", "日".encode()[:1], "reasoning_end", "本".encode()], "本", "", b""),
    ],
)  # fmt: skip
def test_what_is_reasoned_is_no_part_of_the_answer_that_is_begun(
    pieces: Any, said: str, thought: str, pending: bytes
) -> None:
    begin = Beginning(pieces=tuple(pieces))
    assert (begin.shown, begin.reasoned, begin.pending) == (said, thought, pending)


def test_a_character_that_the_beginning_ends_within_is_shown_whole() -> None:
    with loaded("ab") as ensemble:
        pieces = [b" sees", "日本".encode()[:1]]
        rest = ensemble.generate("the cat", begin=pieces, max_new_tokens=4, trace=True)
        written = b"".join(step.piece or b"" for step in rest.steps or ())
        assert rest.data == pieces[1] + written
        stream = ensemble.stream("the cat", begin=pieces, max_new_tokens=4)
        assert "".join(stream) == rest.text


def test_stop_strings_end_with_what_is_written() -> None:
    with loaded("ab") as ensemble:
        free = ensemble.generate("the cat", begin=" sees", max_new_tokens=6)
        assert ensemble.generate("the cat", begin=" sees", stop="sees", max_new_tokens=6).text == free.text
        across = ensemble.generate("the cat", begin=" sees", stop="es" + free.text[:2], max_new_tokens=6)
        assert (across.text, across.finish_reason) == ("", "stop")
        later = ensemble.generate("the cat", begin=" sees", stop=free.text[2:4], max_new_tokens=6)
        assert later.text == free.text[:2]


def test_text_is_cut_by_the_lead_and_follows_a_prompt_as_its_text_would() -> None:
    with loaded("a") as alone:
        prompt = alone.generate("the cat sees", max_new_tokens=5)
        assert alone.generate("the cat", begin=" sees", max_new_tokens=5).text == prompt.text
    with loaded("ab") as ensemble:
        text = ensemble.generate(messages=ASK, begin=STORY[:9], max_new_tokens=5)
        lead = ensemble._engine.plan.lead
        ids = lead.speller.own_encoding(STORY[:9].encode()) or ()
        cut = [lead.speller.vocabulary.pieces[token] or b"" for token in ids]
        assert text.text == ensemble.generate(messages=ASK, begin=cut, max_new_tokens=5).text
        joined = ensemble.generate(messages=ASK, begin=STORY[:9].encode(), max_new_tokens=5)
        assert joined.text == text.text


def test_an_answer_that_is_begun_is_not_reasoned_before_and_pieces_may_be() -> None:
    with loaded("op") as ensemble:
        assert ensemble.generate(messages=ASK, begin=STORY[:9], max_new_tokens=8).reasoning is None
        inside = ensemble.generate(messages=ASK, begin=[STORY[:9]], max_new_tokens=8)
        assert inside.reasoning is not None
        with pytest.raises(PromptError, match="first words are given, and enable_thinking: true asks"):
            ensemble.generate(Prompt(messages=ASK, template_kwargs={"enable_thinking": True}), begin="x")
    with loaded("ab") as ensemble:  # which reason nothing, whatever they are told
        told = Prompt(messages=ASK, template_kwargs={"enable_thinking": True, "reasoning_effort": "high"})
        plain = ensemble.generate(messages=ASK, begin=STORY[:9], max_new_tokens=5)
        assert ensemble.generate(told, begin=STORY[:9], max_new_tokens=5).text == plain.text


def test_several_texts_and_a_beam_begin_alike() -> None:
    with loaded("ab", batch=2) as ensemble:
        ways: Any = {"temperature": 1.1, "seed": 4, "max_new_tokens": 6}
        several = ensemble.generate(messages=ASK, begin=" the cat", n=2, **ways)
        assert [each.text for each in several] == [
            ensemble.generate(messages=ASK, begin=" the cat", **(ways | {"seed": seed})).text for seed in (4, 5)
        ]
        sought = ensemble.generate(messages=ASK, begin=" the cat", sampling="beam_width:2", max_new_tokens=5)
        assert 0 < sought.usage.pieces <= 5


def test_limits_count_what_is_written() -> None:
    with loaded("ab") as ensemble:
        rest = ensemble.generate(messages=ASK, begin=" the cat", max_new_tokens=3)
        assert (rest.usage.pieces, rest.finish_reason) == (3, "length")
        plain = ensemble.generate(messages=ASK, max_new_tokens=3)
        counts = [rest.usage.prompt_tokens[name] - plain.usage.prompt_tokens[name] for name in "ab"]
        assert all(count > 0 for count in counts)


@pytest.mark.parametrize(
    ("begin", "kind", "words"),
    [
        (5, SpecError, "begin is 5"),
        ([b""], SpecError, r"begin\[0\] is .* no piece"),
        (["a", 3], SpecError, r"begin\[1\] is 3"),
        ([{"bytes": [256]}], SpecError, r"begin\[0\]"),
        ([{"bytes": [True]}], SpecError, r"begin\[0\]"),
        ([{"bytes": None}], SpecError, r"begin\[0\] is END"),
        ([{"mark": "reasoning_begins"}], SpecError, r"did you mean 'reasoning_begin'"),
        ([{"mark": ["x"]}], SpecError, r"begin\[0\] is the mark"),
        ([{"mark": "reasoning_begin"}], PromptError, "the mark reasoning_begin, which no member"),
        ("\ud800", SpecError, "lone surrogate"),
    ],
)
def test_what_is_no_beginning_is_refused(begin: Any, kind: type[Exception], words: str) -> None:
    with loaded("ab") as ensemble, pytest.raises(kind, match=words):
        ensemble.generate(messages=ASK, begin=begin, max_new_tokens=2)


def test_pieces_that_the_constraint_forbids_are_refused() -> None:
    with loaded("ab") as ensemble:
        with pytest.raises(PromptError, match="as piece 1, which the constraint does not allow"):
            ensemble.generate(messages=ASK, begin=" the", constraint={"regex": "[0-9]+"})
        bound = ensemble.generate(messages=ASK, begin="12", constraint={"regex": "[0-9]{4}"})
        assert len(bound.text) == 2
        request = Request("", Prompt(text="the cat"), score=True, begin=" x")
        with pytest.raises(SpecError, match="scored, and begin is given"):
            ensemble._engine.prepare(request)
