"""``prompt_logprobs`` of completions, in vLLM's form: how likely each piece of a prompt is, and what is likelier."""

from __future__ import annotations

from unisono.engine.engine import Engine
from unisono.server.answer_schemas import PromptLogprob
from unisono.server.completion_prompts import ScoredPrompt
from unisono.server.logprobs import logarithm, text_of
from unisono.step_records import StepRecord
from unisono.vocab.union import ABSENT


class PromptLogprobs:
    """Writes the lists of one call."""

    def __init__(self, count: int, model: str, engine: Engine) -> None:
        """List the ``count`` most likely pieces beside each piece of the prompt."""
        self.count = count
        self._member = engine.members[0] if "/" in model else None  # one member by itself
        self._union = engine.union

    def of(self, scored: ScoredPrompt) -> list[dict[str, PromptLogprob] | None]:
        """An entry per piece, its own key first; null for those that have no likelihood."""
        return [*(None for _ in scored.unscored), *map(self._entry, scored.steps)]

    def _entry(self, step: StepRecord) -> dict[str, PromptLogprob]:
        standing = step.standing
        assert standing is not None, "the prompt was scored without its most likely pieces"
        tops = list(zip(standing.likeliest, step.likeliest, strict=True))[: self.count]
        listed: list[tuple[int, int, bytes | str | None, float]] = [
            (standing.column, standing.rank, step.mark or step.piece, step.p)
        ]
        listed += [(column, rank, piece, p) for rank, (column, (piece, p)) in enumerate(tops, 1)]
        return {
            str(key): PromptLogprob.model_construct(logprob=logarithm(p), rank=rank, decoded_token=_named(piece))
            for column, rank, piece, p in listed
            if (key := self._key(column)) != ABSENT
        }

    def _key(self, column: int) -> int:
        """The column or, of a member alone, the id that ``logit_bias`` takes."""
        if self._member is None:
            return column
        if column == self._union.end:
            return min(self._member.speller.vocabulary.end_ids)
        if (mark := self._union.mark(column)) is not None:
            return self._member.speller.vocabulary.marks.anywhere.get(mark, (ABSENT,))[0]
        return int(self._member.map.id_U[column])


def _named(piece: bytes | str | None) -> str:
    return piece if isinstance(piece, str) else text_of(piece)
