"""The gate `certain` on fakes: the text is that of all members, whoever was asked, and who was not is not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from support.covering import covering
from support.demo import written
from support.fakes import LONG, PROMPTS, fail, make_fakes, step_in_spite_of_failures
from support.methods import FixedDraftLength
from support.thinkers import QUESTIONS, make_thinkers
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.config.method import Method
from unisono.config.sampling import Sampling
from unisono.engine.draft_length import DraftLengthController
from unisono.engine.engine import Engine
from unisono.engine.reference import plain_steps
from unisono.engine.request import GenerationRequest
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.fusion.bounds import Kinds, kinds_of
from unisono.records import Limits
from unisono.step_records import StepRecord
from unisono.testing import Truncation

NAMES = ("a", "b", "c")
PIECES = 12
RULES = ("mean", "max", "geometric floor:0.01", "contrastive", "mean weights:perplexity temperature:0.3")
SAMPLINGS = ("greedy", "bias:%20the=3 bias:at=-2", "presence_penalty:1 frequency_penalty:0.5", "member_temperature:0.7")
CONSTRAINTS = (None, {"regex": "[ a-zA-Z]{4,12}( ends)?"}, {"regex": "the cat (sees|sings): [a-z ]+"})
ORDERS = (("a", "b", "c"), ("c", "a", "b"))
WEIGHTS = ((1, 1, 1), (5, 2, 2), (1, 3, 6))
DRAFTERS = ("off", "a:3", "b:2", "ngram:3", "auto")
SIZES = (1, 4)


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


class KnownPrices(FixedDraftLength):
    """A pass costs what its model is said to."""

    def __init__(self, prices: dict[Any, float]) -> None:
        super().__init__()
        self.prices = prices

    def seconds(self, model: Any, work: Any) -> float:
        return self.prices.get(model, 0.0)


def engine_of(
    weights: Sequence[float] = WEIGHTS[0],
    names: Sequence[str] = NAMES,
    draft_length: DraftLengthController | None = None,
    longest_block: int | None = None,
    prices: dict[str, float] | None = None,
    **keys: Any,
) -> Engine:
    """An engine of members of such weights; the last is an amateur where a rule is given that needs one."""
    members = [
        {"name": name, "model": f"fake:{name}", "weight": weight} for name, weight in zip(names, weights, strict=True)
    ]
    prepared = Ensemble.load({"members": members, **keys}, batch=8)
    loaded, grammars = prepared._engine, prepared.prepared.grammars
    if prices is not None:
        draft_length = KnownPrices({member.model: prices.get(member.name, 0.0) for member in loaded.members})
    for name in names:
        FAKE_MODELS[name].passes.clear()
    return Engine(
        loaded.members,
        loaded.union,
        loaded.method,
        draft_length=draft_length,
        longest_block=longest_block,
        compile_grammar=grammars,
    )


def hold(engine: Engine, texts: Sequence[Any], method: Method) -> list[StepRecord]:
    """Hold texts to the plain loop, which asks all; return the steps at which not all were asked."""
    names, certain = tuple(member.name for member in engine.members), list[StepRecord]()
    for text in texts:
        parse = engine.prepare(text.request).parse
        plain = plain_steps(engine.members, engine.union, text.request.prompt, len(text.steps), method, parse=parse)
        steps = list(zip(text.steps, plain, strict=True))
        assert [step.piece for step, _ in steps] == [expected.piece for _, expected in steps]
        for step, expected in steps:
            if step.certain is None:
                assert (step.voted, step.unknown) == (names, 0.0)
                assert step.p == pytest.approx(expected.p, rel=1e-4)
            else:
                assert step.certain
                assert set(step.voted) < set(names)
                assert step.p * (1 - 1e-4) <= expected.p <= (step.p + step.unknown) * (1 + 1e-4)
                certain.append(step)
        missed = [name for step in text.steps for name in names if name not in step.voted]
        usage = text.generation().usage
        assert usage.unasked == ({name: missed.count(name) for name in names if name in missed} or None)
        assert usage.ensembled == sum(step.certain is None and step.piece is not None for step in text.steps)
    return certain


@pytest.mark.parametrize("rule", RULES)
def test_the_text_is_that_of_all_members(rule: str) -> None:
    """Law 5 for rules x weights x orders x options of sampling x constraints x drafts x batches."""
    certain, asked = 0, 0
    ways = covering(WEIGHTS, ORDERS, SAMPLINGS, CONSTRAINTS, DRAFTERS, SIZES)
    for weights, names, sampling, constraint, drafter, size in ways:
        its = (*weights[:2], -0.5) if rule.startswith("contrastive") else weights
        method = Method(combine=rule, gate="certain").but(sampling=sampling, speculate=drafter)  # type: ignore[arg-type]
        combine = {"combine": "contrastive"} if min(its) < 0 else {}
        engine = engine_of(its, names, FixedDraftLength(), **combine)
        texts = [
            engine.add(prompt, Limits(PIECES), method=method, trace=True, constraint=constraint)
            for prompt in PROMPTS[:size]
        ]
        while engine.active:
            engine.step()
        certain += sum(bool(step.voted) for step in hold(engine, texts, method))
        asked += sum(len(text.steps) for text in texts)
    assert certain > asked / 50


@pytest.mark.parametrize("rule", ["minimum", "logits", "mean truncate:3"])
def test_all_are_asked_where_a_rule_bounds_nothing(rule: str) -> None:
    engine, method = engine_of((5, 2, 2)), Method(combine=rule, gate="certain")  # type: ignore[arg-type]
    assert not hold(engine, written(engine, PROMPTS[:2], PIECES, 2, method), method)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_prices_that_are_measured_change_who_is_asked_and_nothing_else(weights: tuple[int, ...]) -> None:
    method = Method(gate="certain").but(speculate="auto")
    engine = engine_of(weights)
    certain = hold(engine, written(engine, PROMPTS, PIECES, 3, method), method)
    assert len(certain) > 20


def test_who_is_not_asked_is_not_run_and_reads_what_it_missed_in_one_block() -> None:
    method = Method(gate="certain")
    engine = engine_of((1, 1, 1), prices={"a": 1.0, "b": 2.0, "c": 9.0})
    [text] = written(engine, PROMPTS[:1], 30, 1, method)
    certain = hold(engine_of((1, 1, 1)), [text], method)
    assert certain
    assert {step.voted for step in certain} == {("a", "b")}
    engine = engine_of((1, 1, 1), prices={"a": 1.0, "b": 2.0, "c": 9.0})
    written(engine, PROMPTS[:1], 30, 1, method)
    passes = [len(feed.ids) for each in FAKE_MODELS["c"].passes for feed in each.feeds]
    assert len(FAKE_MODELS["a"].passes) == len(text.steps)
    assert len(passes) == len(text.steps) - len(certain)
    assert max(passes[1:]) > 1


def test_a_member_that_outweighs_the_others_is_asked_alone_and_the_others_never_read_the_prompt() -> None:
    alone = 0
    for prompt in PROMPTS[:4]:
        engine = engine_of((98, 1, 1), prices={"a": 9.0, "b": 1.0, "c": 1.0})
        [text] = written(engine, [prompt], 5, 1, Method(gate="certain"))
        if all(step.voted == ("a",) for step in text.steps):
            assert not FAKE_MODELS["b"].passes + FAKE_MODELS["c"].passes
            alone += 1
    assert alone


def test_two_members_of_one_weight_are_both_asked_always() -> None:
    method = Method(gate="certain")
    engine = engine_of((1, 1), ("a", "b"))
    assert not hold(engine, written(engine, PROMPTS[:4], PIECES, 4, method), method)


def test_nobody_is_asked_where_a_constraint_leaves_one_piece() -> None:
    method = Method(gate="certain")
    engine = engine_of((1, 1), ("a", "b"))
    text = engine.add(PROMPTS[0], Limits(PIECES), method=method, trace=True, constraint={"regex": "日本🎉"})
    while engine.active:
        engine.step()
    certain = hold(engine, [text], method)
    assert any(step.voted == () and (step.p, step.unknown) == (0.0, 1.0) for step in certain)
    assert text.generation().text == "日本🎉"


@pytest.mark.parametrize("gate", ["certain", "always"])
@pytest.mark.parametrize("top", [Truncation(3, 3), Truncation(4, 200)])
def test_truncated_members_take_part(gate: str, top: Truncation) -> None:
    """Where nothing is uncertain, the text is that of whole distributions; the certain pieces before it are, anyway."""
    method = Method(gate=gate)  # type: ignore[arg-type]
    for name in NAMES[1:]:
        FAKE_MODELS[name].top = top
    engine = engine_of((5, 2, 2))
    texts = written(engine, PROMPTS[:5], PIECES, 3, method)
    for name in NAMES:
        FAKE_MODELS[name].top = None
    whole, alone = engine_of((5, 2, 2)), 0
    for text in texts:
        for step, expected in zip(
            text.steps, plain_steps(whole.members, whole.union, text.request.prompt, PIECES, method), strict=False
        ):
            alone += len(step.voted) < 3
            if step.certain is False:
                break
            assert step.piece == expected.piece
            assert step.p * (1 - 1e-4) <= expected.p <= (step.p + step.unknown) * (1 + 1e-4)
    assert (alone > 5) == (gate == "certain")


def test_few_sets_of_members_are_kept_however_many_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.engine.certifier.KEPT", 1)
    counted: list[int] = []

    def counting(ids_U_K: Any) -> Kinds:
        counted.append(len(ids_U_K))
        return kinds_of(ids_U_K)

    monkeypatch.setattr("unisono.engine.certifier.kinds_of", counting)
    method = Method(gate="certain")
    engine = engine_of((6, 2, 2), prices={"a": 1.0, "b": 2.0, "c": 3.0})
    texts = written(engine, PROMPTS[:5], PIECES, 3, method)
    kept = engine._stepper._sequential_voting._certifier._kinds  # whatever sets were asked
    assert len(counted) > len(kept) == 1
    assert hold(engine, texts, method)


def test_texts_of_all_methods_share_a_batch() -> None:
    methods = [
        Method(gate="certain"),
        Method(gate="certain", combine="max"),
        Method(),
        Method(lead="b").but(gate="confidence:0.6"),
        Method(gate="certain").but(sampling="0.7 seed:3"),
        Method(gate="certain").but(sampling="repetition_penalty:1.3"),
        Method(gate="certain", combine="geometric").but(speculate="b:2"),
    ]
    engine = engine_of((5, 2, 2), draft_length=FixedDraftLength())
    texts = [
        engine.add(prompt, Limits(PIECES), method=method, trace=True)
        for prompt, method in zip(PROMPTS, methods, strict=False)
    ]
    while engine.active:
        engine.step()
    certain = 0
    for text, method in zip(texts, methods, strict=False):
        plain = list(plain_steps(engine.members, engine.union, text.request.prompt, len(text.steps), method))
        assert [step.piece for step in text.steps] == [step.piece for step in plain]
        certain += sum(step.certain is True for step in text.steps)
    assert certain > 5
    assert not any(step.certain for text in texts[4:6] for step in text.steps)


@pytest.mark.parametrize(("keys", "beam_width"), [({"n": 2}, 1), ({}, 2), ({"top_logprobs": 2}, 1)])
def test_several_texts_beams_and_probabilities_are_served(keys: dict[str, int], beam_width: int) -> None:
    """All are asked where whole distributions are wanted, or a beam compares texts."""
    found = {}
    for gate in ("certain", "always"):
        engine = engine_of((5, 2, 2))
        method = Method(gate=gate, sampling=Sampling(beam_width=beam_width))  # type: ignore[arg-type]
        request = GenerationRequest("1", PROMPTS[0], Limits(PIECES), trace=True, method=method, **keys)  # type: ignore[arg-type]
        group = engine.begin(engine.prepare(request))
        while not group.is_finished:
            engine.read({group: engine.backlog(group)})
            engine.step()
        found[gate] = [text.generation() for text in group.sequences]
    for mine, other in zip(found["certain"], found["always"], strict=True):
        assert mine.text == other.text
        assert bool(mine.usage.unasked) == ("n" in keys)
        for step, its in zip(mine.steps or (), other.steps or (), strict=True):
            assert step.likeliest == (
                () if step.certain else its.likeliest
            )  # not all were asked: it is not known whole


def test_a_text_waits_for_who_is_asked_late_while_the_others_are_written() -> None:
    method, long = Method(gate="certain"), 6
    engine = engine_of((5, 2, 2), longest_block=long, draft_length=FixedDraftLength())
    texts = [engine.add(prompt, Limits(24), method=method, trace=True) for prompt in (LONG, PROMPTS[0], LONG)]
    while engine.active:
        for text in [text for text in engine.active if engine.backlog(text)][:1]:
            engine.read({text: 5})
        engine.step()
    feeds = [feed for name in NAMES for each in FAKE_MODELS[name].passes for feed in each.feeds]
    assert max(len(feed.ids) for feed in feeds if feed.wanted) <= long + 4
    assert len(hold(engine, texts, method)) > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_between_turns_is_undone(name: str) -> None:
    method, failures = Method(gate="certain").but(speculate="ngram:3"), iter(range(3))
    engine = engine_of((5, 3, 3), draft_length=FixedDraftLength())
    fail(engine, name, lambda feeds: next(failures, None) is not None)
    texts = [engine.add(prompt, Limits(PIECES), method=method, trace=True) for prompt in PROMPTS[:4]]
    assert step_in_spite_of_failures(engine) == 3
    engine = engine_of((5, 3, 3))
    assert hold(engine, texts, method)


def test_marks_and_places_are_certain_too() -> None:
    make_thinkers()
    method = Method(gate="certain").but(speculate="ngram:3")
    engine = engine_of((5, 2, 2), ("t", "h", "p"), FixedDraftLength())
    texts = written(engine, QUESTIONS, 28, 8, method)
    certain = hold(engine, texts, method)
    assert any(step.mark for step in certain)


@pytest.mark.parametrize(
    "combine", ["mean truncate:3", "mean sharpen:0.2", "geometric weights:entropy", "mean weights:consistency"]
)
def test_what_leaves_nothing_to_be_certain_of_asks_all(combine: str) -> None:
    method = Method().but(gate="certain", combine=combine)
    engine = engine_of((5, 2, 2))
    texts = written(engine, PROMPTS, 12, 8, method)
    always = written(engine_of((5, 2, 2)), PROMPTS, 12, 8, method.but(gate="always"))
    assert [[step.piece for step in text.steps] for text in texts] == [
        [step.piece for step in text.steps] for text in always
    ]
    assert all(len(step.voted) == 3 for text in texts for step in text.steps)


def test_a_boundary_would_change_the_text_and_is_refused() -> None:
    with pytest.raises(SpecError, match="boundary"):
        Method().but(gate="certain", boundary=True)
