"""Weights of a request: the text is that of a file that has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import PROMPTS, make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.engine.request import GenerationRequest
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.records import Limits

NAMES = ("a", "b", "c")
WEIGHTS = {"a": 6.0, "b": 3.0, "c": 1.0}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def load(weights: dict[str, float] | None, **keys: Any) -> Ensemble:
    weighed = [{"name": name, "model": f"fake:{name}", "weight": (weights or {}).get(name, 1)} for name in NAMES]
    return Ensemble.load({"members": weighed, **keys}, batch=4)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"combine": "geometric"},
        {"combine": {"rule": "mean", "weights": "entropy"}},
        {"gate": "certain"},
        {"gate": "confidence:0.5", "speculate": "a"},
        {"sampling": "0.8 seed:3"},
        {"sampling": "one-member seed:5"},
    ],
    ids=str,
)
def test_a_text_with_weights_of_its_own_is_that_of_a_file_that_has_them(keys: dict[str, Any]) -> None:
    with load(None, **keys) as plain, load(WEIGHTS, **keys) as weighed:
        asked = [
            GenerationRequest(f"{number}", prompt, Limits(12), weights=weights)
            for number, prompt in enumerate(PROMPTS[:3])
            for weights in (WEIGHTS, None)
        ]
        answers = {(request.id, request.weights is None): answer for request, answer in plain.generate_batch(asked)}
        expected = [weighed.generate(prompt, max_new_tokens=12).data for prompt in PROMPTS[:3]]
        usual = [plain.generate(prompt, max_new_tokens=12).data for prompt in PROMPTS[:3]]
    for number in range(3):
        assert answers[f"{number}", False].data == expected[number]  # type: ignore[union-attr]
        assert answers[f"{number}", True].data == usual[number]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": 1.0, "b": 1.0}, "the weight of c is missing"),
        ({"a": 1.0, "b": 1.0, "c": 0.0}, "the weight of c is 0.0"),
        ({"a": 1.0, "b": 1.0, "c": float("inf")}, "the weight of c is inf"),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "not a member that votes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, float], words: str) -> None:
    with load(None) as ensemble, pytest.raises(SpecError, match=words):
        ensemble._client.generate(GenerationRequest("", PROMPTS[0], Limits(4), weights=weights))
