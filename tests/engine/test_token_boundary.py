"""Whether a text ends inside a member's token, on tiny vocabularies and on real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unisono
from support.real_tokenizers import real
from unisono.engine.token_boundary import REACH, ends_inside_token, first_inside
from unisono.testing import LongestMatchTokenizer, byte_level_table, sentencepiece_table
from unisono.vocab.pieces import end_ids, read_vocabulary
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import TokenTable

WORDS = [" So", " Sofia", "fia", "  ", "    ", "\n\n", "日本", "日本語", "ab", "ba", " a"]


def speller_of(table: TokenTable) -> Speller:
    return Speller(read_vocabulary(table, end_ids(table)), LongestMatchTokenizer(table).encode)


BYTE_LEVEL = speller_of(byte_level_table(WORDS))
SPELLERS = [BYTE_LEVEL, speller_of(sentencepiece_table(WORDS))]


@pytest.fixture(params=SPELLERS, ids=["byte-level", "sentencepiece"])
def speller(request: pytest.FixtureRequest) -> Speller:
    member: Speller = request.param
    return member


class Listening(Speller):
    """A speller that keeps what its tokenizer was given."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        super().__init__(BYTE_LEVEL.vocabulary, self._listen)

    def _listen(self, text: str) -> list[int]:
        self.heard.append(text)
        return list(BYTE_LEVEL.own_encoding(text.encode()) or ())


@pytest.mark.parametrize(
    ("text", "following", "inside"),
    [
        pytest.param("I met So", "fia", True, id="a token goes across"),
        pytest.param("I met Sofia", " a", False, id="a token ends here"),
        pytest.param("I met So", " ", False, id="another token goes on"),
        pytest.param("I met Sof", "ia", True, id="the lead's token is not the member's"),
        pytest.param("So", "fia", False, id="without the space the member has no such token"),
        pytest.param("I met ", "Sofia", True, id="the space is the token's first byte"),
        pytest.param("I met", " Sofia", False, id="the space comes with the token"),
        pytest.param("one\n", "\n", True, id="two newlines are one token"),
        pytest.param("one:\n    ", "So", False, id="whitespace counts as a whole"),
        pytest.param("one:\n   ", " So", True, id="four spaces are one token"),
        pytest.param("日", "本", True, id="characters of several bytes"),
        pytest.param("日本", "人", False, id="whole characters"),
        pytest.param("", "fia", False, id="an empty text"),
        pytest.param("I met So", "", False, id="the end of a text"),
    ],
)
def test_a_text_ends_inside_a_token_or_not(speller: Speller, text: str, following: str, inside: bool) -> None:
    assert ends_inside_token(text.encode(), following.encode(), speller) is inside


def test_a_text_that_ends_inside_a_character_ends_inside_a_token(speller: Speller) -> None:
    for character in ("é", "日", "🙂"):
        data = character.encode()
        for size in range(1, len(data)):
            assert ends_inside_token(b"a " + data[:size], data[size:], speller)
            assert ends_inside_token(data[:size], b"", speller)
        assert not ends_inside_token(data, b" ", speller)


def test_of_what_follows_whole_characters_are_read(speller: Speller) -> None:
    following = "本語".encode()
    assert ends_inside_token("日".encode(), following[:4], speller)
    assert ends_inside_token("日".encode(), following[:3], speller)
    assert not ends_inside_token("日".encode(), following[:2], speller)


@pytest.mark.parametrize(("text", "following"), [(b"a\xff So", b"fia"), (b"\x80" * 60, b"fia"), (b" So", b"\x80fia")])
def test_where_bytes_are_no_text_no_token_is_known_to_go_across(
    speller: Speller, text: bytes, following: bytes
) -> None:
    assert not ends_inside_token(text + b"\xff", following, speller)
    assert not ends_inside_token(text, following + b"\xff", speller)


def test_an_encoding_that_is_not_exact_tells_nothing() -> None:
    forgetful = Speller(BYTE_LEVEL.vocabulary, lambda text: list(BYTE_LEVEL.own_encoding(text[1:].encode()) or ()))
    assert not ends_inside_token(b"I met So", b"fia", forgetful)


@given(st.text("ab \n", max_size=30), st.text("ab \n", max_size=5))
def test_the_end_of_a_text_tells_what_all_of_it_would(text: str, following: str) -> None:
    ids = BYTE_LEVEL.own_encoding((text + following).encode())
    assert ids is not None
    lengths = [len(BYTE_LEVEL.vocabulary.pieces[token] or b"") for token in ids]
    borders = {sum(lengths[:count]) for count in range(len(ids) + 1)}
    assert ends_inside_token(text.encode(), following.encode(), BYTE_LEVEL) is (len(text) not in borders)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("one two", " two"),
        ("one\n  two", "\n  two"),
        ("one  ", "  "),
        ("one", "one"),
        (" a" + "b" * 60, "b" * REACH),
        ("one" + " " * 60, " " * REACH),
        ("é" * 40 + "b", "é" * 23 + "b"),
    ],
)
def test_the_last_word_and_the_whitespace_before_it_are_read(text: str, read: str) -> None:
    listening = Listening()
    ends_inside_token(text.encode(), b"x", listening)
    assert listening.heard == [read + "x"]


def test_the_first_member_inside_whose_token_a_text_ends_is_named() -> None:
    plain, sofia = speller_of(byte_level_table()), speller_of(byte_level_table([" Sofia"]))
    assert first_inside(b"I met So", b"fia", {"a": plain, "b": sofia, "c": sofia}) == "b"
    assert first_inside(b"I met So", b"on", {"a": plain, "b": sofia}) is None
    assert first_inside(b"\xc3", b"\xa9", {"a": plain, "b": sofia}) == "a"
    assert first_inside(b"I met So", b"fia", {}) is None


@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "gemma3-270m"])
def test_real_tokenizers_own_tokens_are_found_from_within(backend: str, model: str) -> None:
    """Cut anywhere, a text ends inside a token exactly when its own encoding has no border there.

    Whitespace alone as what follows is left out: some tokenizers split it by the word after it.
    """
    speller = real(backend, f"demo:{model}").speller
    data = (Path(unisono.__file__).parent / "ordinary.txt").read_bytes()
    ids = speller.own_encoding(data)
    assert ids is not None
    start = 0
    for token in ids:
        piece = speller.vocabulary.pieces[token] or b""
        for cut in range(len(piece)):
            text, following = data[: start + cut], piece[cut:]
            if is_whole(text) and is_whole(following) and text and following.strip():
                assert ends_inside_token(text, following, speller) is (cut > 0), (text[-40:], following)
        start += len(piece)


def test_two_real_tokenizers_differ_in_where_a_text_may_be_cut() -> None:
    smol, gemma = (real("llamacpp", f"demo:{model}").speller for model in ("smollm2-135m-instruct", "gemma3-270m"))
    text, following = b"It is of incompre", b"hensible size"
    assert first_inside(text, following, {"gemma": gemma, "smol": smol}) == "smol"
    assert first_inside(b"def f():\n    ", b"return", {"gemma": gemma, "smol": smol}) == "smol"
    assert first_inside("日本".encode(), "語".encode(), {"smol": smol, "gemma": gemma}) == "gemma"


def is_whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
