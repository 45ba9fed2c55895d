"""Members that share weights: loaded once, read in one pass, and otherwise members like any others."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.command_line import Run
from support.covering import covering
from support.demo import written
from support.fakes import GATES, PROMPTS, check, make_fakes, oracle
from support.methods import FixedDraftLength
from unisono.backends.fake.backend import FAKE_MODELS, FakeLoader
from unisono.benchmark import measure
from unisono.build import prepare
from unisono.chat.messages import Message, Prompt
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.diagnosis import diagnose
from unisono.engine.draft_length import DraftLengthController, Work
from unisono.engine.engine import Engine
from unisono.engine.reference import PlainStep
from unisono.ensemble import Ensemble
from unisono.errors import PromptError, SpecError
from unisono.loaded_models import load_engine
from unisono.records import Limits
from unisono.testing import FakeModel, register_fake

CHATS = [prompt for prompt in PROMPTS if prompt.messages]
A: dict[str, Any] = {"name": "a", "model": "fake:a"}
B: dict[str, Any] = {"name": "b", "share_weights_with": "a", "prefix": "Sofia sees. "}
C: dict[str, Any] = {"name": "c", "share_weights_with": "a", "prefix": "日本 sings: ", "weight": 0.7}
D: dict[str, Any] = {"name": "d", "model": "fake:b"}
TWIN: dict[str, Any] = {"name": "twin", "share_weights_with": "a"}
NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def load(*members: dict[str, Any], batch: int = 8) -> Ensemble:
    return Ensemble.load({"members": list(members)}, batch=batch)


def engine_of(*members: dict[str, Any], draft_length: DraftLengthController | None = None) -> Engine:
    loaded = load(*members)._engine
    return Engine(loaded.members, loaded.union, draft_length=draft_length)


def pieces_of(texts: Sequence[Any]) -> list[list[bytes | None]]:
    return [[step.piece for step in text.steps] for text in texts]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_member_beside_its_twin_is_itself(size: int) -> None:
    """Law 2: with the same weights and no words of its own, a member adds nothing."""
    alone = written(engine_of(A), PROMPTS, 20, size)
    twice = written(engine_of(A, TWIN), PROMPTS, 20, size)
    assert pieces_of(twice) == pieces_of(alone)
    for one, two in zip(alone, twice, strict=True):
        assert one.cursors["a"].ids == two.cursors["a"].ids == two.cursors["twin"].ids
        np.testing.assert_allclose([step.p for step in one.steps], [step.p for step in two.steps], rtol=1e-5)


DRAFTERS: dict[str, type[DraftLengthController]] = {
    **dict.fromkeys(("off", *(f"{name}:5" for name in (*NAMES, "ngram", "auto"))), FixedDraftLength),
    **dict.fromkeys(("b:5 where it pays", "d:5 where it pays", "auto:5 where it pays"), DraftLengthController),
}
"""Nobody, everybody as far as allowed, and those for whom it can pay as far as it pays."""


@functools.cache
def ways() -> list[tuple[Any, ...]]:
    """Gate, drafter and batch size: any two of them meet."""
    return covering(GATES, DRAFTERS, (1, 3, 8))


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
def test_a_family_and_a_stranger_equal_the_plain_loop(gate: str) -> None:
    """Law 5, for gates x drafters x batches, the lead being one of the family."""
    method = Method(lead="b").but(gate=gate, boundary=gate == "margin:0.5")
    engine = engine_of(A, B, C, D)
    expected = oracle(engine, PROMPTS, method, 14)
    for _, drafter, size in (way for way in ways() if way[0] == gate):
        drafting = Engine(engine.members, engine.union, draft_length=DRAFTERS[drafter]())
        speculate = drafter.partition(" ")[0]
        check(written(drafting, PROMPTS, 14, size, method.but(speculate=speculate)), expected, NAMES)


@pytest.mark.slow
def test_the_combinations_above_are_not_vacuous() -> None:
    """The members of a family differ; drafts of each of them hold and fail."""
    apart = [written(engine_of(A), PROMPTS, 14, 8)]
    for own in (B, C):
        alone = {"name": own["name"], "model": "fake:a", "prefix": own["prefix"]}
        apart.append(written(engine_of(alone), PROMPTS, 14, 8))
    assert len({str(pieces_of(texts)) for texts in apart}) == 3
    for drafter in "abc":
        engine = engine_of(A, B, C, D, draft_length=FixedDraftLength())
        texts = written(engine, PROMPTS, 40, 8, Method().but(speculate=f"{drafter}:5"))
        assert 0 < sum(text.accepted for text in texts) < sum(text.drafted for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("lead", ["a", "b", "d"])
def test_texts_whose_leads_and_drafters_are_relatives_share_a_batch(lead: str) -> None:
    """One text is drafted by a member whose relative leads another, in the same step."""
    engine = engine_of(A, B, C, D, draft_length=FixedDraftLength())
    methods = [
        Method(lead=lead).but(gate=gate, speculate=drafter)
        for gate, drafter in itertools.product(("confidence:0.6", "always"), ("a:3", "b:2", "c:4", "off"))
    ]
    texts = [
        engine.add(prompt, Limits(14), method=method, trace=True)
        for prompt, method in zip(PROMPTS, methods, strict=True)
    ]
    while engine.active:
        engine.step()
    for text, prompt, method in zip(texts, PROMPTS, methods, strict=True):
        check([text], oracle(engine, [prompt], method, 14), NAMES)


def test_members_that_are_asked_together_go_through_one_pass() -> None:
    """Three members and five texts are fifteen rows of it."""
    engine = engine_of(A, B, C, D)
    for prompt in PROMPTS[:5]:
        engine.add(prompt, Limits(40))
    family, stranger = FAKE_MODELS["a"].passes, FAKE_MODELS["b"].passes
    for step in range(1, 4):
        engine.step()
        assert (len(family), len(stranger)) == (step, step)
        assert [len(family[-1].feeds), len(stranger[-1].feeds)] == [15, 5]
        assert [feed.slot for feed in family[-1].feeds] == list(range(15))  # side by side for llama.cpp


def test_behind_a_gate_the_lead_reads_alone_and_its_relatives_together() -> None:
    engine = engine_of(A, B, C)
    text = engine.add(PROMPTS[0], Limits(9), method=Method(lead="b").but(gate="every:4"), trace=True)
    while engine.active:
        engine.step()
    rows = [len(step.feeds) for step in FAKE_MODELS["a"].passes]
    assert rows == [1, 2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2]
    lag = [len(feed.ids) for feed in FAKE_MODELS["a"].passes[6].feeds]
    assert lag == [4, 4]
    assert [step.voted for step in text.steps or ()][:2] == [("a", "b", "c"), ("b",)]


def test_a_draft_of_one_member_is_verified_by_its_relatives_in_one_pass() -> None:
    engine = engine_of(A, B, C, draft_length=FixedDraftLength())
    text = engine.add(PROMPTS[0], Limits(30), method=Method().but(speculate="a:3"))
    engine.step()
    FAKE_MODELS["a"].passes.clear()
    engine.step()
    drafting, verifying = FAKE_MODELS["a"].passes[:-1], FAKE_MODELS["a"].passes[-1]
    assert {len(step.feeds) for step in drafting} == {1}
    assert [feed.wanted for feed in verifying.feeds] == [len(drafting)] * 2
    assert text.drafted == len(drafting) - 1


def test_the_time_of_a_pass_is_shared_out_by_what_each_member_read() -> None:
    class Noting(DraftLengthController):
        in_use = True  # as when somebody drafts

        def learn_pass(self, model: Any, work: Work, seconds: float) -> None:
            noted.append((model, work, seconds))

    noted: list[tuple[Any, Work, float]] = []
    engine = engine_of(A, B, C, D, draft_length=Noting())
    text = engine.add(PROMPTS[0], Limits(20))
    lengths = {name: len(cursor.ids) for name, cursor in text.cursors.items()}
    engine.step()
    (model, work, seconds), _ = noted
    assert model == engine.members[0].model == engine.members[2].model != engine.members[3].model
    family = [lengths[name] for name in "abc"]
    assert work == Work(3, sum(family), 3)
    spent = [text.member_seconds[name] for name in "abc"]
    assert spent == pytest.approx([seconds * length / sum(family) for length in family])
    engine.step()
    assert noted[2][1] == Work(3, noted[2][1].tokens, 3)


class Imagined(DraftLengthController):
    """A pace for which passes take what a formula says: so much each and so much an id, by model."""

    in_use = True

    def __init__(self, costs: dict[int, tuple[float, float]]) -> None:
        super().__init__()
        self.costs = costs
        self.step = self.total = 0.0

    def learn_pass(self, model: Any, work: Work, seconds: float) -> None:
        fixed, an_id = self.costs[model]
        if work.tokens > 40:  # prompts
            return
        self.step += fixed + an_id * work.tokens
        super().learn_pass(model, work, fixed + an_id * work.tokens)

    def learn_step(self, texts: int, pieces: int, seconds: float, plain: float) -> None:
        super().learn_step(texts, pieces, self.step, plain)
        self.total += self.step
        self.step = 0.0


@pytest.mark.slow
@pytest.mark.parametrize("drafter", ["a", "auto"])
@pytest.mark.parametrize("an_id", [0.1, 5.0])
def test_a_relative_drafts_for_a_slow_stranger_and_not_for_its_own_family(drafter: str, an_id: float) -> None:
    """A pass of the drafter alone costs nearly what one of all its relatives does, whether ids are cheap or dear."""

    def times(*members: dict[str, Any]) -> list[float]:
        found = []
        for speculate in ("off", drafter):
            loaded = engine_of(*members)
            costs = {member.model: (10.0, an_id) for member in loaded.members}
            if D in members:
                costs[loaded.members[-1].model] = (200.0, 0.1)
            draft_length = Imagined(costs)
            engine = Engine(loaded.members, loaded.union, draft_length=draft_length)
            texts = written(engine, PROMPTS * 2, 60, 1, Method().but(speculate=speculate))
            found.append(draft_length.total / sum(text.pieces for text in texts))
        return found

    plain, drafted = times(A, B, C)
    assert drafted <= 1.05 * plain
    plain, drafted = times(A, B, C, D)
    assert drafted < 0.8 * plain


def test_a_failure_in_a_pass_of_a_family_leaves_all_its_members_as_they_were() -> None:
    engine = engine_of(A, B, C, D, draft_length=FixedDraftLength())
    method = Method(lead="b").but(gate="confidence:0.9", speculate="c:3")
    expected = oracle(engine, PROMPTS[:3], method, 14)
    texts = [engine.add(prompt, Limits(14), method=method, trace=True) for prompt in PROMPTS[:3]]
    backend = engine.members[0].backend
    advance, calls = backend.advance, itertools.count()

    def failing(feeds: Any) -> Any:
        if next(calls) in (1, 4, 9, 11, 20):
            raise KeyboardInterrupt
        return advance(feeds)

    backend.advance = failing  # type: ignore[method-assign]
    while engine.active:
        try:
            engine.step()
        except KeyboardInterrupt:
            assert all(len(cursor.ids) > cursor.read for text in engine.active for cursor in text.cursors.values())
    check(texts, expected, NAMES)


class Counted:
    """Loaders that say what was loaded and unloaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loaded: list[tuple[str, int]] = []
        self.unloaded: list[str] = []
        original = FakeLoader.load

        def load(loader: Any, progress: Any) -> Any:
            name = loader._request.name
            if name == "broken":
                raise KeyboardInterrupt
            backend = original(loader, progress)
            self.loaded.append((name, backend.facts.slots))
            backend.unload = lambda: self.unloaded.append(name)  # type: ignore[method-assign]
            return backend

        monkeypatch.setattr(FakeLoader, "load", load)


def test_the_weights_are_loaded_once_and_unloaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    told: list[tuple[str, str]] = []
    spec = load_spec({"members": [A, B, D, C]})
    prepared = prepare(spec, batch=5, report=lambda name, done, words: told.append((name, words)))
    first, second, _, third = prepared.members
    assert first.loader is second.loader is third.loader
    assert first.speller is second.speller is third.speller
    engine = load_engine(prepared, lambda name, done, words: told.append((name, words)))
    assert counted.loaded == [("a", 15), ("d", 5)]
    assert engine.slots == 5
    assert told.count(("a", "finding the model")) == told.count(("a", "loaded")) == 1
    assert {name for name, _ in told} == {"a", "d", "the union"}
    engine.close()
    assert set(counted.unloaded) == {"a", "d"}


def test_what_a_family_has_loaded_is_freed_once_when_a_later_member_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        load(A, B, {"name": "broken", "model": "fake:c"})
    assert counted.unloaded == ["a"]


def test_weights_of_a_member_without_a_vote_are_loaded_for_those_that_share_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted(monkeypatch)
    with load({**A, "weight": 0}, B, C, batch=2) as pair:
        assert pair.members == ("b", "c")
        assert counted.loaded == [("a", 4)]
        assert "'a' has weight 0 and is left out, but for its weights" in caplog.text
        alone = [{"name": each["name"], "model": "fake:a", "prefix": each["prefix"]} for each in (B, C)]
        alone[1]["weight"] = C["weight"]
        with load(*alone) as apart:
            given = [each.generate("Hello", max_new_tokens=20).data for each in (pair, apart)]
    assert given[0] == given[1]


def test_slots_and_contexts_are_those_of_the_family() -> None:
    with load({**A, "context": 60}, B, C, D, batch=3) as ensemble:
        engine = ensemble._engine
        assert (engine.slots, engine.context) == (3, 60)
        texts = [engine.add(PROMPTS[0]) for _ in range(3)]
        with pytest.raises(RuntimeError, match="all 3 slots are taken"):
            engine.add(PROMPTS[0])
        for text in texts:
            engine.drop(text)
        assert engine.add(PROMPTS[0])


def test_templates_are_each_members_own() -> None:
    """Where they close answers differently, END differs, and with it the vocabulary."""
    template = "{% for m in messages %}{{ m.content }}<|user|>{% endfor %}"
    prepared = prepare(load_spec({"members": [A, TWIN, {**TWIN, "name": "other", "chat_template": template}]}))
    a, twin, other = prepared.members
    assert a.vocabulary is twin.vocabulary
    assert len(other.vocabulary.end_ids) == len(a.vocabulary.end_ids) + 1
    assert other.encoder.template is not None
    assert other.encoder.template.source == template
    with load(A, {**TWIN, "chat_template": template}) as pair:
        assert pair.generate(messages=CHATS[0].messages, max_new_tokens=8).usage.pieces


def test_a_system_message_needs_messages_and_a_prefix_needs_a_user() -> None:
    with load(A, {**TWIN, "system": "Be brief."}) as pair:
        with pytest.raises(PromptError, match="'twin' has a system message, and raw text has no place") as caught:
            pair.generate("Hello")
        assert "prefix" in str(caught.value.hint)
        assert pair._engine.active == []
        assert pair.generate(messages=CHATS[0].messages, max_new_tokens=3).usage.pieces == 3
    with load(A, B) as pair, pytest.raises(PromptError, match="'b' has a prefix, and these messages are none of a"):
        pair.generate(messages=[Message(role="system", content="Go on.")])


def test_own_words_have_no_say_in_how_likely_a_prompt_is() -> None:
    """Weights by perplexity are those of the request's text: the same for all of a family."""
    for member in (B, {**TWIN, "system": "Be brief."}):
        engine = engine_of(A, member)
        method = Method(combine="mean weights:perplexity")  # type: ignore[arg-type]
        texts = written(engine, CHATS, 8, 2, method)
        for text, prompt in zip(texts, CHATS, strict=True):
            assert len(set(text.losses.values())) == 1
            expected = oracle(engine, [prompt], method, 8)[0]
            assert [step.piece for step in text.steps] == [step.piece for step in expected]


@pytest.fixture
def family_file(tmp_path: Path) -> Path:
    path = tmp_path / "family.yaml"
    path.write_text(
        "members:\n  - {name: a, model: 'fake:a', weight: 0}\n  - {name: b, share_weights_with: a, system: Be brief.}\n"
        "  - {name: c, share_weights_with: a, prefix: 'Q: '}\n  - {name: d, model: 'fake:b'}\n"
    )
    return path


def test_bench_times_members_of_a_family_alone_and_together(run: Run, family_file: Path) -> None:
    words = ("bench", family_file, "--rounds", 2, "--pieces", 4, "-q", "--variant", "speculate=c")
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    systems = json.loads(shown.out)["systems"]
    assert [system["name"] for system in systems] == ["b", "c", "d", "ensemble", "speculate=c"]
    assert systems[4]["same_text"] == 1.0
    prepared = prepare(load_spec({"members": [A, B, C]}), batch=2)
    FAKE_MODELS["a"].passes.clear()
    figures = measure(prepared, rounds=1, pieces=4, batch=2)
    assert [len(system.name) for system in figures.systems] == [1, 1, 1, 8]
    read, written = {3}, {1, 2, 6}  # a prompt is read by all three in one pass
    assert {len(step.feeds) for step in FAKE_MODELS["a"].passes} == read | written


def test_doctor_counts_shared_weights_once_and_says_whose_they_are(
    run: Run, family_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    facts = FakeLoader.facts
    monkeypatch.setattr(FakeLoader, "facts", lambda self: replace(facts(self), weight_bytes=10**9, cache_bytes=10**6))
    found = diagnose(prepare(load_spec(family_file)))
    assert found.memory_bytes == 2 * (10**9 + 10**6)
    assert [member.weights_of for member in found.members] == ["a", "a", None]
    assert [member.model for member in found.members] == ["fake:a", "fake:a", "fake:b"]
    shown = run("doctor", family_file, "-q", "--weights")
    assert shown.code == 0, shown.err
    assert "b and c run on the weights of a, which are loaded once" in shown.out
    assert "memory: 2.0 GB" in shown.out
    assert "weights loaded in" in shown.out


def test_doctor_warns_of_members_that_are_the_same_and_of_words_that_a_template_drops(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "members:\n  - {name: a, model: 'fake:a'}\n  - {name: twin, share_weights_with: a}\n"
        "  - {name: deaf, share_weights_with: a, system: Be brief., chat_template: '{{ messages[-1].content }}'}\n"
    )
    shown = run("doctor", path, "-q").out
    assert "a and twin are the same" in shown
    assert "the chat template of deaf does not write its system message" in shown
    assert shown.count("the same whatever") == 0


def test_doctor_warns_of_a_model_that_is_loaded_again_for_another_member(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(
        "members:\n  - {name: a, model: 'fake:a'}\n  - {name: twin, model: 'fake:a', weight: 2}\n"
        "  - {name: brief, model: 'fake:a', system: Be brief.}\n"
        "  - {name: b, model: 'fake:b'}\n"
    )
    found = run("doctor", path, "-q")
    shown = " ".join(found.out.split())
    assert "a and twin are the same" in shown, found.err
    assert "a and twin and brief load the same model 3 times: write share_weights_with: a in place of" in shown


def test_a_wrong_share_is_refused_before_anything_is_looked_up() -> None:
    with pytest.raises(SpecError, match=r"share_weights_with is 'aa': there is no such member; did you mean 'a'"):
        load(A, {"name": "b", "share_weights_with": "aa"})


def test_the_plain_loop_takes_what_it_needs_before_the_next_member_reads() -> None:
    """The fake spoils what it gave; the oracle of a family would be NaN if it looked later."""
    steps: list[PlainStep] = oracle(engine_of(A, B, C), PROMPTS[:1], Method(), 5)[0]
    assert all(np.isfinite(step.q_U).all() and abs(step.q_U.sum() - 1) < 1e-9 for step in steps)


def test_the_prompts_perplexity_is_that_of_what_was_asked_alone() -> None:
    """Neither a prefix nor a system message has a say, and a prompt of one token is weighed as any other."""
    method = Method().but(combine="mean weights:perplexity")
    engine = engine_of(A, B, C, D)
    for prompt in (Prompt(messages=({"role": "user", "content": "Hello the"},)), PROMPTS[-1]):
        text = engine.add(prompt, Limits(4), method=method)
        while text.finish is None:
            engine.step()
        assert text.losses["a"] == text.losses["b"] == text.losses["c"] != text.losses["d"]
        assert all(loss > 0 for loss in text.losses.values())


@pytest.mark.parametrize("passes", [5, 20, 40, 41, 60])
def test_ctrl_c_in_a_bench_is_no_fault(run: Run, tmp_path: Path, passes: int) -> None:
    """Its systems share the models: all their slots are freed before one is unloaded."""
    left = iter(range(passes))

    def interrupted(model: FakeModel) -> FakeModel:
        def next_token(read: tuple[int, ...]) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return model.next_token(read)

        return replace(model, next_token=next_token)

    for name in ("a", "b"):
        register_fake(name, interrupted(FAKE_MODELS[name]))
    path = tmp_path / "two.yaml"
    path.write_text("members: [{name: a, model: 'fake:a'}, {name: b, model: 'fake:b'}]\n")
    shown = run("bench", path, "--rounds", 2, "--pieces", 8)
    assert (shown.code, shown.err.splitlines()[-1]) == (130, "unisono: interrupted")
