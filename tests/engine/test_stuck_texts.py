"""Grammars that only a lost member can satisfy: the text fails by name, or waits; and gates open for who can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from support.fakes import PROMPTS, STORY, make_fakes
from support.lost_members import Clock, engine_of, lose
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.group import SequenceGroup
from unisono.engine.reference import plain_steps
from unisono.engine.request import Failed, GenerationRequest
from unisono.engine.service import Service
from unisono.engine.voting import Voting
from unisono.errors import MemberUnavailable
from unisono.fusion.logits_processors import Allowed
from unisono.records import Limits
from unisono.testing import Truncation
from unisono.vocab.union import UnionVocabulary


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


class Only:
    """A grammar that allows anything, and at one place one of some pieces alone."""

    by_seams = False

    def __init__(self, union: UnionVocabulary, place: int, pieces: Sequence[bytes], written: int = 0) -> None:
        self._union, self._place, self._pieces, self._written = union, place, pieces, written

    def allowed(self, ahead: Sequence[int]) -> Allowed:
        columns = list(self._union.columns(self._pieces).values())
        allowed_U = np.ones(self._union.size, bool)
        if self._written + len(ahead) == self._place:
            allowed_U[:] = False
            allowed_U[columns] = True
        return allowed_U

    def settle(self, column: int) -> int:
        return column

    def consume(self, column: int) -> None:
        self._written += 1

    def copy(self) -> Only:
        return Only(self._union, self._place, self._pieces, self._written)


PIECES_OF_B = (b" dog", b" sees", b"fia")
LIMIT = Limits(7, min_new_tokens=0)


def begun(engine: Engine, method: Method, place: int = 3, prompt: Prompt = PROMPTS[0], n: int = 1) -> SequenceGroup:
    request = GenerationRequest("", prompt, LIMIT, method=method, trace=True, n=n)
    parse = Only(engine.union, place, PIECES_OF_B)
    return engine.begin(replace(engine.prepare(request), parse=parse))  # type: ignore[arg-type]


def finish(engine: Engine) -> None:
    for _ in range(60):
        if not engine.active:
            return
        for group in engine.groups:
            if ids := engine.backlog(group):
                engine.read({group: ids})
        engine.step()
    raise AssertionError("the texts do not end")


METHODS = (
    Method(),
    Method().but(speculate="a:3"),
    Method().but(draw="1 seed:3"),
    Method().but(draw="beam_width:2"),
    Method().but(combine="geometric"),
    Method(lead="a").but(gate="first:1"),
    Method(lead="a").but(gate="first:1 boundary", speculate="a:3"),
)


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
def test_what_only_a_lost_member_can_write_is_an_error_by_its_name(method: Method) -> None:
    engine = engine_of(("b",), Clock())
    lose(engine, "b", lambda: True)
    group = begun(engine, method)
    with pytest.raises(MemberUnavailable, match=r"'b' .* nobody else gives any mass to what the text has to be"):
        finish(engine)
    pieces = [step.piece for text in group.sequences for step in text.steps or ()]
    assert len(pieces) == (0 if method.sampling.beam_width > 1 else 3)


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
def test_it_is_written_when_the_member_is_back(method: Method) -> None:
    clock = Clock()
    engine = engine_of(("b",), clock)
    lose(engine, "b", lambda: clock.now < 1)
    group = begun(engine, method)
    for _ in range(2):
        engine.step()
    clock.now = 100.0
    finish(engine)
    [text] = [text.generation() for text in group.sequences]
    assert (text.steps or ())[3].piece in PIECES_OF_B
    assert not (text.steps or ())[3].absent


def test_the_text_of_a_request_that_fails_leaves_the_others_alone() -> None:
    engine = engine_of(("b",), Clock())
    lose(engine, "b", lambda: True)
    service = Service({"all": engine})
    request = GenerationRequest("", PROMPTS[0], LIMIT, model="all", trace=True)
    prepared = service.prepare(request)
    stuck = service.submit(replace(prepared, parse=Only(engine.union, 3, PIECES_OF_B)))  # type: ignore[arg-type]
    free = service.submit(service.prepare(replace_id(request)))
    events = []
    while service.busy:
        events += service.step()
    assert [event.request_id for event in events if isinstance(event, Failed)] == [stuck]
    assert free not in {event.request_id for event in events if isinstance(event, Failed)}
    assert engine.free == engine.slots


def replace_id(request: GenerationRequest) -> GenerationRequest:
    return GenerationRequest("other", request.prompt, request.limits, model=request.model, trace=True)


def test_a_text_waits_for_a_member_that_is_catching_up() -> None:
    clock = Clock()
    engine = engine_of(("b",), clock, longest_block=10)
    lose(engine, "b", lambda: clock.now < 1)
    prompt = Prompt(text=STORY + STORY[:20])
    group = begun(engine, Method(), prompt=prompt)
    while engine.backlog(group):
        engine.read({group: 1000})
    engine.step()
    clock.now = 100.0
    finish(engine)
    [text] = [text.generation() for text in group.sequences]
    assert (text.steps or ())[3].piece in PIECES_OF_B
    absent = [step.absent for step in text.steps or ()]
    assert absent == [("b",)] * 3 + [()] * 4


@pytest.mark.parametrize("top", [None, Truncation(3, 300, 300)])
@pytest.mark.parametrize("gate", ["first:1", "every:50 boundary", "confidence:0.01"])
def test_a_gate_opens_where_its_lead_can_write_nothing_that_is_allowed(gate: str, top: Truncation | None) -> None:
    FAKE_MODELS["a"].top = top
    engine, method = engine_of((), Clock()), Method(lead="a").but(gate=gate)
    group = begun(engine, method)
    finish(engine)
    [text] = [text.generation() for text in group.sequences]
    steps = text.steps or ()
    assert steps[3].piece in PIECES_OF_B
    assert steps[3].voted == ("a", "b", "c")
    FAKE_MODELS["a"].top = None
    free = engine_of()
    parse = Only(free.union, 3, PIECES_OF_B)
    plain = list(plain_steps(free.members, free.union, PROMPTS[0], len(steps), method, parse=parse))  # type: ignore[arg-type]
    if top is None:
        assert [step.piece for step in steps] == [step.piece for step in plain]


def test_where_somebody_can_write_it_nobody_is_waited_for() -> None:
    engine = engine_of(("c",), Clock())
    lose(engine, "c", lambda: True)
    begun(engine, Method())
    finish(engine)


@pytest.mark.parametrize("top", [6, Truncation(3, 300, 300)])
def test_a_certificate_of_nothing_writes_nothing(top: int | Truncation) -> None:
    """Who is there tells its likeliest ids only, and nothing of what is allowed."""
    FAKE_MODELS["a"].top = FAKE_MODELS["c"].top = top
    engine = engine_of(("b",), Clock())
    lose(engine, "b", lambda: True)
    begun(engine, Method())
    with pytest.raises(MemberUnavailable, match="nobody else gives any mass"):
        finish(engine)


@pytest.mark.parametrize("speculate", ["off", "a:3", "ngram:3"])
@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_draws_another_member_where_one_can_write_nothing_that_is_allowed(seed: int, speculate: str) -> None:
    engine, method = engine_of((), Clock()), Method().but(draw=f"mixture seed:{seed}", speculate=speculate)
    group = begun(engine, method)
    finish(engine)
    [text] = [text.generation() for text in group.sequences]
    steps = text.steps or ()
    assert steps[3].piece in PIECES_OF_B
    assert steps[3].voted == ("b",)
    parse = Only(engine.union, 3, PIECES_OF_B)
    plain = list(plain_steps(engine_of().members, engine.union, PROMPTS[0], len(steps), method, parse=parse))  # type: ignore[arg-type]
    assert [(step.piece, step.voted) for step in steps] == [(step.piece, step.voted) for step in plain]


def test_a_mixture_waits_for_a_lost_member_only_where_nobody_there_can_write_what_is_allowed() -> None:
    engine = engine_of(("b",), Clock())
    lose(engine, "b", lambda: True)
    begun(engine, Method().but(draw="mixture seed:1"))
    with pytest.raises(MemberUnavailable, match="nobody else gives any mass"):
        finish(engine)


@pytest.mark.parametrize("blind", ["a", "b", "c"])
def test_a_mixture_draws_by_weight_among_those_who_can(blind: str) -> None:
    """Of three equal members one can write nothing that is allowed: the other two are drawn as often."""
    engine = engine_of((), Clock(), weights=(1, 1, 1))
    text = engine.add(PROMPTS[0], LIMIT, method=Method().but(draw="mixture"))
    drawn = Counter[str]()
    for text.seed in range(600):
        text.blind = frozenset()
        [member] = Voting(text, tuple(engine.members)).voters(0)
        if member.name == blind:
            text.blind = frozenset({blind})
            [member] = Voting(text, tuple(engine.members)).voters(0)
        drawn[member.name] += 1
    assert blind not in drawn
    assert min(drawn.values()) > 240  # 300 are to be expected: 5 standard deviations


@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_whose_last_able_member_is_lost_says_so(seed: int) -> None:
    engine = engine_of(("b",), Clock(), weights=(1, 1, 1))
    group = begun(engine, Method().but(draw=f"mixture seed:{seed}"))
    [text] = group.sequences
    lose(engine, "b", lambda: text.pieces == 3)
    with pytest.raises(MemberUnavailable, match="nobody else gives any mass"):
        finish(engine)
    assert text.pieces == 3
