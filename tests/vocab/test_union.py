"""The union vocabulary and spelling, on tiny vocabularies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import VocabularyError
from unisono.testing import LongestMatchTokenizer, byte_level_table, sentencepiece_table
from unisono.vocab.pieces import end_ids, read_vocabulary
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import TokenTable
from unisono.vocab.union import ABSENT, UnionMember, UnionVocabulary, build_union


def speller_of(table: TokenTable, encode: Callable[[str], list[int]] | None = None) -> Speller:
    return Speller(read_vocabulary(table, end_ids(table)), encode or LongestMatchTokenizer(table).encode)


def a() -> UnionMember:
    return UnionMember("a", speller_of(byte_level_table([" the", "Hello", " Hello", "日本"])))


def b(*, leading_space: bool = False) -> UnionMember:
    table = sentencepiece_table([" the", " cat", " Hello", "\n"])
    return UnionMember("b", speller_of(table), leading_space=leading_space)


def lame() -> UnionMember:
    """A member without tokens for two bytes."""
    return UnionMember("lame", speller_of(byte_level_table([" the"], without=[0x04, 0xF1])))


def column_of(union: UnionVocabulary, piece: bytes) -> int:
    return next(column for column in range(union.size) if union.piece(column) == piece)


def test_every_piece_of_every_member_has_one_column_and_end_is_the_last() -> None:
    members = [a(), b()]
    union = build_union(members)
    pieces = [union.piece(column) for column in range(union.size)]
    assert pieces[-1] is None
    assert len(set(pieces)) == union.size
    expected = {piece for member in members for piece in member.speller.vocabulary.pieces if piece}
    assert set(pieces[:-1]) == expected


def test_columns_are_numbered_by_member_then_id() -> None:
    members = [a(), b()]
    union = build_union(members)
    first_seen: dict[bytes, None] = {}
    for member in members:
        for piece in member.speller.vocabulary.pieces:
            if piece:
                first_seen.setdefault(piece)
    assert [union.piece(column) for column in range(union.end)] == list(first_seen)


def test_the_numbering_is_the_same_in_another_process() -> None:
    code = "import hashlib, test_union as t; print(hashlib.sha256(t.build_union([t.a(), t.b()]).data).hexdigest())"
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1


def test_ids_of_one_piece_and_all_ends_share_a_column() -> None:
    union = build_union([b()])
    vocabulary = b().speller.vocabulary
    newlines = [token for token, piece in enumerate(vocabulary.pieces) if piece == b"\n"]
    assert len(newlines) == 3
    columns = {int(union.maps[0].column_V[token]) for token in newlines}
    assert len(columns) == 1
    canonical = int(union.maps[0].id_U[columns.pop()])
    assert canonical not in vocabulary.byte_ids
    assert {int(union.maps[0].column_V[token]) for token in vocabulary.end_ids} == {union.end}


def test_a_piece_that_some_member_cannot_spell_is_left_out_and_no_other() -> None:
    union = build_union([a(), lame()])
    assert union.left_out == (b"\x04", b"\xf1")
    four = a().speller.vocabulary.canonical[b"\x04"]
    assert union.maps[0].column_V[four] == ABSENT
    assert column_of(union, "日本".encode()) >= 0


def test_a_vocabulary_that_cannot_write_plain_text_is_refused_by_name() -> None:
    crippled = UnionMember("mute", speller_of(byte_level_table([], without=[ord("e"), ord("\n")])))
    with pytest.raises(VocabularyError, match=r"'mute' cannot spell 2 bytes of plain text: 0A, 65"):
        build_union([a(), crippled])


def test_a_leading_space_is_folded_away_at_the_first_step_only() -> None:
    union = build_union([a(), b(leading_space=True)])
    member_map = union.maps[1]
    vocabulary = b().speller.vocabulary
    hello, cat, space = (vocabulary.canonical[piece] for piece in (b" Hello", b" cat", b" "))
    assert member_map.first_column_V is not None
    assert union.piece(int(member_map.column_V[hello])) == b" Hello"
    assert union.piece(int(member_map.first_column_V[hello])) == b"Hello"
    assert union.piece(int(member_map.first_column_V[cat])) == b"cat"
    assert union.piece(int(member_map.first_column_V[space])) == b" "
    assert union.maps[0].first_column_V is None


@given(st.binary(min_size=1, max_size=12))
def test_any_bytes_are_spelled_exactly_where_every_byte_has_a_token(piece: bytes) -> None:
    for member in (a(), b()):
        ids = member.speller.spell(piece)
        assert ids is not None
        assert member.speller.vocabulary.join(ids) == piece


@given(st.binary(min_size=1, max_size=12))
def test_what_cannot_be_spelled_is_none_and_never_a_lossy_spelling(piece: bytes) -> None:
    speller = lame().speller
    ids = speller.spell(piece)
    assert (ids is None) == bool(set(piece) & {0x04, 0xF1})
    assert ids is None or speller.vocabulary.join(ids) == piece


def test_the_tokenizers_own_encoding_is_taken_only_when_it_is_exact() -> None:
    table = byte_level_table(["ab"])
    letters = {piece: token for token, piece in enumerate(read_vocabulary(table, ()).pieces)}
    by_letters = speller_of(table, lambda text: [letters[bytes([byte])] for byte in text.encode()])
    assert by_letters.spell(b"aba") == tuple(letters[x] for x in (b"a", b"b", b"a"))
    lossy = speller_of(table, lambda text: [letters[b"?"]])
    assert lossy.spell(b"aba") == (letters[b"ab"], letters[b"a"])


def same(left: UnionVocabulary, right: UnionVocabulary) -> None:
    assert left.data == right.data
    assert left.left_out == right.left_out
    np.testing.assert_array_equal(left.offset_U, right.offset_U)
    for one, other in zip(left.maps, right.maps, strict=True):
        np.testing.assert_array_equal(one.column_V, other.column_V)
        np.testing.assert_array_equal(one.id_U, other.id_U)
        assert (one.first_column_V is None) == (other.first_column_V is None)
