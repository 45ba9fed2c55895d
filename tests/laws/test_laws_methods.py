"""Law 5 for combine rules and draws on fakes: every combination writes what the plain loop writes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.covering import covering
from support.demo import written
from support.fakes import PROMPTS, check, in_turn, make_fakes, oracle
from support.methods import RULES, FixedDraftLength, rule_for, weights_for
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.ensemble import Ensemble
from unisono.records import Limits

GATES = ("always", "confidence:0.6", "entropy:1.5 boundary", "every:3")
DRAWS = (
    "1 seed:1",
    "0.8 seed:2 top_p:0.9 repetition_penalty:1.3",
    "1.3 seed:3 top_k:4 frequency_penalty:0.7 presence_penalty:0.2",
    "1 seed:4 min_p:0.05 typical_p:0.9 bias:%20the=-3 bias:sing=2",
    "greedy repetition_penalty:1.5 bias:%20Sofia=-100",
    "greedy member_temperature:0.6 member_bias:%20the=-2",
    "1 seed:5 member_top_k:3 member_frequency_penalty:1",
    "one-member seed:6",
    "one-member seed:7 member_temperature:0.7 member_top_p:0.9",
)
DRAFTERS = ("off", "a:3", "b:2", "c", "ngram", "auto")
NAMES = ("a", "b", "c")
SIZES = {1: DraftLengthController, 3: FixedDraftLength, 8: DraftLengthController}
"""Of batches, and how far those draft whose outcome is drawn."""
PIECES = 10


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def engine_of(
    weights: tuple[float, ...] = (2, 1, 1), batch: int = 8, draft_length: DraftLengthController | None = None
) -> Engine:
    members = [
        {"name": name, "model": f"fake:{name}", "weight": weight} for name, weight in zip(NAMES, weights, strict=True)
    ]
    loaded = Ensemble.load({"members": members, "combine": rule_for(weights)}, batch=batch)._engine
    return Engine(loaded.members, loaded.union, loaded.method, draft_length=draft_length)


@functools.cache
def ways_to_combine() -> list[tuple[Any, ...]]:
    """Rule, gate, batch size and drafter: any three of them meet."""
    return covering(RULES, GATES, SIZES, DRAFTERS, together=3)


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("rule", RULES)
def test_rules_gates_drafts_and_batches_equal_the_plain_loop(rule: str, gate: str) -> None:
    """Law 5 for rules x gates x drafters x batch sizes, the lead not being the first member."""
    weights = weights_for(rule)
    method = Method(lead="b", combine=rule).but(gate=gate)  # type: ignore[arg-type]
    expected = oracle(engine_of(weights), PROMPTS, method, PIECES)
    mine = [way for way in ways_to_combine() if way[:2] == (rule, gate)]
    for number, (*_, size, drafter) in enumerate(mine):
        engine = engine_of(weights, draft_length=FixedDraftLength())
        part = in_turn(size, number)
        texts = written(engine, PROMPTS[part], PIECES, size, method.but(speculate=drafter))
        check(texts, expected[part], NAMES)


@functools.cache
def ways_to_draw() -> list[tuple[Any, ...]]:
    """Gate, drafter, draw, and the size of a batch with a length of drafts: any two of them meet."""
    return covering(GATES, DRAFTERS, DRAWS, SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("gate", GATES)
def test_draws_gates_drafts_and_batches_equal_the_plain_loop(gate: str, drafter: str) -> None:
    """A seed writes one text, however far drafts go, alone or in a batch."""
    mine = [way for way in ways_to_draw() if way[:2] == (gate, drafter)]
    for number, (*_, draw, size) in enumerate(mine):
        method = Method(lead="b").but(gate=gate, draw=draw, speculate=drafter)
        prompts = PROMPTS[in_turn(size, number)]
        expected = oracle(engine_of(), prompts, method, PIECES)
        check(written(engine_of(draft_length=SIZES[size]()), prompts, PIECES, size, method), expected, NAMES)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_texts_that_combine_and_draw_in_different_ways_share_a_batch(data: st.DataObject) -> None:
    make_fakes()
    engine = engine_of(batch=4, draft_length=data.draw(st.sampled_from([FixedDraftLength, DraftLengthController]))())
    wanted: list[Any] = []
    for _ in range(data.draw(st.integers(2, 6))):
        draw = data.draw(st.sampled_from(["greedy", *DRAWS]))
        rules = ["mean"] if "one-member" in draw else ["mean", *(rule for rule in RULES if "contrastive" not in rule)]
        method = Method(lead=data.draw(st.sampled_from(NAMES))).but(
            combine=data.draw(st.sampled_from(rules)),
            gate=data.draw(st.sampled_from(GATES)),
            speculate=data.draw(st.sampled_from(DRAFTERS)),
            draw=draw,
        )
        wanted.append((data.draw(st.sampled_from(PROMPTS)), data.draw(st.integers(1, 14)), method))
    texts, waiting = [], list(wanted)
    while waiting or engine.active:
        while waiting and len(engine.active) < 4 and (not engine.active or data.draw(st.booleans())):
            prompt, pieces, method = waiting.pop(0)
            texts.append(engine.add(prompt, Limits(pieces), method=method, trace=True))
        engine.step()
    for text, (prompt, pieces, method) in zip(texts, wanted, strict=True):
        check([text], oracle(engine_of(), [prompt], method, pieces), NAMES)


@pytest.mark.slow
def test_the_combinations_above_are_not_vacuous() -> None:
    """Rules and draws differ from one another, drafts hold and fail, one member is asked and others lag."""
    texts = {}
    for rule in ("mean", *RULES):
        engine = engine_of(weights_for(rule))
        method = Method(combine=rule)  # type: ignore[arg-type]
        texts[rule] = [[step.p for step in text.steps] for text in written(engine, PROMPTS, PIECES, 8, method)]
    assert len({str(text) for text in texts.values()}) == len(texts)
    drawn = {}
    for draw in ("greedy", *DRAWS):
        found = written(engine_of(), PROMPTS, PIECES, 8, Method().but(draw=draw))
        drawn[draw] = str([[step.piece for step in text.steps] for text in found])
    assert len(set(drawn.values())) == len(drawn)
    method = Method().but(draw="1 seed:3", speculate="a:4")
    drafts = [
        step.draft
        for text in written(engine_of(draft_length=FixedDraftLength()), PROMPTS, 40, 8, method)
        for step in text.steps
        if step.draft
    ]
    assert {draft.accepted for draft in drafts} == {True, False}


def test_one_member_runs_nobody_else() -> None:
    """A member that is not drawn reads nothing: what it missed goes in as one block when it is."""
    engine = engine_of()
    [text] = written(engine, PROMPTS[:1], 40, 1, Method().but(draw="one-member seed:3"))
    voted = [step.voted for step in text.steps]
    assert all(len(voters) == 1 for voters in voted)
    for name in NAMES:
        passes = [step.feeds[0] for step in FAKE_MODELS[name].passes]
        assert len(passes) == voted.count((name,)) > 0
        assert all(feed.wanted == 1 for feed in passes)
    assert text.ensembled == 0


def test_a_text_draws_with_a_seed_of_its_own_unless_one_is_given() -> None:
    drawn = [written(engine_of(), PROMPTS[:1], 12, 1, Method().but(draw="1"))[0].generation() for _ in range(3)]
    assert len({generation.data for generation in drawn}) > 1
    for generation in drawn:
        again = written(engine_of(), PROMPTS[:1], 12, 1, Method().but(draw=f"1 seed:{generation.seed}"))[0].generation()
        assert (again.data, again.seed) == (generation.data, generation.seed)
    assert written(engine_of(), PROMPTS[:1], 3, 1)[0].generation().seed is None
