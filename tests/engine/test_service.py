"""Requests of many, served at once: each gets what it would get alone, whatever becomes of the others."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.demo import written
from support.fakes import LONG, PROMPTS, STORY, fail, make_fakes
from support.fakes import chunked_engine_of as engine_of
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.prefix_cache import PrefixCache
from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.request import Ended, Event, Failed, GenerationRequest, Wrote
from unisono.engine.scheduler import RequestId
from unisono.engine.service import Service
from unisono.errors import PromptError, QueueFull, RequestTimeout, SpecError
from unisono.loaded_models import load_engine
from unisono.records import Generation, Limits

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def service_of(
    names: Sequence[str] = ("a", "b"), slots: int = 4, longest_block: int = 4, store: bool = False, **keys: Any
) -> tuple[Service, Engine]:
    engine = engine_of(names, longest_block, batch=slots)
    if store:
        for member in engine.members:
            member.backend = member.prefixes = PrefixCache(member.backend, shortest=3)
    return Service({"all": engine}, **keys), engine


def ask(
    service: Service, prompt: Prompt, limits: Limits | None = None, timeout: float | None = None, **keys: Any
) -> RequestId:
    """Prepare and submit."""
    request = GenerationRequest("", prompt, limits or Limits(), model="all", **keys)
    return service.submit(service.prepare(request), timeout=timeout)


def finish(service: Service) -> dict[RequestId, list[Event]]:
    """Take turns until nothing is left to do."""
    events: dict[RequestId, list[Event]] = defaultdict(list)
    while service.busy:
        for event in service.step():
            events[event.request_id].append(event)
    return events


def generations(events: Sequence[Event]) -> list[Generation]:
    """What became of a request's texts, in order, each checked against what was told of it on the way."""
    ended = {event.index: event.generation for event in events if isinstance(event, Ended)}
    for index, generation in ended.items():
        told = [event for event in events if isinstance(event, Wrote) and event.index == index]
        assert "".join(event.text for event in told) == generation.text
        assert tuple(step for event in told for step in event.steps) == (generation.steps or ())
        assert not any(isinstance(event, Failed) for event in events)
    return [ended[index] for index in sorted(ended)]


ALONE: dict[str, bytes] = {}


def alone(names: Sequence[str], prompt: Prompt, pieces: int, method: Method) -> bytes:
    """What a request writes that nobody shares the engine with."""
    key = repr((names, prompt, pieces, method))
    if key not in ALONE:
        passes = {name: list(FAKE_MODELS[name].passes) for name in names}
        [text] = written(engine_of(names), [prompt], pieces, 1, method)
        ALONE[key] = text.generation().data
        for name in names:
            FAKE_MODELS[name].passes[:] = passes[name]
    return ALONE[key]


def check_all_is_free(service: Service, engine: Engine) -> None:
    assert (service.busy, service.waiting, service.served) == (False, 0, 0)
    assert engine.active == []
    for member in engine.members:
        slots = [member.backend.open() for _ in range(engine.slots)]
        assert len(set(slots)) == engine.slots
        for slot in slots:
            member.backend.close(slot)


METHODS = [
    Method(),
    Method().but(gate="confidence:0.6", speculate="b:2"),
    Method(lead="c").but(gate="every:4"),
    Method().but(gate="first:0"),
    Method().but(speculate="ngram"),
    Method().but(draw="0.9 seed:11", gate="margin:0.5"),
    Method().but(draw={"one_member": True, "seed": 4}),
    Method().but(combine={"rule": "mean", "weights": "perplexity"}),
    Method().but(draw="beam_width:2", gate="every:3"),
]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_many_requests_joining_and_leaving_at_random_get_what_each_gets_alone(data: st.DataObject) -> None:
    make_fakes()
    service, engine = service_of(
        NAMES,
        data.draw(st.integers(2, 4)),
        data.draw(st.integers(1, 20)),
        data.draw(st.booleans()),
        chunk=data.draw(st.integers(1, 60)),
    )
    asked: dict[RequestId, tuple[Prompt, int, Method, int]] = {}
    cancelled: set[RequestId] = set()
    events: dict[RequestId, list[Event]] = defaultdict(list)
    for _ in range(data.draw(st.integers(2, 8))):
        prompt = data.draw(st.sampled_from([*PROMPTS, LONG, Prompt(text=STORY + "and")]))
        pieces, method = data.draw(st.integers(1, 10)), data.draw(st.sampled_from(METHODS))
        n = 2 if method.draw.beam_width == 1 and data.draw(st.integers(0, 3)) == 0 else 1
        asked[ask(service, prompt, Limits(pieces), method=method, n=n, trace=True)] = prompt, pieces, method, n
        for _ in range(data.draw(st.integers(0, 5))):
            for event in service.step():
                events[event.request_id].append(event)
        if data.draw(st.integers(0, 4)) == 0:
            ticket = data.draw(st.sampled_from(sorted(asked)))
            service.cancel(ticket)
            cancelled.add(ticket)
    for ticket, more in finish(service).items():
        events[ticket] += more
    for ticket, (prompt, pieces, method, n) in asked.items():
        found = generations(events[ticket])
        if ticket in cancelled and len(found) < n:
            continue
        assert len(found) == n
        for index, generation in enumerate(found):
            seed = None if method.draw.seed is None else method.draw.seed + index
            seeded = replace(method, sampling=replace(method.sampling, seed=seed))
            assert generation.data == alone(NAMES, prompt, pieces, seeded)
    check_all_is_free(service, engine)


@pytest.mark.parametrize("method", METHODS)
def test_steps_encode_no_prompt_which_may_take_long(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    service, _ = service_of(NAMES, 4, 20)
    asked = [ask(service, PROMPTS[0], Limits(3), method=method, score=score) for score in (False, True)]

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a prompt is encoded in the engine's thread")

    for name in ("encode", "encode_text", "encode_messages", "spell_text"):
        monkeypatch.setattr(PromptEncoder, name, refuse)
    events = finish(service)
    assert all(generations(events[ticket]) for ticket in asked)


def test_a_cancelled_request_frees_everything_at_once_wherever_it_is() -> None:
    service, engine = service_of(slots=3, chunk=5)
    reading = ask(service, LONG, n=2, method=Method().but(draw="1 seed:1"))
    writing = ask(service, PROMPTS[0], Limits(50))
    waiting = ask(service, PROMPTS[1])
    service.step()
    service.step()
    assert (service.served, service.waiting, engine.free) == (2, 1, 0)
    service.cancel(reading)
    service.cancel(reading)
    assert engine.free == 2
    service.cancel(writing)
    assert engine.free == 3
    service.cancel(waiting)
    assert service.step() == []
    check_all_is_free(service, engine)


def test_others_are_written_while_a_long_prompt_is_read() -> None:
    service, _ = service_of(chunk=8)
    short = ask(service, PROMPTS[0], Limits(60))
    service.step()
    service.step()
    long = ask(service, LONG, Limits(3))
    turns = [[type(event) for event in service.step() if event.request_id == long] for _ in range(20)]
    assert not any(turns), "it takes more than 20 turns to read it"
    before = [event for event in finish(service)[short] if isinstance(event, Ended)]
    assert before[0].generation.usage.pieces == 60


def test_a_gate_that_opens_for_one_who_lags_far_holds_only_its_own_text_back() -> None:
    service, engine = service_of(chunk=6)
    gated = ask(service, LONG, Limits(30), method=Method().but(gate="every:10"))
    plain = ask(service, PROMPTS[0], Limits(60))
    events = finish(service)
    assert generations(events[gated])[0].data == alone(("a", "b"), LONG, 30, Method().but(gate="every:10"))
    assert generations(events[plain])[0].data == alone(("a", "b"), PROMPTS[0], 60, Method())
    longest = max(len(feed.ids) for step in FAKE_MODELS["b"].passes[:80] for feed in step.feeds)
    assert longest <= 16
    check_all_is_free(service, engine)


def test_time_runs_out_for_those_who_wait_and_for_those_who_are_served() -> None:
    now = itertools.count()
    service, engine = service_of(slots=1, clock=lambda: float(next(now)))
    served = ask(service, PROMPTS[0], Limits(100), timeout=9)
    waiting = ask(service, PROMPTS[1], timeout=4)
    patient = ask(service, PROMPTS[2], Limits(2), timeout=100)
    events = finish(service)
    for ticket in (served, waiting):
        assert isinstance(events[ticket][-1], Failed)
        assert isinstance(events[ticket][-1].error, RequestTimeout)
    assert len(events[waiting]) == 1
    assert len(events[served]) > 1
    assert generations(events[patient])[0].usage.pieces == 2
    check_all_is_free(service, engine)


def test_impossible_requests_are_refused_before_they_wait() -> None:
    service, engine = service_of(slots=2, queue=1)
    for keys, message in (
        ({"n": 0}, "n is 0"),
        ({"n": 3}, "slots for 3 texts, and there are slots for 2"),
        ({"n": 2, "method": Method().but(draw="beam_width:2")}, "a beam seeks one text"),
        ({"method": Method().but(draw="beam_width:3")}, "beam_width is 3"),
        ({"method": Method(lead="nobody")}, "nobody"),
    ):
        with pytest.raises(SpecError, match=message):
            ask(service, PROMPTS[0], **keys)  # type: ignore[arg-type]
    with pytest.raises(PromptError):
        ask(service, Prompt(text="x" * 10_000))
    for _ in range(3):
        ask(service, PROMPTS[0], Limits(1))
    with pytest.raises(QueueFull):
        ask(service, PROMPTS[0])
    assert len(finish(service)) == 3
    check_all_is_free(service, engine)


@pytest.mark.parametrize("store", [False, True])
def test_a_failure_that_does_not_come_again_is_noticed_by_nobody(store: bool) -> None:
    service, engine = service_of(chunk=10, store=store)
    calls = itertools.count()
    fail(engine, "b", lambda _: next(calls) % 7 == 3)
    prompts = [LONG, *PROMPTS[:5]]
    tickets = [ask(service, prompt, Limits(12)) for prompt in prompts]
    events = finish(service)
    for ticket, prompt in zip(tickets, prompts, strict=True):
        assert generations(events[ticket])[0].data == alone(("a", "b"), prompt, 12, Method())
    check_all_is_free(service, engine)


def test_a_text_that_a_member_cannot_read_fails_alone() -> None:
    service, engine = service_of(chunk=10)
    poison = engine.members[1].encoder.encode(Prompt(text="日"))[-1]
    fail(engine, "b", lambda feeds: any(poison in feed.ids for feed in feeds))
    bad = [ask(service, Prompt(text=text), Limits(8)) for text in ("日", STORY + "日" + STORY)]
    led = ask(service, Prompt(text="日"), Limits(8), method=Method().but(gate="first:0"))
    prompt = Prompt(text="cats and dogs")
    good = ask(service, prompt, Limits(1))
    events = finish(service)
    for ticket in bad:
        [event] = events[ticket]
        assert isinstance(event, Failed)
        assert str(event.error) == "out of memory"
        assert "member 'b'" in event.error.__notes__[0]
    assert generations(events[led])[0].data == alone(("a", "b"), Prompt(text="日"), 8, Method().but(gate="first:0"))
    assert generations(events[good])[0].data == alone(("a", "b"), prompt, 1, Method())
    check_all_is_free(service, engine)


def test_a_member_that_is_gone_fails_those_who_ask_it_and_nobody_else() -> None:
    service, engine = service_of(chunk=1000)
    fail(engine, "b", lambda _: True)
    asking = [ask(service, prompt, Limits(5), n=2) for prompt in PROMPTS[:3]]
    led = ask(service, LONG, Limits(5), method=Method().but(gate="first:0"))
    events = finish(service)
    assert all(isinstance(events[ticket][-1], Failed) and len(events[ticket]) == 1 for ticket in asking)
    assert len(generations(events[led])) == 1
    check_all_is_free(service, engine)


def fail_to_open_once(engine: Engine) -> None:
    """Let the second member refuse the next slot."""
    backend = engine.members[1].backend
    backend_open = backend.open

    def failing(copy_of: Any = None) -> Any:
        backend.open = backend_open  # type: ignore[method-assign]
        raise RuntimeError("no room")

    backend.open = failing  # type: ignore[method-assign]


def test_a_slot_that_cannot_be_opened_fails_its_own_request() -> None:
    service, engine = service_of()
    fail_to_open_once(engine)
    first, second = ask(service, PROMPTS[0], Limits(3)), ask(service, PROMPTS[1], Limits(3))
    events = finish(service)
    assert isinstance(events[first][0], Failed)
    assert len(generations(events[second])) == 1
    check_all_is_free(service, engine)


def test_a_request_that_begins_at_once_and_cannot_raises_why() -> None:
    service, engine = service_of()
    fail_to_open_once(engine)
    prepared = service.prepare(GenerationRequest("", PROMPTS[0], Limits(3), model="all"))
    with pytest.raises(RuntimeError, match="no room"):
        service.start(prepared)
    check_all_is_free(service, engine)
    again = service.start(prepared)
    assert len(generations(finish(service)[again])) == 1


def test_memory_is_never_exceeded_not_even_by_what_is_kept() -> None:
    engine = engine_of(("a", "b"), 4, batch=4)
    for member in engine.members:
        member.backend = member.prefixes = PrefixCache(member.backend, shortest=3)
    bound = dict(zip((member.model for member in engine.members), (260, 300), strict=True))
    service = Service({"all": engine}, memory=bound, chunk=30)
    prompts = [*PROMPTS, LONG, *PROMPTS, LONG]
    tickets = [ask(service, prompt, Limits(2), n=1 + (index % 3 == 0)) for index, prompt in enumerate(prompts)]
    ended = []
    while service.busy:
        ended += [event.request_id for event in service.step() if isinstance(event, Ended)]
        for member in engine.members:
            store = member.backend
            assert isinstance(store, PrefixCache)
            held = sum(len(store._backend.read(slot)) for slot in (*store._open, *store._kept))  # type: ignore[attr-defined]
            assert held <= bound[member.model]
    assert set(ended) == set(tickets)
    check_all_is_free(service, engine)


def test_an_engine_to_be_served_comes_from_a_file() -> None:
    spec = {"members": [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]}
    engine = load_engine(prepare(load_spec(spec), batch=3), longest_block=8, keep_prefixes=True)
    with engine:
        service = Service({"all": engine})
        for _ in range(2):
            ticket = ask(service, LONG, Limits(3))
            assert generations(finish(service)[ticket])[0].data == alone(("a", "b"), LONG, 3, Method())
        assert all(member.backend.reused == len(member.encoder.encode(LONG)) - 1 for member in engine.members)  # type: ignore[attr-defined]


def test_closing_gives_all_requests_up_and_unloads_all_even_if_a_member_fails_at_it() -> None:
    for unload in (False, True):
        service, engine = service_of()
        for prompt in PROMPTS[:3]:
            ask(service, prompt)
        service.step()
        broken = engine.members[0].backend
        close, calls = broken.close, itertools.count()
        unloaded: list[str] = []
        for member in engine.members:
            member.backend.unload = functools.partial(unloaded.append, member.name)  # type: ignore[method-assign]

        def failing(slot: Any, close: Any = close, calls: Any = calls) -> None:
            close(slot)
            if next(calls) == 0:
                raise RuntimeError("out of memory")

        broken.close = failing  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="out of memory"):
            service.unload() if unload else service.close()
        assert sorted(unloaded) == (["a", "b"] if unload else [])
        check_all_is_free(service, engine)


def test_unloading_frees_the_slots_of_all_engines_before_it_unloads_a_model_they_share() -> None:
    first = engine_of(("a", "b"), 4, batch=4)
    second = Engine(first.members, first.union)
    service = Service({"first": first, "second": second})
    for engine in (first, second):
        engine.add(PROMPTS[0])  # not a request of the service, which gives up its own before
        engine.step()
    service.unload()
    assert first.groups == second.groups == []
    service.unload()


def test_closing_gives_all_requests_up() -> None:
    service, engine = service_of(slots=2)
    for prompt in PROMPTS[:4]:
        ask(service, prompt)
    service.step()
    service.close()
    service.close()
    assert service.step() == []
    check_all_is_free(service, engine)
