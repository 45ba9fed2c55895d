"""Baselines choose among whole answers: by what is said of them, never by who is right."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.ensemble import EnsembleSpec
from unisono.config.method import Method
from unisono.errors import BackendMissing, PromptError, SpecError, UnisonoError
from unisono.evals.baselines import BASELINES, Case, Choice, make_baseline
from unisono.evals.baselines.confidence import Cascade, uncertainty
from unisono.evals.baselines.decide import decide_all
from unisono.evals.baselines.judging import LEAST, question_words, shares
from unisono.evals.baselines.options import options
from unisono.evals.baselines.self_evaluation import NOTA
from unisono.evals.baselines.skills import cross_entropy, learn, tabulate
from unisono.evals.baselines.verifiers import GenRM
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Grade, Question, Results, System
from unisono.records import Generation, Limits, PieceScore, Score, Seconds, Usage

MEMBERS = ("a", "b", "c")
ALL = [*BASELINES, "best-member:b", "self-evaluation:a nota", "genrm:b", "ranker standardised", "cascade:1 share:0.5"]
IN_ORDER = ("best-member:b", "cascade", "cascade:1 share:0.5")
"""Those for which the members' order means something."""
Likelihood = Callable[[str, str, str], float]
"""Of a judge, a text and what follows it, the log-probability."""


class ScriptedPanel:
    """Members that find what they are told to find."""

    def __init__(self, likelihood: Likelihood = lambda judge, text, ending: -1.0) -> None:
        self.members = MEMBERS
        self.likelihood = likelihood
        self.asked: list[tuple[str, str, str]] = []

    def member(self, name: str) -> System:
        return System(name, (name,), Method())

    def score(self, system: System, asked: Sequence[tuple[Prompt, str]]) -> list[Score | UnisonoError]:
        rows = [(system.name, prompt.text or "", ending) for prompt, ending in asked]
        self.asked += rows
        return [Score((PieceScore(b"x", self.likelihood(*row), False, ()),), {}) for row in rows]

    def generate(self, system: System, asked: Sequence[tuple[Prompt, Limits]]) -> list[Generation | UnisonoError]:
        text = f" {system.name} thinks so ({system.method.draw.seed})."
        return [Generation(text, text.encode(), "end", Usage({}, 1, 1), Seconds(0, 0, {})) for _ in asked]


def question(choices: tuple[str, ...] = (), **keys: Any) -> Question:
    fields: dict[str, Any] = {
        "task": "t",
        "part": "t",
        "id": "t.1",
        "prompt": Prompt(text="An example. Who?"),
        "choices": choices,
        "limits": Limits(6),
        "words": "Who?",
        "target": "x",
        "grade": lambda reply: Grade({}, ""),
    }
    return Question(**{**fields, **keys})


def said(member: str, text: str, p: float = 0.5, **keys: Any) -> Answer:
    return Answer("t", "t.1", member, {"acc": 1.0}, answer=text.strip(), text=text, p=(p,), **keys)


def picked(member: str, *logps: float) -> Answer:
    return Answer("t", "t.1", member, {}, answer="ABCD"[logps.index(max(logps))], choices=logps)


def candidates(*texts: str) -> dict[str, Answer]:
    return {name: said(name, text) for name, text in zip(MEMBERS, texts, strict=False)}


def case_of(words: str, given: Mapping[str, Answer], panel: Any, asked: Question | None = None, id: str = "1") -> Case:  # noqa: A002
    """A case whose evidence went through a file."""
    evidence = make_baseline(words).gather(asked or question(), given, panel)
    return Case(id, given, json.loads(json.dumps(evidence, allow_nan=False)))


def decided(words: str, given: Mapping[str, Answer], panel: Any, asked: Question | None = None) -> Choice:
    (choice,) = make_baseline(words).decide([case_of(words, given, panel, asked)])
    return choice


def liking(*liked: str) -> Likelihood:
    """Judges that find likely what mentions something they like, and what names it."""

    def likelihood(judge: str, text: str, ending: str) -> float:
        proposed = text.partition("Proposed answer: ")[2]
        if ending == " Yes":
            return -0.1 if any(word in proposed for word in liked) else -3.0
        lines = [line for line in text.splitlines() if line.startswith(f"{ending.strip()} ")]
        return -0.2 if any(word in found for word in liked for found in (ending, *lines)) else -2.0

    return likelihood


def hashed(judge: str, text: str, ending: str) -> float:
    """Judges of no sense, but always the same one."""
    return -5 * (sum(map(ord, judge + text + ending)) * 7919 % 1009) / 1009


answers = st.builds(
    said,
    st.just("m"),
    st.sampled_from(["", " Rome", " Paris", " Oslo"]),
    st.floats(0, 1),
)
panels = st.dictionaries(st.sampled_from(MEMBERS), answers, min_size=1)


@pytest.mark.parametrize("words", ALL)
@given(data=st.lists(panels, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_every_case_gets_a_candidate_and_a_confidence_from_0_to_1(words: str, data: list[dict[str, Answer]]) -> None:
    panel = ScriptedPanel(hashed)
    cases = [case_of(words, given, panel, id=str(place)) for place, given in enumerate(data)]
    choices = make_baseline(words).decide(cases)
    assert len(choices) == len(cases)
    for choice, given_ in zip(choices, data, strict=True):
        assert choice.member in given_
        assert choice.member in choice.asked
        assert set(choice.asked) <= set(given_)
        assert 0 <= choice.confidence <= 1
        if len(given_) == 1:
            assert choice.asked == tuple(given_)


@pytest.mark.parametrize("words", ALL)
@given(data=st.lists(panels, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_nothing_is_known_of_what_is_right(words: str, data: list[dict[str, Answer]]) -> None:
    panel = ScriptedPanel(hashed)
    cases = [case_of(words, given, panel) for given in data]
    blind = [
        replace(each, candidates={name: replace(answer, metrics={}) for name, answer in each.candidates.items()})
        for each in cases
    ]
    assert make_baseline(words).decide(cases) == make_baseline(words).decide(blind)


@pytest.mark.parametrize("words", ALL)
@pytest.mark.parametrize("confidences", [(0.2, 0.9, 0.5), (0.9, 0.2, 0.2)])
def test_a_unanimous_panel_is_never_overruled(words: str, confidences: tuple[float, ...]) -> None:
    agreed = {name: said(name, " Rome", p) for name, p in zip(MEMBERS, confidences, strict=True)}
    choice = decided(words, agreed, ScriptedPanel(hashed))
    assert agreed[choice.member].answer == "Rome"


@pytest.mark.parametrize("words", [words for words in ALL if words not in IN_ORDER])
@given(data=st.lists(panels, min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_the_members_order_changes_nothing_but_ties(words: str, data: list[dict[str, Answer]]) -> None:
    distinct = [
        {name: replace(answer, p=((ord(name) + 10 * place) / 200,)) for name, answer in given.items()}
        for place, given in enumerate(data)
    ]
    panel, results = ScriptedPanel(hashed), []
    for turned in (False, True):
        cases = []
        for given_ in distinct:
            names = sorted(given_, reverse=turned)
            cases.append(case_of(words, {name: given_[name] for name in names}, panel))
        results.append(make_baseline(words).decide(cases))
    assert [each.member for each in results[0]] == [each.member for each in results[1]]


@pytest.mark.parametrize("words", ALL)
def test_evidence_that_is_missing_is_no_failure(words: str) -> None:
    baseline = make_baseline(words)
    empty = [Case("1", candidates(" Rome", " Paris"), {}), Case("2", candidates(" Rome"), {})]
    assert [choice.member in ("a", "b") for choice in baseline.decide(empty)] == [True, True]
    assert baseline.decide([]) == []


def test_who_answered_nothing_counts_only_where_nobody_answered() -> None:
    given = candidates("", "", " Rome")
    assert options(given) == {"c": ("c",)}
    assert decided("majority", given, ScriptedPanel()) == Choice("c", 1 / 3, MEMBERS)
    assert decided("majority", candidates("", "", ""), ScriptedPanel()) == Choice("a", 1.0, MEMBERS)


def test_the_majority_is_counted_by_hand() -> None:
    """Every panel of three answers out of three, against counting."""
    for texts in itertools.product(("Rome", "Paris", "Oslo"), repeat=3):
        for confidences in itertools.permutations((0.1, 0.3, 0.9)):
            given = {name: said(name, text, p) for name, text, p in zip(MEMBERS, texts, confidences, strict=True)}
            choice = decided("majority", given, ScriptedPanel())
            votes = {text: texts.count(text) for text in texts}
            if max(votes.values()) > 1:
                assert votes[given[choice.member].answer] == max(votes.values())
            else:
                assert given[choice.member].p == (0.9,)
            assert choice.confidence == pytest.approx(max(votes.values()) / 3)


def test_of_members_that_agree_the_surest_speaks_for_them() -> None:
    given = {"a": said("a", "Rome", 0.3), "b": said("b", "Paris", 0.99), "c": said("c", "Rome", 0.6)}
    assert decided("majority", given, ScriptedPanel()).member == "c"


def test_two_votes_that_differ_are_decided_by_confidence_then_by_order() -> None:
    surer = {"a": said("a", "Rome", 0.3), "b": said("b", "Paris", 0.4)}
    assert decided("majority", surer, ScriptedPanel()).member == "b"
    assert decided("majority", candidates("Rome", "Paris"), ScriptedPanel()).member == "a"


def test_the_best_member_is_the_one_that_agrees_most_or_the_one_that_is_named() -> None:
    rows = [("Rome", "Oslo", "Oslo"), ("Rome", "Paris", "Paris"), ("Rome", "Rome", "Oslo")]
    cases = [Case(str(place), candidates(*row), {}) for place, row in enumerate(rows)]
    assert {choice.member for choice in make_baseline("best-member").decide(cases)} == {"b"}
    named = make_baseline("best-member:c").decide([*cases, Case("4", candidates("Rome"), {})])
    assert [choice.member for choice in named] == ["c", "c", "c", "a"]
    assert named[0].asked == ("c",)


def test_the_ranker_takes_what_all_members_together_find_likeliest_a_byte() -> None:
    logps = {"a": {" Rome": -5.0, " Venice": -14.0}, "b": {" Rome": -30.0, " Venice": -7.0}, "c": {}}
    panel = ScriptedPanel(lambda judge, text, ending: logps[judge].get(ending, -21.0))
    given = candidates(" Rome", " Venice", " Rome")
    choice = decided("ranker", given, panel)
    rome, venice = (-5 / 5 - 30 / 5 - 21 / 5) / 3, (-14 / 7 - 7 / 7 - 21 / 7) / 3
    assert rome < venice
    assert choice.member == "b"
    assert choice.confidence == pytest.approx(math.exp(venice), abs=1e-6)
    assert {text for _, text, _ in panel.asked} == {"An example. Who?"}, "answers follow the whole prompt"


def test_the_ranker_reads_choices_off_what_is_known_of_them() -> None:
    class Untouched(ScriptedPanel):
        def score(self, *_: object) -> Any:
            raise AssertionError("nothing has to be computed")

    asked = question((" no", " perhaps"))
    given = {"a": picked("a", -3.0, -9.5), "b": picked("b", -9.0, -8.0)}
    case = case_of("ranker", given, Untouched(), asked)
    assert case.evidence["logp"] == {"a": {"a": -1.0, "b": round(-9.5 / 8, 6)}, "b": {"a": -3.0, "b": -1.0}}
    assert decided("ranker", given, Untouched(), asked).member == "b"


def test_standardised_scores_let_no_member_speak_louder_than_another() -> None:
    """A member whose likelihoods differ a hundred times as much decides alone, but where they are standardised."""
    given = candidates(" Rome", " Oslo")
    loud = [{"a": {"a": 0.0, "b": -10.0}, "b": {"a": -0.3, "b": 0.0}, "c": {"a": -0.2, "b": 0.0}}]
    calm = [{"a": {"a": -10.0, "b": 0.0}, "b": {"a": 0.0, "b": -0.1}, "c": {"a": 0.0, "b": -0.1}}]
    cases = [Case(str(place), given, {"logp": told}) for place, told in enumerate(loud + calm)]
    assert [choice.member for choice in make_baseline("ranker").decide(cases)] == ["a", "b"]
    assert [choice.member for choice in make_baseline("ranker standardised").decide(cases)] == ["b", "a"]


@pytest.mark.parametrize(
    "words", ["genrm", "genrm:b", "self-evaluation", "self-evaluation:b nota", "cycles-of-thought"]
)
@pytest.mark.parametrize("liked", ["Rome", "Paris", "Oslo"])
def test_judges_that_know_the_answer_find_it(words: str, liked: str) -> None:
    given = candidates(" Rome", " Paris", " Oslo")
    panel = ScriptedPanel(liking(liked))
    choice = decided(words, given, panel)
    assert given[choice.member].answer == liked
    assert choice.confidence > 1 / 3
    assert {judge for judge, _, _ in panel.asked} == ({"b"} if ":b" in words else set(MEMBERS))


def test_a_verifiers_score_is_yes_held_against_no() -> None:
    odds = {"a": math.log(3), "b": 0.0, "c": -math.log(3)}
    panel = ScriptedPanel(lambda judge, text, ending: -20 + (odds[judge] if ending == " Yes" else 0.0))
    case = case_of("genrm", candidates(" Rome"), panel)
    assert case.evidence == {"yes": {"a": {"a": 0.75}, "b": {"a": 0.5}, "c": {"a": 0.25}}}
    assert decided("genrm", candidates(" Rome"), panel).confidence == pytest.approx(0.5)


@given(
    knowledge=st.lists(st.floats(-3, 3), min_size=2, max_size=3),
    bias=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_a_liking_for_a_place_cancels_exactly(knowledge: list[float], bias: list[float]) -> None:
    """Judges that add a number for what an answer is and one for where it stands are left with the first."""
    texts = ["Rome", "Paris", "Oslo"][: len(knowledge)]

    def likelihood(judge: str, text: str, ending: str) -> float:
        line = next(line for line in text.splitlines() if line.startswith(ending.strip()))
        return knowledge[texts.index(line[4:])] + bias["ABC".index(ending[2])] - 9

    evidence = case_of("self-evaluation", candidates(*texts), ScriptedPanel(likelihood)).evidence
    for told in evidence["p"].values():
        assert [told[name] for name in sorted(told)] == pytest.approx(shares(knowledge), abs=2e-6)


def test_none_of_the_above_stands_last_and_takes_its_share() -> None:
    def likelihood(judge: str, text: str, ending: str) -> float:
        assert text.index(NOTA) > text.index("Rome")
        return math.log(0.5) if f"{ending.strip()} {NOTA}" in text else math.log(0.25)

    panel = ScriptedPanel(likelihood)
    assert decided("self-evaluation nota", candidates("Rome", "Paris"), panel).confidence == pytest.approx(0.25)
    assert decided("self-evaluation nota", candidates("Rome", "Rome"), panel).confidence == pytest.approx(1 / 3)
    assert decided("self-evaluation", candidates("Rome", "Rome"), panel).confidence == 1.0


def test_answers_that_are_letters_themselves_get_digits_for_labels() -> None:
    panel = ScriptedPanel()
    case_of("self-evaluation", candidates("(C)", "(D)"), panel)
    assert {ending for _, _, ending in panel.asked} == {" (1)", " (2)"}
    assert "(1) (C)\n(2) (D)" in panel.asked[0][1]


def test_choices_are_judged_by_their_words() -> None:
    panel = ScriptedPanel()
    given = {"a": picked("a", -1.0, -2.0), "b": picked("b", -2.0, -1.0)}
    case_of("self-evaluation", given, panel, question((" in Rome", " in Oslo")))
    assert "Who?\n\nPossible answers:\n(A) in Rome\n(B) in Oslo\n" in panel.asked[0][1]


def test_a_question_without_words_is_read_off_its_prompt() -> None:
    turns = ({"role": "user", "content": "Where?"}, {"role": "assistant", "content": "x"})
    assert question_words(question()) == "Who?"
    assert question_words(question(words="")) == "An example. Who?"
    assert question_words(question(words="", prompt=Prompt(messages=turns))) == "Where?"


def test_explanations_weigh_as_much_as_they_are_believed() -> None:
    """A judge answers Rome behind its first explanation, Oslo behind its second, and believes the second."""

    def likelihood(judge: str, text: str, ending: str) -> float:
        first = "(1)." in text
        if ending in (" True", " False"):
            return math.log(0.2 if (ending == " True") == first else 0.8)
        line = next(line for line in text.splitlines() if line.startswith(ending.strip()))
        return math.log(0.9 if ("Rome" in line) == first else 0.1)

    panel = ScriptedPanel(likelihood)
    given = candidates("Rome", "Oslo")
    evidence = case_of("cycles-of-thought:2", given, panel).evidence
    assert evidence["weights"]["a"] == [0.2, 0.8]
    assert evidence["p"]["a"] == {"a": pytest.approx(0.2 * 0.9 + 0.8 * 0.1), "b": pytest.approx(0.2 * 0.1 + 0.8 * 0.9)}
    assert decided("cycles-of-thought:2", given, panel).member == "b"
    places = [text.index("Rome") < text.index("Oslo") for _, text, ending in panel.asked if ending == " (A)"]
    assert set(places) == {True, False}, "answers change places"


@given(
    rows=st.lists(st.lists(st.lists(st.floats(0, 1), max_size=4), min_size=1, max_size=3), min_size=1, max_size=12),
    share=st.floats(0, 1),
    quantile=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_a_cascade_defers_the_share_that_it_is_asked_for(
    rows: list[list[list[float]]], share: float, quantile: float
) -> None:
    cases = [
        Case(str(place), {name: said(name, "x", 1) for name in MEMBERS[: len(row)]}, {})
        for place, row in enumerate(rows)
    ]
    cases = [
        replace(
            case,
            candidates={
                name: replace(answer, p=tuple(p))
                for (name, answer), p in zip(case.candidates.items(), row, strict=True)
            },
        )
        for case, row in zip(cases, rows, strict=True)
    ]
    choices = Cascade(quantile, share).decide(cases)
    here = list(range(len(rows)))
    for stage in range(3):
        able = [place for place in here if len(rows[place]) > stage + 1]
        gone = [place for place in able if len(choices[place].asked) > stage + 1]
        assert len(gone) == math.floor(share * len(able) + 0.5)
        unsure = [uncertainty(cases[place].candidates[MEMBERS[stage]], quantile) for place in able]
        sure = [value for place, value in zip(able, unsure, strict=True) if place not in gone]
        assert not gone or not sure or max(sure) <= min(v for p, v in zip(able, unsure, strict=True) if p in gone)
        here = gone
    assert all(choice.member == choice.asked[-1] for choice in choices)


def test_a_threshold_defers_what_is_above_it() -> None:
    rows = [((0.9, 0.9), (0.5,)), ((0.9, 0.1), (0.5,)), ((0.2, 0.2), (0.5,))]
    cases = [
        Case(str(place), {name: replace(said(name, "x"), p=p) for name, p in zip("ab", row, strict=True)}, {})
        for place, row in enumerate(rows)
    ]

    def members(words: str) -> str:
        return "".join(choice.member for choice in make_baseline(words).decide(cases))

    assert members("cascade:1 threshold:2") == "aba"  # -log 0.1 is 2.3
    assert members("cascade:0 threshold:1") == "aab"  # the surest piece
    assert members("cascade share:0") == "aaa"
    assert members("cascade share:1") == "bbb"


def test_uncertainty_is_a_quantile_of_a_texts_pieces_and_of_choices_their_own() -> None:
    text = replace(said("a", "x"), p=tuple(math.exp(-nats) for nats in (0.0, 1.0, 2.0, 3.0, 4.0)))
    assert [uncertainty(text, quantile) for quantile in (0, 0.25, 0.5, 1)] == pytest.approx([0, 1, 2, 4])
    assert uncertainty(picked("a", 0.0, math.log(3)), 0.8) == pytest.approx(-math.log(0.75))
    assert uncertainty(replace(text, p=()), 0.8) == -LEAST
    assert uncertainty(replace(text, p=(0.0,)), 0.8) == -LEAST


def synthetic(seed: int, cases: int = 250) -> tuple[list[Case], list[str]]:
    """Questions with two answers. One judge knows, two judges say Yes to everything and are loud about nothing."""
    numbers = np.random.default_rng(seed)
    made, right = [], []
    for place in range(cases):
        truth = [text if numbers.random() < 0.6 else wrong for text, wrong in (("x", "y"), ("x", "z"), ("x", "y"))]
        given = {
            name: said(name, text, float(np.clip(numbers.normal(0.6 if text == "x" else 0.5, 0.15), 0.01, 1)))
            for name, text in zip(MEMBERS, truth, strict=True)
        }
        told: dict[str, dict[str, float]] = {"a": {}, "b": {}, "c": {}}
        for option in options(given):
            knows = numbers.random() < 0.85
            told["a"][option] = 0.6 + 0.1 * ((given[option].answer == "x") == knows) + 0.02 * numbers.random()
            for fool in ("b", "c"):
                told[fool][option] = float(numbers.uniform(0.4, 1.0))
        made.append(Case(str(place), given, {"yes": told}))
        right.append("x")
    return made, right


@pytest.mark.parametrize("seed", range(5))
def test_skills_tell_the_judge_that_knows_and_beat_the_mean_of_all(seed: int) -> None:
    cases, right = synthetic(seed)
    said_NK, context_ND, judges = tabulate(cases)
    skills = learn(said_NK, context_ND)
    able = dict(zip(judges, skills.right_K + skills.wrong_K, strict=True))
    assert able["a"] > max(able["b"], able["c"]) + 0.1

    def correct(choices: Sequence[Choice]) -> int:
        chosen = zip(cases, choices, right, strict=True)
        return sum(case.candidates[choice.member].answer == truth for case, choice, truth in chosen)

    mean = correct(GenRM().decide(cases))
    assert correct(make_baseline("skill-aggregation").decide(cases)) > mean + 10


def test_skills_are_learned_down_the_true_slope() -> None:
    """The slope that training goes down, against differences of the loss it is said to be of."""
    numbers = np.random.default_rng(1)
    said_NK = numbers.random((9, 2))
    said_NK[3, 1] = np.nan
    context_ND = np.concatenate([np.ones((9, 1)), numbers.normal(size=(9, 2))], axis=1)
    values = numbers.normal(size=3 + 4)

    def loss(values: np.ndarray[Any, Any]) -> float:
        total = 0.0
        for row, context in zip(said_NK, context_ND, strict=True):
            p = 1 / (1 + math.exp(-float(context @ values[:3])))
            for judge in range(2):
                right, wrong = (1 / (1 + math.exp(-values[3 + judge + shift])) for shift in (0, 2))
                yes = p * right + (1 - p) * (1 - wrong)
                if not math.isnan(row[judge]):
                    total -= row[judge] * math.log(yes) + (1 - row[judge]) * math.log(1 - yes)
        return total / 9

    found, slopes = cross_entropy(values, said_NK, context_ND)
    assert found == pytest.approx(loss(values))
    for place, slope in enumerate(slopes):
        step = np.zeros(7)
        step[place] = 1e-5
        assert slope == pytest.approx((loss(values + step) - loss(values - step)) / 2e-5, abs=1e-7)


def test_judges_that_stretch_their_probabilities_change_no_skill() -> None:
    cases, _ = synthetic(0, 40)
    stretched = [
        replace(case, evidence={"yes": {name: {o: p**3 for o, p in row.items()} for name, row in told.items()}})
        for case in cases
        for told in [case.evidence["yes"]]
    ]
    baseline = make_baseline("skill-aggregation")
    assert baseline.decide(cases) == baseline.decide(stretched)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("majority", "majority"),
        ("cascade:0.8", "cascade"),
        ("cascade:0.5  share:0.25", "cascade:0.5 share:0.25"),
        ("cascade threshold:2", "cascade threshold:2"),
        ("cycles-of-thought:2 pieces:20 judge:smol", "cycles-of-thought:2 pieces:20 judge:smol"),
        ("self-evaluation:smol nota", "self-evaluation:smol nota"),
        ("best-member member:smol", "best-member:smol"),
        ("ranker standardised", "ranker standardised"),
    ],
)
def test_a_baselines_name_makes_it_again(words: str, name: str) -> None:
    baseline = make_baseline(words)
    assert baseline.name == name
    assert make_baseline(name) == baseline


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("majorty", "unknown baseline 'majorty'; did you mean 'majority'?; known: best-member, majority"),
        ("", "unknown baseline ''; known: best-member"),
        ("majority:3", "'majority' is given '3', but majority has no parameters"),
        ("cascade:x", "the parameter 'quantile' of 'cascade' is 'x': it must be a number from 0 to 1"),
        ("cascade:1.5", "the parameter 'quantile' of 'cascade' is 1.5: it must be a number from 0 to 1"),
        ("cascade shar:0.5", "unknown parameter 'shar' of 'cascade'; did you mean 'share'?"),
        ("cascade share", "the parameter 'share' of 'cascade' lacks its value"),
        ("cascade:", "the parameter 'quantile' of 'cascade' lacks its value"),
        ("cascade:0.5 quantile:0.6", "the parameter 'quantile' of 'cascade' is given twice"),
        ("cascade share:0.1 threshold:1", "a cascade defers by a share or by a threshold, not both"),
        ("self-evaluation nota:1", "the parameter 'nota' of 'self-evaluation' is a flag"),
        (
            "cycles-of-thought:2.5",
            "the parameter 'explanations' of 'cycles-of-thought' is 2.5: it must be a whole number",
        ),
    ],
)
def test_what_is_written_wrong_is_named(words: str, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        make_baseline(words)
    assert raised.value.message.startswith(message)
    assert raised.value.hint


@pytest.mark.parametrize(
    "words", ["best-member:smul", "genrm:smul", "self-evaluation:smul", "cycles-of-thought judge:smul"]
)
def test_a_judge_that_is_no_member_is_refused_before_anything_is_asked(words: str) -> None:
    with pytest.raises(SpecError, match=r"names 'smul', which is not a member that votes; did you mean 'smol'\?"):
        make_baseline(words).check(("smol", "gemma"))
    make_baseline(words).check(("smul",))


@pytest.mark.parametrize("words", ["ranker", "genrm", "self-evaluation", "skill-aggregation", "cycles-of-thought"])
def test_what_a_judge_cannot_read_is_an_error_of_the_question(words: str) -> None:
    class Deaf(ScriptedPanel):
        def score(self, system: System, asked: Sequence[tuple[Prompt, str]]) -> list[Score | UnisonoError]:
            return [PromptError("too long") for _ in asked]

    with pytest.raises(PromptError, match="too long"):
        make_baseline(words).gather(question(), candidates("Rome", "Oslo"), Deaf())  # type: ignore[arg-type]


@pytest.fixture
def panel() -> Iterator[ModelPool]:
    make_fakes()
    spec = {"members": [{"name": name, "model": f"fake:{name}"} for name in MEMBERS]}
    with ModelPool(EnsembleSpec.model_validate(spec), batch=2) as panel:
        panel.load_weights()
        yield panel
    FAKE_MODELS.clear()


@pytest.mark.parametrize("words", ALL)
@pytest.mark.parametrize("choices", [(), (" the cat", " sings", " dog")])
def test_members_judge_each_other_the_same_way_every_time(
    panel: ModelPool, words: str, choices: tuple[str, ...]
) -> None:
    asked = question(choices, prompt=Prompt(text="Then the dog"), words="What does the dog do?")
    given = {}
    for name, text in zip(MEMBERS, (" sings", " sees the cat", " sings"), strict=True):
        if choices:
            scores = panel.score(panel.member(name), [(asked.prompt, choice) for choice in choices])
            given[name] = picked(name, *(score.logp for score in scores if isinstance(score, Score)))
        else:
            given[name] = said(name, text)
    first = case_of(words, given, panel, asked)
    panel.forget()
    assert case_of(words, given, panel, asked).evidence == first.evidence
    (choice,) = make_baseline(words).decide([first])
    assert choice.member in given


def test_a_library_that_is_missing_is_found_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match="the baseline skill-aggregation needs scipy") as refused:
        make_baseline("skill-aggregation").check(MEMBERS)
    assert "unisono[evals]" in str(refused.value.hint)
    make_baseline("majority").check(MEMBERS)
    kinds = [{"name": name, "kind": "member"} for name in MEMBERS]
    systems = [*kinds, *({"name": name, "kind": "baseline"} for name in ("majority", "skill-aggregation"))]
    with pytest.raises(BackendMissing, match="needs scipy"):
        decide_all(Results({"systems": systems}, []))


def test_the_page_on_baselines_names_all_of_them_and_their_parameters() -> None:
    page = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text(encoding="utf-8")
    for name, kind in BASELINES.items():
        assert f"`{name}" in page, name
        assert kind.source.rpartition(" ")[2] in page, kind.source
        for parameter in fields(kind):
            assert parameter.name in page, parameter.name
