"""Text appears as whole characters and never past a stop string."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from support.at_once import at_once
from unisono.engine.detokenizer import Detokenizer, ReasoningText, decode_text


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
    assembler, keeping = Detokenizer(stops), Detokenizer(stops, keeps_stop=True)
    shown = ""
    fed = b""
    for piece in cut(text.encode(), places):
        fed += piece
        assembler.add(piece)
        keeping.add(piece)
        if assembler.stopped:
            break
        shown += assembler.take()
    shown += assembler.take(final=True)
    assert shown == decode_text(assembler.data)
    found = [at for at in (fed.find(stop.encode()) for stop in stops) if at >= 0]
    assert assembler.stopped == bool(found)
    assert assembler.data == (fed[: min(found)] if found else text.encode())
    ends = [(at, at + len(stop.encode())) for stop in stops if (at := fed.find(stop.encode())) >= 0]
    assert (keeping.data, keeping.stopped) == ((fed[: min(ends)[1]], True) if ends else (text.encode(), False))


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


MARK = None
TAKES = st.lists(st.booleans(), max_size=12)


@given(
    st.lists(st.sampled_from((b" ", b"\n", b" \n", b"a", b" b", b"\xc3", b"\xa9", MARK)), max_size=12),
    TAKES,
    st.booleans(),
    st.sampled_from(((), ("\n\n",), (" a",), ("aa",))),
)
def test_what_is_shown_does_not_depend_on_when_it_is_taken(
    written: list[bytes | None], taken: list[bool], inside: bool, stops: tuple[str, ...]
) -> None:
    whole = Detokenizer(stops, stripped=inside, marked=True)
    parts = Detokenizer(stops, stripped=inside, marked=True)
    shown = ""
    for number, piece in enumerate(written):
        for text in (whole, parts):
            if piece is MARK:
                text.strip()
            elif not text.stopped:
                text.add(piece)
        if taken[number : number + 1] == [True]:
            shown += parts.take()
    assert parts.data == whole.data
    assert shown + parts.take(final=True) == whole.take(final=True) == decode_text(whole.data)


@given(st.lists(st.sampled_from((b" ", b"\n", b"a", b" b\n", b"\xc3", b"\xa9")), max_size=12), TAKES)
def test_so_is_reasoning(written: list[bytes], taken: list[bool]) -> None:
    reasoning, shown = ReasoningText(), ""
    for number, piece in enumerate(written):
        reasoning.add(piece)
        if taken[number : number + 1] == [True]:
            shown += reasoning.take()
    assert shown + reasoning.take(final=True) == decode_text(reasoning.data)


def test_white_space_before_a_late_mark_is_left_out_and_before_text_is_shown() -> None:
    for after, expected in (([b"Hi"], "\n Hi"), ([MARK, b" ", b"Hi"], "Hi"), ([], "\n ")):
        text = Detokenizer(marked=True)
        text.add(b"\n ")
        assert text.take() == ""
        for piece in after:
            text.strip() if piece is MARK else text.add(piece)
        assert text.take(final=True) == expected
    free = Detokenizer()
    free.add(b"\n ")
    assert free.take() == "\n "


@given(
    st.lists(st.text("ab ").map(str.encode) | st.none(), max_size=8),
    st.text("ab "),
    st.lists(st.text("ab ", min_size=1, max_size=7), min_size=1, max_size=3),
)
def test_what_is_given_leaves_stop_strings_where_every_byte_of_it_would(
    begun: list[bytes | None], after: str, stops: list[str]
) -> None:
    text, plain = Detokenizer(stops, marked=True), Detokenizer(stops, marked=True)
    for piece in begun:
        for each in (text, plain):
            if piece is None:
                each.strip()
            else:
                each.add(piece, given=True)
        for number in range(len(stops) if piece is not None else 0):
            plain._found(number, len(plain._data) - len(piece or b""), past=True)
    fitting = [*plain._fitting]
    for each in (text, plain):
        each.go_on()
    assert text._fitting == fitting
    for letter in after.encode():
        for each in (text, plain):
            if not each.stopped:
                each.add(bytes([letter]))
        assert (text.data, text.stopped, text._fitting) == (plain.data, plain.stopped, plain._fitting)


def test_a_long_text_that_is_given_costs_no_time() -> None:
    text = Detokenizer([letter * 9 for letter in "abcdefghijklmnop"])
    with at_once(0.5):
        for _ in range(500):
            text.add(b"abcdefgh" * 125, given=True)
        text.go_on()
