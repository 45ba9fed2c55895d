"""Pieces by definition: small vocabularies, each with one thing that goes wrong elsewhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.at_once import at_once
from unisono.errors import VocabularyError
from unisono.vocab.pieces import (
    BYTE_LEVEL_ALPHABET,
    DECLARED,
    EOS,
    TEMPLATE,
    Vocabulary,
    end_ids,
    odd_ends,
    read_vocabulary,
    token_bytes,
)
from unisono.vocab.spelling import Speller, encode_plain
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

BYTE_TO_CHARACTER = {byte: character for character, byte in BYTE_LEVEL_ALPHABET.items()}


def table_of(
    *tokens: tuple[str, Kind],
    scheme: Scheme = "byte-level",
    declared: tuple[int, ...] = (),
    eos: int | None = None,
) -> TokenTable:
    return TokenTable(
        scheme=scheme,
        family="small",
        texts=tuple(text for text, _ in tokens),
        kinds=tuple(kind for _, kind in tokens),
        declared_end_ids=declared,
        eos_id=eos,
    )


def test_typed_control_tokens_are_cut_where_a_library_takes_them_for_one() -> None:
    def encode(text: str) -> list[int]:
        """A library that knows ``<s>`` (1), ``a`` (2) whole, and every other character."""
        return [1 if part == "<s>" else 2 if part == "a" else ord(part) for part in re.findall("<s>|.", text)]

    def rest(text: str) -> list[int]:
        return [-1, *encode(text)]

    assert encode_plain("<<s>x<s>", {1: "<s>"}, encode, rest) == [
        *map(ord, "<<"), -1, *map(ord, "s>x<"), -1, *map(ord, "s>")
    ]  # fmt: skip
    assert encode_plain("<s", {1: "<s>"}, encode, rest) == [*map(ord, "<s")]
    assert encode_plain("xa", {2: "a"}, encode, rest) == [ord("x")]


def test_the_byte_level_alphabet_is_that_of_gpt2() -> None:
    assert len(BYTE_LEVEL_ALPHABET) == 256
    assert sorted(BYTE_LEVEL_ALPHABET.values()) == list(range(256))
    named = {"Ġ": 0x20, "Ċ": 0x0A, "ĉ": 0x09, "č": 0x0D, "Ā": 0x00, "ġ": 0x7F, "Ģ": 0x80, "ł": 0xA0, "Ń": 0xAD}
    assert {character: BYTE_LEVEL_ALPHABET[character] for character in named} == named


@given(st.binary(min_size=1))
def test_any_bytes_survive_the_byte_level_alphabet(data: bytes) -> None:
    text = "".join(BYTE_TO_CHARACTER[byte] for byte in data)
    assert token_bytes(text, "normal", "byte-level") == data


@pytest.mark.parametrize("text", ["a b", "\n", "\u00ad", "中", "â中", "\x00", "\xa0", "<|x y|>"])
def test_a_byte_level_token_outside_the_alphabet_is_its_own_text(text: str) -> None:
    assert token_bytes(text, "normal", "byte-level") == text.encode()


def test_an_added_token_is_its_own_text_even_in_letters_of_the_alphabet() -> None:
    assert token_bytes("ø", "added", "byte-level") == "ø".encode()
    assert token_bytes("ø", "normal", "byte-level") == b"\xf8"
    assert token_bytes("Ġ", "added", "byte-level") == "Ġ".encode()
    assert token_bytes("é", "added", "bytes") == "é".encode()
    assert token_bytes("é", "normal", "bytes") == b"\xe9"


@pytest.mark.parametrize("kind", ["normal", "added"])
def test_every_space_mark_of_sentencepiece_is_a_space_wherever_it_stands(kind: Kind) -> None:
    assert token_bytes("▁a▁▁b▁", kind, "sentencepiece") == b" a  b "
    assert token_bytes("▁", kind, "byte-level") == "▁".encode()


def test_a_byte_lookalike_is_a_byte_only_when_its_file_says_so() -> None:
    assert token_bytes("<0x0A>", "byte", "sentencepiece") == b"\n"
    assert token_bytes("<0xff>", "byte", "sentencepiece") == b"\xff"
    assert token_bytes("<0x0A>", "normal", "sentencepiece") == b"<0x0A>"
    assert token_bytes("<0x0A>", "normal", "byte-level") == b"<0x0A>"
    with pytest.raises(VocabularyError, match="<0xA>"):
        token_bytes("<0xA>", "byte", "sentencepiece")


def test_control_unused_and_empty_tokens_are_no_text() -> None:
    assert token_bytes("<s>", "control", "sentencepiece") is None
    assert token_bytes("x", "unused", "byte-level") is None
    assert token_bytes("", "normal", "byte-level") is None
    assert token_bytes("", "added", "bytes") is None


def test_bytes_of_a_file_that_are_not_utf8_come_through() -> None:
    text = b"\xe4\xb8".decode(errors="surrogateescape")
    for scheme in ("sentencepiece", "byte-level"):
        assert token_bytes(text, "normal", scheme) == b"\xe4\xb8"
    with pytest.raises(VocabularyError, match="stands for no bytes"):
        token_bytes("\ud83d", "normal", "sentencepiece")
    with pytest.raises(VocabularyError, match="stands for no bytes"):
        token_bytes("中", "normal", "bytes")


def test_added_tokens_that_look_special_are_control_tokens() -> None:
    special = ["<|im_start|>", "<|tool_call>", "<turn|>", "<｜User｜>", "<unused99>", "<pad>", "<mask>", "[@BOS@]"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_audio>", "<image>", "</image>"]
    special += ["<|image|>", "<fake_token_around_image>", "<video_pad>", "[IMG]", "[IMG_BREAK]", "[multimodal]"]
    ordinary = ["<think>", "</s>", "[INST]", "  ", "<unused>", "<table>", "|>", "<|", "ø"]
    ordinary += ["<img>", "<video>", "image", "<images>", "<start_of_turn>", "<an image>", "[IMGS]"]
    table = table_of(*[(text, "added") for text in special + ordinary])
    assert table.kinds == ("control",) * len(special) + ("added",) * len(ordinary)
    assert table_of(("<|x|>", "normal")).kinds == ("normal",)


def test_rows_that_a_converter_filled_up_are_unused() -> None:
    assert table_of(("a", "normal"), ("[PAD1]", "added"), ("[PAD1]", "added")).kinds == ("normal", "unused", "added")


def test_rows_beyond_the_tokenizer_are_excluded() -> None:
    vocabulary = read_vocabulary(table_of(("a", "normal"), ("b", "normal")), (), rows=5)
    assert vocabulary.pieces == (b"a", b"b", None, None, None)
    assert vocabulary.excluded_ids == (2, 3, 4)
    assert vocabulary.rows == 5


def test_tokens_beyond_the_rows_are_left_out() -> None:
    table = table_of(("a", "normal"), ("</s>", "control"), ("b", "added"), ("<|end|>", "control"))
    vocabulary = read_vocabulary(table, (1, 3), rows=2)
    assert vocabulary.pieces == (b"a", None)
    assert vocabulary.end_ids == (1,)
    assert vocabulary.canonical == {b"a": 0}


def test_end_ids_are_no_piece_whatever_their_kind() -> None:
    table = table_of(("a", "normal"), ("b", "added"), ("c", "control"), ("d", "control"))
    vocabulary = read_vocabulary(table, [2, 1, 2])
    assert vocabulary.pieces == (b"a", None, None, None)
    assert vocabulary.end_ids == (1, 2)
    assert vocabulary.excluded_ids == (3,)


def test_the_canonical_id_is_the_lowest_that_is_no_byte_token() -> None:
    table = table_of(
        ("<0x0A>", "byte"), ("<0x41>", "byte"), ("<0x42>", "byte"), ("A", "normal"), ("\n", "added"), ("A", "added"),
        scheme="sentencepiece",
    )  # fmt: skip
    vocabulary = read_vocabulary(table, ())
    assert vocabulary.canonical == {b"\n": 4, b"A": 3, b"B": 2}
    assert vocabulary.pieces[0] == vocabulary.pieces[4] == b"\n"
    assert vocabulary.byte_ids == {0, 1, 2}


def test_joining_skips_what_is_no_text() -> None:
    table = table_of(("<s>", "control"), ("▁a", "normal"), ("</s>", "control"), scheme="sentencepiece")
    vocabulary = read_vocabulary(table, (2,))
    assert vocabulary.join([0, 1, 1, 2]) == b" a a"


def test_missing_bytes_are_those_without_a_token_of_their_own() -> None:
    vocabulary = read_vocabulary(table_of(*[(chr(byte), "normal") for byte in range(1, 256)], scheme="bytes"), ())
    assert vocabulary.missing_bytes == {0}


def test_the_fingerprint_tells_vocabularies_apart() -> None:
    tables = [
        table_of(("ab", "normal"), ("c", "normal")),
        table_of(("a", "normal"), ("bc", "normal")),
        table_of(("abc", "normal"), ("", "unused")),
        table_of(("", "unused"), ("abc", "normal")),
        table_of(("ab", "normal"), ("c", "control")),
    ]
    vocabularies: list[Vocabulary] = [read_vocabulary(table, ()) for table in tables]
    vocabularies += [read_vocabulary(tables[0], (1,)), read_vocabulary(tables[0], (), rows=3)]
    vocabularies.append(read_vocabulary(table_of(("<0x41>", "byte"), scheme="sentencepiece"), ()))
    vocabularies.append(read_vocabulary(table_of(("A", "normal"), scheme="sentencepiece"), ()))
    assert len({vocabulary.fingerprint for vocabulary in vocabularies}) == len(vocabularies)
    assert read_vocabulary(tables[0], ()).fingerprint == vocabularies[0].fingerprint


@given(st.binary(), st.lists(st.binary(min_size=2, max_size=6), max_size=20, unique=True))
def test_a_vocabulary_with_all_bytes_spells_any_bytes(data: bytes, longer: list[bytes]) -> None:
    pieces = [bytes([byte]) for byte in range(256)] + longer
    table = table_of(*[(piece.decode("latin-1"), "normal") for piece in pieces], scheme="bytes")
    vocabulary = read_vocabulary(table, ())
    ids = Speller(vocabulary, lambda _: []).longest_match(data)
    assert ids is not None
    assert vocabulary.join(ids) == data


@pytest.mark.parametrize("scheme", ["sentencepiece", "byte-level"])
def test_a_quarter_million_pieces_are_read_in_moments(scheme: Scheme) -> None:
    """Half a second on an idle machine; the bound is for what grows faster than the vocabulary."""
    words = tuple(f"▁Ġword{number}é" for number in range(262_144))
    table = TokenTable(scheme=scheme, family="large", texts=words, kinds=("normal",) * len(words))
    with at_once(5):
        read_vocabulary(table, ())


def test_end_ids_come_from_declarations_eos_template_and_names() -> None:
    table = table_of(
        ("a", "normal"), ("<|im_start|>", "control"), ("<|im_end|>", "control"), ("<|endoftext|>", "control"),
        ("<stop>", "control"), ("<|end|>", "control"), ("<turn_over>", "control"),
        declared=(4,), eos=2,
    )  # fmt: skip
    assert end_ids(table) == {2: EOS, 3: "named <|endoftext|>", 4: DECLARED}
    assert end_ids(table, [5, 2]) == {2: EOS, 3: "named <|endoftext|>", 4: DECLARED, 5: TEMPLATE}
    assert list(end_ids(table, [5])) == [2, 3, 4, 5]


def test_a_name_ends_nothing_when_it_is_text() -> None:
    table = table_of(("</s>", "normal"), ("<eos>", "added"), ("<|im_end|>", "added"), ("<EOT>", "unused"))
    assert end_ids(table) == {2: "named <|im_end|>"}


def test_an_added_token_that_is_declared_is_an_end() -> None:
    assert end_ids(table_of(("x", "normal"), ("</s>", "added"), declared=(1,))) == {1: DECLARED}


@pytest.mark.parametrize(
    ("text", "kind", "odd"),
    [("A", "normal", True), ("!", "normal", True), ("\u010a", "normal", True), ("<0x0A>", "byte", True)]
    + [(text, "normal", False) for text in ("</s>", "<|endoftext|>", "[EOS]", "EOS", "")]
    + [("A", "control", False)],
)
def test_an_end_that_looks_like_a_part_of_a_text_is_said(text: str, kind: Kind, odd: bool) -> None:
    table = TokenTable(scheme="byte-level", family="", texts=("a", text), kinds=("normal", kind), declared_end_ids=(1,))
    assert bool(odd_ends(table, end_ids(table))) is odd
