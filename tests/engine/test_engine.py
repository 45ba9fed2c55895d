"""The laws of the ensemble on fake members, where everything can be computed by hand or in full."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.demo import written
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.ensemble import Ensemble
from unisono.errors import PromptError
from unisono.testing import (
    FakeModel,
    LongestMatchTokenizer,
    byte_level_table,
    fake_member,
    register_fake,
    scripted_rule,
    sentencepiece_table,
)

WORDS_A = [" the", "Hello", " Hello", "日本", " cat", "ing"]
WORDS_B = [" the", " Hel", "lo", "日", " dog", "ing"]

RAW = [Prompt(text=text) for text in ("Hello", " the 日本", "a\tb\r\n", "cats and dogs " * 5, "é")]
CHAT = [Prompt(messages=({"role": "user", "content": text},)) for text in ("Hello", "日本?")]


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    fake_member("a", WORDS_A, seed=1)
    fake_member("b", WORDS_B, seed=2, family="sentencepiece")
    fake_member("c", ["Hello", "\n\n"], seed=3)
    lame = byte_level_table([" the"], without=[0x04, 0xF1])
    model = FakeModel(LongestMatchTokenizer(lame), fake_member("lame", seed=4).next_token)
    model.rows = len(byte_level_table().texts)
    register_fake("lame", model)
    yield
    FAKE_MODELS.clear()


def spec(*names: str, **keys: Any) -> dict[str, Any]:
    return {"members": [{"name": f"{name}{n}", "model": f"fake:{name}", **keys} for n, name in enumerate(names)]}


def load(*names: str, batch: int = 1, **keys: Any) -> Ensemble:
    return Ensemble.load(spec(*names, **keys), batch=batch)


def engine_of(ensemble: Ensemble) -> Engine:
    return ensemble._engine


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("b", "a"), ("a", "b", "c"), ("lame", "b"), ("a", "lame", "b")])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_engine_equals_the_plain_loop_that_recomputes_everything(names: tuple[str, ...], size: int) -> None:
    """Law 5."""
    engine = engine_of(load(*names, batch=8))
    prompts = RAW + CHAT
    for prompt, text in zip(prompts, written(engine, prompts, 20, size), strict=True):
        plain = list(plain_steps(engine.members, engine.union, prompt, 20))
        assert [step.piece for step in text.steps] == [step.piece for step in plain]
        np.testing.assert_allclose([step.p for step in text.steps], [step.p for step in plain], rtol=1e-4)


def test_the_plain_loop_equals_a_computation_by_hand() -> None:
    """Two members, one step: 0.6 and 0.4 for ' the', the rest apart; END of both is one class."""
    for name, chances in (
        ("x", {" the": 0.6, " cat": 0.3, "</s>": 0.1}),
        ("y", {" the": 0.4, " dog": 0.15, "</s>": 0.45}),
    ):
        table = byte_level_table([" the", " cat"]) if name == "x" else sentencepiece_table([" dog", " the"])
        tokenizer = LongestMatchTokenizer(table)
        register_fake(name, FakeModel(tokenizer, scripted_rule(table, {"": chances})))
    engine = engine_of(load("x", "y"))
    step = next(plain_steps(engine.members, engine.union, RAW[0], 1))
    masses = {engine.union.piece(column): mass for column, mass in enumerate(step.q_U) if mass > 1e-9}
    assert step.piece == b" the"
    assert masses == pytest.approx({b" the": 0.5, b" cat": 0.15, b" dog": 0.075, None: 0.275}, abs=1e-6)


def test_one_member_is_itself() -> None:
    """Law 1: greedy by hand on the member's own ids, where no piece has several whose mass is summed."""
    for name in ("a", "c"):
        engine = engine_of(load(name))
        member, model = engine.members[0], FAKE_MODELS[name]
        for prompt in RAW:
            text = written(engine, [prompt], 20, 1)[0]
            ids = member.encoder.encode(prompt)
            start = len(ids)
            endings = set(member.encoder.speller.vocabulary.end_ids)
            dropped = list(member.encoder.speller.vocabulary.excluded_ids)
            for _ in range(20):
                logits = model.next_token(tuple(ids)).copy()
                logits[dropped] = -np.inf
                if (token := int(logits.argmax())) in endings:
                    break
                ids.append(token)
            own = text.cursors[member.name].ids[start:]
            assert own == ids[start:]


def test_the_same_model_twice_is_that_model() -> None:
    """Law 2."""
    for prompt in RAW + CHAT:
        alone, twice = (written(engine_of(load(*names)), [prompt], 20, 1)[0] for names in (("a",), ("a", "a")))
        assert [step.piece for step in alone.steps] == [step.piece for step in twice.steps]
        np.testing.assert_allclose([step.p for step in alone.steps], [step.p for step in twice.steps], rtol=1e-5)


def test_weight_zero_is_absence_even_for_what_may_be_chosen() -> None:
    """Law 2: a silent member that lacks bytes takes nothing away from the others."""
    members = spec("a", "b")["members"]
    silent = {"name": "silent", "model": "fake:lame", "weight": 0}
    with Ensemble.load({"members": [silent, *members]}) as three, load("a", "b") as two:
        assert three.prepared.union.size == two.prepared.union.size
        assert three.generate("Hello", max_new_tokens=20).data == two.generate("Hello", max_new_tokens=20).data


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_the_order_of_members_changes_no_distribution(order: tuple[str, ...]) -> None:
    """Law 2."""
    distributions = []
    for names in (("a", "b", "c"), order):
        engine = engine_of(load(*names))
        q_U = next(plain_steps(engine.members, engine.union, CHAT[0], 1)).q_U
        distributions.append({engine.union.piece(column): mass for column, mass in enumerate(q_U)})
    assert distributions[0] == pytest.approx(distributions[1], abs=1e-9)


def test_the_bytes_are_those_of_the_pieces_and_a_broken_character_is_kept_in_them() -> None:
    """Law 6."""
    with load("a", "b") as ensemble:
        for prompt in RAW:
            result = ensemble.generate(prompt.text, max_new_tokens=20, trace=True)
            assert result.steps is not None
            assert b"".join(step.piece or b"" for step in result.steps) == result.data


def test_what_was_not_read_waits_and_goes_in_as_one_block() -> None:
    """A piece that a member spells with several ids costs it one pass, not several."""
    table = byte_level_table(["longword"])
    register_fake("long", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, {"": {"longword": 1.0}})))
    other = byte_level_table([])
    follower = FakeModel(LongestMatchTokenizer(other), scripted_rule(other, {"": {"l": 1.0}}))
    register_fake("short", follower)
    members = [
        {"name": "long", "model": "fake:long", "weight": 2},
        {"name": "short", "model": "fake:short", "weight": 1},
    ]
    with Ensemble.load({"members": members}) as ensemble:
        assert ensemble.generate("ab", max_new_tokens=3).text == "longword" * 3
    assert [len(step.feeds[0].ids) for step in follower.passes] == [2, 8, 8]


def test_the_leading_space_of_a_members_answers_does_not_split_the_vote() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    table = sentencepiece_table([" Yes", " No", " Hello"], chat_template=template)
    script = {"": {" Yes": 0.6, " No": 0.4}, "Yes": {"</s>": 1.0}, "No": {"</s>": 1.0}}
    spaced = register_fake("spaced", FakeModel(LongestMatchTokenizer(table), scripted_rule(table, script)))
    plain_table = byte_level_table(["Yes", "No", " Yes"])
    script = {"": {"No": 0.55, "Yes": 0.45}, "Yes": {"</s>": 1.0}, "No": {"</s>": 1.0}}
    register_fake("plain", FakeModel(LongestMatchTokenizer(plain_table), scripted_rule(plain_table, script)))
    with load("spaced", "plain") as ensemble:
        assert ensemble.prepared.members[0].leading_space
        assert not ensemble.prepared.members[1].leading_space
        answer = ensemble.generate(messages=CHAT[0].messages, trace=True)
        assert answer.text == "Yes"
        assert answer.finish_reason == "end"
        assert answer.steps is not None
        assert answer.steps[0].p == pytest.approx(0.525, abs=1e-5)
        assert answer.steps[0].members == pytest.approx({"spaced0": 0.6, "plain1": 0.45}, abs=1e-5)
        vocabulary = ensemble.prepared.members[0].vocabulary
        assert spaced.passes[1].feeds[0].ids == (vocabulary.canonical[b" Yes"],)
        assert ensemble.generate("Hello", max_new_tokens=1).text in (" Yes", " No", "No", "Yes")


def finish(**keys: Any) -> Any:
    context = keys.pop("context", None)
    with load("a", "b", **({} if context is None else {"context": context})) as ensemble:
        return ensemble.generate("Hello", **keys)


def test_a_text_ends_at_the_limit_at_a_stop_string_at_end_and_at_the_smallest_context() -> None:
    full = finish(max_new_tokens=12)
    assert (full.finish_reason, full.usage.pieces) == ("length", 12)
    middle = next(character for character in full.text[3:] if character.isascii())
    stopped = finish(max_new_tokens=12, stop=[middle, "never"])
    assert stopped.finish_reason == "stop"
    assert stopped.text == full.text[: full.text.index(middle)]
    short = finish(max_new_tokens=100, context=14)
    assert short.finish_reason == "context"
    assert full.data.startswith(short.data[:4])
    assert max(short.usage.prompt_tokens.values()) + short.usage.pieces <= 15


def test_a_prompt_longer_than_a_context_is_refused_by_name() -> None:
    with load("a", "b", context=8) as ensemble, pytest.raises(PromptError, match=r"'a0', more than its context of 8"):
        ensemble.generate("x" * 40)


def test_an_ended_or_abandoned_text_frees_its_slots() -> None:
    with load("a", "b", batch=1) as ensemble:
        engine = engine_of(ensemble)
        for _ in range(3):
            ensemble.generate("Hello", max_new_tokens=3)
        stream = ensemble.stream("Hello", max_new_tokens=50)
        next(stream)
        stream.close()
        stream.close()
        for _ in ensemble.stream("Hello", max_new_tokens=50):
            break
        with pytest.raises(RuntimeError, match="still being written"):
            _ = stream.generation
        import gc

        gc.collect()
        assert engine.active == []
        text = engine.add(RAW[0])
        with pytest.raises(RuntimeError, match="all 1 slots are taken"):
            engine.add(RAW[0])
        engine.drop(text)
        assert ensemble.generate("Hello", max_new_tokens=3).usage.pieces == 3


def test_members_on_different_devices_run_side_by_side() -> None:
    engine = engine_of(load("a", "b", "c"))
    alone = written(engine, RAW[:1], 10, 1)[0]
    seen: set[int] = set()
    for n, member in enumerate(engine.members):
        advance = member.backend.advance
        facts = member.backend.facts
        member.backend.facts = type(facts)(f"device{n}", facts.rows, facts.context, facts.slots)

        def noting(feeds: Any, advance: Any = advance) -> Any:
            seen.add(threading.get_ident())
            return advance(feeds)

        member.backend.advance = noting  # type: ignore[method-assign]
    with Engine(engine.members, engine.union) as parallel:
        text = written(parallel, RAW[:1], 10, 1)[0]
    assert [step.piece for step in text.steps] == [step.piece for step in alone.steps]
    assert len(seen) > 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(1, 4)
)
def test_any_texts_in_any_batch_give_what_each_gives_alone(texts: list[str], size: int) -> None:
    fake_member("a", WORDS_A, seed=1)
    fake_member("b", WORDS_B, seed=2, family="sentencepiece")
    engine = engine_of(load("a", "b", batch=4))
    prompts = [Prompt(text=text) for text in texts]
    together = written(engine, prompts, 8, size)
    alone = [written(engine, [prompt], 8, 1)[0] for prompt in prompts]
    for one, many in zip(alone, together, strict=True):
        assert one.steps == many.steps
