"""Ensembles of fakes that vote on bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.chat.messages import Prompt
from unisono.ensemble import Ensemble
from unisono.records import Generation, Limits
from unisono.testing import (
    FakeModel,
    LongestMatchTokenizer,
    byte_level_table,
    hashed_rule,
    register_fake,
    sentencepiece_table,
)

EXACT = "bytes beam:64 least:0"
TINY = "bytes beam:8 least:0.001"
WORDS = {"p": ["th", "the", "he", " t", " th"], "q": ["hen", "en", "the", " the"]}


def make_tiny() -> None:
    """``p`` and ``q``, who find everything about as likely."""
    for seed, (name, words) in enumerate(WORDS.items()):
        table = byte_level_table(words) if name == "p" else sentencepiece_table(words)
        tokenizer = LongestMatchTokenizer(table, leading_space=name == "q")
        register_fake(name, FakeModel(tokenizer, hashed_rule(len(table.texts), seed)))


def load(names: Sequence[str], vocabulary: str = "bytes", batch: int = 2, **keys: Any) -> Ensemble:
    members = [{"name": f"{name}{place}", "model": f"fake:{name}"} for place, name in enumerate(names)]
    return Ensemble.load({"members": members, "vocabulary": vocabulary, **keys}, batch=batch)


def written(
    ensemble: Ensemble, prompt: Prompt, pieces: int = 12, method: Mapping[str, Any] | None = None
) -> Generation:
    """A text with its trace."""
    engine = ensemble._engine
    its = None if method is None else engine.method.but(**method)
    text = engine.add(prompt, Limits(pieces), trace=True, method=its)
    while engine.active:
        engine.step()
    return text.generation()


def essence(generation: Generation) -> tuple[object, ...]:
    return generation.data, generation.finish_reason, generation.usage.pieces, generation.usage.parted
