"""Encoding by llama.cpp's own tokenizer."""

from __future__ import annotations

import ctypes
import unicodedata
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from unisono.vocab.controls import Controls
from unisono.vocab.spelling import encode_plain
from unisono.vocab.tokenizer import TokenTable

CONTROL = 1 << 0 | 1 << 3
"""``LLAMA_TOKEN_ATTR_UNKNOWN`` and ``…_CONTROL``."""


class LlamaCppTokenizer:
    """Encodes with llama.cpp, through a model loaded with its vocabulary only."""

    def __init__(
        self, library: Any, model: int, table: TokenTable, again: Callable[[], LlamaCppTokenizer] | None = None
    ) -> None:
        """Take ownership of ``model``, a llama.cpp handle; ``again`` makes the same tokenizer in another process."""
        self._again = again
        self._free = weakref.finalize(self, library.llama_model_free, model)
        self._library = library
        self._vocab = library.llama_model_get_vocab(model)
        self.table = replace(
            table, adds_bos=bool(library.llama_vocab_get_add_bos(self._vocab)), strips=self._strips(table)
        )
        bos = library.llama_vocab_bos(self._vocab)
        # Where a file names no BOS, or one that it does not have, llama.cpp takes a fixed id, which may be any token.
        has_bos = 0 <= bos < len(table.kinds) and (bos == table.bos_id or table.kinds[bos] == "control")
        self._bos = [bos] if self.table.adds_bos and has_bos else []
        first = self._call(self._representable("a"))[:1]
        self._adds_space = self.table.scheme == "sentencepiece" and any(
            self.table.texts[token].startswith("\u2581") for token in first
        )

    def _strips(self, table: TokenTable) -> dict[int, tuple[bool, bool]]:
        """The control tokens that take in white space: llama.cpp says so of Phi-3's, by the model's name."""
        library = self._library
        found: dict[int, tuple[bool, bool]] = {}
        for token, kind in enumerate(table.kinds):
            flags = library.llama_vocab_get_attr(self._vocab, token) if kind == "control" else 0
            sides = bool(flags & library.LLAMA_TOKEN_ATTR_LSTRIP), bool(flags & library.LLAMA_TOKEN_ATTR_RSTRIP)
            found |= {token: sides} if any(sides) else {}
        return found

    def __reduce__(self) -> tuple[object, ...]:
        if self._again is None:
            raise TypeError("this tokenizer belongs to its process")
        return self._again, ()

    def encode(self, text: str) -> list[int]:
        return encode_plain(text, self._controls, self._middle, self._middle)

    def encode_prompt(self, text: str) -> list[int]:
        return self._bos + encode_plain(text, self._controls, self._whole, self._middle)

    def encode_rendered(self, text: str) -> list[int]:
        """As llama.cpp's own chat: a vocabulary that adds a leading space also adds it after control tokens.

        llama.cpp looks through all of a text for each control token: of thousands it is told where they are.
        """
        if self.table.strips:
            return self._call(self._representable(text), special=True)
        ids: list[int] = []
        for part, control in self._recognised.cut(text):
            ids += self._whole(part) if control is None else [control]
        return ids

    @cached_property
    def _recognised(self) -> Controls:
        """What llama.cpp takes for control tokens, and the table does."""
        rows = zip(self.table.texts, self.table.kinds, self._attributes, strict=True)
        its = {i: text for i, (text, kind, each) in enumerate(rows) if text and (kind == "control" or each & CONTROL)}
        return Controls({text: token for token, text in its.items()})

    @cached_property
    def _attributes(self) -> list[int]:
        return [self._library.llama_vocab_get_attr(self._vocab, token) for token in range(len(self.table.texts))]

    @cached_property
    def _controls(self) -> dict[int, str]:
        return {
            token: text
            for token, (text, kind) in enumerate(zip(self.table.texts, self.table.kinds, strict=True))
            if kind == "control" and token != self._unknown
        }

    def _whole(self, text: str) -> list[int]:
        return self._call(self._representable(text))

    def _middle(self, text: str) -> list[int]:
        """Encode without the leading space: encode after a character that never merges, and drop its ids."""
        if not self._adds_space or self._probe is None:
            return self._whole(text)
        before = self._call(self._probe.encode())
        ids = self._call(self._representable(self._probe + text))
        return ids[len(before) :] if ids[: len(before)] == before else self._whole(text)

    @cached_property
    def _probe(self) -> str | None:
        """A character that no longer token contains, so it never merges with the text that follows."""
        merging = set().union(*(text for text in self.table.texts if len(text) > 1))
        # Unigram vocabularies come with a normalizer, which keeps letters in their composed form.
        letters = [text for text in self._characters if text.isalpha() and unicodedata.is_normalized("NFKC", text)]
        candidates = letters if self.table.family == "Unigram" else ["\n", "\x01", *self._characters]
        return next((each for each in candidates if each not in merging and self._can_spell(each)), None)

    @cached_property
    def _characters(self) -> dict[str, None]:
        return {text: None for text in self.table.texts if len(text) == 1}

    @cached_property
    def _unknown(self) -> int | None:
        text = self.table.special_texts.get("unk_token")
        return None if text is None else self.table.texts.index(text)

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """Bytes without the fallback token that llama.cpp needs."""
        if self.table.scheme != "sentencepiece" or self.table.family == "Unigram":
            return frozenset()
        present = {text for text, kind in zip(self.table.texts, self.table.kinds, strict=True) if kind == "byte"}
        return frozenset(byte for byte in range(256) if f"<0x{byte:02X}>" not in present)

    def _can_spell(self, character: str) -> bool:
        shown = "\u2581" if character == " " else character
        return shown in self._characters or self._missing_bytes.isdisjoint(character.encode())

    def _representable(self, text: str) -> bytes:
        """The text's bytes, without characters that need a missing fallback token: llama.cpp would abort."""
        if self._missing_bytes:
            text = "".join(character for character in text if self._can_spell(character))
        return text.encode()

    def _call(self, text: bytes, special: bool = False) -> list[int]:
        """Tokenize bytes. The explicit length keeps a NUL from ending them."""
        room = len(text) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            found = self._library.llama_tokenize(self._vocab, text, len(text), ids, room, False, special)
            if found >= 0:
                return list(ids[:found])
            room = -found
