"""Three fake members that mostly tell one story, and the plain loop that what they write is held to."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from support.covering import ALL
from unisono.backends.fake.backend import FAKE_MODELS, NextToken
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.reference import PlainStep, plain_steps
from unisono.ensemble import Ensemble
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake, sentencepiece_table
from unisono.vocab.pieces import token_bytes
from unisono.vocab.tokenizer import TokenTable

STORY = " the cat 日本 sees Hello, Sofia — and the dog sings: ça va, 🎉! Then the singing cat ends."


WORDS = {
    "a": [" the", "Hello", " Sofia", "日本", " cat", "ing", "sing", " 🎉"],
    "b": [" the", " Hel", "lo", " So", "fia", "日", " dog", "ing", " sees"],
    "c": [" the cat", " Then", "ç", " va", " sing", "ings"],
}


PROMPTS = [
    *(
        Prompt(text=text)
        for text in ("the cat", " the dog sings: ça", "日", "cats and dogs " * 3, STORY + STORY[:8], "ng cat e")
    ),
    *(Prompt(messages=({"role": "user", "content": text},)) for text in ("Hello", "日本?")),
]


def in_turn(size: int, number: int) -> slice:
    """Which prompts a combination takes: all in batches; every other one of those written one by one."""
    return slice(number % 2, None, 2) if size == 1 and not ALL else slice(None)


PIECES = 20


def storyteller(table: TokenTable, seed: int, noise: float = 2.2) -> NextToken:
    """A model that mostly tells one story, in its own tokens: others do too, so that drafts can hold.

    What it has said after a text it says again without computing it, as the plain loop asks for most texts often.
    """
    pieces = [token_bytes(text, kind, table.scheme) or b"" for text, kind in zip(table.texts, table.kinds, strict=True)]
    story = STORY.encode()

    @functools.lru_cache(maxsize=10_000)
    def next_token(read: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        digest = hashlib.blake2b(np.asarray([seed, *read], np.int64).tobytes(), digest_size=16).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        logits = noise * generator.standard_normal(len(pieces))
        end = b"".join(pieces[token] for token in read[-8:])[-3:]
        place = (story.find(end) + len(end)) % len(story) if end in story else generator.integers(len(story))
        rest = story[place:] + story
        best = max((piece for piece in pieces if piece and rest.startswith(piece)), key=len, default=None)
        if best is not None:
            logits[table.declared_end_ids[0] if place == 0 and end in story else pieces.index(best)] += 9.0
        said = logits.astype(np.float32)
        said.flags.writeable = False
        return said

    return next_token


def make_fakes() -> None:
    for seed, (name, words) in enumerate(WORDS.items()):
        table = sentencepiece_table(words) if name == "b" else byte_level_table(words)
        tokenizer = LongestMatchTokenizer(table, leading_space=name == "b")
        register_fake(name, FakeModel(tokenizer, storyteller(table, seed)))


def engine_of(
    names: Sequence[str], batch: int = 8, draft_length: DraftLengthController | None = None, **keys: Any
) -> Engine:
    members = [{"name": name, "model": f"fake:{name}", **keys} for name in names]
    ensemble = Ensemble.load({"members": members}, batch=batch)
    loaded, grammars = ensemble._engine, ensemble.prepared.grammars
    return Engine(loaded.members, loaded.union, draft_length=draft_length, compile_grammar=grammars)


def oracle(engine: Engine, prompts: Sequence[Prompt], method: Method, pieces: int = PIECES) -> list[list[PlainStep]]:
    return [list(plain_steps(engine.members, engine.union, prompt, pieces, method)) for prompt in prompts]


def check(texts: Sequence[Any], expected: Sequence[Sequence[PlainStep]], names: Sequence[str]) -> None:
    for text, plain in zip(texts, expected, strict=True):
        assert [step.piece for step in text.steps] == [step.piece for step in plain]
        np.testing.assert_allclose([step.p for step in text.steps], [step.p for step in plain], rtol=1e-4)
        assert [step.voted for step in text.steps] == [step.voted for step in plain]
        for step, oracle_step in zip(text.steps, plain, strict=True):
            assert tuple(step.members) == step.voted == tuple(step.top)
            if step.gate is not None:
                assert step.gate.score == pytest.approx(oracle_step.score, rel=1e-4, abs=1e-5)
                assert step.gate.asked == oracle_step.asked
        assert text.ensembled == sum(step.voted == tuple(names) and step.piece is not None for step in plain)


GATES = (
    "always",
    "confidence:0.3",
    "confidence:0.6",
    "confidence:0.95",
    "margin:0.5",
    "entropy:1.5",
    "every:3",
    "first:5",
    "first:0",
)


LONG = Prompt(text=STORY * 3)


def chunked_engine_of(
    names: Sequence[str],
    longest_block: int | None = None,
    batch: int = 8,
    draft_length: DraftLengthController | None = None,
    **keys: Any,
) -> Engine:
    members = [{"name": name, "model": f"fake:{name}"} for name in names]
    loaded = Ensemble.load({"members": members, **keys}, batch=batch)._engine
    for name in names:
        FAKE_MODELS[name].passes.clear()
    return Engine(loaded.members, loaded.union, loaded.method, draft_length=draft_length, longest_block=longest_block)


def fail(engine: Engine, name: str, when: Any) -> None:
    """Let a member's passes fail where ``when`` says so of the feeds, after they have been read."""
    backend = next(member.backend for member in engine.members if member.name == name)
    advance = backend.advance

    def failing(feeds: Any) -> Any:
        logits_NV = advance(feeds)
        if when(feeds):
            raise RuntimeError("out of memory")
        return logits_NV

    backend.advance = failing  # type: ignore[method-assign]


def step_in_spite_of_failures(engine: Engine) -> int:
    """Write all texts to their ends, step by step; return how many steps failed."""
    failed = 0
    while engine.active:
        try:
            engine.step()
        except RuntimeError:
            failed += 1
    return failed
