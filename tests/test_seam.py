"""Seams: which places of a text are some, and that real tokenizers encode both sides of them apart."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adversarial import ADVERSARIAL
from real_tokenizers import RealTokenizer, real
from test_pieces_real import DIVERSE, every_tokenizer
from unisono.testing import byte_level_table, sentencepiece_table
from unisono.vocab.pieces import Vocabulary, read_vocabulary
from unisono.vocab.seam import REACH, Seams
from writing import texts

PLAIN = Seams(read_vocabulary(byte_level_table(), ()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("one two", "one| two", id="before a space"),
        pytest.param("a  b", "a|  b", id="before a run of spaces, not within it"),
        pytest.param("a\n b\t c", "a\n b\t c", id="not behind other whitespace"),
        pytest.param("a\u00a0 b\u3000 c\u2028 d", "a\u00a0 b\u3000 c\u2028 d", id="nor behind whitespace of Unicode"),
        pytest.param("a\u200b b\ufeff c\0 d", "a\u200b b\ufeff c\0 d", id="nor behind what some take for whitespace"),
        pytest.param("a. b) c' 1 d", "a.| b)| c'| 1| d", id="behind punctuation and digits"),
        pytest.param("€ e\u0301 a", "€| e\u0301| a", id="behind symbols and marks"),
        pytest.param("🙂 a", "🙂 a", id="not behind what Unicode got lately"),
        pytest.param("a\nb\n1\n\nс\n語", "a\n|b\n|1\n\n|с\n|語", id="between a line feed and a letter or digit"),
        pytest.param("a.\n/b\n.c\r\n\rd", "a.\n/b\n.c\r\n\rd", id="not before other characters"),
        pytest.param("日本語ของ한국", "日|本|語|ข|อ|ง|한|국", id="between letters without case"),
        pytest.param("กข้ค", "ก|ข้ค", id="not beside a mark"),
        pytest.param("カーナ々語", "カーナ々語", id="nor beside a modifier"),
        pytest.param("本Ab本語", "本Ab本語", id="nor in a run of letters with a cased one before"),
        pytest.param("Abー本語", "Abー本語", id="modifiers do not end such a run"),
        pytest.param("Ab本้語ก", "Ab本้語ก", id="nor do marks"),
        pytest.param("Ab1本語 Ab、本語", "Ab1本|語| Ab、|本|語", id="digits and punctuation do"),
        pytest.param("日。本「語」と", "日|。|本|「|語|」|と", id="beside CJK punctuation"),
        pytest.param("日。」本！？語", "日|。」|本|！？|語", id="not between two marks of it"),
        pytest.param("123١٢٣४५ 1", "123١٢٣४५| 1", id="not between digits"),
        pytest.param("მხედრული", "მხედრული", id="not between letters that were given case later"),
        pytest.param("don't:a/b-c_d", "don't:a/b-c_d", id="nowhere else"),
    ],
)
def test_where_a_text_has_seams_if_no_piece_goes_across(text: str, shown: str) -> None:
    assert show(PLAIN, text) == shown


def test_a_piece_that_holds_both_characters_of_a_place_rules_it_out() -> None:
    seams = Seams(read_vocabulary(sentencepiece_table(["> </", "日本", "b\n1"]), ()))
    assert show(seams, "a> <b> c") == "a> <b> c"
    assert show(seams, "日本日") == "日本|日"
    assert show(seams, "a\n1\n2") == "a\n1\n|2"


def test_a_piece_that_holds_parts_of_characters_rules_a_place_out() -> None:
    """日 is E6 97 A5, 本 is E6 9C AC, 語 is E8 AA 9E."""
    pieces = (b"a", b"\x97\xa5\xe6", b"\xe8\xaa\x9e\xe6\x97")
    seams = Seams(Vocabulary(pieces=pieces, end_ids=()))
    assert show(seams, "日本日語日 語本") == "日本|日|語日| 語|本"
    assert show(Seams(Vocabulary(pieces=(b"\x9e ",), end_ids=())), "語 日 ") == "語 日| "


@pytest.mark.parametrize("family", ["Unigram", "byte-level Unigram", "SentencePiece"])
def test_only_spaces_are_seams_where_scores_are_added_up(family: str) -> None:
    seams = Seams(Vocabulary(pieces=(b"a",), end_ids=(), family=family))
    assert show(seams, "one two\nthree 日本。語") == "one| two\nthree| 日本。語"


def test_bytes_that_are_no_text_have_no_seam_beside_them() -> None:
    text = b"a\xff b c\xe6 \xe6\x97\xe6".decode(errors="surrogateescape")
    assert list(found(PLAIN, text)) == [text.index(" c")]


def test_the_end_of_a_text_is_searched() -> None:
    assert PLAIN.last("") is None
    assert PLAIN.last(" a") is None, "a text begins at a seam already"
    assert PLAIN.last("a b" + "c" * (REACH - 2)) == 1
    assert PLAIN.last("a b" + "c" * REACH) is None


@every_tokenizer
def test_a_real_tokenizer_encodes_both_sides_of_a_seam_apart(backend: str, name: str) -> None:
    known = real(backend, name)
    for case, text in ADVERSARIAL.items():
        check_seams(known, text[:250], case)


@pytest.mark.parametrize(("backend", "name"), DIVERSE, ids=map("/".join, DIVERSE))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts(), data=st.data())
def test_whatever_follows_a_seam_changes_nothing_before_it(
    backend: str, name: str, text: str, data: st.DataObject
) -> None:
    known = real(backend, name)
    pieces = list(known.vocabulary.canonical)
    chosen = data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=6))
    text += b"".join(pieces[index] for index in chosen).decode(errors="ignore")  # such as may go across
    check_seams(known, text, text)


@functools.cache
def seams_of(known: RealTokenizer) -> Seams:
    return Seams(known.vocabulary)


def check_seams(known: RealTokenizer, text: str, case: str) -> None:
    """All seams of a text, and not only the last: the ids behind one are those of the rest by itself, and
    those before one are the same when the text ends right behind it.
    """
    whole = known.speller.own_encoding(text.encode())
    if whole is None:
        return
    borders, length = {0: 0}, 0
    for count, token in enumerate(whole, 1):
        length += len(known.vocabulary.pieces[token] or b"")
        borders[length] = count
    for place in found(seams_of(known), text):
        border = borders.get(len(text[:place].encode()))
        assert border is not None, (case, text[:place], text[place:])
        assert known.speller.own_encoding(text[place:].encode()) == whole[border:], (case, text[:place], text[place:])
        begun = known.speller.own_encoding(text[: place + 1].encode())
        assert begun is None or begun[:border] == whole[:border], (case, text[:place], text[place:])


def found(seams: Seams, text: str) -> Iterator[int]:
    """All seams of a text: each is the last of some beginning of it."""
    places = (seams.last(text[:end]) for end in range(len(text) + 1))
    yield from sorted({place for place in places if place is not None})


def show(seams: Seams, text: str) -> str:
    borders = [0, *found(seams, text), len(text)]
    return "|".join(text[start:end] for start, end in itertools.pairwise(borders))
