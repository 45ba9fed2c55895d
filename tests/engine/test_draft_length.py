"""How far drafts go: costs are learned, and one piece more is drafted as long as that pays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from support.methods import FixedDraftLength
from unisono.engine.draft_length import (
    STALE,
    Chances,
    DraftLengthController,
    Outlook,
    PassTimes,
    SizeTimes,
    Work,
)


def plain(texts: int = 1) -> Work:
    return Work(texts, texts, texts)


def test_the_time_of_a_size_is_the_median_of_its_latest_passes() -> None:
    times = SizeTimes()
    assert times.seconds(3) is None
    for seconds in (9.0, 9.0, 1.0, 1.0, 1.0, 50.0, 1.0):
        times.learn(4, seconds)
    assert times.seconds(4) == 1.0


def test_times_between_known_sizes_are_interpolated_and_larger_ones_are_hoped_to_be_cheap() -> None:
    times = SizeTimes()
    times.learn(1, 10.0)
    assert 10.0 < (times.seconds(4) or 0) < 12.0
    times.learn(5, 30.0)
    assert times.seconds(3) == pytest.approx(20.0)
    assert 30.0 < (times.seconds(6) or 0) < 33.0
    assert 0 < (times.seconds(0) or 0) < 10.0


def test_a_size_that_did_not_come_up_for_long_is_forgotten() -> None:
    times = SizeTimes()
    times.learn(1, 10.0)
    times.learn(8, 500.0)
    for _ in range(STALE):
        times.learn(1, 10.0)
    assert (times.seconds(8) or 0) < 15.0


def test_verifying_and_catching_up_are_learned_apart_and_added() -> None:
    """A model whose output layer takes 3 a row, and whose other layers take 1 an id and 5 a pass."""
    times = PassTimes()

    def true(work: Work) -> float:
        return 5.0 + work.tokens + 3.0 * work.rows

    for work in (plain(), Work(1, 4, 1), Work(1, 8, 1), Work(1, 4, 4), Work(1, 8, 8)):
        times.learn(work, true(work))
    for work in (plain(), Work(1, 6, 1), Work(1, 6, 6), Work(1, 7, 4)):
        assert times.seconds(work) == pytest.approx(true(work))
    mixed = Work(1, 8, 5)
    times.learn(mixed, true(mixed))
    assert times.seconds(Work(1, 5, 5)) == pytest.approx(true(Work(1, 5, 5)))
    assert times.seconds(Work(0, 0, 0)) == 0.0


def test_prompts_tell_nothing_of_short_blocks() -> None:
    times = PassTimes()
    times.learn(plain(), 1.0)
    times.learn(Work(1, 500, 1), 100.0)
    assert times.seconds(Work(1, 4, 1)) < 1.5


@pytest.mark.parametrize("truth", [0.2, 0.9])
def test_chances_follow_what_has_held_and_at_first_take_the_drafter_at_its_word(truth: float) -> None:
    chances = Chances()
    before = [chances.chance(sureness) for sureness in (0.1, 0.4, 0.7, 0.95)]
    assert before == sorted(before)
    assert before[-1] > 0.9
    held = np.random.default_rng(0).random(300) < truth
    for outcome in held:
        chances.learn(0.7, bool(outcome))
    assert chances.chance(0.65) == pytest.approx(truth, abs=0.15)
    assert chances.chance(0.1) == before[0]
    assert chances.share == pytest.approx(truth, abs=0.15)


def trained(rate_seconds: float = 10.0, texts: int = 1) -> DraftLengthController:
    draft_length = DraftLengthController()
    draft_length.learn_step(texts, texts, rate_seconds, rate_seconds)
    return draft_length


def test_nothing_is_drafted_before_a_plain_step_was_timed() -> None:
    assert DraftLengthController().go_on([Outlook(1.0, 0.9, True)], lambda count: 0.1, 1) == []
    assert trained().go_on([Outlook(1.0, 0.9, True)], lambda count: 0.1, 1) == [0]


def test_one_piece_more_is_drafted_where_it_costs_less_than_it_is_expected_to_give() -> None:
    """At one piece in 10 seconds, a piece that holds with 0.6 is worth 6 seconds."""
    for cost, expected in ((5.9, [0]), (6.1, [])):
        assert trained().go_on([Outlook(1.0, 0.6, True)], lambda count, cost=cost: cost, 1) == expected
    assert trained().go_on([Outlook(0.5, 0.6, True)], lambda count: 3.1, 1) == []
    assert trained().go_on([Outlook(1.0, 1.0, False)], lambda count: 0.0, 1) == []


def test_of_several_texts_those_go_on_that_are_worth_the_pass_together() -> None:
    """Every subset is tried by hand."""
    outlooks = [Outlook(1.0, 0.9, True), Outlook(0.5, 0.8, True), Outlook(1.0, 0.2, True), Outlook(0.3, 0.3, True)]

    def cost(count: int) -> float:
        return 4.0 + 3.0 * count

    draft_length = trained(texts=4)
    going = draft_length.go_on(outlooks, cost, 4)
    values = {
        chosen: sum(outlooks[i].sure * outlooks[i].chance for i in chosen) - 0.4 * cost(len(chosen))
        for size in range(1, 5)
        for chosen in itertools.combinations(range(4), size)
    }
    best = max(values, key=lambda chosen: values[chosen])
    assert values[best] < 0
    assert going == []
    cheap = draft_length.go_on(outlooks, lambda count: 0.4 + 0.3 * count, 4)
    values = {chosen: value + 0.36 * (4.0 + 3.0 * len(chosen)) for chosen, value in values.items()}
    assert tuple(cheap) == max(values, key=lambda chosen: values[chosen])


def test_the_rate_is_never_taken_to_be_worse_than_without_drafts() -> None:
    """Else a drafter that makes everything slow would look good beside itself."""
    draft_length = DraftLengthController()
    for _ in range(50):
        draft_length.learn_step(1, 1, 100.0, 10.0)
    assert draft_length.go_on([Outlook(1.0, 0.6, True)], lambda count: 7.0, 1) == []


def test_a_steady_pace_drafts_on_whatever_it_costs() -> None:
    draft_length = FixedDraftLength()
    assert draft_length.go_on([Outlook(0.1, 0.1, True), Outlook(1.0, 1.0, False)], lambda count: 1e9, 2) == [0, 1]
    assert draft_length.go_on([Outlook(1.0, 1.0, False)], lambda count: 0.0, 1) == []
