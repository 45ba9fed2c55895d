"""The worker's two threads: one drives the model, one encodes texts. Called in the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar

from unisono.backends.endpoint.worker_frames import Call, left_frame, rows_frame
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import UnisonoError
from unisono.server.errors import FAULT, OVERLOADED, Refusal, not_ready, shutting_down
from unisono.server.limits import ServerLimits
from unisono.server.telemetry import say, where
from unisono.worker.checks import InvalidCall
from unisono.worker.leases import Leases, NoRoom, Superseded
from unisono.worker.metrics import WorkerMetrics
from unisono.worker.portions import kept
from unisono.worker.row_memories import RowMemories
from unisono.worker.served_member import ServedMember
from unisono.worker.steps import Tell

T = TypeVar("T")
State = Literal["loading", "serving", "draining", "broken", "closed"]
STACK = 2**29
"""Bytes for what encodes: regular expressions of llama.cpp take up to 400 for a character of a word."""
EXPIRY_SECONDS = 1.0
"""Between two looks for clients that are silent."""


class MemberService:
    """Loads a member and answers for it."""

    def __init__(
        self, load: Callable[[], ServedMember], limits: ServerLimits, metrics: WorkerMetrics, idle: float
    ) -> None:
        """``idle`` is how many seconds a client may be silent; ``load`` is called in the model's thread."""
        self.limits = limits
        self.metrics = metrics
        self.over = asyncio.Event()
        self.state: State = "loading"
        self.error: BaseException | None = None
        self.idle = idle
        self._load = load
        self._member: ServedMember | None = None
        self._leases: Leases | None = None
        self._memories = RowMemories(self._holds)
        self._model = ThreadPoolExecutor(1, thread_name_prefix="unisono-model")
        self._tokenizer = ThreadPoolExecutor(1, thread_name_prefix="unisono-tokenizer")
        self._running = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to load, in the background."""
        self._loop = asyncio.get_running_loop()
        before = threading.stack_size(STACK)
        self._tokenizer.submit(int)  # which starts the thread
        threading.stack_size(before)
        self._tasks = [asyncio.create_task(self._begin()), asyncio.create_task(self._expire())]

    @property
    def models(self) -> Sequence[str]:
        return () if self._member is None else (self._member.name,)

    @property
    def member(self) -> ServedMember:
        """The member. Raises a `Refusal` while it cannot be used."""
        if self.state in ("draining", "closed"):
            raise shutting_down()
        if self._member is None or self.state != "serving":
            raise not_ready("the model is being loaded" if self.state == "loading" else "the model has failed")
        return self._member

    def expect(self, model: str) -> ServedMember:
        """The member, whose model has to be the one that a client means. Raises a `Refusal`."""
        member = self.member
        if model != member.fingerprint:
            words = f"it serves another model now: {member.fingerprint}, not {model[:64]}"
            raise Refusal(409, words, code="other_model")
        return member

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """One of the places for calls, from before a call is read until its answer is sent. Raises a `Refusal`."""
        if self._running >= self.limits.concurrency:
            words = f"{self._running} calls are waiting, the most this worker takes; try again later"
            raise Refusal(503, words, kind=OVERLOADED, code="too_many_requests", retry_after=1)
        self._running += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()

    async def answer(self, call: Call, tell: Tell = lambda parts: False) -> list[memoryview]:
        """What is to be sent of the answer to a call, a frame: nothing once it is told, in the model's thread.

        Raises a `Refusal`.
        """
        member = self.expect(call.model)
        assert self._leases is not None
        self._leases.note(call)
        self.metrics.calls.inc()
        return await self._run(self._model, partial(self._answer, member, self._leases, call, tell))

    async def encode(self, way: str, texts: Sequence[str]) -> list[list[int]]:
        return await self._run(self._tokenizer, partial(self.member.encode, way, texts))

    async def table(self) -> bytes:
        member = self.member
        return await self._run(self._tokenizer, lambda: member.table)

    async def leave(self, session: str, number: int, slots: Iterable[int] | None) -> None:
        _ = self.member  # which refuses while the member cannot be used
        assert self._leases is not None
        await self._run(self._model, partial(self._leave, self._leases, session, number, slots))

    async def drain(self, grace: float) -> None:
        self.state = "draining" if self.state in ("loading", "serving") else self.state
        say("draining", running=self._running, grace_seconds=grace)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), grace)

    async def close(self, patience: float = 10.0) -> bool:
        self.state = "closed" if self.state != "broken" else self.state
        for task in self._tasks[1:]:
            task.cancel()
        self._tokenizer.shutdown(wait=False, cancel_futures=True)
        member, self._member = self._member, None
        ending = [] if member is None else [self._loop.run_in_executor(self._model, self._unload, member)]
        self._model.shutdown(wait=False)
        _, late = await asyncio.wait([*self._tasks[:1], *ending], timeout=patience)
        self.over.set()
        return not late

    async def _begin(self) -> None:
        try:
            member = await self._loop.run_in_executor(self._model, self._load)
            await self._loop.run_in_executor(self._model, lambda: member.description)
        except BaseException as error:
            self.error, self.state = error, "broken"
            if not isinstance(error, UnisonoError):
                say("broken", level=logging.CRITICAL, error=where(error))
            self.over.set()
            return
        self._member, self._leases = member, Leases(member.backend, self.idle)
        self.metrics.follow(self._leases)
        if self.state == "loading":
            self.state = "serving"
            facts = member.backend.facts
            say("ready", member=member.name, model=member.fingerprint, slots=facts.slots, context=facts.context)

    def _answer(self, member: ServedMember, leases: Leases, call: Call, tell: Tell) -> list[memoryview]:
        parts = self._parts(member, leases, call)
        return [] if tell(parts) else parts

    def _parts(self, member: ServedMember, leases: Leases, call: Call) -> list[memoryview]:
        began = time.perf_counter()
        rows, lengths = leases.answer(call)
        seconds = time.perf_counter() - began
        self.metrics.seconds.observe(seconds)
        self.metrics.batch.observe(len(call.questions))
        head: dict[str, object] = {
            "session": call.session,
            "number": call.number,
            "instance": member.instance,
            "model": member.fingerprint,
            "lengths": lengths,
            "seconds": seconds,
        }
        if isinstance(rows, TopLogprobs):
            return rows_frame(head, kept(rows))
        if (memory := self._memories.leave(call, rows)) is not None:
            return left_frame(head, rows.shape[1], memory)
        if (offer := self._memories.offer(call)) is not None:
            head["offer"] = offer
        return rows_frame(head, kept(rows))

    def _holds(self, session: str) -> bool:
        return self._leases is not None and session in self._leases

    def _leave(self, leases: Leases, session: str, number: int, slots: Iterable[int] | None) -> None:
        leases.leave(session, number, slots)
        self._memories.prune()

    def _look(self, leases: Leases) -> int:
        """End the sessions that have been silent for too long; return how many."""
        ended = leases.expire()
        self._memories.prune()
        return ended

    def _unload(self, member: ServedMember) -> None:
        member.backend.unload()
        self._memories.close()

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Do something in a thread. Raises a `Refusal`."""
        try:
            return await self._loop.run_in_executor(thread, work)
        except Exception as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> Refusal:
        match error:
            case InvalidCall():
                return Refusal(400, str(error), code="invalid_value")
            case Superseded():
                return Refusal(409, "the client has made another call since this one", code="superseded")
            case NoRoom():
                seconds = math.ceil(error.retry_after)
                return Refusal(503, str(error), kind=OVERLOADED, code="no_slots", retry_after=seconds)
        say("failed", level=logging.ERROR, error=where(error))
        self.metrics.failures.inc()
        return Refusal(500, "the model failed during this call", kind=FAULT, code="failed")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SECONDS)
            if self._leases is not None and self.state == "serving":
                try:
                    ended = await self._loop.run_in_executor(self._model, self._look, self._leases)
                except Exception as error:  # of the backend; the other clients' slots are to be freed all the same
                    say("failed", level=logging.ERROR, error=where(error))
                    self.metrics.failures.inc()
                    continue
                if ended:
                    say("expired", sessions=ended, left=self._leases.sessions)
