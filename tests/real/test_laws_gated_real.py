"""Law 5, also for gates and drafts, on the real demo pair, transformers in float32.

Without a gate and drafts, longer texts are written one at a time and eight at a time. Every gate is combined with a
drafter and a batch size, so that every drafter and every size come up; ``UNISONO_TEST_ALL=1`` runs the whole product,
about half an hour on two cores.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from support import covering
from support.demo import written
from support.methods import FixedDraftLength
from support.prompts import ALL
from support.read_ahead import PlainLoop
from unisono.config.method import Method
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.engine.reference import PlainStep
from unisono.ensemble import Ensemble

pytestmark = pytest.mark.models

PIECES, UNGATED_PIECES = (8, 12) if covering.ALL else (6, 8)
"""Of each text."""
UNGATED: dict[str, Any] = {"gate": "always"}
GATES = (
    UNGATED,
    {"gate": "confidence:0.5"},
    {"gate": "confidence:0.7", "boundary": True, "lead": "gemma"},
    {"gate": "margin:0.3"},
    {"gate": "entropy:2.0", "boundary": True},
    {"gate": "every:3", "lead": "gemma"},
    {"gate": "first:4"},
)
DRAFTERS = ("off", "smol:4", "gemma:3", "ngram:6", "auto")
SIZES = (1, 3, 8)


def combinations() -> list[tuple[dict[str, Any], str, int]]:
    every = list(itertools.product(enumerate(GATES), enumerate(DRAFTERS), enumerate(SIZES)))
    if not covering.ALL:
        every = [each for each in every if _chosen(*each)]
    found = [(gate, drafter, size) for (_, gate), (_, drafter), (_, size) in every]
    return found + [each for each in ((UNGATED, "off", 1), (UNGATED, "off", 8)) if each not in found]


def _chosen(gate: tuple[int, Any], drafter: tuple[int, Any], size: tuple[int, Any]) -> bool:
    turn = gate[0] % 2
    return drafter[0] == (gate[0] + 2 * turn) % len(DRAFTERS) and size[0] == (gate[0] + turn) % len(SIZES)


def prompts_of(keys: dict[str, Any], drafter: str, size: int) -> Sequence[Any]:
    """A fifth of the prompts, another one for each combination in turn; all with ``UNISONO_TEST_ALL``."""
    if covering.ALL:
        return ALL
    return ALL[combinations().index((keys, drafter, size)) % 5 :: 5]


def pieces_of(keys: dict[str, Any]) -> int:
    return UNGATED_PIECES if keys == UNGATED else PIECES


@pytest.fixture(scope="module")
def pair(load_demo: Callable[..., Ensemble]) -> Engine:
    return load_demo(backend="transformers", dtype="float32")._engine


@pytest.fixture(scope="module")
def plain(pair: Engine) -> PlainLoop:
    return PlainLoop(pair)


@pytest.fixture(scope="module")
def written_plainly() -> dict[str, list[list[PlainStep]]]:
    """What the plain loop has written so far, by gate."""
    return {}


def expected_of(
    plain: PlainLoop, keys: dict[str, Any], prompts: Sequence[Any], texts: list[Any]
) -> list[list[PlainStep]]:
    """What the plain loop writes under a gate, where an engine has written ``texts``."""
    found = []
    for prompt, text in zip(prompts, texts, strict=True):
        steps = plain.steps(prompt, pieces_of(keys), Method().but(**keys), text)
        assert all(abs(step.q_U.sum() - 1) < 1e-9 for step in steps)
        found.append([step._replace(q_U=np.empty(0)) for step in steps])
        plain.forget()
    return found


@pytest.mark.parametrize(("keys", "drafter", "size"), combinations(), ids=str)
def test_gates_drafts_and_batches_equal_the_plain_loop(
    pair: Engine,
    plain: PlainLoop,
    written_plainly: dict[str, list[list[PlainStep]]],
    keys: dict[str, Any],
    drafter: str,
    size: int,
) -> None:
    """Of 30 prompts, 12 of them not ASCII; drafts go as far as allowed, whether that pays or not."""
    draft_length = DraftLengthController() if drafter == "auto" else FixedDraftLength()
    engine = Engine(pair.members, pair.union, draft_length=draft_length)
    prompts = prompts_of(keys, drafter, size)
    texts = written(engine, prompts, pieces_of(keys), size, Method().but(**keys, speculate=drafter))
    known = f"{keys} {prompts[0]}"
    if known not in written_plainly:
        written_plainly[known] = expected_of(plain, keys, prompts, texts)
    for prompt, text, steps in zip(prompts, texts, written_plainly[known], strict=True):
        assert [step.piece for step in text.steps] == [step.piece for step in steps], prompt
        assert [step.voted for step in text.steps] == [step.voted for step in steps]
        np.testing.assert_allclose([step.p for step in text.steps], [step.p for step in steps], atol=1e-4)
    if drafter not in ("off", "auto"):
        assert sum(text.drafted for text in texts) > 0


def test_members_that_cannot_change_a_piece_are_not_asked(pair: Engine) -> None:
    members = [
        Member(each.name, weight, each.backend, each.encoder, each.speller, each.map)
        for each, weight in zip(pair.members, (0.8, 0.2), strict=True)
    ]
    engine = Engine(members, pair.union)
    every, certain = (written(engine, ALL[::10], PIECES, 3, Method().but(gate=gate)) for gate in ("always", "certain"))
    for text, other in zip(certain, every, strict=True):
        assert [step.piece for step in text.steps] == [step.piece for step in other.steps]
        for step, whole in zip(text.steps, other.steps, strict=True):
            assert step.p - 1e-4 <= whole.p <= step.p + (step.unknown or 0) + 1e-4
    assert sum(step.voted == ("smol",) for text in certain for step in text.steps) > 5
