"""Tiny vocabularies modelled on real families, and their tokenizer, for tests."""

from __future__ import annotations

from collections.abc import Iterable

from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET, token_bytes
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

_LETTERS = {byte: character for character, byte in BYTE_LEVEL_ALPHABET.items()}


def byte_level_table(
    words: Iterable[str] = (),
    *,
    without: Iterable[int] = (),
    adds_bos: bool = False,
    chat_template: str | None = CHAT_TEMPLATE,
) -> TokenTable:
    """A vocabulary like GPT-2's: control tokens, one token per byte except those in ``without``, then ``words``.

    Words are plain text: ``" the"``, ``"日本"``. Repeated words are kept, as in some real files.
    """
    missing = frozenset(without)
    tokens: list[tuple[str, Kind]] = [(_LETTERS[byte], "normal") for byte in range(256) if byte not in missing]
    tokens += [("".join(_LETTERS[byte] for byte in word.encode()), "normal") for word in words]
    return _table("byte-level", "byte-level BPE", tokens, adds_bos, chat_template)


def sentencepiece_table(
    words: Iterable[str] = (),
    *,
    byte_fallback: bool = True,
    adds_bos: bool = True,
    chat_template: str | None = CHAT_TEMPLATE,
) -> TokenTable:
    """A vocabulary like Llama 2's: control tokens, ``<0xNN>`` for every byte, printable ASCII, then ``words``.

    A space in a word becomes ``▁``. Without ``byte_fallback`` the vocabulary spells only ASCII and its words.
    """
    tokens: list[tuple[str, Kind]] = [(f"<0x{byte:02X}>", "byte") for byte in range(256 if byte_fallback else 0)]
    tokens += [(character, "normal") for character in ["\n", "\u2581", *map(chr, range(0x21, 0x7F))]]
    tokens += [(word.replace(" ", "\u2581"), "normal") for word in words]
    return _table("sentencepiece", "SentencePiece BPE", tokens, adds_bos, chat_template)


def _table(
    scheme: Scheme, family: str, tokens: list[tuple[str, Kind]], adds_bos: bool, template: str | None
) -> TokenTable:
    tokens = [*((text, "control") for text in (UNKNOWN, BOS, EOS, *ROLES)), *tokens]
    texts = tuple(text for text, _ in tokens)
    return TokenTable(
        scheme=scheme,
        family=family,
        texts=texts,
        kinds=tuple(kind for _, kind in tokens),
        declared_end_ids=(texts.index(EOS),),
        bos_id=texts.index(BOS),
        eos_id=texts.index(EOS),
        adds_bos=adds_bos,
        chat_template=template,
        special_texts={"bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN},
    )


class LongestMatchTokenizer:
    """Encodes greedily: the longest matching token, left to right."""

    def __init__(self, table: TokenTable, *, leading_space: bool = False) -> None:
        """With ``leading_space`` a prompt gets a space in front, as in Llama 2."""
        self.table = table
        self._leading_space = leading_space
        self._ids: dict[bytes, int] = {}
        rows = list(enumerate(zip(table.texts, table.kinds, strict=True)))
        for token, (text, kind) in sorted(rows, key=lambda row: row[1][1] == "byte"):  # those last: a fallback
            piece = token_bytes(text, kind, table.scheme)
            if piece is not None:
                self._ids.setdefault(piece, token)
        self._longest = max(map(len, self._ids))
        self._unknown = table.controls.get(table.special_texts.get("unk_token", ""))

    def encode(self, text: str) -> list[int]:
        """Text that cannot be spelled becomes the unknown token."""
        data, at = text.encode(), 0
        ids: list[int] = []
        while at < len(data):
            size = next((n for n in range(self._longest, 0, -1) if data[at : at + n] in self._ids), 0)
            token = self._ids[data[at : at + size]] if size else self._unknown
            if token is not None:
                ids.append(token)
            at += size or 1
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        return self.table.opening + self.encode(" " + text if self._leading_space and text else text)

    def encode_rendered(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, control in self.table.controls.cut(text):
            ids += self.encode(part) if control is None else [control]
        return ids
