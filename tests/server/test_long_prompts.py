"""Long prompts: short ones do not wait for them, and what they may cost is bounded."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import pytest

from support.fakes import make_fakes
from support.real_server import DUO, SAY, load_fakes, serving
from support.real_tokenizers import gguf_path
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.registry import make_loader
from unisono.chat.encoding_process import question
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.engine.service import Service
from unisono.errors import PromptError
from unisono.server.async_engine import AsyncEngine
from unisono.server.errors import Refusal
from unisono.server.helper_process import HelperProcess
from unisono.server.limits import ServerLimits
from unisono.server.long_prompts import SHORT, Line, LongPrompts
from unisono.server.pieces import pieces_json, pieces_of
from unisono.server.telemetry import Metrics
from unisono.vocab.pieces import read_vocabulary
from unisono.vocab.spelling import Speller

LONG = "the cat <|user|> sees 日本. " * 1000
CHAT = Prompt(messages=({"role": "user", "content": LONG},), template_kwargs={"a": [1, None, "é"]})


def members_of(service: Service) -> list[Any]:
    return service.engines["duo"].members


@pytest.fixture
def service() -> Service:
    make_fakes()
    return load_fakes(DUO)


@pytest.fixture
def near(service: Service) -> dict[str, PromptEncoder]:
    """The encoders that read in this process."""
    return {member.name: member.encoder for member in members_of(service)}


@pytest.fixture
def lent(service: Service, near: dict[str, PromptEncoder]) -> Any:
    prompts = LongPrompts(ServerLimits(prompt=100_000), 10**6)
    prompts.lend(service)
    yield prompts
    prompts.close()


def entered(line: Line, sizes: list[int]) -> list[int]:
    """The order in which prompts of some sizes have their turn while another one is being read."""

    async def order() -> list[int]:
        found: list[int] = []

        async def read(size: int) -> None:
            await line.enter(size, 1)
            found.append(size)
            line.leave()

        await line.enter(1, 1)
        reading = [asyncio.create_task(read(size)) for size in sizes]
        await asyncio.sleep(0)
        line.leave()
        await asyncio.gather(*reading)
        return found

    return asyncio.run(order())


def test_of_long_prompts_the_shortest_is_read_first() -> None:
    assert entered(Line(10**9, lambda: 0.0), [500_000, 20_000, 300_000]) == [20_000, 300_000, 500_000]


def test_a_long_prompt_lets_others_pass_only_for_a_time() -> None:
    hours = iter((0, 3600, 7200))
    assert entered(Line(10**9, lambda: next(hours)), [500_000, 20_000, 10_000]) == [500_000, 20_000, 10_000]


def test_prompts_of_some_characters_may_wait_and_one_that_has_left_takes_no_room() -> None:
    async def crowd() -> None:
        line = Line(1000)
        await line.enter(5000, 1)
        waiting = asyncio.create_task(line.enter(900, 1))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="wait to be read") as refused:
            await line.enter(200, 7)
        assert (refused.value.status, refused.value.retry_after) == (429, 7)
        waiting.cancel()
        await asyncio.sleep(0)
        later = asyncio.create_task(line.enter(900, 1))
        await asyncio.sleep(0)
        line.leave()
        await later
        line.leave()
        await line.enter(5000, 1)

    asyncio.run(crowd())


def test_a_turn_that_is_given_to_somebody_who_leaves_is_passed_on() -> None:
    async def crowd() -> None:
        line = Line(1000)
        await line.enter(1, 1)
        leaving, next_one = asyncio.create_task(line.enter(1, 1)), asyncio.create_task(line.enter(1, 1))
        await asyncio.sleep(0)
        line.leave()
        leaving.cancel()
        await next_one

    asyncio.run(crowd())


def test_a_turn_is_not_given_to_somebody_who_is_leaving() -> None:
    async def crowd() -> None:
        line = Line(1000)
        await line.enter(1, 1)
        leaving, next_one = asyncio.create_task(line.enter(1, 1)), asyncio.create_task(line.enter(2, 1))
        await asyncio.sleep(0)
        leaving.cancel()  # it has not run since
        line.leave()
        await next_one
        last = asyncio.create_task(line.enter(1, 1))
        await asyncio.sleep(0)
        assert not last.done()
        line.leave()
        await last

    asyncio.run(crowd())


def test_what_nobody_waits_for_any_more_is_not_read() -> None:
    async def crowd() -> None:
        prompts, going_on, read = LongPrompts(ServerLimits(), 10**6), threading.Event(), list[str]()
        first = asyncio.create_task(prompts.read(9000, going_on.wait, 1))
        await asyncio.sleep(0)
        second = asyncio.create_task(prompts.read(9000, lambda: read.append("second"), 1))
        third = asyncio.create_task(prompts.read(9000, lambda: read.append("third"), 1))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()  # it keeps its turn: a thread cannot be interrupted
        await asyncio.sleep(0)
        assert not third.done()
        going_on.set()
        await third
        assert read == ["third"]
        prompts.close()

    asyncio.run(crowd())


def test_who_still_waits_when_the_grace_is_over_is_refused(service: Service) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]

    async def end() -> list[Any]:
        engine = AsyncEngine(lambda: service, ServerLimits(), Metrics())
        process = engine._preparer._long._process
        process._start = lambda: subprocess.Popen(sleeping, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        waiting = [asyncio.create_task(engine._preparer.read(1, SHORT + 1, process.exchange, b"?\n")) for _ in range(6)]
        while process._process is None:
            await asyncio.sleep(0.01)
        engine.state = "serving"
        engine._idle.clear()
        draining = asyncio.create_task(engine.drain(0))
        found = await asyncio.gather(*waiting, return_exceptions=True)
        engine._idle.set()
        await draining
        engine._preparer.close()  # again, which is harmless
        return found

    refusals = asyncio.run(end())
    assert [(each.status, each.code) for each in refusals] == [(503, "shutting_down")] * 6


def test_a_text_whose_pieces_cost_too_much_is_refused_by_name_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    make_fakes()
    going_on = threading.Event()

    def refused(*_: Any) -> None:
        raise PromptError("it cannot be read")

    with serving(limits=ServerLimits(timeout=0.2, prompt=100_000)) as served:
        for ask, found in (
            (refused, (400, "text", "invalid_prompt")),
            (lambda *_: going_on.wait(20), (504, None, "timeout")),
        ):
            monkeypatch.setattr(LongPrompts, "ask", ask)
            answer = served.post("/v1/pieces", {"model": "duo", "text": LONG})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == found
        monkeypatch.setattr(LongPrompts, "ask", lambda *_: None)
        going_on.set()


def test_a_short_prompt_is_answered_while_a_long_one_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    make_fakes()
    going_on, reading = threading.Event(), threading.Event()

    def blocked(*_: Any) -> None:
        reading.set()
        assert going_on.wait(20)

    monkeypatch.setattr(LongPrompts, "ask", blocked)
    with serving() as served:
        client, answers = served.client(), list[int]()

        def ask_long() -> None:
            answers.append(served.post("/v1/completions", {"model": "duo", "prompt": LONG}).status_code)

        asking = threading.Thread(target=ask_long)
        asking.start()
        assert reading.wait(20)
        assert client.chat.completions.create(model="duo", messages=SAY, max_tokens=2).choices
        assert not answers
        going_on.set()
        asking.join(20)
        assert answers == [400]  # longer than the fakes' context


@pytest.mark.parametrize("prompt", [Prompt(text=LONG), CHAT], ids=["text", "chat"])
def test_the_process_reads_what_the_server_would(
    service: Service, near: dict[str, PromptEncoder], lent: LongPrompts, prompt: Prompt
) -> None:
    for member in members_of(service):
        own = near[member.name]
        member.backend.facts = replace(member.backend.facts, context=10**6)
        assert member.encoder.encode(prompt) == own.encode(prompt)
        assert member.encoder.encode_text(LONG) == own.encode_text(LONG)
        data = LONG.encode()
        spelled = own.speller.own_encoding(data) or own.speller.longest_match(data)
        assert (member.speller.own_encoding(data) or member.speller.longest_match(data)) == spelled
    assert staying(lent) == []


def staying(prompts: LongPrompts) -> list[list[str]]:
    """The names of members that read in this process, by tokenizer."""
    return [[each.name for each in parcel.encoders] for parcel in prompts._parcels.values() if parcel.stays]


def test_errors_of_the_process_are_those_of_the_server(service: Service, lent: LongPrompts) -> None:
    [member, _] = members_of(service)
    with pytest.raises(PromptError, match="more than its context"):
        member.encoder.encode(Prompt(text=LONG))
    with pytest.raises(PromptError, match="lone surrogate"):
        member.encoder.encode(Prompt(text=LONG + "\ud800"))
    assert lent._process._process is not None
    os.kill(lent._process._process.pid, signal.SIGKILL)  # nobody's fault: a fresh one is asked
    with pytest.raises(PromptError, match="lone surrogate"):
        member.encoder.encode(Prompt(text=LONG + "\ud800"))


def test_a_prompt_that_takes_too_much_is_refused_and_the_process_ended(service: Service, lent: LongPrompts) -> None:
    ended: list[subprocess.Popen[bytes]] = []

    def endless() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "while True: pass"]
        ended.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return ended[-1]

    lent._process = HelperProcess("reader", endless, 0.2)
    with pytest.raises(PromptError, match="within the time and memory"):
        members_of(service)[0].encoder.encode(Prompt(text=LONG))
    assert [process.poll() for process in ended] == [-signal.SIGKILL]


class Rooted:
    """A tokenizer's part that stays where it is."""

    def __reduce__(self) -> Any:
        raise pickle.PicklingError("it has roots")


class Local:
    """One whose module the process does not find."""


@pytest.mark.parametrize("part", [Rooted(), Local()])
def test_an_encoder_that_cannot_be_had_elsewhere_encodes_here_and_the_others_do_not(
    service: Service, near: dict[str, PromptEncoder], lent: LongPrompts, part: object
) -> None:
    rooted, other = members_of(service)
    rooted.encoder.tokenizer.part = part
    try:
        for _ in range(2):
            assert rooted.encoder.encode(Prompt(text=LONG)) == near[rooted.name].encode(Prompt(text=LONG))
            with pytest.raises(PromptError, match="more than its context"):  # which only the process says
                other.encoder.encode(Prompt(text=LONG))
        assert rooted.speller.own_encoding(LONG.encode()) == near[rooted.name].speller.own_encoding(LONG.encode())
    finally:
        del rooted.encoder.tokenizer.part
    assert staying(lent) == [[rooted.name]]


class Crashing:
    """One that ends the process that loads it, as native code may."""

    def __reduce__(self) -> Any:
        return os.abort, ()


def test_a_tokenizer_that_ends_the_process_costs_the_others_nothing(
    service: Service, near: dict[str, PromptEncoder], lent: LongPrompts
) -> None:
    crashing, other = members_of(service)
    other.backend.facts = replace(other.backend.facts, context=10**6)
    crashing.encoder.tokenizer.part = Crashing()
    try:
        for _ in range(2):
            with pytest.raises(PromptError, match=f"the tokenizer of {crashing.name} ends the process"):
                crashing.encoder.encode(Prompt(text=LONG))
            assert other.encoder.encode(Prompt(text=LONG)) == near[other.name].encode(Prompt(text=LONG))
    finally:
        del crashing.encoder.tokenizer.part
    assert staying(lent) == []
    [parcel] = [each for each in lent._parcels.values() if each.names == crashing.name]
    parcel.rests_until, parcel._data = 0.0, None  # a minute later, and it is mended
    crashing.backend.facts = replace(crashing.backend.facts, context=10**6)
    assert crashing.encoder.encode(Prompt(text=LONG)) == near[crashing.name].encode(Prompt(text=LONG))


def test_long_bytes_that_are_no_text_are_spelled_here(
    service: Service, near: dict[str, PromptEncoder], lent: Any
) -> None:
    for data in (LONG.encode() + b"\xff", b"\xe6" * 20_000, LONG.encode()[:-2] + b"\xe6"):
        for member in members_of(service):
            own = near[member.name].speller
            assert member.speller.own_encoding(data) is None
            assert member.speller.longest_match(data) == own.longest_match(data)
            assert member.speller.spell(data) == own.spell(data)
    assert lent._process._process is None


def test_encoders_with_one_tokenizer_are_sent_together(near: dict[str, PromptEncoder]) -> None:
    [one, other] = near.values()
    twin = copy.copy(one)
    prompts = LongPrompts(ServerLimits(), 10**6)
    places = [(parcel.number, place) for parcel, place in map(prompts.take, (one, other, twin, one))]
    assert places == [(0, 0), (1, 0), (0, 1), (0, 0)]
    prompts.close()


def test_a_list_that_is_written_piece_by_piece_is_the_same(service: Service) -> None:
    text, model = "the cat 日本", 'a "data":[] b'
    found = pieces_json(text, model, service.engines["duo"])
    assert found == pieces_of(text, model, service.engines["duo"]).model_dump_json()


@pytest.mark.tokenizers
def test_a_word_on_which_a_tokenizer_recurses_is_read() -> None:
    path = gguf_path("deepseek-llm")  # in a thread's 8 MB, llama.cpp's regular expression ends the process
    tokenizer = make_loader(
        "llamacpp", LoadRequest(name="x", source=ModelSource("gguf", str(path)), slots=1)
    ).tokenizer()
    speller = Speller(read_vocabulary(tokenizer.table, ()), tokenizer.encode)
    prompts = LongPrompts(ServerLimits(), 10**6)
    parcel, _ = prompts.take(PromptEncoder("x", tokenizer, speller, None))
    asked = question((0, 0), Prompt(text="a" * 100_000), off=False, may_be_empty=False, most=10**6)
    answer = prompts.ask(parcel, asked)
    prompts.close()
    assert answer is not None
    assert speller.vocabulary.join(answer["ids"]) == b"a" * 100_000
