"""Stop strings are found as a plain search finds them, and what may begin one waits, at a cost that does not grow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.at_once import at_once
from unisono.engine.detokenizer import Detokenizer

LETTERS = st.text("ab", min_size=1, max_size=7)


def by_search(pieces: list[str], stops: list[str]) -> tuple[str, list[str]]:
    """The whole text, and what may be shown after each piece: the plain way."""
    text, shown = "", list[str]()
    for piece in pieces:
        text += piece
        if starts := [start for stop in stops if (start := text.find(stop)) >= 0]:
            return text[: min(starts)], shown
        begun = (size for size in range(len(text), 0, -1) if any(stop.startswith(text[-size:]) for stop in stops))
        shown.append(text[: len(text) - next(begun, 0)])
    return text, shown


@given(st.lists(LETTERS, max_size=12), st.lists(LETTERS, min_size=1, max_size=3))
def test_a_text_is_shown_and_ends_as_by_a_plain_search(pieces: list[str], stops: list[str]) -> None:
    text, shown = by_search(pieces, stops)
    found, until = Detokenizer(stops), ""
    for number, piece in enumerate(pieces):
        found.add(piece.encode())
        until += found.take(final=found.stopped)
        if found.stopped:
            break
        assert until == shown[number]
    assert found.data == text.encode()
    assert found.stopped == (len(shown) < len(pieces))


def test_long_stop_strings_cost_no_more_than_short_ones() -> None:
    found = Detokenizer([f"{'a' * 60_000}{number}" for number in range(16)])
    with at_once(2):
        for _ in range(2_000):
            found.add(b"aaaa")
            assert found.take() == ""
        found.add(b"b")
        assert len(found.take()) == 8_001
