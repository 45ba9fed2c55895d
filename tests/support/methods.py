"""The rules by which the laws are tried, and drafting that does not depend on the clock."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from unisono.engine.draft_length import Cost, DraftLengthController, Outlook, Work
from unisono.fusion.rules import SIGNED

RULES = (
    "geometric",
    "geometric floor:0.001 truncate:3",
    "max",
    "minimum",
    "logits",
    "contrastive",
    "contrastive alpha:0.3",
    "mean truncate:2",
    "mean weights:entropy",
    "mean weights:consistency",
    "mean weights:perplexity",
    "geometric weights:perplexity temperature:0.2",
    "mean sharpen:0.1",
)


def weights_for(rule: str) -> tuple[float, float, float]:
    """Those of three members, the last a negative one where the rule has a use for it."""
    return (1, 1, -0.5) if rule.startswith(SIGNED) else (2, 1, 1)


def rule_for(weights: Sequence[float]) -> str:
    """A rule for an ensemble that is loaded with such weights."""
    return "logits" if min(weights) < 0 else "mean"


class FixedDraftLength(DraftLengthController):
    """Drafts as far as allowed, whatever it costs."""

    def seconds(self, model: Hashable, work: Work) -> float:
        return 0.0

    def go_on(self, outlooks: Sequence[Outlook], cost: Cost, texts: int) -> list[int]:
        return list(range(len(outlooks))) if any(outlook.waits for outlook in outlooks) else []
