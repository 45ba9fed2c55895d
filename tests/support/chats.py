"""Fake members that talk: one answers every question with some words, the other would rather not, and agrees."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.build import prepare
from unisono.cli.chat import CHUNK
from unisono.cli.talk.conversation import Conversation
from unisono.cli.talk.session import Session
from unisono.cli.talk.transcript import Transcript
from unisono.config.ensemble import load_spec
from unisono.engine.service import Service
from unisono.loaded_models import load_engine
from unisono.records import Limits
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, register_fake, scripted_rule
from unisono.vocab.pieces import token_bytes

PASSES = "passes"
"""The file in which a program of these members notes its passes."""
ANSWERS = {
    "Hi": "Good day, 日本!",
    "Who?": "The cat.",
    "Escape": "a\x1b]0;gone\x07b\r\nc",
    "Count": " one" * 40,
}
"""What is answered to a question that ends so."""
WORDS = (" one", "Good", " day", " cat", "The")
MEMBERS = [{"name": "talker", "model": "fake:talker"}, {"name": "shy", "model": "fake:shy", "weight": 0.2}]


def make_talkers(answers: dict[str, str] | None = None, context: int = 4096) -> None:
    """Register ``fake:talker``, and ``fake:shy``, whose tokenizer is another one."""
    for name, words in (("talker", WORDS), ("shy", WORDS[2:])):
        table = byte_level_table(words)
        tokenizer = LongestMatchTokenizer(table)
        script: dict[str | bytes, dict[str | bytes, float]] = {"": {"</s>": 1.0}}
        for question, answer in (ANSWERS if answers is None else answers).items():
            ids = tokenizer.encode(answer)
            pieces = [token_bytes(table.texts[token], table.kinds[token], table.scheme) or b"" for token in ids]
            for read, piece in enumerate(pieces):
                script[question.encode() + b"".join(pieces[:read])] = {piece: 1.0}
            script[question.encode() + answer.encode()] = {"</s>": 1.0}
        register_fake(name, FakeModel(tokenizer, scripted_rule(table, script), context=context))


def session_of(
    limits: Limits | None = None, begun: Transcript | None = None, members: Sequence[object] = MEMBERS
) -> Session:
    prepared = prepare(load_spec({"members": list(members)}))
    engine = load_engine(prepared, longest_block=CHUNK, keep_prefixes=True)
    service = Service({"": engine}, chunk=CHUNK)
    return Session(prepared, service, begun or Transcript(Conversation()), limits or Limits(200))
