"""Scores texts that follow prompts, each prompt read once: the way in to `scoring` and, in bytes, to `byte_scoring`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.byte_scoring import ByteScoring
from unisono.engine.given_text import cut, scored_by
from unisono.engine.group import SequenceGroup
from unisono.engine.member import Member
from unisono.engine.plan import Plan
from unisono.engine.request import GenerationRequest, PreparedRequest
from unisono.engine.running_groups import RunningGroups
from unisono.engine.scoring import Scoring
from unisono.engine.sequence import TextSequence
from unisono.engine.step import Stepper
from unisono.records import Limits, PieceScore, Score
from unisono.vocab.union import UnionVocabulary

UNLIMITED = Limits(2**31)


class TextScorer:
    """Scores texts for an engine, among whose groups their prompts are."""

    def __init__(
        self,
        members: Sequence[Member],
        union: UnionVocabulary,
        method: Method,
        prepare: Callable[..., PreparedRequest],
        running: RunningGroups,
        stepper: Stepper,
        scoring: Scoring,
        byte_scoring: ByteScoring,
    ) -> None:
        """``method`` is the default; ``prepare`` is `Preparer.prepare`."""
        self._members = members
        self._union = union
        self._method = method
        self._prepare = prepare
        self._running = running
        self._stepper = stepper
        self._scoring = scoring
        self._byte_scoring = byte_scoring

    def score(self, asked: Sequence[tuple[Prompt, str]], *, method: Method | None = None) -> list[Score]:
        """Compute how likely texts are that follow prompts, each cut as the lead's tokenizer cuts it; see `scoring`.

        A prompt that several texts follow is read once, by all members.

        Args:
            asked: prompts and what follows each, as many as there are free slots at most. A raw prompt may be empty:
                each member then reads its BOS, or else an END.
            method: by which they are scored; by default the engine's own. Gates are read as if the text had been
                generated; of the sampling, what is done to each member's distribution counts.

        Raises:
            PromptError: a member cannot read a prompt or spell the text, or its context is too small for both.
            SpecError: the method does not fit the members.
            CapacityError: too few slots are free.
        """
        plan = Plan(scored_by(method or self._method), self._members, self._union)
        requests = [GenerationRequest("", prompt, UNLIMITED) for prompt, _ in asked]
        prepared = [replace(self._prepare(each, plan, may_be_empty=True), parse=None) for each in requests]
        prompts = [tuple(tuple(ids) for ids in each.ids.values()) for each in prepared]
        groups: dict[object, SequenceGroup] = {}
        try:
            columns = [cut(each.plan.lead, *pair) for each, pair in zip(prepared, asked, strict=True)]
            for each, ids in zip(prepared, prompts, strict=True):
                if ids not in groups:
                    groups[ids] = self._running.begin(_several(each, prompts.count(ids)))
                    if groups[ids].n > 1:
                        self._running.prefill(groups[ids])
                        groups[ids].fork(self._members)
            left = {ids: iter(group.sequences) for ids, group in groups.items()}
            given = dict(zip([next(left[ids]) for ids in prompts], columns, strict=True))
            with self._running.stepping():
                for text in given:
                    self._stepper.weigh_prompt(text)
                began = time.perf_counter()
                scores = self._score_bytes(given, asked) if plan.is_bytes else self._scoring.score(given)
                seconds = time.perf_counter() - began
        finally:
            for group in groups.values():
                self._running.drop(group)
        return [Score(tuple(pieces), scored.prompt_tokens, seconds) for scored, pieces in scores.items()]

    def _score_bytes(
        self, given: Mapping[TextSequence, Sequence[int]], asked: Sequence[tuple[Prompt, str]]
    ) -> dict[TextSequence, list[PieceScore]]:
        """The same in bytes, told by the same pieces."""
        pieces = [[self._union.piece(column) or b"" for column in columns] for columns in given.values()]
        texts = zip([prompt for prompt, _ in asked], pieces, strict=True)
        return self._byte_scoring.score(dict(zip(given, texts, strict=True)), self._running.free)


def _several(prepared: PreparedRequest, n: int) -> PreparedRequest:
    """A prompt that so many texts follow."""
    return replace(prepared, request=replace(prepared.request, n=n), cost=replace(prepared.cost, texts=n))
