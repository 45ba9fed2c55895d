"""Drawing, on fakes, against the exact distribution: by enumeration, so that no test depends on luck."""

from __future__ import annotations

import itertools
import random
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import by_hand
from support.by_hand import END, Fake, Fakes, Path
from support.covering import ALL
from support.enumeration import Enumeration
from support.methods import FixedDraftLength, rule_for
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.method import Method
from unisono.engine import engine as engine_module
from unisono.engine import passes as passes_module
from unisono.engine import sampler
from unisono.engine.draft_length import Cost, DraftLengthController, Outlook
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.engine.sequence import TextSequence
from unisono.ensemble import Ensemble
from unisono.records import Limits

TRIO = {
    "b": Fake(
        [" s", "ings", "é"],
        {
            "": {" s": 0.41, "ings": 0.24, "é": 0.06, END: 0.29},
            "s": {"ings": 0.32, " s": 0.17, "i": 0.38, END: 0.13},
        },
        weight=1,
    ),
    "a": Fake(
        [" sing", "ing"],
        {
            "": {" sing": 0.45, "ing": 0.21, "s": 0.16, END: 0.18},
            "s": {"ing": 0.62, " sing": 0.27, END: 0.11},
            "ing": {"s": 0.48, " sing": 0.33, END: 0.19},
        },
        weight=2,
    ),
    "c": Fake(
        [" singing", " sing"],
        {
            "": {" singing": 0.36, "s": 0.43, "<unk>": 0.07, END: 0.14},
            "g": {" singing": 0.22, "s": 0.52, END: 0.26},
        },
        weight=1.5,
    ),
}
"""Each has pieces that the others lack, b one that nobody else can spell; c gives mass to what is no piece."""
PAIR = {name: TRIO[name] for name in ("b", "a")}
GATES = ("always", "confidence:0.55", "every:2", "confidence:0.65 boundary")
DRAWS = (
    "1",
    "0.6 top_p:0.85",
    "1.4 top_k:3",
    "1 min_p:0.3 frequency_penalty:0.8 presence_penalty:-0.3",
    "1.2 typical_p:0.7 repetition_penalty:1.7",
    "1 bias:s=1.5 bias:%20sing=-1",
    "0.8 top_k:4 member_temperature:1.5 member_top_p:0.8 member_bias:s=0.7",
)
MEMBER_OPTIONS = ("", "member_temperature:0.5", "member_top_k:2", "member_min_p:0.5 member_frequency_penalty:1.1")


@pytest.fixture(autouse=True)
def no_fakes_left() -> Iterator[None]:
    yield
    FAKE_MODELS.clear()


class RestlessPace(FixedDraftLength):
    """Drafts as far as it feels like: a piece more, or none, for any of the texts."""

    def __init__(self) -> None:
        super().__init__()
        self._moods = random.Random(0)

    def go_on(self, outlooks: Sequence[Outlook], cost: Cost, texts: int) -> list[int]:
        able = super().go_on(outlooks, cost, texts)
        return [index for index in able if self._moods.random() < 0.7]


PACES = {"steady": FixedDraftLength, "restless": RestlessPace, "adaptive": DraftLengthController}


@pytest.fixture
def even_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes as long as any other, so that a pace which weighs times drafts."""
    clock = types.SimpleNamespace(perf_counter=map(float, itertools.count()).__next__)
    for module in (engine_module, passes_module):
        monkeypatch.setattr(module, "time", clock)


def engine_of(fakes: Fakes, draft_length: DraftLengthController | None = None, batch: int = 2) -> Engine:
    by_hand.register(fakes)
    members = [{"name": name, "model": f"fake:{name}", "weight": fake.weight} for name, fake in fakes.items()]
    rule = rule_for([fake.weight for fake in fakes.values()])
    loaded = Ensemble.load({"members": members, "combine": rule}, batch=batch)._engine
    return Engine(loaded.members, loaded.union, loaded.method, draft_length=draft_length)


def path_of(steps: Any) -> Path:
    return tuple(END if step.piece is None else step.piece.decode() for step in steps)


def written(
    engine: Engine, method: Method, pieces: int, prompt: str = "x"
) -> tuple[Enumeration[Path], list[TextSequence]]:
    """What an engine writes, by all numbers there are, and every single text."""
    texts = []

    def run() -> Path:
        text = engine.add(Prompt(text=prompt), Limits(pieces), method=method, trace=True)
        texts.append(text)
        while text.finish is None:
            engine.step()
        return path_of(text.steps)

    return Enumeration(run), texts


def check(found: dict[Any, float], expected: dict[Any, float]) -> None:
    """The same texts, each with the same probability, to what float32 makes of it."""
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("draw", "gate"),
    [
        pytest.param(draw, gate, marks=[] if number % len(GATES) == place else [pytest.mark.slow])
        for (number, draw), (place, gate) in itertools.product(enumerate(DRAWS), enumerate(GATES))
    ],
)
def test_pieces_are_drawn_from_the_combined_distribution(draw: str, gate: str) -> None:
    """Both the engine and the plain loop, with two members and with three, the lead not being the first."""
    method = Method(lead="a").but(draw=f"{draw} seed:0", gate=gate)
    for fakes in (PAIR, TRIO):
        engine = engine_of(fakes)
        expected = by_hand.texts(fakes, method, "x", 2)
        check(written(engine, method, 2)[0], expected)
        check(
            Enumeration(lambda: path_of(plain_steps(engine.members, engine.union, Prompt(text="x"), 2, method))),  # noqa: B023
            expected,
        )


def test_a_gate_is_kept_shut_inside_a_token_of_another_member() -> None:
    """So the cases above with a boundary are about one."""
    for fakes in (PAIR, TRIO):
        _, texts = written(engine_of(fakes), Method(lead="a").but(draw="1 seed:0", gate=GATES[-1]), 2)
        gates = [step.gate for text in texts for step in text.steps or () if step.gate]
        assert {(gate.asked, gate.inside is not None) for gate in gates} >= {(True, False), (False, True)}


@pytest.mark.slow
def test_texts_of_three_pieces_are_drawn_from_the_combined_distribution() -> None:
    for rule in ("mean", "geometric", "max") if ALL else ("geometric",):
        method = Method(combine=rule).but(draw="0.9 seed:0", gate="confidence:0.55")  # type: ignore[arg-type]
        check(written(engine_of(TRIO), method, 3)[0], by_hand.texts(TRIO, method, "x", 3))


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        pytest.param(options, gate, marks=[] if number == place else [pytest.mark.slow])
        for (number, options), (place, gate) in itertools.product(enumerate(MEMBER_OPTIONS), enumerate(GATES))
    ],
)
def test_one_member_is_drawn_from_the_mean_of_all(options: str, gate: str) -> None:
    """Mixture sampling writes what every-step sampling at temperature 1 writes, though it runs one member a piece."""
    method = Method(lead="a").but(draw=f"1 seed:0 {options}".strip(), gate=gate)
    lone = method.but(draw=f"one-member seed:0 {options}".strip())
    expected = by_hand.texts(TRIO, method, "x", 2)
    check(written(engine_of(TRIO), method, 2)[0], expected)
    found, texts = written(engine_of(TRIO), lone, 2)
    check(found, expected)
    assert {len(step.voted) for text in texts for step in text.steps or ()} == {1}


WORDS = {"a": ["ab", "bab"], "b": ["ba"]}
SIZES = (1, 1, 2, 2, 1, 2)
"""Two pieces are certain; after a draft's first two, a third is, so that drafts can be longer than what is drawn."""
PROMPT = "xbbaabbaaabb"
"""Every two letters are somewhere followed by something, so that look-up drafts."""
SPECULATING = (
    Method(lead="a").but(draw="1 seed:0"),
    Method(lead="b").but(draw="0.7 top_p:0.9 seed:0", gate="confidence:0.6"),
    Method(lead="a").but(draw="1 seed:0 member_temperature:0.7", gate="every:2"),
    Method(lead="b", combine="geometric").but(  # type: ignore[arg-type]
        draw="1.5 min_p:0.1 frequency_penalty:0.5 seed:0", gate="confidence:0.8 boundary"
    ),
    Method(lead="b").but(draw="one-member seed:0"),
    Method(lead="a").but(draw="one-member member_top_k:1 seed:0", gate="confidence:0.7"),
)


DRAFTED = list(itertools.product(("a", "b", "ngram", "auto"), ("restless", "adaptive")))
"""Who drafts, and how far."""


@pytest.mark.slow
@pytest.mark.parametrize(("drafter", "draft_length"), DRAFTED)
@pytest.mark.usefixtures("even_clock")
def test_drafts_change_no_distribution(drafter: str, draft_length: str) -> None:
    """Speculative sampling, whoever drafts, however far, whatever the gate and whatever is done to distributions.

    Every method meets every drafter, and both lengths.
    """
    drafted = accepted = 0
    asked = set()
    turn = DRAFTED.index((drafter, draft_length)) // 2 + (draft_length == "adaptive")
    for number, method in enumerate(SPECULATING):
        if not ALL and (number + turn) % 2:
            continue
        fakes = by_hand.grown(number, WORDS, SIZES, PROMPT)
        expected = by_hand.texts(fakes, method, PROMPT, len(SIZES))
        speculating = method.but(speculate=f"{drafter}:{1 + number % 4}")
        found, texts = written(engine_of(fakes, PACES[draft_length]()), speculating, len(SIZES), PROMPT)
        check(found, expected)
        drafted += sum(text.drafted for text in texts)
        accepted += sum(text.accepted for text in texts)
        asked |= {step.gate.asked for text in texts for step in text.steps or () if step.gate}
    assert drafted > accepted > 0
    assert asked == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("drafter", ["a", "b", "c"])
def test_drafts_of_any_length_change_no_distribution(drafter: str) -> None:
    """Of one to four pieces, for two that are asked, from the second piece of the text on."""
    fakes = by_hand.grown(7, {**WORDS, "c": ["aa"]}, (1, 2, 1, 1, 1, 2))
    method = Method(lead="b").but(draw="0.8 seed:0")
    expected = by_hand.texts(fakes, method, "x", 6)
    for longest in (1, 2, 3, 4):
        engine = engine_of(fakes, FixedDraftLength())
        found, texts = written(engine, method.but(speculate=f"{drafter}:{longest}"), 6)
        check(found, expected)
        assert max(text.drafted for text in texts if text.blocks == 1) == longest


def test_a_draft_never_begins_before_the_first_piece() -> None:
    engine = engine_of(by_hand.grown(0, WORDS, SIZES, PROMPT), FixedDraftLength())
    for drafter in ("a", "b", "ngram", "auto"):
        method = Method().but(draw="1 seed:0", speculate=drafter)
        text = engine.add(Prompt(text=PROMPT), Limits(len(SIZES)), method=method)
        engine.step()
        assert (text.pieces, text.drafted) == (1, 0)
        engine.drop(text)


@pytest.mark.slow
@pytest.mark.parametrize("drafter", ["off", "a"])
def test_texts_of_different_seeds_in_one_batch_are_independent(drafter: str) -> None:
    """Their joint distribution is the product of their own; of one seed, the same prompt gives the same text."""
    sizes = (1, 2, 2)
    fakes = by_hand.grown(3, WORDS, sizes)
    engine = engine_of(fakes, FixedDraftLength())
    method = Method().but(draw="0.9", speculate=drafter)

    def batch(seeds: Sequence[int]) -> Callable[[], tuple[Path, ...]]:
        def run() -> tuple[Path, ...]:
            texts = [
                engine.add(Prompt(text="x"), Limits(3), method=method.but(draw=f"0.9 seed:{seed}"), trace=True)
                for seed in seeds
            ]
            while engine.active:
                engine.step()
            return tuple(path_of(text.steps) for text in texts)

        return run

    alone = by_hand.texts(fakes, method, "x", 3)
    product = {(one, other): alone[one] * alone[other] for one in alone for other in alone}
    check(Enumeration(batch((1, 2))), product)
    check(Enumeration(batch((1, 1))), {(path, path): probability for path, probability in alone.items()})


@pytest.mark.parametrize("weights", [(1, 1, -1), (2, 1, -0.5)], ids=str)
def test_signed_weights_draw_from_their_distribution(weights: Sequence[float]) -> None:
    """Proxy tuning and the like, where the three members lack pieces of each other."""
    words = {"a": ["ab", "bab"], "b": ["ba"], "c": ["ba"]}
    grown = by_hand.grown(7, words, (2, 2, 2), PROMPT)
    fakes = {name: fake._replace(weight=weight) for (name, fake), weight in zip(grown.items(), weights, strict=True)}
    method = Method(combine="logits").but(draw="1 seed:0")  # type: ignore[arg-type]
    found, _ = written(engine_of(fakes, FixedDraftLength()), method, 3, PROMPT)
    check(found, by_hand.texts(fakes, method, PROMPT, 3))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_method_draws_from_its_distribution(data: st.DataObject) -> None:
    """Random scripts of two or three members, a random method, three pieces."""
    names = data.draw(st.sampled_from([("a", "b"), ("a", "b", "c")]))
    words = {"a": ["ab", "bab"], "b": ["ba"], "c": ["aa", "bb"]}
    fakes = by_hand.grown(data.draw(st.integers(0, 2**32)), {name: words[name] for name in names}, (2, 2, 2), PROMPT)
    options = data.draw(st.sampled_from(MEMBER_OPTIONS))
    draws = [*DRAWS, f"1 {options}".strip(), f"one-member {options}".strip()]
    draw = data.draw(st.sampled_from(draws))
    rule = "mean" if "one-member" in draw else data.draw(st.sampled_from(list(by_hand.RULES)))
    drafter = data.draw(st.sampled_from(["off", "ngram", "auto", *names]))
    method = Method(lead=data.draw(st.sampled_from(names)), combine=rule).but(
        gate=data.draw(st.sampled_from(GATES)), draw=f"{draw} seed:0", speculate=drafter
    )
    engine = engine_of(fakes, PACES[data.draw(st.sampled_from(list(PACES)))]())
    check(written(engine, method, 3, PROMPT)[0], by_hand.texts(fakes, method, PROMPT, 3))
    FAKE_MODELS.clear()


def mistaken(drafter: str = "a", **wrong: Any) -> float:
    """How far an engine with wrong functions in its sampler is from the distribution, in total variation."""
    fakes = by_hand.grown(0, WORDS, (1, 2, 2), PROMPT)
    method = Method().but(draw="1 seed:0", speculate=drafter)
    with pytest.MonkeyPatch.context() as patch:
        for name, other in wrong.items():
            patch.setattr(sampler, name, other)
        found, _ = written(engine_of(fakes, FixedDraftLength()), method, 3, PROMPT)
    expected = by_hand.texts(fakes, method, PROMPT, 3)
    return sum(abs(found.get(path, 0) - expected.get(path, 0)) for path in found | expected) / 2


def test_the_enumeration_finds_what_is_wrong() -> None:
    """Drawing anew from the whole distribution, drawing without its options, or one number for two purposes."""
    draw, accepts = sampler._draw, sampler.accepts
    assert mistaken(residual=sampler.residual) < 1e-6
    assert mistaken(residual=lambda p_U, q_U: q_U) > 0.01
    assert (
        mistaken(_draw=lambda q_U, p_U, window, position: draw(q_U if p_U is None else p_U, None, window, position))
        > 0.01
    )

    def accepts_late(p_U: Any, q_U: Any, column: int, numbers: Any) -> bool:
        for _ in range(5):  # here it is the sixth number of a piece that decides between two
            numbers.below(0, 1)
        return accepts(p_U, q_U, column, numbers)

    purpose = sampler.Purpose
    wrong = types.SimpleNamespace(PIECE=purpose.PIECE, ACCEPTANCE=purpose.PIECE, RESIDUAL=purpose.RESIDUAL)
    assert mistaken(accepts=accepts_late) < 1e-6
    assert mistaken(accepts=accepts_late, Purpose=wrong) > 0.01
