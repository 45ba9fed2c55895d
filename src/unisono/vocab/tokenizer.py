"""What the core knows of a member's tokenizer: a table of its tokens and three ways to encode."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Scheme = Literal["byte-level", "sentencepiece", "bytes"]
"""How token texts spell bytes: GPT-2's byte table; ``▁`` for a space and ``<0xNN>`` for a byte; or raw bytes (tiktoken,
tekken), for which texts are decoded as Latin-1: one character, one byte."""

Kind = Literal["normal", "byte", "added", "control", "unused"]
"""``normal``: spelled by the scheme. ``byte``: a byte-fallback token ``<0xNN>``. ``added``: not special, its content is
its text. ``control``: special, never text (unknown and padding tokens are control tokens too). ``unused``: a row
without a token."""


LOOKS_SPECIAL = re.compile(r"<\|.*>|<.*\|>|<｜.*｜>|<unused\d+>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
"""Added tokens so named are control tokens, whatever a file's flag says. GGUF's converter decides so for most of them
(``does_token_look_special``), and the same model must mean the same from either file."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """A tokenizer's vocabulary in a form that does not depend on the library that read it.

    What differs between the files of one model is settled here: an added token that looks special is a control token,
    and one named ``[PADn]`` after its own id n is a row that a converter filled up.
    """

    scheme: Scheme
    family: str
    """For people: ``byte-level BPE``, ``SentencePiece BPE``, ``Unigram``, ``tekken`` …"""
    texts: tuple[str, ...]
    """By id; an empty string for an unused row."""
    kinds: tuple[Kind, ...]
    """By id, as long as ``texts``."""
    declared_end_ids: tuple[int, ...] = ()
    """Ids that the model's files declare to end a text or a turn."""
    bos_id: int | None = None
    eos_id: int | None = None
    adds_bos: bool = False
    """Whether the tokenizer itself begins a plain text with its BOS."""
    chat_template: str | None = None
    """The model's own Jinja template."""
    special_texts: Mapping[str, str] = field(default_factory=dict)
    """What templates may refer to: ``bos_token``, ``eos_token``, ``pad_token`` … by name."""

    def __post_init__(self) -> None:
        pairs = zip(self.texts, self.kinds, strict=True)
        kinds = tuple(_settled(token, text, kind) for token, (text, kind) in enumerate(pairs))
        object.__setattr__(self, "kinds", kinds)

    @property
    def controls(self) -> dict[str, int]:
        """The ids of the control tokens, by their texts."""
        pairs = zip(self.texts, self.kinds, strict=True)
        return {text: token for token, (text, kind) in enumerate(pairs) if kind == "control" and text}

    @property
    def opening(self) -> list[int]:
        """What a plain text begins with: BOS, or nothing."""
        return [self.bos_id] if self.adds_bos and self.bos_id is not None else []


def _settled(token: int, text: str, kind: Kind) -> Kind:
    if kind != "added":
        return kind
    if LOOKS_SPECIAL.fullmatch(text):
        return "control"
    return "unused" if text == f"[PAD{token}]" else kind


class Tokenizer(Protocol):
    """A member's own tokenizer."""

    table: TokenTable

    def encode(self, text: str) -> list[int]:
        """Encode text as it would stand in the middle of a text: without a BOS, a leading space or control tokens.

        It may lose what the vocabulary lacks; the caller checks by joining the pieces.
        """
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a plain text with the BOS and the leading space that the tokenizer adds, without control tokens."""
        ...

    def encode_rendered(self, text: str) -> list[int]:
        """Encode what a chat template wrote: control tokens are recognised, nothing is added."""
        ...
