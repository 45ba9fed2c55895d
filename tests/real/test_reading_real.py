"""One reading of the real demo pair gives every setting what it gives by itself, but for the rounding of batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unisono.chat.messages import Prompt
from unisono.engine.reading import Reading
from unisono.ensemble import Ensemble

pytestmark = pytest.mark.models

METHODS = ({"combine": "geometric"}, {"lead": "gemma", "gate": "confidence:0.5"})
PROMPT = Prompt(text="Question: Which of these gives light?\nAnswer:")
ASKED = [(PROMPT, choice) for choice in (" the sun", " a stone — naïve 日本")]


def test_a_reading_of_one_question_by_one_setting_is_exactly_its_score(load_demo: Callable[..., Ensemble]) -> None:
    """The passes then have the same shapes, by which llama.cpp's kernels round."""
    pair = load_demo(backend="llamacpp")
    models, prepared = pair._models, pair.prepared
    assert models is not None
    settings = [(engine, engine.method) for engine in (models.engine(prepared.alone(name)) for name in pair.members)]
    settings += [(pair._engine, pair.method.but(**keys)) for keys in METHODS[:2]]  # type: ignore[arg-type]
    for engine, method in settings:
        [scores] = Reading([engine.setting(method)]).score(ASKED)
        for one, other in zip(scores, engine.score(ASKED, method=method), strict=True):
            expected = [each.logp for each in other.pieces]
            assert [each.logp for each in one.pieces] == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def pair(load_demo: Callable[..., Ensemble]) -> Ensemble:
    return load_demo(backend="transformers", dtype="float32")


def test_a_reading_of_real_models_is_what_every_setting_scores_by_itself(pair: Ensemble) -> None:
    models, prepared = pair._models, pair.prepared
    assert models is not None
    alone = [models.engine(prepared.alone(name)) for name in pair.members]
    tempered = models.engine(prepared.reshaped({"smol": {"temperature": 1.7, "weight": 2.0}}))
    settings = [(engine, engine.method) for engine in (*alone, tempered)]
    settings += [(pair._engine, pair.method.but(**keys)) for keys in METHODS]  # type: ignore[arg-type]
    found = Reading([engine.setting(method) for engine, method in settings]).score(ASKED)
    for (engine, method), scores in zip(settings, found, strict=True):
        for one, asked in zip(scores, ASKED, strict=True):
            [other] = engine.score([asked], method=method)
            assert [each.piece for each in one.pieces] == [each.piece for each in other.pieces]
            assert [each.voted for each in one.pieces] == [each.voted for each in other.pieces]
            assert [each.logp for each in one.pieces] == pytest.approx([each.logp for each in other.pieces], abs=2e-4)
