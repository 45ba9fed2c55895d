"""Scripted models without weights, for testing code that builds on unisono.

A `FakeModel` is a tokenizer and a rule for the next token's logits. Register it and name it in a spec as ``fake:NAME``.
Its ``passes`` record its input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unisono.backends.base import Backend, BackendFacts, Feed, LoadRequest, ModelFacts, Progress, Slot, Truncation
from unisono.backends.feed_checks import check_feeds, check_ids, check_rewind
from unisono.backends.truncated import TruncatedBackend
from unisono.errors import MemberUnavailable, ModelNotFound, SpecError, nearest
from unisono.vocab.pieces import token_bytes
from unisono.vocab.tokenizer import Tokenizer, TokenTable

Logits = np.ndarray[Any, np.dtype[np.float32]]
NextToken = Callable[[tuple[int, ...]], Logits]
"""Maps the ids read so far (at least one) to the next token's ``logits_V``."""

IMPOSSIBLE = -1e4
"""The logit of a token with probability 0: its softmax underflows to exactly 0 in float32."""

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class FakePass:
    member: str
    feeds: tuple[Feed, ...]


@dataclass(eq=False)
class FakeModel:
    """A scripted model. Several members may share it."""

    tokenizer: Tokenizer
    next_token: NextToken
    context: int = DEFAULT_CONTEXT
    rows: int | None = None
    """V, when the output has padding rows."""
    neighbours: bool = False
    top: int | Truncation | None = None
    """How many of the likeliest ids it tells; ``None`` for dense logits. A number is all that it can be asked for."""
    away: Callable[[Sequence[Feed]], str | None] | None = None
    """Why a pass fails as that of a member that lives elsewhere and does not answer; ``None`` for one that does not."""
    adapters: dict[str, NextToken] = field(default_factory=dict)
    """By the name of an adapter, what tells the next token in its slots: ``adapter: fake:NAME``."""
    passes: list[FakePass] = field(default_factory=list)
    """Every pass of every backend loaded from this model, in order."""

    @property
    def output_rows(self) -> int:
        return len(self.tokenizer.table.texts) if self.rows is None else self.rows

    @property
    def truncation(self) -> Truncation | None:
        return Truncation(self.top, self.top) if isinstance(self.top, int) else self.top

    def tokens_read(self, member: str | None = None) -> int:
        return sum(len(feed.ids) for step in self.passes if member in (None, step.member) for feed in step.feeds)


FAKE_MODELS: dict[str, FakeModel] = {}


def register_fake(name: str, model: FakeModel) -> FakeModel:
    """Register a model as ``fake:NAME``, replacing any earlier one, and return it."""
    FAKE_MODELS[name] = model
    return model


def hashed_rule(rows: int, seed: int = 0, spread: float = 3.0) -> NextToken:
    """Normally distributed logits with deviation ``spread``, determined by ``seed`` and all ids read."""

    def next_token(read: tuple[int, ...]) -> Logits:
        digest = hashlib.blake2b(np.asarray([seed, *read], np.int64).tobytes(), digest_size=16).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        return (spread * generator.standard_normal(rows)).astype(np.float32)

    return next_token


def scripted_rule(
    table: TokenTable, script: Mapping[str | bytes, Mapping[str | bytes, float]], rows: int | None = None
) -> NextToken:
    """A rule that looks up the next token's probabilities by the end of the text.

    The longest key that the text ends with applies; ``""`` matches every text. Tokens are named by their plain text
    (``" the"``), control tokens by name (``"</s>"``). Tokens without an entry have probability 0.

    Raises `ValueError` for a token that is not in the table or a probability outside (0, 1]. The rule raises `KeyError`
    when no key matches.
    """
    named, pieces = _tokens_by_name(table)
    width = len(table.texts) if rows is None else rows
    entries = {_bytes(key): _scripted_logits(chances, named, width) for key, chances in script.items()}
    ends = sorted(entries, key=len, reverse=True)

    def next_token(read: tuple[int, ...]) -> Logits:
        text = b"".join(pieces.get(token, b"") for token in read)
        for end in ends:
            if text.endswith(end):
                return entries[end]
        raise KeyError(f"the script has no entry for a text that ends with {text[-40:]!r}")

    return next_token


def _tokens_by_name(table: TokenTable) -> tuple[dict[bytes, int], dict[int, bytes]]:
    named: dict[bytes, int] = {}
    pieces: dict[int, bytes] = {}
    for token, (text, kind) in enumerate(zip(table.texts, table.kinds, strict=True)):
        piece = token_bytes(text, kind, table.scheme)
        if piece is not None:
            pieces[token] = piece
        named.setdefault(text.encode() if piece is None else piece, token)
    return named, pieces


def _scripted_logits(chances: Mapping[str | bytes, float], named: Mapping[bytes, int], rows: int) -> Logits:
    logits_V = np.full(rows, IMPOSSIBLE, np.float32)
    for name, chance in chances.items():
        if _bytes(name) not in named:
            raise ValueError(f"the script names {name!r}, which is no token of the vocabulary")
        if not 0 < chance <= 1:
            raise ValueError(f"the script gives {name!r} the probability {chance}")
        logits_V[named[_bytes(name)]] = np.log(chance)
    return logits_V


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


class FakeLoader:
    def __init__(self, request: LoadRequest) -> None:
        name = request.source.location
        if name not in FAKE_MODELS:
            raise ModelNotFound(
                f"member {request.name!r}: there is no fake model {name!r}{nearest(name, FAKE_MODELS)}",
                hint="register it first: unisono.testing.register_fake(name, model)",
            )
        self._request = request
        self._model = FAKE_MODELS[name]
        if (request.context or 0) > self._model.context:
            raise SpecError(f"member {request.name!r}: context is {request.context}, the model's {self._model.context}")

        for adapter in request.adapters:
            if adapter not in self._model.adapters:
                raise ModelNotFound(f"the fake model {name!r} has no adapter {adapter!r}")

    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    def facts(self) -> ModelFacts:
        return ModelFacts(
            architecture="fake",
            rows=self._model.output_rows,
            parameters=None,
            context=self._request.context or self._model.context,
            trained_context=self._model.context,
            weight_bytes=0,
            cache_bytes=0,
            dtype="float32",
            device="cpu",
            truncated=self._model.truncation,
        )

    def load(self, progress: Progress) -> Backend:
        progress(1.0, "loaded")
        backend = FakeBackend(self._model, self._request.name, self._request.slots, self.facts().context)
        truncation = self._model.truncation
        return backend if truncation is None else TruncatedBackend(backend, truncation)


class FakeBackend:
    """Recomputes logits from all ids. The next call overwrites `advance`'s array with NaN to expose late use."""

    def __init__(self, model: FakeModel, name: str = "fake", slots: int = 1, context: int | None = None) -> None:
        self.facts = BackendFacts(
            "cpu", model.output_rows, context or model.context, slots, neighbours=model.neighbours
        )
        self._model = model
        self._name = name
        self._read: dict[Slot, tuple[int, ...]] = {}
        self._rules: dict[Slot, NextToken] = {}
        self._given: Logits = np.empty((0, 0), np.float32)
        self._loaded = True

    def open(self, copy_of: Slot | None = None, *, adapter: str | None = None) -> Slot:
        self._begin_call()
        held = () if copy_of is None else self.read(copy_of)
        rule = self._model.next_token if adapter is None else self._model.adapters[adapter]
        for slot in map(Slot, range(self.facts.slots)):
            if slot not in self._read:
                self._read[slot] = held
                self._rules[slot] = rule if copy_of is None else self._rules[copy_of]
                return slot
        raise RuntimeError(f"all {self.facts.slots} slots are taken")

    def advance(self, feeds: Sequence[Feed]) -> Logits:
        self._begin_call()
        check_feeds(feeds, lambda slot: len(self.read(slot)), self.facts)
        check_ids(feeds, self.facts.rows)
        self._model.passes.append(
            FakePass(
                self._name,
                tuple(Feed(feed.slot, tuple(feed.ids), feed.wanted, feed.top, tuple(feed.also)) for feed in feeds),
            )
        )
        rows: list[Logits] = []
        for feed in feeds:
            before = self._read[feed.slot]
            read = self._read[feed.slot] = (*before, *feed.ids)
            rule = self._rules[feed.slot]
            rows += [rule(read[:end]) for end in range(len(read) - feed.wanted + 1, len(read) + 1)]
        if self._model.away is not None and (reason := self._model.away(feeds)):  # after some of it was read
            raise MemberUnavailable(self._name, "fake://elsewhere", reason)
        self._given = np.stack(rows).astype(np.float32) if rows else np.empty((0, self.facts.rows), np.float32)
        return self._given

    def rewind(self, slot: Slot, length: int) -> None:
        held = self.read(slot)
        check_rewind(slot, len(held), length)
        self._read[slot] = held[:length]

    def close(self, slot: Slot) -> None:
        self.read(slot)
        del self._read[slot]

    def unload(self) -> None:
        self._loaded = False
        self._read.clear()

    def read(self, slot: Slot) -> tuple[int, ...]:
        self._begin_call()
        if slot not in self._read:
            raise ValueError(f"slot {slot} is not open")
        return self._read[slot]

    def _begin_call(self) -> None:
        if not self._loaded:
            raise RuntimeError(f"the model of member {self._name!r} has been unloaded")
        self._given.fill(np.nan)  # what was given is no longer valid
        self._given = np.empty((0, 0), np.float32)
