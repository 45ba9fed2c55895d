"""Requests that come while a member is away with its tokenizer: they begin without it, and it joins when it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from support.fakes import PROMPTS, STORY, make_fakes
from support.lost_members import METHODS, PIECES, Clock, check_plain, engine_of, lose
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.encoding_process import _read, question
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine import late_prompts
from unisono.engine.engine import Engine
from unisono.engine.group import SequenceGroup
from unisono.engine.late_prompts import LatePrompts
from unisono.engine.member import Member
from unisono.engine.request import Ended, GenerationRequest, Wrote
from unisono.engine.service import Service
from unisono.errors import MemberUnavailable, PromptError
from unisono.records import Limits


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def lose_all(engine: Engine, name: str, when: Callable[[], bool]) -> Member:
    """Let a member be away with its tokenizer."""
    member = next(each for each in engine.members if each.name == name)
    member._tokenizer_elsewhere, encode = True, member.encoder.encode

    def asked(*args: Any, **keys: Any) -> list[int]:
        if when():
            raise MemberUnavailable(name, "fake://elsewhere", "refused")
        return encode(*args, **keys)

    member.encoder.encode = asked  # type: ignore[method-assign]
    lose(engine, name, when)
    return member


def begun(engine: Engine, prompt: Prompt, method: Method | None = None, pieces: int = PIECES, **keys: Any) -> Any:
    request = GenerationRequest("", prompt, Limits(pieces), method=method, trace=True, **keys)
    return engine.begin(engine.prepare(request))


def finish(engine: Engine) -> None:
    for _ in range(400):
        if not engine.active:
            return
        for group in engine.groups:
            if ids := engine.backlog(group):
                engine.read({group: min(ids, 50)})
        engine.step()
    raise AssertionError("the texts do not end")


@pytest.mark.parametrize("longest", [None, 6])
@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
def test_texts_begin_without_it_and_it_joins_them(
    method: Method, longest: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatePrompts.join, "__defaults__", (20.0,))  # a busy machine may take longer than texts
    for name in ("a", "b"):
        make_fakes()
        clock = Clock()
        engine = engine_of(("a", "b"), clock, longest_block=longest)
        lose_all(engine, name, lambda clock=clock: clock.now < 1)  # type: ignore[misc]
        groups = [begun(engine, prompt, method) for prompt in PROMPTS]
        for _ in range(3):
            engine.step()
        clock.now = 100.0
        finish(engine)
        absences = set()
        for prompt, group in zip(PROMPTS, groups, strict=True):
            generation = group.sequences[0].generation()
            check_plain(engine, prompt, method, generation)
            absences |= {step.absent for step in generation.steps or ()}
            if name in (generation.steps or ())[-1].voted:
                assert generation.usage.prompt_tokens.keys() == {"a", "b", "c"}
        assert absences == {(name,), ()}


def test_copies_and_beams_share_a_late_prompt() -> None:
    clock = Clock()
    engine = engine_of(("b",), clock)
    asked: list[int] = []
    member = lose_all(engine, "b", lambda: clock.now < 1)
    encode = member.encoder.encode
    member.encoder.encode = lambda *args, **keys: asked.append(1) or encode(*args, **keys)  # type: ignore[method-assign,func-returns-value]
    several = begun(engine, PROMPTS[0], n=3)
    engine.step()
    clock.now = 100.0
    asked.clear()
    finish(engine)
    assert asked == [1]
    for text in several.sequences:
        check_plain(engine, PROMPTS[0], Method(), text.generation())
    clock.now, member.breaker._error = 0.0, None
    beam = begun(engine, PROMPTS[0], Method().but(draw="beam_width:2"))
    engine.step()
    clock.now = 200.0
    finish(engine)
    [generation] = [text.generation() for text in beam.sequences]
    assert 0 < generation.usage.degraded["b"] < len(generation.steps)


def test_nobody_asks_a_tokenizer_that_is_known_to_be_away() -> None:
    engine, asked = engine_of(("b",), Clock()), list[int]()
    lose_all(engine, "b", lambda: not asked.append(1))
    first = begun(engine, PROMPTS[0])
    engine.step()
    assert len(asked) == 2  # when it was prepared, and by the first step
    begun(engine, PROMPTS[1])
    finish(engine)
    assert len(asked) == 2
    assert first.sequences[0].generation().usage.prompt_tokens.keys() == {"a", "c"}


def test_no_step_waits_long_for_a_tokenizer_that_does_not_answer() -> None:
    clock, engine = Clock(), engine_of(("b",), clock := Clock())
    member = lose_all(engine, "b", lambda: clock.now < 1)
    group = begun(engine, PROMPTS[0], pieces=200)
    engine.step()
    clock.now, answers, encode = 100.0, threading.Event(), member.encoder.encode

    def hang(*args: Any, **keys: Any) -> list[int]:
        answers.wait(30)
        return encode(*args, **keys)

    member.encoder.encode = hang  # type: ignore[method-assign]
    began = time.monotonic()
    for _ in range(5):
        engine.step()
    assert time.monotonic() - began < 10
    assert group.sequences[0].pieces == 6
    answers.set()
    finish(engine)
    check_plain(engine, PROMPTS[0], Method(), group.sequences[0].generation())
    engine.close()


def test_a_prompt_that_the_member_turns_out_not_to_read_leaves_the_text_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    engine = engine_of(("b",), clock)
    member = lose_all(engine, "b", lambda: clock.now < 1)
    texts: list[SequenceGroup] = [begun(engine, prompt) for prompt in PROMPTS[:2]]
    engine.step()

    def refuse(*args: Any, **keys: Any) -> list[int]:
        raise PromptError("member 'b' cannot represent the prompt")

    clock.now, member.encoder.encode = 100.0, refuse  # type: ignore[method-assign]
    finish(engine)
    for text in texts:
        [generation] = [each.generation() for each in text.sequences]
        assert {step.absent for step in generation.steps or ()} == {("b",)}
    assert sum("goes on without member 'b' to its end: member 'b' cannot" in line for line in caplog.messages) == 2


@pytest.mark.parametrize(
    ("degrading", "request_keys"),
    [((), {}), (("b",), {"score": True}), (("b",), {"combine": "mean weights:perplexity"})],
)
def test_what_needs_all_members_fails_by_name(degrading: Sequence[str], request_keys: dict[str, Any]) -> None:
    engine = engine_of(degrading, Clock())
    lose_all(engine, "b", lambda: True)
    with pytest.raises(MemberUnavailable, match=r"'b' at fake://elsewhere .* refused"):
        begun(engine, PROMPTS[0], **request_keys)


def test_a_text_waits_for_a_late_prompt_where_nobody_else_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_prompts, "PATIENCE", 0.0)
    clock = Clock()
    engine = engine_of(("a", "b"), clock, names=("a", "b"), weights=(1, 1), longest_block=10)
    member = lose_all(engine, "b", lambda: clock.now < 1)
    lose(engine, "a", lambda: clock.now >= 1)
    prompt = Prompt(text=STORY + STORY[:20])
    service = Service({"all": engine}, chunk=10)
    request = service.submit(service.prepare(GenerationRequest("", prompt, Limits(6), model="all", trace=True)))
    events = service.step()
    while not any(isinstance(event, Wrote) for event in events):
        events = service.step()
    clock.now, encode = 1.0, member.encoder.encode

    def slowly(*args: Any, **keys: Any) -> list[int]:
        time.sleep(0.1)
        return encode(*args, **keys)

    member.encoder.encode = slowly  # type: ignore[method-assign]
    while service.busy:
        events += service.step()
    [generation] = [event.generation for event in events if isinstance(event, Ended)]
    check_plain(engine, prompt, Method(), generation)
    assert [step.absent for step in generation.steps or ()] == [("b",), *[("a",)] * 5]
    assert not service.has(request)


def test_all_members_away_is_an_error_by_name() -> None:
    engine = engine_of(("a", "b"), Clock(), names=("a", "b"), weights=(1, 1))
    for name in ("a", "b"):
        lose_all(engine, name, lambda: True)
    with pytest.raises(MemberUnavailable, match="'a'"):
        begun(engine, PROMPTS[0])


def test_the_process_for_long_prompts_says_who_is_away() -> None:
    class Away:
        def encode_text(self, text: str) -> list[int]:
            raise MemberUnavailable("b", "http://there", "refused", retry_after=2.0)

    outcome: list[dict[str, object]] = []
    asked = question((3, 0), "a text", off=False, may_be_empty=False, most=None)
    _read({3: [Away()]}, asked, outcome)  # type: ignore[list-item]
    assert outcome == [{"away": ["b", "http://there", "refused", 2.0]}]
