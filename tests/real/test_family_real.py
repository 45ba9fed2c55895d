"""Members that share the weights of a real model are what they are with weights of their own."""

from __future__ import annotations

import functools
import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from support.covering import some
from support.demo import written
from support.prompts import CHATS
from unisono.chat.messages import Message, Prompt
from unisono.config.ensemble import load_spec
from unisono.ensemble import Ensemble

pytestmark = pytest.mark.models

MODEL = "demo:smollm2-135m-instruct"
SYSTEMS = {
    "plain": None,
    "teacher": "You are a careful teacher. Explain in simple words.",
    "pirate": "Eres un pirata y respondes siempre en español.",
}
PROMPTS = (
    Prompt(messages=(Message(role="system", content="Be brief."), *(CHATS[0].messages or ()))),
    *some(CHATS[:5], 4),
)
PIECES = 8
SIZES = (1, 4)
CLOSE = 0.15
"""A difference of probabilities that llama.cpp's kernels may make between a batch and single tokens."""


def spec(backend: str, *, shared: bool) -> dict[str, Any]:
    keys = {"llamacpp": {}, "transformers": {"dtype": "float32"}}[backend]
    own = {"model": MODEL, "backend": backend, **keys}
    members: list[dict[str, Any]] = []
    for name, system in SYSTEMS.items():
        weights = {"share_weights_with": "plain"} if shared and members else own
        members.append({"name": name, **weights, "system": system})
    return {"members": members}


@functools.cache
def answers(backend: str, *, shared: bool) -> dict[int, list[Any]]:
    """What three members write, by the size of the batch. The models are loaded for no longer than that."""
    with Ensemble.load(spec(backend, shared=shared), batch=max(SIZES)) as ensemble:
        texts = {size: written(ensemble._engine, PROMPTS, PIECES, size) for size in SIZES}
    gc.collect()
    return texts


def members_of(texts: Sequence[Any]) -> list[list[float]]:
    return [[step.members[name] for step in text.steps for name in SYSTEMS] for text in texts]


@pytest.mark.parametrize("size", SIZES)
def test_a_family_through_transformers_is_three_members_apart(size: int) -> None:
    """float32: the same pieces, each member's mass of them within 1e-4, and other texts than one member's."""
    apart, together = (answers("transformers", shared=shared)[size] for shared in (False, True))
    for one, other in zip(apart, together, strict=True):
        assert [step.piece for step in one.steps] == [step.piece for step in other.steps]
        assert {name: cursor.ids for name, cursor in one.cursors.items()} == {
            name: cursor.ids for name, cursor in other.cursors.items()
        }
    for one_p, other_p in zip(members_of(apart), members_of(together), strict=True):
        np.testing.assert_allclose(one_p, other_p, atol=1e-4)
    first = together[0].steps[0].members
    assert len({round(mass, 4) for mass in first.values()}) == 3  # they read different prompts


@pytest.mark.parametrize("size", SIZES)
def test_a_family_through_llamacpp_is_three_members_apart_up_to_choices_that_were_close(size: int) -> None:
    """Its kernels round a batch differently from single tokens: the texts part only where two pieces were close."""
    apart, together = (answers("llamacpp", shared=shared)[size] for shared in (False, True))
    same = 0
    for one, other in zip(apart, together, strict=True):
        for step, again in zip(one.steps, other.steps, strict=False):
            if step.piece != again.piece:
                assert abs(step.p - again.p) < CLOSE
                break
            np.testing.assert_allclose(list(step.members.values()), list(again.members.values()), atol=CLOSE)
        else:
            same += 1
    assert same >= len(PROMPTS) // 2


def test_a_twin_of_a_real_member_changes_nothing() -> None:
    """Law 2, through the weights that transformers has loaded once."""
    members = [{"name": "smol", "model": MODEL, "backend": "transformers", "dtype": "float32"}]
    with Ensemble.load({"members": members}) as alone:
        expected = written(alone._engine, PROMPTS[:3], PIECES, 1)
    twins = {"members": [*members, {"name": "twin", "share_weights_with": "smol"}]}
    assert load_spec(twins).member("twin").owner == "smol"
    with Ensemble.load(twins) as pair:
        texts = written(pair._engine, PROMPTS[:3], PIECES, 1)
    assert [[step.piece for step in text.steps] for text in texts] == [
        [step.piece for step in text.steps] for text in expected
    ]
