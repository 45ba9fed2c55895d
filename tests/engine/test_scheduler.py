"""The scheduler as a state machine: whatever is asked in whatever order, nobody is forgotten or given too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from unisono.engine.scheduler import Cost, RequestId, Scheduler
from unisono.errors import QueueFull, SpecError

MODELS = (1, 2)


@dataclass
class Request:
    """A request as the world outside the scheduler knows it."""

    cost: Cost
    pieces: int
    deadline: float | None
    texts: int
    left: int
    begun: int
    """The turn in which it was submitted."""
    patience: int
    """Turns after which it must have ended."""
    admitted: bool = False

    def turns(self, half: int) -> int:
        """How long it takes when it is the oldest: at least half of each chunk is for it."""
        return -(-self.left // half) + self.pieces


class Serving(RuleBasedStateMachine):
    """Submits, serves, cancels, fails, lets time pass; keeps its own books."""

    tickets = Bundle("tickets")

    @initialize(
        slots=st.fixed_dictionaries({model: st.integers(1, 6) for model in MODELS}),
        queue=st.integers(1, 5),
        chunk=st.integers(1, 40),
        memory=st.dictionaries(st.sampled_from(MODELS), st.integers(20, 200)),
    )
    def begin(self, slots: dict[int, int], queue: int, chunk: int, memory: dict[int, int]) -> None:
        self.scheduler = Scheduler(slots, queue=queue, chunk=chunk, memory=memory)
        self.slots, self.queue, self.chunk, self.memory = slots, queue, chunk, memory
        self.half = (chunk + 1) // 2
        self.alive: dict[RequestId, Request] = {}
        self.now, self.turns, self.latest = 0.0, 0, RequestId(0)

    @rule(
        target=tickets,
        texts=st.integers(1, 7),
        each=st.sampled_from([{1: 1}, {2: 1}, {1: 1, 2: 1}, {1: 2, 2: 1}]),
        prompt=st.fixed_dictionaries({model: st.integers(0, 60) for model in MODELS}),
        more=st.integers(0, 10),
        pieces=st.integers(1, 8),
        patience=st.none() | st.floats(0, 20),
    )
    def submit(
        self,
        texts: int,
        each: dict[int, int],
        prompt: dict[int, int],
        more: int,
        pieces: int,
        patience: float | None,
    ) -> object:
        prompts = {str(model): ids for model, ids in prompt.items()}
        cost = Cost(each, texts, prompts, {model: ids + more for model, ids in prompt.items()})
        deadline = None if patience is None else self.now + patience
        possible = all(texts * slots <= self.slots[model] for model, slots in each.items())
        possible = possible and all(texts * cost.memory[model] <= self.memory[model] for model in self.memory)
        waiting = sum(not request.admitted for request in self.alive.values())
        try:
            ticket = self.scheduler.submit(cost, deadline=deadline)
        except SpecError:
            assert not possible
            return multiple()
        except QueueFull:
            assert possible
            assert waiting >= self.queue
            return multiple()
        assert possible
        assert waiting < self.queue + sum(self.slots.values())
        assert ticket not in self.alive
        request = Request(cost, pieces, deadline, texts, sum(prompt.values()), self.turns, 0)
        self.alive[ticket] = request
        request.patience = sum(each.turns(self.half) for each in self.alive.values())
        return ticket

    @rule(seconds=st.floats(0, 3), lagging=st.lists(st.integers(0, 30), max_size=2))
    def turn(self, seconds: float, lagging: list[int]) -> None:
        self.now += seconds
        self.turns += 1
        admission = self.scheduler.admit(self.now)
        over = {t for t, request in self.alive.items() if request.deadline is not None and request.deadline <= self.now}
        assert set(admission.expired) == over
        for ticket in over:
            del self.alive[ticket]
        for ticket in admission.admitted:
            assert ticket > self.latest, "one that came later was admitted before"
            assert not self.alive[ticket].admitted
            self.latest, self.alive[ticket].admitted = ticket, True
        self.check_the_head_of_the_line()
        plan = self.scheduler.plan()
        served = {ticket: request for ticket, request in self.alive.items() if request.admitted}
        assert sum(plan.read.values()) == min(self.chunk, sum(request.left for request in served.values()))
        for ticket, ids in plan.read.items():
            assert 0 < ids <= served[ticket].left
            served[ticket].left -= ids
            self.scheduler.pending(ticket, served[ticket].left)
        assert list(plan.write) == [ticket for ticket, request in served.items() if not request.left]
        for ticket in plan.write:
            served[ticket].pieces -= 1
            if not served[ticket].pieces:
                assert self.scheduler.end(ticket)
                del self.alive[ticket]
        for ticket, ids in zip(plan.write, lagging, strict=False):
            self.lag(ticket, ids)

    def lag(self, ticket: RequestId, ids: int) -> None:
        """A gate opens, and a member is found to be behind: everybody may have to wait for it once more."""
        if ticket in self.alive:
            self.alive[ticket].left = ids
            self.scheduler.pending(ticket, ids)
            for request in self.alive.values():
                request.patience += -(-ids // self.half)

    def check_the_head_of_the_line(self) -> None:
        waiting = [request for request in self.alive.values() if not request.admitted]
        if waiting:
            head = waiting[0]
            short = [
                model for model, bound in self.memory.items() if self.held(model) + self.needs(head, model) > bound
            ]
            full = [model for model in MODELS if self.taken(model) + self.takes(head, model) > self.slots[model]]
            assert full or short, "the first in line waits for nothing"

    @rule(ticket=tickets)
    def cancel(self, ticket: RequestId) -> None:
        free = self.scheduler.free
        request = self.alive.pop(ticket, None)
        assert self.scheduler.end(ticket) == (request is not None)
        assert not self.scheduler.end(ticket)
        for model in MODELS:
            freed = self.takes(request, model) if request is not None and request.admitted else 0
            assert self.scheduler.free[model] == free[model] + freed

    @rule(ticket=tickets)
    def end_one_of_several(self, ticket: RequestId) -> None:
        request = self.alive.get(ticket)
        if request is None or not request.admitted:
            with pytest.raises(KeyError):
                self.scheduler.shrink(ticket)
        elif request.texts == 1:
            with pytest.raises(ValueError, match="one text"):
                self.scheduler.shrink(ticket)
        else:
            request.texts -= 1
            self.scheduler.shrink(ticket)

    @precondition(lambda self: self.alive)
    @rule()
    def serve_to_the_end(self) -> None:
        """With nobody new, everybody ends, and everything is free again."""
        for _ in range(sum(request.turns(self.half) for request in self.alive.values())):
            self.turn(0.0, [])
        assert not self.alive
        assert (self.scheduler.free, self.scheduler.waiting) == (self.slots, 0)
        assert self.scheduler.spare == self.memory

    def taken(self, model: int) -> int:
        return sum(self.takes(request, model) for request in self.alive.values() if request.admitted)

    def takes(self, request: Request, model: int) -> int:
        return request.texts * request.cost.slots.get(model, 0)

    def held(self, member: int) -> int:
        return sum(self.needs(request, member) for request in self.alive.values() if request.admitted)

    def needs(self, request: Request, member: int) -> int:
        return request.texts * request.cost.memory[member]

    @invariant()
    def no_slot_is_lost_or_given_twice(self) -> None:
        for model, slots in self.slots.items():
            assert self.taken(model) <= slots
            assert self.scheduler.free[model] == slots - self.taken(model)
        assert self.scheduler.served == sum(request.admitted for request in self.alive.values())
        assert self.scheduler.waiting == len(self.alive) - self.scheduler.served

    @invariant()
    def memory_is_never_exceeded(self) -> None:
        for model, bound in self.memory.items():
            assert self.held(model) <= bound
            assert self.scheduler.spare[model] == bound - self.held(model)

    @invariant()
    def nobody_starves(self) -> None:
        for request in self.alive.values():
            assert self.turns - request.begun <= request.patience


Serving.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestServing = Serving.TestCase


ONE = {1: 1}


def tickets_of(scheduler: Scheduler, *costs: Cost) -> list[RequestId]:
    return [scheduler.submit(cost) for cost in costs]


def prompt(ids: int) -> Mapping[str, int]:
    return {"a": ids}


def test_a_wide_request_keeps_the_slots_that_come_free_until_it_has_enough() -> None:
    scheduler = Scheduler({1: 3})
    one, two, wide, late = tickets_of(scheduler, Cost(ONE), Cost(ONE), Cost(ONE, 3), Cost(ONE))
    assert scheduler.admit(0).admitted == (one, two)
    scheduler.end(one)
    assert scheduler.admit(0).admitted == ()
    scheduler.end(two)
    assert scheduler.admit(0).admitted == (wide,)
    scheduler.end(wide)
    assert scheduler.admit(0).admitted == (late,)


def test_requests_of_different_models_are_served_at_once() -> None:
    scheduler = Scheduler({1: 1, 2: 1})
    both, one, other = tickets_of(scheduler, Cost({1: 1, 2: 1}), Cost({2: 1}), Cost({1: 1}))
    assert scheduler.admit(0).admitted == (both,)
    scheduler.end(both)
    assert scheduler.admit(0).admitted == (one, other)


def test_whoever_cancels_at_the_head_of_the_line_lets_the_others_pass() -> None:
    scheduler = Scheduler({1: 2})
    one, wide, late = tickets_of(scheduler, Cost(ONE), Cost(ONE, 2), Cost(ONE))
    assert scheduler.admit(0).admitted == (one,)
    assert scheduler.end(wide)
    assert scheduler.admit(0).admitted == (late,)


def test_a_short_prompt_does_not_wait_for_a_long_one_nor_the_long_one_for_ever_new_short_ones() -> None:
    scheduler = Scheduler({1: 8}, chunk=10)
    [long] = tickets_of(scheduler, Cost(ONE, prompt=prompt(50)))
    scheduler.admit(0)
    left = 50
    for turn in range(10):
        [short] = tickets_of(scheduler, Cost(ONE, prompt=prompt(5)))
        scheduler.admit(0)
        plan = scheduler.plan()
        assert plan.read == {long: 5, short: 5}
        assert short in plan.write
        left -= 5
        scheduler.pending(long, left)
        assert scheduler.end(short)
        assert (long in plan.write) == (turn == 9)


def test_what_the_oldest_does_not_need_of_its_half_is_for_the_others_and_the_other_way_round() -> None:
    scheduler = Scheduler({1: 8}, chunk=10)
    old, long, short = tickets_of(scheduler, *(Cost(ONE, prompt=prompt(ids)) for ids in (2, 30, 4)))
    scheduler.admit(0)
    assert scheduler.plan().read == {old: 2, short: 4, long: 4}
    scheduler.end(short)
    scheduler.end(long)
    scheduler.pending(old, 30)
    assert scheduler.plan().read == {old: 10}


def test_only_those_count_as_waiting_who_cannot_begin_at_once() -> None:
    scheduler = Scheduler({1: 2}, queue=1)
    tickets_of(scheduler, Cost(ONE), Cost(ONE), Cost(ONE))
    with pytest.raises(QueueFull) as refusal:
        scheduler.submit(Cost(ONE))
    assert "3 requests are waiting" in refusal.value.message
    assert refusal.value.hint


def test_memory_holds_a_request_back_until_others_have_ended() -> None:
    scheduler = Scheduler({1: 4}, memory={1: 100})
    one, two = tickets_of(scheduler, Cost(ONE, memory={1: 60, 2: 999}), Cost(ONE, memory={1: 50}))
    assert scheduler.admit(0).admitted == (one,)
    scheduler.end(one)
    assert scheduler.admit(0).admitted == (two,)
    with pytest.raises(SpecError, match="200 ids in the cache of a model that has room for 100"):
        scheduler.submit(Cost(ONE, 4, memory={1: 50}))


def test_a_request_is_given_up_when_its_time_is_over_in_line_or_served() -> None:
    scheduler = Scheduler({1: 1})
    served, waiting = (scheduler.submit(Cost(ONE), deadline=deadline) for deadline in (2.0, 1.0))
    assert scheduler.admit(0.5).admitted == (served,)
    assert scheduler.admit(1.0).expired == (waiting,)
    assert scheduler.admit(1.9).expired == ()
    assert scheduler.admit(2.0).expired == (served,)
    assert scheduler.free == {1: 1}


@pytest.mark.parametrize("keys", [{"slots": {1: 0}}, {"queue": 0}, {"chunk": 0}, {"memory": {1: 0}}])
def test_bounds_under_which_nobody_could_be_served_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="must be 1 or more"):
        Scheduler(**{"slots": {1: 1}, **keys})  # type: ignore[arg-type]
