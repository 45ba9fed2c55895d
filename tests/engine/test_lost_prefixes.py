"""Members that come back to texts of which they have read something already: in kept slots, or in the same step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from support.fakes import PROMPTS, STORY, make_fakes
from support.lost_members import Clock, check_plain, engine_of, lose
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.backends.prefix_cache import PrefixCache
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.sequence import TextSequence
from unisono.records import Limits

LONG = Prompt(text=STORY + STORY[:20])


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def run(engine: Engine, text: TextSequence, clock: Clock, back: int | None = None) -> None:
    """Write a text to its end; b may be asked again behind so many steps."""
    for step in range(60):
        if not engine.active:
            return
        while ids := engine.backlog(text):
            engine.read({text: ids})
        if step == back:
            clock.now = 1.0
        engine.step()
    raise AssertionError("the text does not end")


def check_again(
    method: Method, back: int, longest_block: int | None = None, weights: Sequence[float] = (2, 1, 1)
) -> None:
    """Write a text, and again while b is away: when that is back, it finds most of what it has missed in a slot."""
    clock = Clock()
    engine = engine_of(("b",), clock, longest_block=longest_block, weights=weights)
    for member in engine.members:
        member.backend = member.prefixes = PrefixCache(member.backend, shortest=16)
    run(engine, engine.add(LONG, Limits(20), method=method), clock)
    lose(engine, "b", lambda: clock.now < 1)
    run(engine, engine.add(PROMPTS[1], Limits(1)), clock)
    text = engine.add(LONG, Limits(20), method=method, trace=True)
    store = engine.members[1].prefixes
    assert isinstance(store, PrefixCache)
    before = store.reused
    run(engine, text, clock, back)
    assert store.reused > before
    check_plain(engine, LONG, method, text.generation())


@pytest.mark.parametrize("longest_block", [8, 20])
def test_a_portion_ends_where_a_text_does_whose_beginning_was_found(longest_block: int) -> None:
    check_again(Method(lead="a").but(gate="every:16", speculate="ngram:4"), back=4, longest_block=longest_block)


@pytest.mark.parametrize("longest_block", [None, 8])
@pytest.mark.parametrize(
    ("method", "weights"), [(Method().but(speculate="a:3"), (50, 1, 1)), (Method().but(speculate="ngram:4"), (2, 1, 1))]
)
def test_a_prefix_may_hold_what_was_drafted_too(
    method: Method, weights: Sequence[float], longest_block: int | None
) -> None:
    """What is in a slot beyond the first position that is asked for is read again."""
    for back in (1, 2, 4):
        make_fakes()
        check_again(method, back, longest_block, weights)


@pytest.mark.parametrize(
    ("seed", "drafter", "passes"), [(78, "a", 1), (60, "a", 2), (62, "c", 1), (62, "c", 2), (63, "c", 1)]
)
def test_who_has_read_a_draft_may_be_drawn_for_a_position_before_it(seed: int, drafter: str, passes: int) -> None:
    """Of a mixture one that is there is drawn for a lost member, and it may have been drawn for a later position."""
    method = Method().but(draw=f"one-member seed:{seed}", speculate=f"{drafter}:2")
    engine, answers = engine_of(("b",)), iter(range(100))
    lose(engine, "b", lambda: next(answers) >= passes)
    text = engine.add(PROMPTS[0], Limits(12), method=method, trace=True)
    run(engine, text, Clock())
    check_plain(engine, PROMPTS[0], method, text.generation())
