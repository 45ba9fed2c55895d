"""Certain choices of truncated members are those of the plain loop over their whole distributions, for every k."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fakes import PROMPTS, check, engine_of, fail, make_fakes, oracle, step_in_spite_of_failures
from support.methods import FixedDraftLength
from support.thinkers import QUESTIONS, make_thinkers
from support.truncated import ALL, NAMES, hold, truncated, write
from unisono.backends.base import Truncation
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.records import Limits

RULES = ("mean", "max", "geometric")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    make_fakes()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_certain_choices_are_those_of_whole_distributions(rule: str, k: int) -> None:
    method = Method(combine=rule)
    engine = truncated(dict.fromkeys(NAMES, Truncation(k, k)))
    certain, _ = hold(engine, write(engine, method), method)
    assert certain > (8 if k > 2 else 0)


@pytest.mark.parametrize("rule", RULES)
def test_members_that_tell_all_write_the_text_of_whole_distributions(rule: str) -> None:
    method = Method(combine=rule)
    engine = truncated(dict.fromkeys(NAMES, Truncation(ALL, ALL)))
    texts = write(engine, method, PROMPTS)
    check(texts, oracle(engine_of(NAMES), PROMPTS, method, 16), NAMES)
    assert all(step.certain and step.unknown == 0 for text in texts for step in text.steps)


@pytest.mark.parametrize("rule", RULES)
def test_whole_and_truncated_members_vote_together(rule: str) -> None:
    method = Method(combine=rule)
    engine = truncated({"b": Truncation(5, 5)})
    certain, _ = hold(engine, write(engine, method), method)
    assert certain > 8


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("more", [Truncation(2, 200), Truncation(2, 2, 64), Truncation(2, 50, 8)])
def test_asking_again_makes_more_choices_certain(rule: str, more: Truncation) -> None:
    method = Method(combine=rule)
    engine = truncated(dict.fromkeys(NAMES, Truncation(2, 2)))
    _, before = hold(engine, write(engine, method), method)
    engine = truncated(dict.fromkeys(NAMES, more))
    for name in NAMES:
        FAKE_MODELS[name].passes.clear()
    texts = write(engine, method)
    steps = max(len(text.steps) for text in texts)
    assert all(len(FAKE_MODELS[name].passes) <= 3 * steps for name in NAMES)
    certain, after = hold(engine, texts, method)
    assert after <= before
    assert certain > 8


@pytest.mark.parametrize("speculate", ["a:4", "b:3", "ngram:4"])
@pytest.mark.parametrize("more", [Truncation(3, 3), Truncation(3, 100, 4)])
def test_drafts_change_nothing(speculate: str, more: Truncation) -> None:
    engine = truncated(dict.fromkeys(NAMES, more), draft_length=FixedDraftLength())
    method = Method(speculate=speculate)
    drafted = write(engine, method, PROMPTS)
    plain = write(truncated(dict.fromkeys(NAMES, more)), Method(), PROMPTS)
    assert sum(text.accepted for text in drafted) > 0
    for text, other in zip(drafted, plain, strict=True):
        assert [(step.piece, step.certain) for step in text.steps] == [
            (step.piece, step.certain) for step in other.steps
        ]
    hold(engine, drafted, method)


def test_texts_written_alone_and_together_are_the_same() -> None:
    tops = dict.fromkeys(NAMES, Truncation(2, 40, 4))
    together = write(truncated(tops), Method(), PROMPTS)
    for prompt, text in zip(PROMPTS, together, strict=True):
        [alone] = write(truncated(tops), Method(), [prompt])
        assert [step.piece for step in alone.steps] == [step.piece for step in text.steps]


def test_a_failure_while_asking_again_is_undone() -> None:
    tops = dict.fromkeys(NAMES, Truncation(2, 40, 4))
    expected = write(truncated(tops), Method(), PROMPTS)
    engine = truncated(tops)
    failures = iter(range(3))
    fail(engine, "b", lambda feeds: feeds[0].top and next(failures, None) is not None)
    texts = [engine.add(prompt, Limits(16), trace=True) for prompt in PROMPTS]
    assert step_in_spite_of_failures(engine) == 3
    assert [[step.piece for step in text.steps] for text in texts] == [
        [step.piece for step in text.steps] for text in expected
    ]


@pytest.mark.parametrize("names", [("t",), ("p", "t", "h"), ("o", "h", "p"), ("s",)])
@pytest.mark.parametrize("k", [4, ALL])
def test_marks_and_places_are_read_as_those_of_whole_distributions(names: tuple[str, ...], k: int) -> None:
    make_thinkers()
    method = Method(speculate="ngram:3")
    engine = truncated(dict.fromkeys(names, Truncation(k, k)), names, FixedDraftLength())
    texts = write(engine, method, QUESTIONS, 28)
    certain, uncertain = hold(engine, texts, method, names)
    assert certain > 20
    assert not uncertain or k < ALL
    if k == ALL:
        check(texts, oracle(engine_of(names), QUESTIONS, method, 28), names)
        assert len(names) < 2 or any(step.mark for text in texts for step in text.steps)
