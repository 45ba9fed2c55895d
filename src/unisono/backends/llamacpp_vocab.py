"""A GGUF file's tokenizer: its table from the file, its encoding by llama.cpp."""

from __future__ import annotations

import ctypes
import unicodedata
import weakref
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from unisono.backends.gguf_file import GgufFile
from unisono.errors import ModelCorrupt, ModelUnsupported
from unisono.vocab.plain import encode_plain
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

SCHEMES: dict[str, tuple[Scheme, str]] = {
    "gpt2": ("byte-level", "byte-level BPE"),
    "llama": ("sentencepiece", "SentencePiece BPE"),
    "gemma4": ("sentencepiece", "SentencePiece BPE"),
    "t5": ("sentencepiece", "Unigram"),
}
"""By ``tokenizer.ggml.model``."""

RAW_MERGES = frozenset({"gemma4", "sarvam-moe"})
"""Values of ``tokenizer.ggml.pre`` for which llama.cpp runs BPE on text with ``▁`` and ``<0xNN>``
instead of GPT-2's alphabet, whatever the model's name (``byte_encode = false`` in llama-vocab.cpp)."""

_KINDS: dict[int, Kind] = {1: "normal", 2: "control", 3: "control", 4: "added", 5: "unused", 6: "byte"}
"""By ``tokenizer.ggml.token_type``: normal, unknown, control, user-defined, unused, byte."""

_SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_table(file: GgufFile) -> TokenTable:
    """Read the token table of a GGUF file, all but whether BOS is added, which llama.cpp decides.

    The kinds are those the file declares. llama.cpp changes some by the token's name when it loads
    a vocabulary (Gemma's ``</s>``, an HTML tag there, becomes a control token); the Hugging Face
    tokenizer of the same model does not, and the same model has to have the same pieces.

    Raises:
        ModelUnsupported: there is no tokenizer, or one whose tokens do not spell bytes.
        ModelCorrupt: the table contradicts itself.
    """
    scheme, family = _scheme(file)
    tokens, types = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):
        raise ModelUnsupported(f"{file.path} names a tokenizer but holds no tokens")
    codes = types.tolist() if isinstance(types, np.ndarray) else [1] * len(tokens)
    if len(codes) != len(tokens):
        raise ModelCorrupt(f"{file.path} has {len(tokens)} tokens but {len(codes)} token types")
    try:
        texts = [token.decode() for token in tokens]
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{file.path} holds a token that is not UTF-8 ({error})") from error
    kinds = [_KINDS.get(code, "normal") for code in codes]
    ends = [file.number(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return TokenTable(
        scheme=scheme,
        family=family,
        texts=tuple("" if kind == "unused" else text for text, kind in zip(texts, kinds, strict=True)),
        kinds=tuple(kinds),
        declared_end_ids=tuple(sorted({end for end in ends if end is not None and end < len(texts)})),
        bos_id=_known(file, "bos", len(texts)),
        eos_id=_known(file, "eos", len(texts)),
        chat_template=file.text("tokenizer.chat_template"),
        special_texts={
            name: texts[token]
            for name, key in _SPECIALS.items()
            if (token := _known(file, key, len(texts))) is not None
        },
    )


def _scheme(file: GgufFile) -> tuple[Scheme, str]:
    model = file.text("tokenizer.ggml.model")
    if model is None or model in ("none", "no_vocab"):
        raise ModelUnsupported(
            f"{file.path} holds no tokenizer; it is not a language model ({file.architecture})",
            hint="give the GGUF file of a text-generation model",
        )
    if model not in SCHEMES:
        raise ModelUnsupported(
            f"{file.path} has a tokenizer of the kind {model!r}, whose tokens do not spell bytes",
            hint=f"kinds that do: {', '.join(SCHEMES)}",
        )
    if file.text("tokenizer.ggml.pre") in RAW_MERGES:
        return SCHEMES["gemma4"]
    return SCHEMES[model]


def _known(file: GgufFile, name: str, tokens: int) -> int | None:
    token = file.number(f"tokenizer.ggml.{name}_token_id")
    return token if token is not None and token < tokens else None


class LlamaCppTokenizer:
    """Encodes with llama.cpp's own tokenizer, through a model of which only the vocabulary is loaded."""

    def __init__(self, library: Any, model: int, table: TokenTable) -> None:
        """Take over ``model``, a handle of llama.cpp; it is freed with this object."""
        self._free = weakref.finalize(self, library.llama_model_free, model)
        self._library = library
        self._vocab = library.llama_model_get_vocab(model)
        self.table = replace(table, adds_bos=bool(library.llama_vocab_get_add_bos(self._vocab)))
        bos = library.llama_vocab_bos(self._vocab)
        self._bos = [bos] if self.table.adds_bos and bos >= 0 else []
        first = self._call(self._representable("a"))[:1]
        self._adds_space = self.table.scheme == "sentencepiece" and any(
            self.table.texts[token].startswith("\u2581") for token in first
        )

    def encode(self, text: str) -> list[int]:
        """Encode text as it stands in the middle of a text."""
        return encode_plain(text, self._controls, self._middle, self._middle)

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a plain text with the BOS and the leading space that the vocabulary adds."""
        return self._bos + encode_plain(text, self._controls, self._whole, self._middle)

    def encode_rendered(self, text: str) -> list[int]:
        """Encode what a chat template wrote, as llama.cpp's own chat does: where a SentencePiece
        vocabulary adds a leading space, ordinary text after a control token gets one too.
        """
        return self._call(self._representable(text), special=True)

    @cached_property
    def _controls(self) -> dict[int, str]:
        return {
            token: text
            for token, (text, kind) in enumerate(zip(self.table.texts, self.table.kinds, strict=True))
            if kind == "control" and token != self._unknown
        }

    def _whole(self, text: str) -> list[int]:
        """Encode with the leading space, if one is added."""
        return self._call(self._representable(text))

    def _middle(self, text: str) -> list[int]:
        """Encode without the leading space: put a character before it that merges with nothing,
        and take its ids away again.
        """
        if not self._adds_space or self._probe is None:
            return self._whole(text)
        before = self._call(self._probe.encode())
        ids = self._call(self._representable(self._probe + text))
        return ids[len(before) :] if ids[: len(before)] == before else self._whole(text)

    @cached_property
    def _probe(self) -> str | None:
        """A character that no longer token contains, so that it is never merged with what follows."""
        merging = set().union(*(text for text in self.table.texts if len(text) > 1))
        alone = [text for text in self.table.texts if len(text) == 1]
        # Unigram vocabularies come with a normalizer, which keeps letters in their composed form.
        letters = [text for text in alone if text.isalpha() and unicodedata.is_normalized("NFKC", text)]
        candidates = letters if self.table.family == "Unigram" else ["\n", "\x01", *alone]
        return next((each for each in candidates if each not in merging and self._can_spell(each)), None)

    @cached_property
    def _unknown(self) -> int | None:
        """The token for what has no other, if there is one."""
        text = self.table.special_texts.get("unk_token")
        return None if text is None else self.table.texts.index(text)

    @cached_property
    def _missing_bytes(self) -> frozenset[int]:
        """Bytes without a fallback token, where llama.cpp needs one for what is not a token."""
        if self.table.scheme != "sentencepiece" or self.table.family == "Unigram":
            return frozenset()
        present = {text for text, kind in zip(self.table.texts, self.table.kinds, strict=True) if kind == "byte"}
        return frozenset(byte for byte in range(256) if f"<0x{byte:02X}>" not in present)

    @cached_property
    def _characters(self) -> frozenset[str]:
        return frozenset(text for text in self.table.texts if len(text) == 1)

    def _can_spell(self, character: str) -> bool:
        shown = "\u2581" if character == " " else character
        return shown in self._characters or self._missing_bytes.isdisjoint(character.encode())

    def _representable(self, text: str) -> bytes:
        """The text's bytes, without the characters that llama.cpp cannot spell: where it looks for a
        byte-fallback token that does not exist, it ends the process.
        """
        if self._missing_bytes:
            text = "".join(character for character in text if self._can_spell(character))
        return text.encode()

    def _call(self, text: bytes, special: bool = False) -> list[int]:
        """Tokenize bytes; their length is passed, so that a NUL does not end them."""
        room = len(text) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            found = self._library.llama_tokenize(self._vocab, text, len(text), ids, room, False, special)
            if found >= 0:
                return list(ids[:found])
            room = -found
