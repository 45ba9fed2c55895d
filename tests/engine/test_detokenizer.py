"""Text appears as whole characters and never past a stop string."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from unisono.engine.detokenizer import Detokenizer, decode_text


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.text(), st.lists(st.integers(0, 10**6)))
def test_however_the_bytes_are_cut_the_text_is_whole(text: str, places: list[int]) -> None:
    assembler = Detokenizer()
    shown = ""
    for piece in cut(text.encode(), places):
        assembler.add(piece)
        shown += assembler.take()
        assert text.startswith(shown)
        assert "\ufffd" not in shown or "\ufffd" in text
    assert shown + assembler.take(final=True) == text


@given(
    st.text("abé\n"), st.lists(st.integers(0, 10**6)), st.lists(st.text("abé\n", min_size=1, max_size=4), max_size=3)
)
def test_a_text_ends_before_the_first_stop_string(text: str, places: list[int], stops: list[str]) -> None:
    assembler = Detokenizer(stops)
    shown = ""
    fed = b""
    for piece in cut(text.encode(), places):
        fed += piece
        assembler.add(piece)
        if assembler.stopped:
            break
        shown += assembler.take()
    shown += assembler.take(final=True)
    assert shown == decode_text(assembler.data)
    found = [at for at in (fed.find(stop.encode()) for stop in stops) if at >= 0]
    assert assembler.stopped == bool(found)
    assert assembler.data == (fed[: min(found)] if found else text.encode())


def test_what_may_become_a_stop_string_waits_and_is_shown_when_it_does_not() -> None:
    assembler = Detokenizer(["END"])
    assembler.add(b"go E")
    assert assembler.take() == "go "
    assembler.add(b"N")
    assert assembler.take() == ""
    assembler.add(b"T")
    assert assembler.take() == "ENT"


def test_an_unfinished_character_at_the_end_is_left_out_of_the_text_but_kept_in_the_bytes() -> None:
    assembler = Detokenizer()
    assembler.add(b"a\xe2\x82")
    assert assembler.take() == "a"
    assert assembler.take(final=True) == ""
    assert decode_text(assembler.data) == "a"
    assert assembler.data == b"a\xe2\x82"
