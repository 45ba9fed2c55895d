"""`vocabulary: bytes` with the demo models: one is itself, and a pair's scores are near those of a wide beam."""

from __future__ import annotations

import pytest

from support.demo import demo_spec
from unisono.chat.messages import Prompt
from unisono.ensemble import Ensemble

pytestmark = pytest.mark.models

PROMPT = "Die Hauptstadt von Österreich ist"


def test_one_model_is_itself_and_a_narrow_beam_is_nearly_exact() -> None:
    spec = demo_spec("smol", backend="llamacpp", context=256)
    with Ensemble.load({**spec, "vocabulary": "bytes beam:10"}) as smol:
        method = {"max_new_tokens": 16, "trace": True}
        union, walked = (smol.generate(PROMPT, vocabulary=words, **method) for words in ("union", "bytes"))
        assert walked.data == union.data
        assert [step.piece for step in walked.steps or ()] == [step.piece for step in union.steps or ()]
        assert walked.usage.parted == 0
        asked = [(Prompt(text=PROMPT), " Wien, die größte Stadt des Landes.")]
        scores = [
            smol._engine.score(asked, method=smol.method.but(vocabulary=words))[0]
            for words in ("union", "bytes", "bytes beam:10 least:0.0001")
        ]
    cut, near, wide = (score.logp for score in scores)
    assert wide == pytest.approx(near, abs=0.5)
    assert wide > cut - 0.5  # the sum over cuts holds the lead's own
