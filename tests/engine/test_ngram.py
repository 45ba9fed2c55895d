"""Drafting by look-up, by hand and against a search that looks everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.engine.ngram import LONGEST, SHORTEST, NgramIndex

END = 9
COLUMNS = st.lists(st.integers(-1, 3) | st.just(END), max_size=40)


def searched(columns: list[int], limit: int) -> tuple[list[int], int]:
    """What `NgramIndex.propose` promises, by comparing the text's end with every place before it."""
    for size in range(LONGEST, SHORTEST - 1, -1):
        run = columns[-size:]
        places = [at for at in range(len(columns) - size) if columns[at : at + size] == run]
        if len(run) == size and min(run) >= 0 and places:
            text = list(columns)
            for place in range(places[-1] + size, places[-1] + size + limit):
                if text[place] in (-1, END):
                    break
                text.append(text[place])
            draft = text[len(columns) :]
            return draft, size if draft else 0
    return [], 0


@given(COLUMNS, st.integers(0, 12))
def test_a_draft_is_what_a_search_through_the_whole_text_finds(columns: list[int], limit: int) -> None:
    assert NgramIndex(END, columns).propose(limit) == searched(columns, limit)


@given(COLUMNS, COLUMNS)
def test_a_text_that_grows_while_it_is_drafted_from_is_the_text_read_at_once(
    prompt: list[int], written: list[int]
) -> None:
    index = NgramIndex(END, prompt)
    for count, column in enumerate(written):
        assert index.propose(6) == searched(prompt + written[:count], 6)
        index.append(column)
    assert len(index) == len(prompt) + len(written)
    assert index.propose(6) == searched(prompt + written, 6)


@pytest.mark.parametrize(
    ("columns", "draft", "matched"),
    [
        pytest.param([], [], 0, id="nothing was written"),
        pytest.param([1, 2, 3], [], 0, id="nothing comes again"),
        pytest.param([1, 5, 1], [], 0, id="one column is too short a run"),
        pytest.param([1, 2, 5, 6, 1, 2], [5, 6, 1, 2], 2, id="a run of two"),
        pytest.param([1, 2, 3, 4, 7, 8, 1, 2, 3, 4], [7, 8, 1, 2], 4, id="a run of four"),
        pytest.param([0, 1, 2, 3, 4, 7, 0, 1, 2, 3, 4], [7, 0, 1, 2], 4, id="four of five are looked up"),
        pytest.param([1, 2, 5, 7, 1, 2, 6, 8, 1, 2], [6, 8, 1, 2], 2, id="the latest of equally long ones"),
        pytest.param([0, 1, 2, 5, 7, 1, 2, 6, 0, 1, 2], [5, 7, 1, 2], 3, id="a longer one before a later one"),
        pytest.param([1, 2, -1, 1, 2], [], 0, id="nothing that has no column is drafted"),
        pytest.param([1, 2, 3, -1, 1, 2], [3], 2, id="up to what has no column"),
        pytest.param([1, -1, 5, 1, -1], [], 0, id="what has no column is like nothing else"),
        pytest.param([1, 2, 3, END, 1, 2], [3], 2, id="up to END"),
        pytest.param([1, 2, END, 1, 2], [], 0, id="END itself is not drafted"),
        pytest.param([END, 1, 5, END, 1], [5], 2, id="END may stand in what is found again"),
    ],
)
def test_a_draft_by_hand(columns: list[int], draft: list[int], matched: int) -> None:
    assert NgramIndex(END, columns).propose(4) == (draft, matched)


def test_a_text_that_repeats_itself_is_drafted_as_far_as_asked() -> None:
    assert NgramIndex(END, [1, 2, 1, 2, 1, 2]).propose(9) == ([1, 2, 1, 2, 1, 2, 1, 2, 1], 4)
    assert NgramIndex(END, [7, 7, 7]).propose(5) == ([7] * 5, 2)


def test_a_limit_of_nothing_drafts_nothing() -> None:
    assert NgramIndex(END, [1, 2, 1, 2]).propose(0) == ([], 0)


def test_drafting_changes_nothing() -> None:
    index = NgramIndex(END, [1, 2, 5, 6, 1, 2])
    assert index.propose(3) == index.propose(3) == ([5, 6, 1], 2)
    assert len(index) == 6
