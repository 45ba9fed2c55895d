"""What needs whole distributions is refused by name where a member tells its likeliest ids only."""

from __future__ import annotations

from typing import Any

import pytest

from unisono.chat.messages import Prompt
from unisono.engine.request import GenerationRequest
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.testing import fake_member

REFUSED: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"sampling": "mixture"},
    {"sampling": {"beam_width": 2}},
    {"sampling": {"repetition_penalty": 1.2}},
    {"sampling": {"member_temperature": 0.5}},
    {"gate": "entropy:1", "lead": "told"},
    {"combine": "contrastive"},
    {"combine": "minimum"},
    {"combine": "logits"},
    {"combine": "mean truncate:5"},
    {"combine": "mean sharpen:0.1"},
    {"combine": "mean weights:entropy"},
    {"combine": "mean weights:perplexity"},
]


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    fake_member("whole", seed=1)
    fake_member("told", seed=2).top = 5
    members = [{"name": name, "model": f"fake:{name}"} for name in ("whole", "told")]
    return Ensemble.load({"members": members}, batch=2)


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_a_method_that_needs_whole_distributions_is_refused(ensemble: Ensemble, options: dict[str, Any]) -> None:
    if options == {"combine": "contrastive"}:
        members = [{"name": "whole", "model": "fake:whole"}, {"name": "told", "model": "fake:told", "weight": -0.5}]
        with pytest.raises(SpecError, match="'contrastive' needs whole distributions, but member 'told'"):
            Ensemble.load({"members": members, **options})
        return
    with pytest.raises(SpecError, match="needs whole distributions, but member 'told' tells its likeliest ids only"):
        ensemble.generate("a", **options)


def test_what_a_request_wants_is_refused_too(ensemble: Ensemble) -> None:
    prepare, prompt = ensemble._engine.prepare, Prompt(text="a")
    for request, words in (
        (GenerationRequest("", prompt, top_logprobs=2), "logprobs"),
        (GenerationRequest("", prompt, score=True), "scoring"),
    ):
        with pytest.raises(SpecError, match=f"{words} needs whole distributions"):
            prepare(request)
    with pytest.raises(SpecError, match="scoring needs whole distributions"):
        ensemble._engine.score([(prompt, "b")])


def test_a_gate_looks_at_the_lead_alone(ensemble: Ensemble) -> None:
    """What others do not tell is no matter to it."""
    steps = ensemble.generate("a", gate="entropy:3", lead="whole", max_new_tokens=8, trace=True).steps
    assert steps is not None
    assert {step.voted for step in steps} == {("whole",), ("whole", "told")}
    assert all((step.certain is None) == (step.voted == ("whole",)) for step in steps)
