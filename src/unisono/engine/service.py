"""Requests of many, served at once: the scheduler says who is next, engines write, events say what came.

A turn admits, reads on, writes on and tells. All of it happens in the thread that calls `step`: a server gives the
service a thread of its own and hands requests in and events out. `submit`, `cancel` and `step` are never called at
once; `prepare`, which runs no model, may be called in another thread meanwhile.

Engines may share models: an ensemble, and each of its members alone. Slots are counted by model, whoever takes them.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from unisono.backends.prefix_cache import PrefixCache
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.events import Ended, Event, Failed, Wrote
from unisono.engine.request import GenerationRequest, PreparedRequest
from unisono.engine.scheduler import Cost, RequestId, Scheduler
from unisono.engine.sequence import TextSequence
from unisono.errors import RequestTimeout, SpecError, nearest, shown


@dataclass(slots=True, eq=False)
class _Work:
    """A request: what it asks for, and what there is of it."""

    ticket: RequestId
    prepared: PreparedRequest
    engine: Engine
    texts: list[TextSequence] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=dict)
    """By the index of each text that has not ended, how many of its steps were told."""


class Service:
    """Serves requests in turns. Not thread-safe, but for `prepare`; nobody else drives its engines."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        *,
        queue: int = 256,
        chunk: int = 256,
        memory: Mapping[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve by engines that write nothing else.

        Args:
            engines: by the name under which requests ask for them; best such whose blocks are bounded, so that a long
                prompt is read between the steps.
            queue: how many requests may wait that cannot begin yet.
            chunk: ids of prompts that are read in a turn at most.
            memory: by model (`Member.model`), how many ids its cache may hold; see `Scheduler`.
            clock: by which time-outs are measured, in seconds.
        """
        self.engines = dict(engines)
        self._members = [member for engine in engines.values() for member in engine.members]
        slots = {member.model: member.backend.facts.slots for member in self._members}
        self.queue = queue
        """How many requests may wait."""
        self._scheduler = Scheduler(slots, queue=queue, chunk=chunk, memory=memory)
        self._clock = clock
        self._works: dict[RequestId, _Work] = {}
        self._events: list[Event] = []

    @property
    def models(self) -> tuple[str, ...]:
        """The names under which requests ask for its engines."""
        return tuple(self.engines)

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

    def method(self, model: str) -> Method:
        """How an engine writes what asks for nothing else. Raises a `SpecError` when there is none of that name."""
        return self._engine(model).method

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """See whether a request can be served. Runs no model, and may be called in any one thread.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: a field is wrong, or the request needs more than there is.
        """
        prepared = self._engine(request.model).prepare(request)
        n = request.n
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise SpecError(f"n is {shown(n)}: it must be a whole number, 1 or more", hint="it counts the texts")
        if n > 1 and prepared.width > 1:
            raise SpecError(f"n is {n}, but a beam seeks one text", hint="leave n or beam_width out")
        self._scheduler.check(self._cost(prepared))
        return prepared

    def submit(self, prepared: PreparedRequest, *, timeout: float | None = None) -> RequestId:
        """Put a request in line; its events come from the next turn on.

        Args:
            prepared: by `prepare`.
            timeout: seconds after which the request fails, if it has not ended.

        Raises:
            QueueFull: too many wait already.
        """
        deadline = None if timeout is None else self._clock() + timeout
        ticket = self._scheduler.submit(self._cost(prepared), deadline=deadline)
        self._works[ticket] = _Work(ticket, prepared, self._engine(prepared.request.model))
        return ticket

    def cancel(self, ticket: RequestId) -> None:
        """Give a request up: its slots are free at once, and nothing more comes of it. Harmless when it is over."""
        if ticket in self._works:
            self._give_up(ticket)

    def step(self) -> list[Event]:
        """Do the next piece of work for everybody; return what came of it, in order."""
        admission = self._scheduler.admit(self._clock())
        for ticket in admission.expired:
            self._fail(ticket, RequestTimeout("the request took longer than it was given", hint="allow it more time"))
        self._begin(admission.admitted)
        turn = self._scheduler.plan()
        self._read(turn.read)
        self._write([ticket for ticket in turn.write if ticket in self._works])
        for work in list(self._works.values()):
            self._tell(work)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Give all requests up; the engines are left to whoever made them. Idempotent."""
        with contextlib.ExitStack() as giving_up:  # all of them, even if a member fails at one
            for ticket in list(self._works):
                giving_up.callback(self.cancel, ticket)

    def unload(self) -> None:
        """Give all requests up and unload all models. Idempotent."""
        with contextlib.ExitStack() as unloading:
            for engine in self.engines.values():
                unloading.callback(engine.close)
            self.close()

    def _begin(self, tickets: Iterable[RequestId]) -> None:
        """Take up the texts of requests that are admitted."""
        self._ask_memory_back()
        for work in [self._works[ticket] for ticket in tickets]:
            with self._failing(work.ticket):
                work.texts.append(work.engine.begin(work.prepared, copies=work.prepared.request.n > 1))
                work.told[0] = 0
                self._note_lag(work.ticket)

    def _read(self, read: Mapping[RequestId, int]) -> None:
        """Read on for requests: in one pass a model, or where that fails for each alone, to see whose fault it is."""
        portions = {ticket: self._portions(ticket, ids) for ticket, ids in read.items() if ticket in self._works}
        for engine, tickets in self._by_engine(portions).items():
            try:
                engine.read({text: ids for ticket in tickets for text, ids in portions[ticket].items()})
            except Exception as error:
                self._fail_lost(error)
                for ticket in tickets:
                    if ticket in self._works:
                        with self._failing(ticket):
                            engine.read(portions[ticket])
        for ticket in portions:
            self._note_lag(ticket)

    def _write(self, tickets: Iterable[RequestId]) -> None:
        """Write on at requests: together, or where that fails each text alone."""
        for ticket in tickets:
            with self._failing(ticket):
                self._copy(self._works[ticket])
        for engine, served in self._by_engine(ticket for ticket in tickets if ticket in self._works).items():
            works = [self._works[ticket] for ticket in served if ticket in self._works]
            texts = {text: work.ticket for work in works for text in work.texts if text.finish is None}
            try:
                engine.step(list(texts))
            except Exception as error:
                self._fail_lost(error)
                for text, ticket in texts.items():
                    if text in engine.active:  # it may have ended, or a sibling have failed
                        with self._failing(ticket):
                            engine.step([text])
            for ticket in served:
                self._note_lag(ticket)

    def _by_engine(self, tickets: Iterable[RequestId]) -> dict[Engine, list[RequestId]]:
        groups: dict[Engine, list[RequestId]] = {}
        for ticket in tickets:
            groups.setdefault(self._works[ticket].engine, []).append(ticket)
        return groups

    def _copy(self, work: _Work) -> None:
        """Take up the other texts that were asked for, now that their prompt has been read."""
        first = work.texts[0]
        for index in range(len(work.texts), work.prepared.request.n):
            work.texts.append(work.engine.add_again(first, (first.seed + index) % 2**64))
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
    def _failing(self, ticket: RequestId) -> Iterator[None]:
        """Do something for one request, which alone fails if that does."""
        try:
            yield
        except Exception as error:
            self._fail(ticket, error)

    def _fail_lost(self, error: Exception) -> None:
        """Fail the requests of which an engine had to give a text up."""
        for work in list(self._works.values()):
            if any(text.finish is None and text not in work.engine.active for text in work.texts):
                self._fail(work.ticket, error)

    def _fail(self, ticket: RequestId, error: Exception) -> None:
        self._events.append(Failed(ticket, error))
        self._give_up(ticket)

    def _give_up(self, ticket: RequestId) -> None:
        work = self._works.pop(ticket)
        self._scheduler.end(ticket)
        with contextlib.ExitStack() as dropping:  # all of them, even if a member fails at it
            for text in work.texts:
                dropping.callback(work.engine.drop, text)

    def _note_lag(self, ticket: RequestId) -> None:
        """Tell the scheduler how much is to be read of a request before it is written on."""
        if ticket in self._works:
            work = self._works[ticket]
            backlogs = [work.engine.backlog(text) for text in work.texts if text.finish is None]
            self._scheduler.lags(ticket, sum(backlogs))

    def _portions(self, ticket: RequestId, ids: int) -> dict[TextSequence, int]:
        """Share out what is to be read for a request to its texts, one after the other."""
        work, portions = self._works[ticket], dict[TextSequence, int]()
        for text in work.texts:
            portions[text] = min(ids, work.engine.backlog(text))
            ids -= portions[text]
        return {text: ids for text, ids in portions.items() if ids}

    def _cost(self, prepared: PreparedRequest) -> Cost:
        """What a request takes up, at most."""
        engine = self._engine(prepared.request.model)
        prompts = {name: len(ids) for name, ids in prepared.ids.items()}
        # no piece is spelled with more ids than bytes, and a first one may get a space
        longest = int(np.diff(engine.union.offset_U).max(initial=0)) + 1
        pieces = prepared.request.limits.max_new_tokens * longest
        memory = Counter[int]()
        for member in engine.members:
            memory[member.model] += min(member.backend.facts.context, prompts[member.name] + pieces)
        slots = Counter(member.model for member in engine.members)
        return Cost(slots, max(prepared.request.n, prepared.width), prompts, memory)

    def _engine(self, model: str) -> Engine:
        if model not in self.engines:
            raise SpecError(
                f"there is no model {shown(model)}{nearest(model, self.engines)}",
                hint=f"known: {', '.join(self.engines)}",
            )
        return self.engines[model]

    def _ask_memory_back(self) -> None:
        """Let kept slots give way to what has been promised to requests."""
        backends = {member.model: member.backend for member in self._members}
        for model, ids in self._scheduler.spare.items():
            backend = backends[model]
            if isinstance(backend, PrefixCache):
                backend.limit(ids)
