"""Texts in many scripts for Hypothesis, and ways of cutting them into pieces."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from adversarial import ADVERSARIAL

ALPHABETS = [
    "abcdefgh ABCDEF", "aaab  \n", "0123456789 ,.", "日本語の東京は。、」「！？abcABC ", "ハハハーカタナ々の ",
    "가나다라 마바 사", "กขคงจ่้ิีึา ", "אבגד הוז ", "\n\n\t \r\n a1/.", "def x(y): return 1\n    ", "é ñüß œ ",
    "🙂👍🏽👩\u200d👩 ", "▁ <|>/s", "\u00a0 \u3000a。 ", "'s 't a b'", "ıİſ ǅ ბაგ CD", "<>=|$+ ab </", "١٢٣४५ a",
]  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """Parts of adversarial texts, words of small alphabets, the same repeated, and anything else."""
    words = st.sampled_from(ALPHABETS).flatmap(lambda alphabet: st.text(alphabet, max_size=25))
    parts = st.builds(
        lambda text, start, size: text[start : start + size],
        st.sampled_from(list(ADVERSARIAL.values())),
        st.integers(0, 100),
        st.integers(1, 40),
    )
    repeated = st.builds(lambda word, times: word[:4] * times, words, st.integers(2, 6))
    wild = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    return st.lists(st.one_of(words, words, parts, repeated, wild), max_size=4).map("".join)


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Ways of cutting bytes into pieces, within characters too."""
    places = st.one_of(st.just(set(range(1, len(data)))), st.sets(st.integers(1, max(1, len(data) - 1))))
    return places.map(lambda places: cut_at(data, places))


def cut_at(data: bytes, places: set[int]) -> list[bytes]:
    borders = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(borders) if start < end]
