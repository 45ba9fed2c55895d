"""Where pieces begin, and which of them may be told, in any bytes and however they come."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.records import Generation, Seconds, Usage
from unisono.server.logprobs import Held, Offsets
from unisono.step_records import StepRecord

SUN, PARTY = "\u65e5".encode(), "\U0001f389".encode()
PIECES = st.sampled_from([b"a", b" b", SUN, SUN[:1], SUN[1:], b"\xff", b"\xe6\x97", b"\xa5x", PARTY[:3]])


def step(piece: bytes) -> StepRecord:
    return StepRecord(piece, 0.5, ("a",), {"a": 0.5})


@pytest.mark.parametrize(
    ("pieces", "offsets"),
    [
        ([b"a", b"b"], [0, 1]),
        ([b"\xe6", b"x", b"lo", b"\xe6", b" "], [0, 1, 2, 4, 5]),
        ([b"\xe6", b"\x97", b"\xa5", b"!"], [0, 0, 0, 1]),
        ([b"\xe6", b"\x97x", b"!"], [0, 0, 2]),
        ([b"\xff", b"\xff"], [0, 1]),
        ([b"\xe6", b"\xe6"], [0, 1]),
    ],
)
def test_a_piece_begins_where_its_first_character_is(pieces: list[bytes], offsets: list[int]) -> None:
    count = Offsets()
    assert [count.before(piece) for piece in pieces] == offsets


@given(st.lists(PIECES, min_size=1, max_size=12), st.data())
def test_no_piece_is_told_before_it_is_shown_and_all_are_at_the_end(pieces: list[bytes], data: st.DataObject) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held, told, pending, shown = Held(), list[StepRecord](), "", ""
    starts, count = [], Offsets()
    for piece in pieces:
        starts.append(count.before(piece))
        pending += decoder.decode(piece)
        cut = data.draw(st.integers(0, len(pending)))  # what a stop string may still take back is held
        fresh, pending = pending[:cut], pending[cut:]
        shown += fresh
        told += held.release(fresh, [step(piece)])
        assert len(told) == sum(start < len(shown) for start in starts)
    whole = b"".join(pieces)
    text = whole.decode(errors="replace")
    generation = Generation(text, whole, "end", Usage({}, len(pieces), 0), Seconds(0, 0, {}))
    told += held.rest(generation)
    assert [each.piece for each in told] == pieces
