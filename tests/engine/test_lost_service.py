"""Requests of many while a member dies and returns: none is lost, none is wrong, none waits for a time-out twice."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import pytest

from support.fakes import PROMPTS, STORY, make_fakes
from support.lost_members import METHODS, Clock, check_plain, engine_of, lose
from support.reasoners import ASK, PLAIN, THINKER, make_reasoners
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.lost_members import health
from unisono.engine.request import Ended, Event, Failed, GenerationRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.ensemble import Ensemble
from unisono.errors import MemberUnavailable
from unisono.records import Generation, Limits


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def ask(service: Service, prompt: Prompt, method: Method | None = None, pieces: int = 8) -> RequestId:
    request = GenerationRequest("", prompt, Limits(pieces), model="all", method=method, trace=True)
    return service.submit(service.prepare(request))


def finish(service: Service) -> dict[RequestId, list[Event]]:
    events: dict[RequestId, list[Event]] = defaultdict(list)
    while service.busy:
        for event in service.step():
            events[event.request_id].append(event)
    return events


def test_500_requests_with_a_member_that_dies_and_returns() -> None:
    """They join at random, by every method; each that is cancelled leaves, and every other one ends, and is right."""
    clock, dice = Clock(), random.Random(5)
    engine = engine_of(("b", "c"), clock, longest_block=12)
    lose(engine, "b", lambda: clock.now % 40 > 25)
    lose(engine, "c", lambda: clock.now % 70 > 60)
    service = Service({"all": engine}, chunk=40, queue=500)
    asked: dict[RequestId, tuple[Prompt, Method]] = {}
    ended: dict[RequestId, Generation] = {}
    prompts = [*PROMPTS, Prompt(text=STORY + "and"), Prompt(text=STORY + STORY[:30])]
    cancelled = set()
    while len(asked) < 500 or service.busy:
        for _ in range(dice.choice((0, 0, 0, 1, 3)) if len(asked) < 500 else 0):
            prompt, method = dice.choice(prompts), dice.choice(METHODS)
            asked[ask(service, prompt, method, dice.randint(1, 9))] = prompt, method
        if dice.random() < 0.02 and (running := sorted(asked.keys() - ended.keys() - cancelled)):
            cancelled.add(running[0])
            service.cancel(running[0])
        for event in service.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Ended):
                ended[event.request_id] = event.generation
        clock.now += 0.25
    assert ended.keys() == asked.keys() - cancelled
    assert engine.free == engine.slots
    degraded = {key: generation for key, generation in ended.items() if generation.usage.degraded}
    assert len(ended) - 50 > len(degraded) > 50
    for key in [*list(degraded)[::6], *list(ended)[::12]]:
        check_plain(engine, *asked[key], ended[key])


def test_requests_that_fail_together_are_not_each_tried_for_a_whole_time_out() -> None:
    clock = Clock()
    engine = engine_of((), clock)
    tried: list[int] = []

    def hang(feeds: object) -> str | None:
        tried.append(1)
        clock.now += 30.0
        return "no answer in 30 s"

    FAKE_MODELS["b"].away = hang
    service = Service({"all": engine})
    requests = [ask(service, prompt) for prompt in PROMPTS]
    for events in finish(service).values():
        [failed] = events
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, MemberUnavailable)
        assert (failed.error.member, failed.error.address) == ("b", "fake://elsewhere")
        assert failed.error.reason == "no answer in 30 s"
    assert (len(requests), tried) == (8, [1])
    later = ask(service, PROMPTS[0])
    [failed] = finish(service)[later]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, MemberUnavailable)
    assert failed.error.retry_after == pytest.approx(270.0)
    assert tried == [1]
    FAKE_MODELS["b"].away = None
    clock.now += 270.0
    back = ask(service, PROMPTS[0])
    assert isinstance(finish(service)[back][-1], Ended)
    assert engine.free == engine.slots


def test_texts_that_need_nobody_who_is_away_do_not_notice() -> None:
    engine = engine_of((), Clock())
    lose(engine, "b", lambda: True)
    service = Service({"all": engine})
    alone, together = ask(service, PROMPTS[0], Method().but(gate="first:0")), ask(service, PROMPTS[1])
    events = finish(service)
    assert isinstance(events[alone][-1], Ended)
    assert isinstance(events[together][-1], Failed)


def test_several_texts_of_a_prompt_and_a_prompt_read_ahead_begin_without_a_lost_member() -> None:
    clock = Clock()
    engine = engine_of(("b",), clock, longest_block=6)
    lose(engine, "b", lambda: clock.now < 1)
    service = Service({"all": engine}, chunk=7)
    several = GenerationRequest("", Prompt(text=STORY), Limits(6), model="all", n=3, trace=True)
    first = service.start(service.prepare(several))
    service.prefill(first)
    assert health(next(each for each in engine.members if each.name == "b"), engine.groups).state == "away"
    beam = ask(service, Prompt(text=STORY), Method().but(draw="beam_width:2"))
    events = finish(service)
    texts = [event.generation for key in (first, beam) for event in events[key] if isinstance(event, Ended)]
    assert len(texts) == 4
    assert all(text.usage.degraded for text in texts)


def test_a_member_that_is_back_is_caught_up_with_and_says_so() -> None:
    clock = Clock()
    engine: Engine = engine_of(("b",), clock, longest_block=10)
    lose(engine, "b", lambda: clock.now < 1)
    member = next(each for each in engine.members if each.name == "b")
    service = Service({"all": engine})
    request = ask(service, Prompt(text=STORY + STORY[:20]), pieces=30)
    states = []
    while service.busy:
        service.step()
        states.append(health(member, engine.groups).state)
        clock.now += 0.4
    assert list(dict.fromkeys(states)) == ["away", "catching up", "ready"]
    assert not service.has(request)
    assert health(member, engine.groups).losses == 1


def test_who_interrupts_a_step_while_a_member_is_away_leaves_nothing_behind() -> None:
    clock = Clock()
    engine = engine_of(("b",), clock)
    lose(engine, "b", lambda: True)
    text = engine.add(PROMPTS[0], Limits(8), trace=True)
    engine.step()

    def interrupt(feeds: object) -> str | None:
        raise KeyboardInterrupt

    FAKE_MODELS["c"].away = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    FAKE_MODELS["c"].away = None
    while engine.active:
        engine.step()
    check_plain(engine, PROMPTS[0], Method(), text.generation())
    assert engine.free == engine.slots


def test_a_text_waits_for_a_member_that_is_catching_up_where_nobody_else_is_left() -> None:
    clock = Clock()
    engine = engine_of(("a", "b"), clock, names=("a", "b"), weights=(1, 1), longest_block=10)
    lose(engine, "b", lambda: clock.now < 1)
    lose(engine, "a", lambda: clock.now >= 1)
    service, prompt = Service({"all": engine}, chunk=10), Prompt(text=STORY + STORY[:20])
    request, pieces = ask(service, prompt), 0
    while service.busy:
        for event in service.step():
            assert not isinstance(event, Failed), event
            pieces += len(event.steps) if isinstance(event, Wrote) else 0
            if isinstance(event, Ended):
                check_plain(engine, prompt, Method(), event.generation)
                absent = [step.absent for step in event.generation.steps or ()]
        clock.now = 1.0 if pieces >= 2 else 0.0
    assert list(dict.fromkeys(absent)) == [("b",), ("a",)]
    assert not service.has(request)


def test_reasoning_that_only_a_lost_member_can_end_is_an_error_by_its_name() -> None:
    make_reasoners()
    members = [{**THINKER, "on_failure": "degrade"}, {**PLAIN, "weight": 0.1}]
    loaded = Ensemble.load({"members": members})._engine
    engine = Engine(loaded.members, loaded.union)
    text = engine.add(Prompt(messages=ASK), Limits(30))
    while text.part != "reasoning":
        engine.step()
    FAKE_MODELS["thinker"].away = lambda feeds: "refused"
    for _ in range(2):
        with pytest.raises(MemberUnavailable, match=r"'thinker' .* nobody else can end the reasoning"):
            engine.step()
