"""Slots of clients: what is read, rewound, copied and given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import Call
from unisono.testing import FakeBackend, FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule
from unisono.worker.leases import Leases, Misasked, NoRoom, Superseded


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(slots: int = 2, idle: float = 10) -> tuple[Leases, FakeModel, Clock]:
    table = byte_level_table()
    model = FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts)), context=50)
    clock = Clock()
    return Leases(FakeBackend(model, slots=slots), idle, clock), model, clock


def ask(leases: Leases, *questions: Question, session: str = "one", number: int = 1) -> Any:
    return np.array(leases.answer(Call(session, number, "", questions))[0])


def q(ids: list[int], held: int = 0, slot: int = 0, wanted: int = 1) -> Question:
    return Question(slot, ids, held, wanted)


def fed(model: FakeModel) -> list[int]:
    """How many ids each pass read."""
    return [sum(len(feed.ids) for feed in each.feeds) for each in model.passes]


def test_only_what_is_missing_is_read_and_a_lost_answer_is_given_again() -> None:
    leases, model, _ = made()
    ask(leases, q([1, 2, 3]))
    first = ask(leases, q([1, 2, 3, 4], 3))
    again = ask(leases, q([1, 2, 3, 4], 3))
    other = ask(leases, q([1, 9], 1))
    assert fed(model) == [3, 1, 1, 1]
    assert (first == again).all()
    assert (other == model.next_token((1, 9))).all()


def test_a_copy_is_made_of_a_slot_even_of_one_that_was_left() -> None:
    leases, model, _ = made(slots=2)
    ask(leases, q([1, 2, 3]))
    leases.leave("one", 2, [0])
    told = ask(leases, q([1, 2, 3, 4], 3, slot=1), q([1, 2, 3, 5], 3, slot=2), number=3)
    assert fed(model) == [3, 2]
    assert (told == np.stack([model.next_token((1, 2, 3, end)) for end in (4, 5)])).all()


def test_what_is_begun_anew_is_read_anew_though_it_is_there() -> None:
    leases, model, _ = made()
    ask(leases, q([1, 2, 3]))
    ask(leases, q([1, 2, 3, 4], 0, slot=1))
    assert fed(model) == [3, 4]


def test_an_older_leave_or_call_changes_nothing() -> None:
    leases, model, _ = made()
    ask(leases, q([1, 2]), number=5)
    leases.leave("one", 4, [0])
    ask(leases, q([1, 2, 3], 2), number=6)
    assert fed(model) == [2, 1]
    leases.note(Call("one", 8, "", []))
    with pytest.raises(Superseded):
        ask(leases, q([1, 2, 3, 4], 3), number=7)


def test_a_silent_client_makes_room_and_a_full_worker_says_for_how_long() -> None:
    leases, model, clock = made(slots=2)
    ask(leases, q([1]), q([2], slot=1))
    clock.now = 4
    with pytest.raises(NoRoom) as full:
        ask(leases, q([3]), session="two")
    assert full.value.retry_after == 6
    with pytest.raises(NoRoom) as own:
        ask(leases, q([3], slot=2), number=2)
    assert own.value.retry_after is None
    clock.now = 15
    assert (ask(leases, q([3]), session="two") == model.next_token((3,))).all()
    assert leases.sessions == 1
    clock.now = 30
    assert leases.expire() == 1
    assert (leases.sessions, leases.slots) == (0, 0)


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([q([1]), q([1])], "asked twice"),
        ([q([1], slot=5000)], "none of 0"),
        ([q([1], held=1)], "1 of which are read"),
        ([q([1], wanted=2)], "2 rows are wanted"),
        ([q([1] * 51)], "the context is 50"),
        ([q([10**6])], "rows do not have"),
        ([Question(0, [1], 0, 1, top=10**6)], "more ids"),
        ([Question(0, [1], 0, 1, top=2), q([1], slot=1)], "in one call"),
    ],
)
def test_what_no_model_could_answer_is_refused(questions: list[Question], words: str) -> None:
    leases, model, _ = made()
    with pytest.raises(Misasked, match=words):
        ask(leases, *questions)
    assert not model.passes
    assert leases.sessions == 0
