"""Slots of clients: what is read, rewound, copied and given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unisono.backends.endpoint.adapter import Question
from unisono.backends.endpoint.worker_frames import Call
from unisono.backends.top_logprobs import TopLogprobs
from unisono.testing import FakeBackend, FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule
from unisono.worker import checks
from unisono.worker.checks import InvalidCall
from unisono.worker.leases import TURN, Leases, NoRoom, Superseded


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


def right(model: FakeModel, *texts: list[int]) -> Any:
    return np.stack([model.next_token(tuple(ids)) for ids in texts])


def test_texts_of_a_client_take_turns() -> None:
    leases, model, _ = made(slots=2)
    texts: list[list[int]] = [[1, 2], [3, 4], [5, 6]]
    for number in range(1, 7):
        slot = number % 3
        texts[slot].append(number)
        held = len(texts[slot]) - 1 if number > 3 else 0
        assert (ask(leases, q(list(texts[slot]), held, slot), number=number) == right(model, texts[slot])).all()
        assert leases.slots <= 2
    told = ask(leases, q([*texts[0], 9], 4, 0), q([*texts[1], 9], 4, 1), number=7)
    assert (told == right(model, [*texts[0], 9], [*texts[1], 9])).all()


@pytest.mark.parametrize("tops", [(0,) * 5, (2, 2, 3, 4, 1)])
def test_a_call_about_more_texts_than_slots_is_answered_in_portions(tops: tuple[int, ...]) -> None:
    leases, model, _ = made(slots=2)
    enough, _, _ = made(slots=5)
    for number, more in enumerate(([], [8], [8, 9]), 1):
        texts = [[place, 7, *more] for place in range(5)]
        questions = [Question(slot, ids, len(more), 2, tops[slot]) for slot, ids in enumerate(texts)]
        told, lengths = leases.answer(Call("one", number, "", questions))
        assert lengths == [2 + len(more)] * 5
        assert leases.slots == 2
        if isinstance(told, TopLogprobs):
            expected = enough.answer(Call("one", number, "", questions))[0]
            for key in ("ids_NK", "logp_NK", "unseen_N", "kth_N"):
                assert np.array_equal(getattr(told, key), getattr(expected, key))
        else:
            assert (told == right(model, *(ids[:end] for ids in texts for end in (-1, len(ids))))).all()


def test_a_copy_of_what_is_not_asked_takes_its_place_without_room() -> None:
    leases, model, _ = made(slots=2)
    ask(leases, q([1, 2, 3]), q([7], slot=1))
    told = ask(leases, q([1, 2, 3, 4], 3, slot=2), q([7, 8], 1, slot=1), number=2)
    assert (told == right(model, [1, 2, 3, 4], [7, 8])).all()
    assert fed(model) == [4, 2]
    assert (ask(leases, q([1, 2, 3, 5], 3), number=3) == right(model, [1, 2, 3, 5])).all()


def test_clients_that_use_all_slots_take_turns() -> None:
    leases, model, clock = made(slots=2)
    ask(leases, q([1]), q([2], slot=1))
    for number in range(2, 5):
        clock.now += TURN / 2 - 0.1
        ask(leases, q([1, 2], 1), number=number)
        if number < 4:
            with pytest.raises(NoRoom) as full:
                ask(leases, q([3]), q([4], slot=1), session="two", number=number)
            assert full.value.retry_after == pytest.approx(TURN if number == 2 else TURN / 2 + 0.1)
            assert leases.slots == 2
    clock.now += 0.3
    assert (ask(leases, q([3]), q([4], slot=1), session="two", number=5) == right(model, [3], [4])).all()
    with pytest.raises(NoRoom):
        ask(leases, q([1, 2, 3], 2), number=6)
    clock.now += TURN
    assert (ask(leases, q([1, 2, 3], 2), number=7) == right(model, [1, 2, 3])).all()


def test_a_client_that_pauses_gives_its_slots() -> None:
    leases, model, clock = made(slots=2)
    ask(leases, q([1]), q([2], slot=1))
    clock.now = TURN
    assert (ask(leases, q([3]), session="two") == right(model, [3])).all()
    assert (leases.sessions, leases.slots) == (2, 2)
    clock.now += 30
    assert leases.expire() == 2
    assert (leases.sessions, leases.slots) == (0, 0)


def test_a_late_call_does_not_open_again_what_was_left() -> None:
    leases, model, _ = made()
    ask(leases, q([1]), number=1)
    leases.leave("one", 3, [0])
    with pytest.raises(Superseded):
        ask(leases, q([1, 2], 1), number=2)
    assert leases.slots == 0
    assert (ask(leases, q([1, 2], 1), number=4) == right(model, [1, 2])).all()


def test_a_client_whose_call_waits_is_not_silent() -> None:
    leases, model, clock = made(idle=10)
    ask(leases, q([1]))
    clock.now = 9
    leases.note(Call("one", 2, "", []))
    clock.now = 18
    assert leases.expire() == 0
    clock.now = 28  # longer than it may be silent, and no look at the sessions meanwhile
    ask(leases, q([1, 2], 1), number=2)
    assert fed(model) == [1, 1]


def test_a_slot_that_does_not_close_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    leases, model, clock = made()
    ask(leases, q([1]), q([2], slot=1))
    close, closed = FakeBackend.close, list[Any]()

    def fail_once(self: FakeBackend, slot: Any) -> None:
        close(self, slot)
        closed.append(slot)
        if len(closed) == 1:
            raise OSError("no such slot")

    monkeypatch.setattr(FakeBackend, "close", fail_once)
    clock.now = 20
    with pytest.raises(OSError, match="no such"):
        leases.expire()
    assert (leases.expire(), len(closed), leases.slots) == (1, 2, 0)
    assert (ask(leases, q([3]), q([4], slot=1), session="two") == right(model, [3], [4])).all()


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
    with pytest.raises(InvalidCall, match=words):
        ask(leases, *questions)
    assert not model.passes
    assert leases.sessions == 0


def test_more_distributions_than_memory_is_given_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    leases, model, _ = made()
    monkeypatch.setattr(checks, "ANSWER", 3 * 4 * model.output_rows)
    with pytest.raises(InvalidCall, match=r"4 distributions .* the most is 3, which are"):
        ask(leases, q([1, 2], wanted=2), q([3, 4], slot=1, wanted=2))
    assert leases.sessions == 0
    assert len(ask(leases, q([1, 2], wanted=2), q([3, 4], slot=1))) == 3
