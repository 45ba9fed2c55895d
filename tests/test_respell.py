"""Respelling: at any time a text's ids are its tokenizer's own, however the text was cut into pieces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import unisono.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adversarial import ADVERSARIAL
from real_tokenizers import real
from test_pieces_real import DIVERSE, every_tokenizer
from unisono.testing import LongestMatchTokenizer, byte_level_table, sentencepiece_table
from unisono.vocab.pieces import read_vocabulary
from unisono.vocab.respell import Respeller, Tail
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import TokenTable
from writing import cuts, texts

WORDS = [
    " the",
    "the",
    " th",
    "he",
    "  ",
    "    ",
    "\n\n",
    "日本",
    "日本語",
    "本語",
    "ab",
    "ba",
    "aab",
    " a",
    "> <",
    "é",
]
JAPANESE = (
    "東京は日本の首都であり、世界最大の都市圏の一つである。江戸時代には徳川幕府の所在地として栄え、明治維新の後に天皇が"
    "京都から移り住んだことで、名実ともに日本の中心となった。春には桜が咲き、隅田川や上野公園は花見の人々でにぎわう。"
)


def speller_of(table: TokenTable) -> Speller:
    return Speller(read_vocabulary(table, ()), LongestMatchTokenizer(table).encode)


BYTE_LEVEL = speller_of(byte_level_table(WORDS))
SPELLERS = [BYTE_LEVEL, speller_of(sentencepiece_table(WORDS))]


@functools.cache
def respeller_of(speller: Speller) -> Respeller:
    """One a speller: each reads the vocabulary."""
    return Respeller(speller)


class Context:
    """A text as a member has it: the law is checked after every piece."""

    def __init__(self, speller: Speller) -> None:
        self.speller = speller
        self.respeller = respeller_of(speller)
        self.tail = Tail()
        self.ids: list[int] = []
        self.data = b""
        self.forgotten = 0

    def add(self, piece: bytes) -> None:
        spelled = self.speller.spell(piece)
        assert spelled is not None
        change = self.respeller.extend(self.tail, piece, spelled)
        assert 0 <= change.forget <= len(self.tail.ids)
        assert change.append
        assert change.tail.frozen >= self.tail.frozen
        self.ids[len(self.ids) - change.forget :] = change.append
        self.tail, self.data, self.forgotten = change.tail, self.data + piece, self.forgotten + change.forget
        self.check()

    def check(self) -> None:
        assert self.ids[self.tail.frozen :] == list(self.tail.ids)
        assert self.data.endswith(self.tail.data)
        assert self.speller.vocabulary.join(self.ids) == self.data
        own = self.speller.own_encoding(self.data)
        assert own is None or own == tuple(self.ids), self.data


def write(speller: Speller, pieces: Iterable[bytes]) -> Context:
    """Write pieces, up to one that cannot be spelled: such a piece is in no union."""
    context = Context(speller)
    for piece in pieces:
        if speller.spell(piece) is None:
            break
        context.add(piece)
    return context


def pieces_of(speller: Speller, data: bytes) -> list[bytes]:
    ids = speller.own_encoding(data) or speller.longest_match(data)
    assert ids is not None
    return [speller.vocabulary.pieces[token] or b"" for token in ids]


@pytest.mark.parametrize("speller", SPELLERS, ids=["byte-level", "sentencepiece"])
@given(text=st.one_of(st.text("abthe> <\n日本語é", max_size=40), texts()), data=st.data())
def test_a_text_is_kept_in_its_own_encoding_however_it_is_cut(speller: Speller, text: str, data: st.DataObject) -> None:
    write(speller, data.draw(cuts(text.encode())))


@every_tokenizer
def test_a_real_tokenizers_text_is_kept_when_another_ones_pieces_are_written(backend: str, name: str) -> None:
    other = real("llamacpp", "gpt-2" if real(backend, name).vocabulary.family.startswith("Sent") else "gemma-4")
    for text in ADVERSARIAL.values():
        write(real(backend, name).speller, pieces_of(other.speller, text[:150].encode()))


@every_tokenizer
def test_a_real_tokenizers_text_is_kept_when_it_comes_byte_by_byte(backend: str, name: str) -> None:
    known = real(backend, name)
    for case in ("scripts", "code", "emoji", "right to left", "digits", "line breaks", "tabs", "decomposed"):
        write(known.speller, [bytes([byte]) for byte in ADVERSARIAL[case].encode()])


@pytest.mark.parametrize(("backend", "name"), DIVERSE, ids=map("/".join, DIVERSE))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts(), data=st.data())
def test_any_text_of_a_real_tokenizer_is_kept_however_it_is_cut(
    backend: str, name: str, text: str, data: st.DataObject
) -> None:
    write(real(backend, name).speller, data.draw(cuts(text.encode())))


@pytest.mark.parametrize(("backend", "name"), DIVERSE, ids=map("/".join, DIVERSE))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_pieces_of_a_real_vocabulary_are_kept(backend: str, name: str, data: st.DataObject) -> None:
    known = real(backend, name)
    pieces = list(known.vocabulary.canonical)
    chosen = data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=15))
    write(known.speller, [pieces[index] for index in chosen])


def test_a_word_in_two_pieces_becomes_its_one_token() -> None:
    context = write(BYTE_LEVEL, [b"ab", b" th", b"e"])
    assert context.ids == [BYTE_LEVEL.vocabulary.canonical[piece] for piece in (b"ab", b" the")]
    assert context.forgotten == 1


def test_pieces_stay_as_they_were_spelled_until_a_character_is_whole() -> None:
    context = write(BYTE_LEVEL, ["日".encode(), b"\xe6", b"\x9c"])
    assert context.ids == [BYTE_LEVEL.vocabulary.canonical[bytes([byte])] for byte in context.data]
    context.add(b"\xac")
    assert context.ids == [BYTE_LEVEL.vocabulary.canonical["日本".encode()]]


def test_behind_bytes_that_are_no_text_respelling_begins_anew() -> None:
    context = write(BYTE_LEVEL, [b"a\xff", b" th", b"e"])
    assert context.ids[2:] == [BYTE_LEVEL.vocabulary.canonical[piece] for piece in (b" th", b"e")]
    context.add(b" th")
    assert context.tail.data == b" th"
    context.add(b"e")
    assert context.ids[4:] == [BYTE_LEVEL.vocabulary.canonical[b" the"]]


def test_behind_what_a_tokenizer_changes_respelling_begins_anew() -> None:
    composing = Speller(BYTE_LEVEL.vocabulary, lambda text: own(BYTE_LEVEL, text.replace("e\u0301", "é")))
    context = write(composing, [b"th", b"e", "\u0301".encode(), b" th", b"e", b" th"])
    assert composing.own_encoding(context.data) is None
    context.add(b"e")
    assert context.ids[-1] == BYTE_LEVEL.vocabulary.canonical[b" the"]


def test_what_a_tokenizer_strips_at_the_end_is_waited_for() -> None:
    stripping = Speller(BYTE_LEVEL.vocabulary, lambda text: own(BYTE_LEVEL, text.rstrip(" ")))
    for pieces in ([b"ab", b" ", b" ", b"the"], [b"a b ", b"the"], [b"ab\n", b"ab ", b" a"]):
        write(stripping, pieces)


@settings(max_examples=200)
@given(text=st.text("ab the", max_size=40), data=st.data())
def test_a_seam_is_not_believed_where_a_tokenizer_looks_back(text: str, data: st.DataObject) -> None:
    def looking_back(text: str) -> list[int]:
        """Behind ``b`` a space stands alone, which no vocabulary tells."""
        return [token for part in text.replace("b ", "b\0 \0").split("\0") for token in own(BYTE_LEVEL, part)]

    write(Speller(BYTE_LEVEL.vocabulary, looking_back), data.draw(cuts(text.encode())))


@given(text=st.text("ab the日本語", max_size=40), data=st.data())
def test_every_earlier_state_can_be_gone_back_to(text: str, data: st.DataObject) -> None:
    context = Context(BYTE_LEVEL)
    states: list[tuple[Tail, list[int]]] = []
    for piece in data.draw(cuts(text.encode())):
        context.add(piece)
        states.append((context.tail, list(context.ids)))
    for tail, ids in states:
        assert [*context.ids[: tail.frozen], *tail.ids] == ids


ENGLISH = (Path(unisono.data.__file__).parent / "ordinary.txt").read_text()
LONG: dict[str, Callable[[], str]] = {
    "English": lambda: ENGLISH,
    "Japanese": lambda: JAPANESE * 8,
    "Japanese without punctuation": lambda: JAPANESE.replace("、", "").replace("。", "") * 8,
    "code": lambda: "for i in range(10):\n    print(f'{i}: {data[i]}')\n" * 20,
    "numbers": lambda: "".join(f"{number * 7919}\n" for number in range(200)),
}


@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("llamacpp", "gpt-2"), ("llamacpp", "llama-bpe"), ("llamacpp", "gemma-4"), ("llamacpp", "llama-spm"),
        ("llamacpp", "command-r"), ("transformers", "tekken"), ("transformers", "deepseek-v4"),
    ],
)  # fmt: skip
def test_a_tail_does_not_grow_with_the_text(backend: str, name: str, case: str) -> None:
    known, other = real(backend, name), real("llamacpp", "gemma-4" if name != "gemma-4" else "gpt-2")
    data = LONG[case]().encode()
    heard: list[int] = []

    class Counting(Speller):
        def own_encoding(self, piece: bytes) -> tuple[int, ...] | None:
            heard.append(len(piece))
            return super().own_encoding(piece)

    respeller, tail = Respeller(Counting(known.vocabulary, known.tokenizer.encode)), Tail()
    for piece in pieces_of(other.speller, data):
        spelled = known.speller.spell(piece)
        assert spelled is not None
        before = len(heard)
        tail = respeller.extend(tail, piece, spelled).tail
        assert len(tail.data) <= 128
        assert sum(heard[before:]) <= 256
    whole = known.speller.own_encoding(data)
    assert whole is not None
    assert whole[tail.frozen :] == tail.ids


def own(speller: Speller, text: str) -> list[int]:
    return list(speller.own_encoding(text.encode()) or ())
