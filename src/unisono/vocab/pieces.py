"""Classifies every id of a vocabulary: a piece (bytes), END, or excluded."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import cast

from unisono.errors import VocabularyError, shown
from unisono.vocab.marks import NO_MARKS, MarkForms
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
ESSENTIAL_BYTES = frozenset(range(0x20, 0x7F)) | {0x0A}
"""Printable ASCII, space and newline: every member must be able to spell these."""

END_OF_TEXT = """
    </s> <eos> [EOS] <EOS> <|eos|> <EOS_TOKEN> <|endoftext|> <|end_of_text|> <｜end▁of▁sentence｜>
"""
END_OF_TURN = """
    <|im_end|> <|eot_id|> <|eom_id|> <|eot|> <|EOT|> <|eom|> <EOT> [EOT] <end_of_turn> <turn|> <|endofturn|>
    [|endofturn|] <|end_of_turn|> <|END_OF_TURN_TOKEN|> <end_of_utterance> <|return|> <|call|>
"""
END_NAMES = frozenset((END_OF_TEXT + END_OF_TURN).split())
"""Control tokens that only end a text or a turn. Omitted are those that also occur inside or before a turn: ``<|end|>``
(in the harmony format it ends part of a turn, elsewhere a whole turn; the template shows which), ``<EOP_TOKEN>``,
``[SEP]``, padding, infilling and file marks."""

DECLARED = "declared by the model's files"
EOS = "the tokenizer's eos"
TEMPLATE = "ends a turn in the chat template"


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's table: printable bytes map to themselves, the others to U+0100 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_LEVEL_ALPHABET = _byte_level_alphabet()

# For `str.translate`, far faster than a loop: each character of the alphabet becomes the Latin-1
# character of its byte, and what is below U+0100 but outside the alphabet leaves Latin-1.
_TO_LATIN_1 = dict.fromkeys(range(256), "\uffff") | {ord(c): byte for c, byte in BYTE_LEVEL_ALPHABET.items()}


def token_bytes(text: str, kind: Kind, scheme: Scheme) -> bytes | None:
    """Return the bytes of a token's text, or ``None`` when it stands for no text.

    Invalid UTF-8 in a file appears in ``text`` as lone surrogates (``errors="surrogateescape"``). Raises a
    `VocabularyError` when the text does not fit its kind and scheme.
    """
    if not text or kind in ("control", "unused"):
        return None
    if kind == "byte":
        match = BYTE_TOKEN.fullmatch(text)
        if match is None:
            raise VocabularyError(f"byte token {text!r} is not of the form <0xNN>")
        return bytes([int(match.group(1), 16)])
    try:
        if scheme == "sentencepiece":
            return text.replace("\u2581", " ").encode("utf-8", "surrogateescape")
        if kind == "added":
            return text.encode("utf-8", "surrogateescape")
        if scheme == "bytes":
            return text.encode("latin-1")
        return _byte_level(text)
    except UnicodeEncodeError as error:
        raise VocabularyError(f"token {text!r} stands for no bytes in a {scheme} vocabulary") from error


def _byte_level(text: str) -> bytes:
    try:
        return text.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:  # an added token whose file calls it normal: its characters are not the alphabet's
        return text.encode("utf-8", "surrogateescape")


def end_ids(table: TokenTable, turn_end_ids: Iterable[int] = ()) -> dict[int, str]:
    """Return the END ids, ascending, each with a readable reason.

    Each packaging of a model names some ends: a hub folder lists them in ``generation_config.json``, a GGUF file has a
    single ``eos``, a base model has no chat template. The union of these sources and of conventional control-token
    names is the same for every packaging. ``turn_end_ids`` come from the chat template, see
    `unisono.chat.template_probe`.
    """
    rows = enumerate(zip(table.texts, table.kinds, strict=True))
    reasons = {token: f"named {text}" for token, (text, kind) in rows if kind == "control" and text in END_NAMES}
    reasons |= dict.fromkeys(turn_end_ids, TEMPLATE)
    reasons |= {} if table.eos_id is None else {table.eos_id: EOS}
    reasons |= dict.fromkeys(table.declared_end_ids, DECLARED)
    return {token: reason for token, reason in sorted(reasons.items()) if token >= 0}


_LIKE_CONTROL = re.compile(r"[<>\[\]|]|^$|^\W*(eos|eot|eom|end)", re.IGNORECASE)


def odd_ends(table: TokenTable, endings: Mapping[int, str]) -> tuple[str, ...]:
    """What ends texts, by `end_ids`, and looks like a part of them, in words that follow a member's name."""
    ends = [token for token, why in endings.items() if why != TEMPLATE and token < len(table.texts)]
    ordinary = {i for i in ends if table.kinds[i] == "normal" and not _LIKE_CONTROL.search(table.texts[i])}
    odd = [i for i in ends if i in ordinary or table.kinds[i] == "byte"]
    return tuple(
        f"ends its texts at {shown(table.texts[i])}, the id {i}, which is ordinary text: the eos_token_id of its files "
        "may be of another tokenizer"
        for i in odd
    )


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """One member's ids: each is a piece (non-empty bytes), END, the beginning of a mark, or excluded."""

    pieces: tuple[bytes | None, ...]
    """By id; ``None`` for END, marks and excluded ids."""
    end_ids: tuple[int, ...]
    """Ascending."""
    byte_ids: frozenset[int] = frozenset()
    """Byte-fallback tokens: used only for bytes that no other token spells."""
    family: str = ""
    fingerprint: str = ""
    """SHA-256 of pieces, END, byte-fallback ids and marks: equal vocabularies have equal maps."""
    marks: MarkForms = NO_MARKS

    def __getstate__(self) -> dict[str, object]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def rows(self) -> int:
        """V, padding rows included."""
        return len(self.pieces)

    @cached_property
    def canonical(self) -> dict[bytes, int]:
        """The id of each piece: the lowest, byte-fallback tokens last."""
        plain = list(self.pieces)
        for token in self.byte_ids:
            plain[token] = None
        ids: dict[bytes | None, int] = dict.fromkeys(plain, 0)  # in order
        ids.update(zip(reversed(plain), range(len(plain) - 1, -1, -1), strict=True))  # the lowest id comes last
        ids.pop(None, None)
        for token in sorted(self.byte_ids):
            if (piece := self.pieces[token]) is not None:
                ids.setdefault(piece, token)
        return cast(dict[bytes, int], ids)

    @cached_property
    def excluded_ids(self) -> tuple[int, ...]:
        named = {*self.end_ids, *self.marks.first_ids}
        return tuple(i for i, piece in enumerate(self.pieces) if piece is None and i not in named)

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """Bytes without a single-byte token."""
        return frozenset(byte for byte in range(256) if bytes([byte]) not in self.canonical)

    def join(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids spell; END, marks and excluded ids add nothing."""
        return b"".join(piece for i in ids if (piece := self.pieces[i]) is not None)


def read_vocabulary(
    table: TokenTable, end_ids: Iterable[int], rows: int | None = None, marks: MarkForms = NO_MARKS
) -> Vocabulary:
    """Build a vocabulary from a token table, its END ids (see `end_ids`) and the forms of its marks.

    ``rows`` is V, by default the table's length. Rows beyond the table are excluded. Tokens beyond the rows are
    unusable and left out. Raises a `VocabularyError` when a token's text does not fit its kind.
    """
    rows = len(table.texts) if rows is None else rows
    ends = tuple(sorted({i for i in end_ids if 0 <= i < rows}))
    pieces = _pieces_of(table.texts[:rows], table.kinds[:rows], table.scheme)
    pieces.extend([None] * (rows - len(pieces)))
    for token in (*ends, *marks.first_ids):
        pieces[token] = None
    byte_ids = frozenset(i for i, kind in enumerate(table.kinds[:rows]) if kind == "byte")
    return Vocabulary(
        pieces=tuple(pieces),
        end_ids=ends,
        byte_ids=byte_ids,
        family=table.family,
        fingerprint=_fingerprint(pieces, ends, byte_ids, marks),
        marks=marks,
    )


def _pieces_of(texts: Sequence[str], kinds: Sequence[Kind], scheme: Scheme) -> list[bytes | None]:
    """`token_bytes` of all; the ordinary ones of large vocabularies without a call for each."""
    rows = zip(texts, kinds, strict=True)
    if scheme == "byte-level":
        table = _TO_LATIN_1
        with contextlib.suppress(UnicodeEncodeError):
            return [
                text.translate(table).encode("latin-1")
                if text and kind == "normal"
                else token_bytes(text, kind, scheme)
                for text, kind in rows
            ]
    if scheme == "sentencepiece":
        with contextlib.suppress(UnicodeEncodeError):
            return [
                text.replace("\u2581", " ").encode() if text and kind == "normal" else token_bytes(text, kind, scheme)
                for text, kind in rows
            ]
    return [token_bytes(text, kind, scheme) for text, kind in zip(texts, kinds, strict=True)]


def _fingerprint(pieces: list[bytes | None], ends: tuple[int, ...], byte_ids: frozenset[int], marks: MarkForms) -> str:
    digest = hashlib.sha256()
    lengths = ",".join(["-" if piece is None else str(len(piece)) for piece in pieces])
    forms = [sorted(forms.items()) for forms in (marks.anywhere, marks.at_opening)]
    digest.update(f"{lengths};{ends};{sorted(byte_ids)};{forms};".encode())
    digest.update(b"".join(filter(None, pieces)))
    return digest.hexdigest()
