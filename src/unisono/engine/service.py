"""One turn of all requests: the scheduler decides who is next, engines generate, events say what came.

A step admits requests, reads on in prompts, advances sequences and emits events, all in the thread that calls `step`.
`submit`, `cancel` and `step` are never called at once; `prepare`, which runs no model, may be called in another thread
meanwhile. Engines may share models, as an ensemble and each of its members alone do: slots are counted by model.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from unisono.engine.engine import Engine, close_engines
from unisono.engine.group import SequenceGroup
from unisono.engine.request import Ended, Event, Failed, GenerationRequest, PreparedRequest, Wrote
from unisono.engine.running_groups import no_room
from unisono.engine.scheduler import RequestId, Scheduler
from unisono.errors import CapacityError, RequestTimeout, SpecError, nearest, shown

_Groups = dict[SequenceGroup, RequestId]


@dataclass(slots=True, eq=False)
class _Running:
    request_id: RequestId
    prepared: PreparedRequest
    engine: Engine
    group: SequenceGroup | None = None
    """``None`` while it waits."""
    emitted: dict[int, int] = field(default_factory=dict)
    """By the index of each text, how many of its steps were emitted."""
    ended: set[int] = field(default_factory=set)
    """The indices of those that have ended."""


class Service:
    """Serves requests step by step. Not thread-safe, but for `prepare`; nobody else drives its engines."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        *,
        queue: int = 256,
        chunk: int = 256,
        memory: Mapping[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve by engines that generate nothing else.

        Args:
            engines: by the name under which requests ask for them; best such whose blocks are bounded, so that a long
                prompt is read between the steps.
            queue: how many requests may wait that cannot begin yet.
            chunk: ids of prompts that are read in a step at most.
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
        self._running: dict[RequestId, _Running] = {}
        self._events: list[Event] = []

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.engines)

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return self._scheduler.waiting

    @property
    def served(self) -> int:
        """How many requests are being served."""
        return self._scheduler.served

    def has(self, request_id: RequestId) -> bool:
        """Whether a request waits or is being served."""
        return request_id in self._running

    def engine(self, model: str) -> Engine:
        """The engine of a name. Raises a `SpecError` that suggests the nearest name when there is none."""
        if model not in self.engines:
            words = f"there is no model {shown(model)}{nearest(model, self.engines)}"
            raise SpecError(words, hint=f"known: {', '.join(self.engines)}")
        return self.engines[model]

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """Check whether a request can be served. Runs no model, and may be called in any one thread.

        Raises:
            PromptError: a member cannot read the prompt, or it is longer than a member's context.
            SpecError: a field is wrong, or the request needs more than there is.
        """
        prepared = self.engine(request.model).prepare(request)
        self._scheduler.check(prepared.cost)
        return prepared

    def submit(self, prepared: PreparedRequest, *, timeout: float | None = None) -> RequestId:
        """Put a request in line; its events come from the next step on.

        Args:
            prepared: by `prepare`.
            timeout: seconds after which the request fails, if it has not ended.

        Raises:
            QueueFull: too many wait already.
        """
        deadline = None if timeout is None else self._clock() + timeout
        request_id = self._scheduler.submit(prepared.cost, deadline=deadline)
        self._running[request_id] = _Running(request_id, prepared, self.engine(prepared.request.model))
        return request_id

    def start(self, prepared: PreparedRequest) -> RequestId:
        """Submit a request that begins at once.

        Raises:
            QueueFull: too many wait already.
            CapacityError: it would have to wait: other requests, of this engine or of one that shares its models,
                have its slots, or came before it.
        """
        request_id = self.submit(prepared)
        self._admit()
        running = self._running.get(request_id)
        if running is None:
            (failed,) = (each for each in self._events if isinstance(each, Failed) and each.request_id == request_id)
            self._events.remove(failed)
            raise failed.error
        if running.group is None:
            self.cancel(request_id)
            free, cost = self._scheduler.free, prepared.cost
            texts = min(free[model] // each for model, each in cost.slots.items())
            if texts >= cost.texts:
                raise CapacityError("other requests came before this one", hint="wait until one has ended")
            raise no_room(texts, running.engine.slots)
        return request_id

    def prefill(self, request_id: RequestId) -> None:
        """Let all members read the whole prompt of a request that has begun. Raises what a model raises."""
        running = self._running.get(request_id)
        if running is not None and running.group is not None:
            running.engine.prefill(running.group)
            self._note_pending(request_id)

    def cancel(self, request_id: RequestId) -> None:
        """Give a request up: its slots are free at once, and nothing more comes of it. Harmless when it is over."""
        if request_id in self._running:
            self._give_up(request_id)

    def step(self) -> list[Event]:
        """Do the next piece of work for all requests; return what came of it, in order."""
        self._admit()
        turn = self._scheduler.plan()
        read = turn.read
        self._together(read, lambda engine, its: engine.read({group: read[each] for group, each in its.items()}))
        self._together(turn.write, lambda engine, its: engine.step(list(its)))
        for running in list(self._running.values()):
            self._emit(running)
        self._fail_lost(RuntimeError("the text was given up before it ended"))
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Give all requests up; the engines are left to whoever made them. Idempotent."""
        with contextlib.ExitStack() as giving_up:  # all of them, even if a member fails at one
            for request_id in list(self._running):
                giving_up.callback(self.cancel, request_id)

    def unload(self) -> None:
        """Give all requests up and unload all models. Idempotent."""
        with contextlib.ExitStack() as unloading:
            unloading.callback(close_engines, self.engines.values())
            self.close()

    def _admit(self) -> None:
        """End requests whose time is over, and begin those whose turn it is."""
        admission = self._scheduler.admit(self._clock())
        for request_id in admission.expired:
            late = RequestTimeout("the request took longer than it was given", hint="allow it more time")
            self._fail(request_id, late)
        if self._scheduler.bounds_memory:
            self._ask_memory_back()
        for running in [self._running[request_id] for request_id in admission.admitted]:
            with self._failing(running.request_id):
                running.group = running.engine.begin(running.prepared)
                self._note_pending(running.request_id)

    def _together(self, request_ids: Iterable[RequestId], work: Callable[[Engine, _Groups], object]) -> None:
        """Work for all groups of an engine at once; where that fails, for each alone, to see whose fault it is."""
        groups_by_engine: dict[Engine, _Groups] = {}
        for running in [self._running[request_id] for request_id in request_ids if request_id in self._running]:
            if running.group is not None:
                groups_by_engine.setdefault(running.engine, {})[running.group] = running.request_id
        for engine, groups in groups_by_engine.items():
            try:
                work(engine, groups)
            except Exception as error:
                self._fail_lost(error)
                for group, request_id in groups.items():
                    if request_id in self._running and not group.is_finished:
                        with self._failing(request_id):
                            work(engine, {group: request_id})
            for request_id in groups.values():
                self._note_pending(request_id)

    def _emit(self, running: _Running) -> None:
        """Emit what is new of a request's texts, and end those that have ended."""
        group = running.group
        for index, sequence in enumerate(() if group is None else group.sequences):
            if index in running.ended:
                continue
            sent = running.emitted.get(index, 0)
            reasoning = "".join(iter(sequence.take_reasoning, ""))
            fresh, steps = "".join(iter(sequence.take_text, "")), tuple((sequence.steps or ())[sent:])
            if fresh or reasoning or steps:
                self._events.append(Wrote(running.request_id, index, fresh, steps, reasoning, sequence.written))
                running.emitted[index] = sent + len(steps)
            if sequence.finish is not None:
                self._events.append(Ended(running.request_id, index, sequence.generation()))
                running.ended.add(index)
                if len(running.ended) < running.prepared.request.n:
                    self._scheduler.shrink(running.request_id)
                else:
                    self._scheduler.end(running.request_id)
                    del self._running[running.request_id]

    @contextlib.contextmanager
    def _failing(self, request_id: RequestId) -> Iterator[None]:
        """Do something for one request, which alone fails if that does."""
        try:
            yield
        except Exception as error:
            self._fail(request_id, error)

    def _fail_lost(self, error: Exception) -> None:
        """Fail the requests whose groups an engine had to give up."""
        for running in list(self._running.values()):
            group = running.group
            if group is not None and not group.is_finished and group not in running.engine.groups:
                self._fail(running.request_id, error)

    def _fail(self, request_id: RequestId, error: Exception) -> None:
        self._events.append(Failed(request_id, error))
        self._give_up(request_id)

    def _give_up(self, request_id: RequestId) -> None:
        running = self._running.pop(request_id)
        self._scheduler.end(request_id)
        if running.group is not None:
            running.engine.drop(running.group)

    def _note_pending(self, request_id: RequestId) -> None:
        """Tell the scheduler how much is to be read of a request before it is advanced."""
        running = self._running.get(request_id)
        if running is not None and running.group is not None:
            self._scheduler.pending(request_id, running.engine.backlog(running.group))

    def _ask_memory_back(self) -> None:
        """Let kept slots give way to what has been promised to requests."""
        spare = self._scheduler.spare
        for member in self._members:
            if member.prefixes is not None and member.model in spare:
                member.prefixes.limit(spare[member.model])
