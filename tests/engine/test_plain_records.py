"""Records of the mean's likeliest pieces, which are made without folding, are those that folding makes."""

from __future__ import annotations

from typing import Any

import pytest

from support.fakes import PIECES, PROMPTS, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.engine.request import Request
from unisono.engine.sampler import Sampler
from unisono.ensemble import Ensemble
from unisono.fusion.unfolded import WITHIN
from unisono.records import Generation


@pytest.mark.parametrize("names", ["a", "abc"])
@pytest.mark.parametrize("keys", [{"first_choices": True}, {"top_logprobs": 3}, {"trace": True, "top_logprobs": 20}])
def test_a_record_is_the_same_without_folding(
    names: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_fakes()
    plainly, used = Sampler.unfolded, list[bool]()

    def counted(*given: Any) -> Any:
        found = plainly(*given)
        used.append(found is not None)
        return found

    members = [{"name": name, "model": f"fake:{name}", "weight": 1 + place} for place, name in enumerate(names)]
    asked = [Request(str(place), prompt, max_new_tokens=PIECES, **keys) for place, prompt in enumerate(PROMPTS)]
    with Ensemble.load({"members": members}, batch=4) as ensemble:
        monkeypatch.setattr(Sampler, "unfolded", counted)
        fast = {request.id: generation for request, generation in ensemble.generate_batch(asked)}
        monkeypatch.setattr(Sampler, "unfolded", lambda *_: None)
        slow = {request.id: generation for request, generation in ensemble.generate_batch(asked)}
    FAKE_MODELS.clear()
    assert any(used)
    for number, generation in fast.items():
        other = slow[number]
        assert isinstance(generation, Generation)
        assert isinstance(other, Generation)
        assert generation.steps == other.steps
        for step, same in zip(generation.steps or (), other.steps or (), strict=True):
            assert step.entropy == (None if same.entropy is None else pytest.approx(same.entropy, abs=0.03))
            assert step.variation == (None if same.variation is None else pytest.approx(same.variation, abs=WITHIN))
