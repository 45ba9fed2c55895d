"""The answer of the largest mean likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unisono.evals.baselines.base import Baseline, Case, Choice
from unisono.evals.baselines.judging import LEAST, chosen, granted
from unisono.evals.baselines.options import Verdicts, likeliest, mean_verdicts, options, rounded
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Question


@dataclass(frozen=True)
class Ranker(Baseline):
    """Takes the answer with the highest mean of all members' log-likelihoods.

    As in the source, but a log-likelihood is divided by the answer's bytes, not its tokens: a mean over tokens would
    weight members by how they tokenise. With ``standardised`` each member's scores are also divided by their spread
    among the answers to one question, over all cases, so that a member whose likelihoods vary more does not count more.
    The confidence is the likelihood of a byte, ``exp`` of the mean.
    """

    kind = "ranker"
    source = (
        "Agrawal et al., Uncertainty-Aware Answer Selection for Improved Reasoning in Multi-LLM Systems, "
        "arXiv 2510.02377"
    )

    standardised: bool = False

    def gather(self, question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, Any]:
        told = _of_choices(question, candidates) if question.is_choice else _of_texts(question, candidates, pool)
        return {"logp": rounded(told)}

    def decide(self, cases: Sequence[Case]) -> list[Choice]:
        scale = _spreads(cases) if self.standardised else {}
        choices = []
        for case in cases:
            told: Verdicts = case.evidence.get("logp", {})
            scaled = {
                judge: {option: logp * _inverse(scale.get(judge, 1.0)) for option, logp in row.items()}
                for judge, row in told.items()
            }
            taken = likeliest(case.candidates, mean_verdicts(case.candidates, scaled, LEAST))
            likelihood = math.exp(mean_verdicts(case.candidates, told, LEAST)[taken])
            choices.append(Choice(taken, min(likelihood, 1.0), tuple(case.candidates)))
        return choices


def _of_choices(question: Question, candidates: Mapping[str, Answer]) -> dict[str, dict[str, float]]:
    places = {option: chosen(candidates[option]) for option in options(candidates)}
    return {
        judge: {option: _a_byte(answer.choices[place], question.choices[place]) for option, place in places.items()}
        for judge, answer in candidates.items()
    }


def _of_texts(question: Question, candidates: Mapping[str, Answer], pool: ModelPool) -> dict[str, dict[str, float]]:
    texts = {option: candidates[option].text or "" for option in options(candidates)}
    asked = [(question.prompt, text) for text in texts.values() if text]
    told = {}
    for judge in pool.members:
        logps = iter([score.logp for score in granted(pool.score(pool.member(judge), asked))])
        told[judge] = {option: _a_byte(next(logps), text) if text else LEAST for option, text in texts.items()}
    return told


def _a_byte(logp: float, text: str) -> float:
    return max(logp / len(text.encode()), LEAST)


def _spreads(cases: Sequence[Case]) -> dict[str, float]:
    """By judge, the root mean square deviation of its scores from their mean over a question's answers."""
    squares: dict[str, list[float]] = {}
    for case in cases:
        for judge, row in case.evidence.get("logp", {}).items():
            mean = math.fsum(row.values()) / len(row)
            squares.setdefault(judge, []).extend((logp - mean) ** 2 for logp in row.values())
    return {judge: math.sqrt(math.fsum(each) / len(each)) for judge, each in squares.items()}


def _inverse(spread: float) -> float:
    return 1 / spread if spread > 0 else 0.0  # a judge that finds all answers equally likely does not count
