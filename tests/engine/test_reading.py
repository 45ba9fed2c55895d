"""One reading gives every setting what it gives when it is scored by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import PROMPTS, STORY, make_fakes
from unisono.backends.base import Feed
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.engine import pack, reading
from unisono.engine.cutting import MemberKey
from unisono.errors import PromptError
from unisono.evals import systems as make
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import System
from unisono.fusion.fold import Scratch, fold, plan_fold, softmax
from unisono.fusion.means import means_at
from unisono.fusion.rules import mean
from unisono.records import Score

TEXTS = (" the cat sat", "Sofia", "日本 and é", "x", " the cat sees", " sing" * 8)
SETTINGS = (
    "weights=a:3,b:1,c:0.2",
    "weights=a:1,b:9,c:3 lead=c",
    "combine=geometric",
    "combine=geometric,floor:0.001 weights=a:1,b:2,c:5",
    "combine=max",
    "combine=mean,truncate:3",
    "combine=mean,sharpen:0.1",
    "combine=mean,weights:entropy",
    "combine=geometric,weights:perplexity",
    "gate=confidence:0.6 lead=b",
    "gate=entropy:1.5",
    "gate=every:3 lead=c",
    "gate=first:2 combine=max",
    "gate=certain",
    "gate=always boundary=true",
    "sampling=0.7,member_temperature:0.5,member_repetition_penalty:1.3",
)


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def pool_of(batch: int = 8, **keys: dict[str, Any]) -> ModelPool:
    members = [{"name": name, "model": f"fake:{name}", **keys.get(name, {})} for name in ("a", "b", "c")]
    pool = ModelPool(load_spec({"members": members}), batch=batch)
    pool.load_weights()
    return pool


def systems_of(pool: ModelPool) -> list[System]:
    return [*make.members(pool), make.ensemble(pool), *(make.variant(pool, setting) for setting in SETTINGS)]


def check(pool: ModelPool, systems: Sequence[System], asked: Sequence[tuple[Prompt, str]]) -> None:
    pool.forget()
    found = pool._reading(systems).score(asked)
    for system, scores in zip(systems, found, strict=True):
        pool.forget()
        for one, other in zip(scores, pool.score(system, asked), strict=True):
            assert isinstance(other, Score), system.name
            assert [each.logp for each in one.pieces] == pytest.approx([each.logp for each in other.pieces], abs=1e-6)
            assert one.prompt_tokens == other.prompt_tokens
            for mine, its in zip(one.pieces, other.pieces, strict=True):
                assert (mine.piece, mine.is_likeliest, mine.voted) == (its.piece, its.is_likeliest, its.voted)
    assert all(not engine.groups for engine in pool._engines.values())


@pytest.mark.parametrize("batch", [8, 20])
def test_a_reading_is_what_every_setting_scores_by_itself(batch: int) -> None:
    prompts = (*PROMPTS[:3], Prompt(text=STORY), Prompt(text=STORY + " and"), PROMPTS[-1])
    with pool_of(batch) as pool:
        check(pool, systems_of(pool), [(prompt, text) for prompt in prompts for text in TEXTS])


def test_temperatures_and_calibrations_are_read_off_the_same_rows() -> None:
    keys = {"a": {"temperature": 0.5}, "b": {"temperature": 3.0}, "c": {"calibrate": {"x": 0.7, " the": 0.1, "S": 1}}}
    with pool_of(**keys) as pool:
        check(pool, systems_of(pool), [(prompt, text) for prompt in PROMPTS[4:] for text in ("x", *TEXTS)])


def test_a_text_of_more_rows_than_a_pass_gives_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ROW_BYTES", 1)
    asked = [(prompt, text) for prompt in PROMPTS[:2] for text in ("the cat sings " * 9, "Sofia", STORY)]
    with pool_of() as pool:
        check(pool, systems_of(pool), asked)


def test_every_member_reads_a_prompt_once_and_choices_once_a_way_of_cutting_them() -> None:
    asked = [(prompt, text) for prompt in (Prompt(text=STORY), Prompt(text=STORY + " ç")) for text in TEXTS[:4]]
    with pool_of() as pool:
        counts = []
        every = [system for system in systems_of(pool) if not system.method.combine.reads_losses]
        for systems in (make.members(pool), every):
            pool.forget()
            for model in FAKE_MODELS.values():
                model.passes.clear()
            pool._reading(systems).score(asked)
            counts.append({name: ids_read(name) for name in FAKE_MODELS})
    alone, all_settings = counts
    prompt = {name: len(FAKE_MODELS[name].tokenizer.encode(STORY)) for name in FAKE_MODELS}
    for name in FAKE_MODELS:
        assert alone[name] < 2 * prompt[name]
        assert all_settings[name] - alone[name] < 4 * 2 * 20


LEADS = ("lead=a", "lead=b", "lead=c")


def read_by(pool: ModelPool, variants: Sequence[str], asked: Sequence[tuple[Prompt, str]]) -> None:
    """Read anew, and check what is read."""
    systems = [make.variant(pool, f"weights=a:1 {each}") for each in variants]
    check(pool, systems, asked)
    pool.forget()
    for model in FAKE_MODELS.values():
        model.passes.clear()
    pool._reading(systems).score(asked)


def feeds_of(name: str) -> list[list[Feed]]:
    return [list(each.feeds) for each in FAKE_MODELS[name].passes]


def rows_of(name: str) -> int:
    return sum(feed.wanted for feeds in feeds_of(name) for feed in feeds)


def test_what_several_leads_cut_alike_is_read_once_by_all_members() -> None:
    with pool_of() as pool:
        read_by(pool, LEADS, [(PROMPTS[0], "Sofia")])  # which one of them ends in a longer piece
        assert {name: rows_of(name) for name in FAKE_MODELS} == dict.fromkeys(FAKE_MODELS, 5)
        read_by(pool, LEADS, [(PROMPTS[0], " the cat sat")])  # where each cuts something else behind the beginning
        several = {name: rows_of(name) for name in FAKE_MODELS}
        alone = dict.fromkeys(FAKE_MODELS, 0)
        for lead in LEADS:
            read_by(pool, [lead], [(PROMPTS[0], " the cat sat")])
            for name in FAKE_MODELS:
                alone[name] += rows_of(name)
        assert all(several[name] < alone[name] for name in FAKE_MODELS)


def test_a_text_is_read_in_the_same_pass_as_a_prompt_of_its_own() -> None:
    with pool_of() as pool:
        asked = [(Prompt(text=STORY + end), "x") for end in ("", " and", " ç", " 12")]
        read_by(pool, LEADS[:1], asked)
        last = {name: feeds_of(name)[-1] for name in FAKE_MODELS}
        assert {name: [feed.wanted for feed in feeds] for name, feeds in last.items()} == {
            name: [1] * 4 for name in FAKE_MODELS
        }
        assert all(len(feeds_of(name)) == 2 for name in FAKE_MODELS)  # what all prompts begin with is read before
        read_by(pool, LEADS[:1], [(asked[0][0], "x"), (asked[0][0], "Sofia")])
        first = {name: [(len(feed.ids) > 9, feed.wanted) for feed in feeds_of(name)[0]] for name in FAKE_MODELS}
        assert first == {name: [(True, 0)] for name in FAKE_MODELS}


def test_a_running_state_is_read_up_to_the_end_of_each_prompt_and_no_id_twice() -> None:
    asked = [(Prompt(text=STORY + end), text) for end, text in (("", "x"), (" and", "Sofia"), (" ç", " the cat sat"))]
    with pool_of() as pool:
        read_by(pool, LEADS[:1], asked)
        even = {name: (ids_before_texts(name), ids_read(name)) for name in FAKE_MODELS}
        for member in pool._reading([make.variant(pool, "weights=a:1 lead=a")])._reader._members.values():
            member.backend.facts = replace(member.backend.facts, rewinds_anywhere=False)
        read_by(pool, LEADS[:1], asked)
        for name, (before, total) in even.items():
            assert ids_before_texts(name) > before
            assert ids_read(name) <= total


def ids_before_texts(name: str) -> int:
    """Ids of prompts that are read in passes of their own."""
    return sum(len(feed.ids) for feeds in feeds_of(name) for feed in feeds if not feed.wanted)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=9))
def test_texts_are_levelled_where_that_is_cheaper_than_parts_of_a_pass(texts: list[tuple[int, int, int]]) -> None:
    def cost(kept: Mapping[tuple[MemberKey, int], int], model: int) -> int:
        lengths = [goals[each] - kept[each] for each in kept if each[0][1] == model]
        return sum(lengths) + pack.PART * len(set(lengths))

    places = [(("m", model, None), text) for text, (model, _, _) in enumerate(texts)]
    kept = {place: least for place, (_, least, _) in zip(places, texts, strict=True)}
    goals = {place: least + more for place, (_, least, more) in zip(places, texts, strict=True)}
    found = pack.levelled(kept, goals)
    assert found.keys() == kept.keys()
    assert all(0 <= found[place] <= kept[place] for place in places)
    assert all(cost(found, model) <= cost(kept, model) for model in (0, 1))


def test_one_short_text_is_lengthened_and_a_very_short_one_stays() -> None:
    places = [(("m", 0, None), text) for text in range(3)]
    goals = dict.fromkeys(places, 100)
    assert list(pack.levelled(dict(zip(places, (90, 90, 93), strict=True)), goals).values()) == [90, 90, 90]
    assert list(pack.levelled(dict(zip(places, (90, 90, 98), strict=True)), goals).values()) == [90, 90, 98]


def ids_read(name: str) -> int:
    return sum(len(feed.ids) for each in FAKE_MODELS[name].passes for feed in each.feeds)


def test_what_cannot_be_read_is_scored_by_each_system_with_its_own_error() -> None:
    asked = [(PROMPTS[0], "x"), (Prompt(text="x" * 9000), " the cat"), (PROMPTS[1], "Sofia")]
    with pool_of() as pool:
        systems = systems_of(pool)
        with pytest.raises(PromptError):
            pool._reading(systems).score(asked)
        for scores in pool.score_all(systems, asked):
            assert [isinstance(score, Score) for score in scores] == [True, False, True]


def test_a_model_that_fails_in_a_reading_leaves_no_slot_open() -> None:
    with pool_of() as pool:
        systems = systems_of(pool)
        model = FAKE_MODELS["b"]
        rule, calls = model.next_token, [0]

        def failing(read: tuple[int, ...]) -> Any:
            calls[0] += 1
            if calls[0] == 5:
                raise RuntimeError("no more memory")
            return rule(read)

        model.next_token = failing
        with pytest.raises(RuntimeError):
            pool._reading(systems).score([(PROMPTS[0], text) for text in TEXTS])
        model.next_token = rule
        check(pool, systems, [(PROMPTS[0], text) for text in TEXTS])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from((0.1, 1.0, 6.0)))
def test_means_at_a_column_are_those_of_the_whole_distributions(seed: int, members: int, noise: float) -> None:
    """Ties included: many of the masses are equal, and so are columns of several ids."""
    generator = np.random.default_rng(seed)
    plans, logits = [], []
    for size in (7, 11, 13)[:members]:
        column_V = generator.integers(-1, 9, size).astype(np.int32)
        column_V[0] = 8
        plans.append(plan_fold(column_V, 9, temperature=float(generator.choice([0.5, 1, 2]))))
        logits.append(np.round(noise * generator.standard_normal((4, size))).astype(np.float32))
    weight_SK = generator.dirichlet(np.ones(members), 5).astype(np.float32)
    weight_SK[0] = np.eye(members)[0]
    asked = generator.integers(0, 9, 4).tolist()
    found = means_at([softmax(own, plan, Scratch()) for own, plan in zip(logits, plans, strict=True)], weight_SK, asked)
    assert found is not None
    p_BU_K = [fold(own, plan) for own, plan in zip(logits, plans, strict=True)]
    for place, weights in enumerate(weight_SK):
        q_BU = mean(p_BU_K, [float(weight) for weight in weights])
        assert found.q_SB[place].tolist() == q_BU[range(4), asked].tolist()
        assert found.likeliest_SB[place].tolist() == q_BU.argmax(axis=1).tolist()


def test_means_of_what_is_no_number_are_left_to_whole_distributions() -> None:
    plan = plan_fold(np.array([0, 1], np.int32), 3)
    logits = np.array([[np.nan, 0]], np.float32)
    assert means_at([softmax(logits, plan, Scratch())], np.ones((1, 1), np.float32), [0]) is None
