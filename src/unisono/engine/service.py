"""Requests of many, served by one engine: the scheduler says who is next, the engine writes, events say what came.

A turn admits, reads on, writes on and tells. All of it happens in the thread that calls `turn`: a server gives the
service a thread of its own and hands requests in and events out (`submit`, `cancel` and `turn` are never called at
once).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from unisono.engine.engine import Engine
from unisono.engine.events import Ended, Event, Failed, Wrote
from unisono.engine.method import Method
from unisono.engine.passes import by_model
from unisono.engine.prefixes import PrefixStore
from unisono.engine.scheduler import Cost, Scheduler, Ticket
from unisono.engine.submission import Submission
from unisono.engine.text import Text
from unisono.errors import SpecError, TimedOut, shown
from unisono.types import Limits, Prompt

DEFAULT_LIMITS = Limits()


@dataclass(slots=True, eq=False)
class _Work:
    """A request: what it asks for, and what there is of it."""

    ticket: Ticket
    submission: Submission
    count: int
    texts: list[Text] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=dict)
    """By the index of each text that has not ended, how many of its steps were told."""


class Service:
    """Serves requests in turns. Not thread-safe: one thread drives it, and nobody else the engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        queue: int = 256,
        chunk: int = 256,
        memory: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve by an engine that writes nothing else.

        Args:
            engine: best one whose blocks are bounded, so that a long prompt is read between the steps.
            queue: how many requests may wait that cannot begin yet.
            chunk: ids of prompts that are read in a turn at most.
            memory: by member, how many ids its cache may hold; see `Scheduler`.
            clock: by which time-outs are measured, in seconds.
        """
        self._engine = engine
        self._scheduler = Scheduler(engine.slots, queue=queue, chunk=chunk, memory=memory)
        self._clock = clock
        self._works: dict[Ticket, _Work] = {}
        self._events: list[Event] = []
        self._longest_piece = int(np.diff(engine.union.offset_U).max())

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._works)

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return self._scheduler.waiting

    @property
    def served(self) -> int:
        """How many requests are being served."""
        return self._scheduler.served

    def submit(
        self,
        prompt: Prompt,
        limits: Limits = DEFAULT_LIMITS,
        *,
        method: Method | None = None,
        n: int = 1,
        trace: bool = False,
        timeout: float | None = None,
        constraint: object = None,
    ) -> Ticket:
        """Put a request in line; its events come from the next turn on.

        Args:
            prompt: what to continue or answer.
            limits: when each text stops.
            method: how it is written; by default as the engine's others.
            n: how many texts; the first has the draw's seed, the next that and 1, and so on.
            trace: whether events tell the steps.
            timeout: seconds after which the request fails, if it has not ended.
            constraint: what each text has to be, as `Constraint.parse` reads it.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: an argument is wrong, or the request needs more than there is.
            QueueFull: too many wait already.
        """
        submission = self._engine.examine(prompt, limits, method=method, trace=trace, constraint=constraint)
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise SpecError(f"n is {shown(n)}: it must be a whole number, 1 or more", hint="it counts the texts")
        if n > 1 and submission.width > 1:
            raise SpecError(f"n is {n}, but a beam seeks one text", hint="leave n or beam_width out")
        prompts = {name: len(ids) for name, ids in submission.ids.items()}
        cost = Cost(max(n, submission.width), prompts, self._memory(submission))
        ticket = self._scheduler.submit(cost, deadline=None if timeout is None else self._clock() + timeout)
        self._works[ticket] = _Work(ticket, submission, n)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: its slots are free at once, and nothing more comes of it. Harmless when it is over."""
        if ticket in self._works:
            self._give_up(ticket)

    def turn(self) -> list[Event]:
        """Do the next piece of work for everybody; return what came of it, in order."""
        admission = self._scheduler.admit(self._clock())
        for ticket in admission.expired:
            self._fail(ticket, TimedOut("the request took longer than it was given", hint="allow it more time"))
        self._begin(admission.admitted)
        turn = self._scheduler.plan()
        self._read(turn.read)
        self._write([ticket for ticket in turn.write if ticket in self._works])
        for work in list(self._works.values()):
            self._tell(work)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Give all requests up; the engine is left to whoever made it. Idempotent."""
        for ticket in list(self._works):
            self.cancel(ticket)

    def _begin(self, tickets: Iterable[Ticket]) -> None:
        """Take up the texts of requests that are admitted."""
        self._ask_memory_back()
        for work in [self._works[ticket] for ticket in tickets]:
            with self._failing(work.ticket):
                work.texts.append(self._engine.begin(work.submission, copies=work.count > 1))
                work.told[0] = 0
                self._note_lag(work.ticket)

    def _read(self, read: Mapping[Ticket, int]) -> None:
        """Read on for requests: in one pass a model, or where that fails for each alone, to see whose fault it is."""
        portions = {ticket: self._portions(ticket, ids) for ticket, ids in read.items() if ticket in self._works}
        try:
            self._engine.read({text: ids for texts in portions.values() for text, ids in texts.items()})
        except Exception as error:
            self._fail_lost(error)
            for ticket in [ticket for ticket in portions if ticket in self._works]:
                with self._failing(ticket):
                    self._engine.read(portions[ticket])
        for ticket in portions:
            self._note_lag(ticket)

    def _write(self, tickets: Iterable[Ticket]) -> None:
        """Write on at requests: together, or where that fails each text alone."""
        for ticket in tickets:
            with self._failing(ticket):
                self._copy(self._works[ticket])
        works = [self._works[ticket] for ticket in tickets if ticket in self._works]
        texts = {text: work.ticket for work in works for text in work.texts if text.finish is None}
        try:
            self._engine.step(list(texts))
        except Exception as error:
            self._fail_lost(error)
            for text, ticket in texts.items():
                if text in self._engine.active:  # it may have ended, or a sibling have failed
                    with self._failing(ticket):
                        self._engine.step([text])
        for work in works:
            self._note_lag(work.ticket)

    def _copy(self, work: _Work) -> None:
        """Take up the other texts that were asked for, now that their prompt has been read."""
        first = work.texts[0]
        for index in range(len(work.texts), work.count):
            work.texts.append(self._engine.add_again(first, (first.seed + index) % 2**64))
            work.told[index] = 0

    def _tell(self, work: _Work) -> None:
        """Say what is new of a request's texts, and let go of those that have ended."""
        for index in list(work.told):
            text = work.texts[index]
            fresh = "".join(iter(text.take_text, ""))
            steps = tuple((text.steps or ())[work.told[index] :])
            if fresh or steps:
                self._events.append(Wrote(work.ticket, index, fresh, steps))
                work.told[index] += len(steps)
            if text.finish is None:
                continue
            self._events.append(Ended(work.ticket, index, text.generation()))
            del work.told[index]
            if work.told:
                self._scheduler.shrink(work.ticket)
            else:
                self._scheduler.end(work.ticket)
                del self._works[work.ticket]

    @contextlib.contextmanager
    def _failing(self, ticket: Ticket) -> Iterator[None]:
        """Do something for one request, which alone fails if that does."""
        try:
            yield
        except Exception as error:
            self._fail(ticket, error)

    def _fail_lost(self, error: Exception) -> None:
        """Fail the requests of which the engine had to give a text up."""
        for work in list(self._works.values()):
            if any(text.finish is None and text not in self._engine.active for text in work.texts):
                self._fail(work.ticket, error)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        self._events.append(Failed(ticket, error))
        self._give_up(ticket)

    def _give_up(self, ticket: Ticket) -> None:
        work = self._works.pop(ticket)
        self._scheduler.end(ticket)
        with contextlib.ExitStack() as dropping:  # all of them, even if a member fails at it
            for text in work.texts:
                dropping.callback(self._engine.drop, text)

    def _note_lag(self, ticket: Ticket) -> None:
        """Tell the scheduler how much is to be read of a request before it is written on."""
        if ticket in self._works:
            texts = self._works[ticket].texts
            self._scheduler.lags(ticket, sum(self._engine.backlog(text) for text in texts if text.finish is None))

    def _portions(self, ticket: Ticket, ids: int) -> dict[Text, int]:
        """Share out what is to be read for a request to its texts, one after the other."""
        portions: dict[Text, int] = {}
        for text in self._works[ticket].texts:
            portions[text] = min(ids, self._engine.backlog(text))
            ids -= portions[text]
        return {text: ids for text, ids in portions.items() if ids}

    def _memory(self, submission: Submission) -> dict[str, int]:
        """By member, the most ids that a text can come to hold: no piece is spelled with more ids than bytes."""
        pieces = submission.limits.max_new_tokens * (self._longest_piece + 1)  # a first one may get a space
        return {
            member.name: min(member.backend.facts.context, len(submission.ids[member.name]) + pieces)
            for member in self._engine.members
        }

    def _ask_memory_back(self) -> None:
        """Let kept slots give way to what has been promised to requests."""
        spare = self._scheduler.spare
        for group in by_model(self._engine.members):
            bounded = [spare[member.name] for member in group if member.name in spare]
            if bounded and isinstance(group[0].backend, PrefixStore):
                group[0].backend.limit(sum(bounded))
