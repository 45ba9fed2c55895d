"""A member's tokenizer: its token table and three ways to encode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

from unisono.vocab.controls import Controls

Scheme = Literal["byte-level", "sentencepiece", "bytes"]
"""How token texts spell bytes: GPT-2's byte table; ``▁`` for a space and ``<0xNN>`` for a byte; or raw bytes (tiktoken,
tekken), decoded as Latin-1, one character per byte."""

Kind = Literal["normal", "byte", "added", "control", "unused"]
"""``normal``: spelled by the scheme. ``byte``: a byte-fallback token ``<0xNN>``. ``added``: literal text, not special.
``control``: special, never text (includes unknown and padding tokens). ``unused``: a row without a token."""


MEDIA = (
    r"</?image>|</?(?:image|audio|video)_\w+>|</?\w+_(?:image|audio|video)>|\[multimodal\]|\[(?:IMG|AUDIO)(?:_\w+)?\]"
)
"""Where an image, a sound or a film stands. HTML's ``<img>``, ``<audio>`` and ``<video>`` are text."""
LOOKS_SPECIAL = re.compile(
    rf"<\|.*>|<.*\|>|<｜.*｜>|<unused\d+>|<pad>|<mask>|<2mass>|\[@BOS@\]|{MEDIA}", re.DOTALL | re.ASCII
)
"""Added tokens with these names are control tokens, whatever a file's flag says. GGUF's converter decides so for most
of them (``does_token_look_special``), and a model must mean the same from either file: GGUF files of Gemma 3 call
``<start_of_image>`` user-defined, where its tokenizer calls it special."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """A tokenizer's vocabulary, independent of the library that read it.

    The constructor resolves differences between a model's files: an added token that looks special is a control token,
    and ``[PADn]`` at id n is an unused row from a converter.
    """

    scheme: Scheme
    family: str
    """A display name: ``byte-level BPE``, ``SentencePiece BPE``, ``Unigram``, ``tekken`` …"""
    texts: tuple[str, ...]
    """By id; empty for an unused row."""
    kinds: tuple[Kind, ...]
    declared_end_ids: tuple[int, ...] = ()
    """END ids from the model's files."""
    bos_id: int | None = None
    eos_id: int | None = None
    adds_bos: bool = False
    """Whether the tokenizer adds BOS to a plain text."""
    chat_template: str | None = None
    """The only one, or the one named ``default``."""
    template_given: bool = False
    """Whether that is not of the model's files: a worker's ensemble file gave it."""
    named_templates: Mapping[str, str] = field(default_factory=dict)
    """Of a model with several, all by name, ``default`` and ``tool_use`` among them."""
    special_texts: Mapping[str, str] = field(default_factory=dict)
    """Special tokens that templates use, by name: ``bos_token``, ``eos_token``, ``pad_token`` …"""
    strips: Mapping[int, tuple[bool, bool]] = field(default_factory=dict)
    """Added tokens that take in the white space before or behind them (``lstrip``, ``rstrip``), as Phi-3's do."""
    words: frozenset[int] = frozenset()
    """Added tokens that are text beside a letter or a digit (``single_word``)."""
    beyond: tuple[tuple[str, Kind], ...] = ()
    """Text and kind of the tokens after ``texts``, for which the model has no row (`first`). They have no ids here."""
    opening: list[int] = field(init=False)
    """What the tokenizer adds before a plain text: BOS, or nothing."""
    controls: Controls = field(init=False)
    """The control tokens for which the model has a row."""

    def __post_init__(self) -> None:
        kinds = self.kinds
        if "added" in kinds:
            pairs = zip(self.texts, kinds, strict=True)
            kinds = tuple([_settled(token, text, kind) for token, (text, kind) in enumerate(pairs)])
            object.__setattr__(self, "kinds", kinds)
        opening = [self.bos_id] if self.adds_bos and self.bos_id is not None else []
        object.__setattr__(self, "opening", opening)
        controls = {self.texts[token]: token for token, kind in enumerate(kinds) if kind == "control"}
        controls.pop("", None)
        object.__setattr__(self, "controls", Controls(controls, self.strips, self.words))

    @property
    def never_written(self) -> frozenset[int]:
        """Ids that are neither text nor an end, nor part of a chat template, which could make them marks."""
        templates = (self.chat_template or "", *self.named_templates.values())
        rows = enumerate(zip(self.texts, self.kinds, strict=True))
        return frozenset(
            i
            for i, (text, kind) in rows
            if kind == "unused"
            or (kind == "control" and i not in self.declared_end_ids and not any(text in each for each in templates))
        )

    @property
    def controls_beyond(self) -> dict[str, int]:
        """The control tokens for which the model has no row."""
        rows = enumerate(self.beyond, len(self.texts))
        return {text: token for token, (text, kind) in rows if kind == "control" and text}

    @property
    def all_controls(self) -> Controls:
        return Controls(self.controls | self.controls_beyond, self.strips, self.words) if self.beyond else self.controls

    def with_controls(self, ids: Iterable[int]) -> TokenTable:
        """The table with some added tokens as control tokens."""
        controls = set(ids)
        kinds = tuple("control" if token in controls else kind for token, kind in enumerate(self.kinds))
        return replace(self, kinds=kinds)

    def first(self, rows: int) -> TokenTable:
        """The table for a model of this many rows: what lies beyond is neither BOS nor an end."""
        bos, eos = (i if i is not None and 0 <= i < rows else None for i in (self.bos_id, self.eos_id))
        return replace(
            self,
            texts=self.texts[:rows],
            kinds=self.kinds[:rows],
            declared_end_ids=tuple(i for i in self.declared_end_ids if i < rows),
            bos_id=bos,
            eos_id=eos,
            adds_bos=self.adds_bos and bos is not None,
            beyond=(*zip(self.texts[rows:], self.kinds[rows:], strict=True), *self.beyond),
        )


def _settled(token: int, text: str, kind: Kind) -> Kind:
    if kind != "added":
        return kind
    if LOOKS_SPECIAL.fullmatch(text):
        return "control"
    return "unused" if text == f"[PAD{token}]" else kind


@runtime_checkable
class RemoteTokenizer(Protocol):
    """A tokenizer that has to be asked elsewhere."""

    def expect(self, texts: Iterable[str]) -> None:
        """Learn in the background what it encodes texts as, so that nobody waits for that later."""
        ...


class Tokenizer(Protocol):
    table: TokenTable

    def encode(self, text: str) -> list[int]:
        """Encode the middle of a text: no BOS, leading space or control tokens.

        Text outside the vocabulary may be lost; callers check by joining the pieces.
        """
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a plain text with the tokenizer's BOS and leading space, without control tokens."""
        ...

    def encode_rendered(self, text: str) -> list[int]:
        """Encode a chat template's output: control tokens are recognised, nothing is added."""
        ...
