"""A run asks everybody everything exactly once, however often it is interrupted, with the same answers always."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.config.ensemble import EnsembleSpec, load_spec
from unisono.config.member import OF_PATHS
from unisono.ensemble import Ensemble
from unisono.errors import BackendMissing, ModelError, PromptError, SpecError
from unisono.evals import systems as make
from unisono.evals.baselines import Case, Choice
from unisono.evals.model_pool import ModelPool
from unisono.evals.records import Answer, Grade, Question, Reply, System, Task
from unisono.evals.results import ANSWERS, RunFolder, read_results
from unisono.evals.runner import _disputes, evaluate
from unisono.records import Generation, Limits
from unisono.step_records import StepRecord

SPEC = {"members": [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]}
ABOUT: dict[str, Any] = {"spec": "x", "tasks": [], "systems": []}


class Lengths:
    """A baseline that looks at how much the members wrote."""

    name: ClassVar[str] = "lengths"
    source: ClassVar[str] = "nobody"

    def check(self, members: Sequence[str]) -> None:
        assert members

    def gather(self, question: Question, candidates: Mapping[str, Answer], panel: ModelPool) -> dict[str, Any]:
        return {name: answer.pieces for name, answer in candidates.items()}

    def decide(self, cases: list[Case]) -> list[Choice]:
        return [Choice(next(iter(case.candidates)), 1.0, tuple(case.candidates)) for case in cases]


def grade_choice(reply: Reply) -> Grade:
    best = max(range(len(reply.choices)), key=lambda index: reply.choices[index][0])
    return Grade({"acc": float(best == 0)}, "ABCD"[best])


def grade_text(reply: Reply) -> Grade:
    assert reply.text is not None
    if "y" in reply.text:
        raise ModelError("this text breaks its grader")
    return Grade({"exact_match": float(len(reply.text) % 2)}, reply.text[:2])


def questions(task: str, count: int, *, choices: bool) -> list[Question]:
    return [
        Question(
            task,
            f"{task}_{index % 3}",
            f"{task}.{index}",
            Prompt(text=f"The cat {index} sat on the{' cat' * index}"),
            (" the cat", " sat", " on") if choices else (),
            Limits(6),
            "right",
            grade_choice if choices else grade_text,
            f"{index}?",
        )
        for index in range(count)
    ]


def tasks(count: int = 7) -> list[Task]:
    return [
        Task("choose", ("acc",), 0, "1", "here", questions("choose", count, choices=True)),
        Task("write", ("exact_match",), 0, "1", "here", questions("write", count, choices=False)),
    ]


@pytest.fixture(autouse=True)
def small_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.evals.model_pool.QUESTIONS", 3)


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


@pytest.fixture
def panel() -> Iterator[ModelPool]:
    with ModelPool(EnsembleSpec.model_validate(SPEC), batch=2) as panel:
        panel.load_weights()
        yield panel


def systems_of(panel: ModelPool) -> list[System]:
    settings = ("gate=confidence:0.6 lead=b", "combine=geometric", "weights=a:3,b:1", "sampling=0.8")
    return [*make.members(panel), make.ensemble(panel), *(make.variant(panel, setting) for setting in settings)]


def run(panel: ModelPool, folder: Path, count: int = 7, about: dict[str, Any] = ABOUT, **keys: Any) -> bytes:
    told: list[int] = []
    keys = {"systems": systems_of(panel), "baselines": [Lengths()], **keys}
    with RunFolder(folder, about) as opened:
        evaluate(panel, tasks(count), folder=opened, count=told.append, **keys)
    assert sum(told) == 2 * count * (len(keys["systems"]) + len(keys["baselines"]))
    return (folder / ANSWERS).read_bytes()


def test_a_task_whose_first_question_is_too_long_is_asked_all_the_same(panel: ModelPool, tmp_path: Path) -> None:
    asked = questions("long", 3, choices=False)
    asked[0] = replace(asked[0], prompt=Prompt(text=" cat" * 9000))
    with RunFolder(tmp_path / "run", ABOUT) as opened:
        task = Task("long", ("exact_match",), 0, "1", "here", asked)
        evaluate(panel, [task], [make.ensemble(panel)], opened)
        assert [answer.error is None for answer in opened.known.values()] == [False, True, True]
        with pytest.raises(PromptError, match=r"task long: .*tokens"):
            evaluate(panel, [replace(task, questions=asked[:1])], [make.ensemble(panel)], opened)


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("batch", [2, 8])
@pytest.mark.parametrize("choices", [False, True])
def test_a_model_reads_a_question_once_for_all_systems(
    tmp_path: Path, choices: bool, batch: int, neighbours: bool
) -> None:
    """Though there are slots for no more texts than are written at once."""
    for model in FAKE_MODELS.values():
        model.neighbours = neighbours
    asked = [
        replace(question, prompt=Prompt(text=f"The cat sat on {index} mats" + f" and cat {index}" * 12))
        for index, question in enumerate(questions("long", 8, choices=choices))
    ]
    spec = EnsembleSpec.model_validate(SPEC)
    with ModelPool(spec, batch=batch) as panel, RunFolder(tmp_path / "run", ABOUT) as opened:
        panel.load_weights()
        evaluate(panel, [Task("long", ("acc",), 0, "1", "here", asked)], systems_of(panel), opened)
    for name in panel.members:
        long = [feed for each in FAKE_MODELS[name].passes for feed in each.feeds if len(feed.ids) > 20]
        assert len(long) == len(asked)


def test_everybody_is_asked_everything_once_and_answers_as_alone(panel: ModelPool, tmp_path: Path) -> None:
    run(panel, tmp_path)
    results = read_results(tmp_path)
    keys = [(answer.task, answer.question, answer.system) for answer in results.answers]
    assert len(keys) == len(set(keys)) == 2 * 7 * (7 + 1)
    assert {(each.task, each.question, each.system) for each in results.times} == set(keys)
    by_key = dict(zip(keys, results.answers, strict=True))
    with Ensemble.load(SPEC, batch=4) as duo:
        for question in tasks()[1].questions:
            for system in systems_of(panel):
                if system.is_member or system.weights:
                    continue
                generation = duo.generate(
                    question.prompt.text,
                    max_new_tokens=6,
                    lead=system.method.lead,
                    gate=system.method.gate,
                    combine=system.method.combine,
                    draw=system.method.draw,
                    trace=True,
                )
                answer = by_key["write", question.id, system.name]
                assert answer.text == generation.text
                assert (answer.pieces, answer.ensembled) == (generation.usage.pieces, generation.usage.ensembled)
                assert answer.p == pytest.approx([step.p for step in generation.steps or ()], abs=2e-6)
                first_choices = [
                    {(position, piece, name, choice) for name, (choice, _) in members.items()}
                    for position, piece, _, members in map(astuple, _disputes(generation.steps or ()))
                ]  # of a whole trace
                assert first_choices == [
                    {(each.position, each.piece, name, choice) for name, (choice, _) in each.members.items()}
                    for each in answer.disputes
                ]
        for question in tasks()[0].questions:
            scores = duo.score(question.choices, question.prompt.text)
            assert by_key["choose", question.id, "ensemble"].choices == pytest.approx(
                [score.logp for score in scores], abs=1e-3
            )
    for question in tasks()[1].questions:
        evidence = by_key["write", question.id, "lengths"].evidence
        members = {name: by_key["write", question.id, name] for name in ("a", "b")}
        if evidence is not None:
            assert evidence == {name: each.pieces for name, each in members.items() if each.error is None}


def test_texts_that_are_written_together_share_the_time_by_their_pieces(panel: ModelPool) -> None:
    asked = [(Prompt(text="The cat"), Limits(pieces)) for pieces in (1, 6)]
    ensemble = make.ensemble(panel)
    one, six = (each for each in panel.generate(ensemble, asked) if isinstance(each, Generation))
    lengths = [len(each.steps or ()) for each in (one, six)]
    assert lengths[0] < lengths[1]
    assert one.seconds.total / lengths[0] == pytest.approx(six.seconds.total / lengths[1])


def test_what_is_certain_without_a_member_is_known_within_bounds(panel: ModelPool, tmp_path: Path) -> None:
    gates = [make.variant(panel, f"weights=a:9,b:1 gate={gate}") for gate in ("certain", "always")]
    with RunFolder(tmp_path, ABOUT) as opened:
        evaluate(panel, tasks(5), gates, opened)
    found = {(each.system, each.question): each for each in read_results(tmp_path).answers}
    bounded = 0
    for question in tasks(5)[1].questions:
        certain, always = (found[each.name, question.id] for each in gates)
        assert (certain.text, always.at_most) == (always.text, ())
        assert certain.confidence <= always.confidence + 1e-6
        assert always.confidence <= certain.confidence_most + 1e-6
        bounded += certain.confidence + 0.01 < certain.confidence_most
    assert bounded
    assert not any(each.at_most for each in found.values() if each.choices)


def test_one_member_alone_is_its_own_ensemble(panel: ModelPool, tmp_path: Path) -> None:
    run(panel, tmp_path)
    found = {(each.task, each.question, each.system): each for each in read_results(tmp_path).answers}
    for name in ("a", "b"):
        with Ensemble.load({"members": [{"name": name, "model": f"fake:{name}"}]}) as alone:
            for question in tasks()[1].questions:
                text = alone.generate(question.prompt.text, max_new_tokens=6).text
                assert found["write", question.id, name].text == text


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_run_that_was_cut_off_anywhere_ends_as_one_that_was_not(
    places: list[float], panel: ModelPool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = run(panel, tmp_path_factory.mktemp("whole"))
    folder = tmp_path_factory.mktemp("cut")
    run(panel, folder)
    for cut in (places[:2], places[2:]):
        for name, place in zip((ANSWERS, "times.jsonl"), cut, strict=True):
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: round(place * len(content))])
        assert run(panel, folder) == whole
    times = read_results(folder).times
    assert {(each.task, each.question, each.system) for each in times} <= {
        (each.task, each.question, each.system) for each in read_results(folder).answers
    }


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_run_that_is_cut_off_while_it_grows_ends_as_one_that_was_not(
    panel: ModelPool, tmp_path: Path, place: float
) -> None:
    """What was begun is then asked anew by waves, and what others have answered before is not."""
    few = [*make.members(panel), make.ensemble(panel)]
    for name in ("whole", "cut"):
        run(panel, tmp_path / name, systems=few, baselines=[])
    begun = (tmp_path / "cut" / ANSWERS).read_bytes()
    whole = run(panel, tmp_path / "whole")
    grown = whole[len(begun) :]
    times = (tmp_path / "whole" / "times.jsonl").read_bytes().splitlines(keepends=True)
    written = begun + grown[: round(place * len(grown))]
    keys = [(each.key, each.wave) for each in read_results(tmp_path / "whole").times]
    last = max(wave for key, wave in keys[: max(1, written.count(b"\n"))])
    (tmp_path / "cut" / ANSWERS).write_bytes(written)
    told = [line for line, (_, wave) in zip(times, keys, strict=True) if wave <= last + (place < 1)]
    (tmp_path / "cut" / "times.jsonl").write_bytes(b"".join(told))
    asked: list[str] = []
    panel_generate = panel.generate
    panel.generate = lambda system, what: asked.append(system.name) or panel_generate(system, what)  # type: ignore
    assert run(panel, tmp_path / "cut") == whole
    assert not {system.name for system in few} & set(asked)


def test_a_folder_that_was_cut_off_while_it_was_made_can_be_gone_on_with(panel: ModelPool, tmp_path: Path) -> None:
    (tmp_path / "run.new").write_text("{")
    (tmp_path / ".lock").write_text("")
    assert run(panel, tmp_path)


def test_a_run_goes_on_with_the_same_models_and_tells_how_it_was_gone_on_with(tmp_path: Path) -> None:
    first = {**ABOUT, "models": {"a": {"name": "a.gguf", "sha256": "1"}}, "command": "one", "date": "2026-01-01"}
    second = {**first, "command": "two"}
    for about in (first, second, first, second):
        with RunFolder(tmp_path, about):
            pass
    told = read_results(tmp_path).about
    assert (told["command"], [each["command"] for each in told["earlier"]]) == ("two", ["one"])
    other = {**first, "models": {"a": {"name": "a.gguf", "sha256": "2"}}}
    with pytest.raises(SpecError, match="holds a run in which 'a' was another model"):
        RunFolder(tmp_path, other)
    for tuned in ([{"task": "t"}], [], [{"task": "t"}, {"task": "u"}]):
        with RunFolder(tmp_path, {**first, "tuned_on": tuned}):
            pass
    assert read_results(tmp_path).about["tuned_on"] == [{"task": "t"}, {"task": "u"}]
    tasks = [{"name": "t", "examples": "x sha256:1"}]
    with RunFolder(tmp_path, {**first, "tasks": tasks}):
        pass
    with pytest.raises(SpecError, match="in which task 't' had another examples"):
        RunFolder(tmp_path, {**first, "tasks": [{"name": "t", "examples": "x sha256:2"}]})


@pytest.mark.parametrize("choices", [False, True])
def test_a_model_that_fails_at_one_text_loses_no_other(tmp_path: Path, choices: bool) -> None:
    """Whether it is its prompt or what is being written; the others are what they are without it."""
    asked = questions("some", 6, choices=choices)
    model = FAKE_MODELS["a"]
    rule = model.next_token
    cat = FAKE_MODELS["a"].tokenizer.encode("The cat 3 sat on the cat cat cat")
    assert cat

    def failing(read: tuple[int, ...]) -> Any:
        if read[: len(cat)] == tuple(cat) and len(read) > len(cat):
            raise RuntimeError("no more memory")
        return rule(read)

    spec = EnsembleSpec.model_validate(SPEC)
    found: list[list[Answer]] = []
    for name, next_token in (("sound", rule), ("broken", failing)):
        model.next_token = next_token
        with ModelPool(spec, batch=4) as panel, RunFolder(tmp_path / name, ABOUT) as opened:
            panel.load_weights()
            evaluate(panel, [Task("some", ("acc",), 0, "1", "here", asked)], [make.ensemble(panel)], opened)
        found.append(list(read_results(tmp_path / name).answers))
    assert len(found[1]) == 6
    for sound, broken in zip(*found, strict=True):
        if broken.question == "some.3":
            assert "no more memory" in str(broken.error)
        else:
            assert sound == broken


def test_more_questions_and_more_systems_join_what_is_there(panel: ModelPool, tmp_path: Path) -> None:
    few = [*make.members(panel), make.ensemble(panel)]
    run(panel, tmp_path / "grown", count=4, systems=few, baselines=[])
    run(panel, tmp_path / "grown", count=7)
    run(panel, tmp_path / "whole", count=7)
    grown, whole = (sorted((tmp_path / name / ANSWERS).read_bytes().splitlines()) for name in ("grown", "whole"))
    assert grown == whole
    waves: dict[str, dict[tuple[str, str], set[int]]] = {"grown": {}, "whole": {}}
    for name, own in waves.items():
        for each in read_results(tmp_path / name).times:
            own.setdefault((each.task, each.question), set()).add(each.wave)
    assert all(len(own) == 1 for own in waves["whole"].values()), "all were asked side by side"
    assert sum(len(own) == 2 for own in waves["grown"].values()) == 2 * 4, "and are known not to have been"


def test_tasks_that_are_asked_later_join_those_that_are_there(panel: ModelPool, tmp_path: Path) -> None:
    for task in tasks(3):
        with RunFolder(tmp_path, {**ABOUT, "tasks": [{"name": task.name}]}) as folder:
            evaluate(panel, [task], [make.ensemble(panel)], folder)
    about = read_results(tmp_path).about
    assert {each["name"]: len(each["questions"]) for each in about["tasks"]} == {"choose": 3, "write": 3}
    assert about["examples"]["choose"]["choose.1"]["prompt"] == "1?"


def test_one_bad_question_does_not_lose_the_others(panel: ModelPool, tmp_path: Path) -> None:
    given = tasks()
    bad = [
        replace(given[0].questions[1], prompt=Prompt(text="x" * 9000)),
        replace(given[1].questions[1], prompt=Prompt(text="x" * 9000)),
    ]
    for task, question in zip(given, bad, strict=True):
        task.questions[1] = question  # type: ignore[index]
    with RunFolder(tmp_path, ABOUT) as folder:
        evaluate(panel, given, systems_of(panel), folder)
    for answer in read_results(tmp_path).answers:
        if answer.question.endswith(".1"):
            assert answer.error is not None
            assert "context" in answer.error
        elif answer.error is not None:
            assert "breaks its grader" in answer.error


def test_a_task_that_nobody_can_read_is_refused_before_anything_is_asked(panel: ModelPool, tmp_path: Path) -> None:
    task = tasks()[0]
    chat = replace(task.questions[0], prompt=Prompt(messages=({"role": "user", "content": "Hi"},)))
    for name in ("a", "b"):
        panel.prepared.members[("a", "b").index(name)].encoder.template = None
    with (
        RunFolder(tmp_path, ABOUT) as folder,
        pytest.raises(PromptError, match="task choose: member 'a' has no chat template"),
    ):
        evaluate(panel, [replace(task, questions=[chat])], systems_of(panel), folder)
    assert not read_results(tmp_path).answers


def test_a_folder_whose_baselines_cannot_decide_any_more_is_not_gone_on_with(
    panel: ModelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    earlier = {**ABOUT, "systems": [{"name": "skill-aggregation", "kind": "baseline"}]}
    with RunFolder(tmp_path, earlier) as opened:
        with pytest.raises(BackendMissing, match="the baseline skill-aggregation needs scipy"):
            evaluate(panel, tasks(), [make.ensemble(panel)], opened)
        assert not opened.known


def test_a_folder_is_written_by_one_run_alone(panel: ModelPool, tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "run", ABOUT),
        pytest.raises(SpecError, match="another process writes into"),
    ):
        RunFolder(tmp_path / "run", ABOUT)
    with pytest.raises(SpecError, match="holds a run with another spec"):
        RunFolder(tmp_path / "run", {**ABOUT, "spec": "y"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear")
    with pytest.raises(SpecError, match=r"it holds 'letter.txt'"):
        RunFolder(tmp_path / "mine", ABOUT)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot write into"):
        RunFolder(tmp_path / "file", ABOUT)
    with pytest.raises(SpecError, match="is not the folder of a run"):
        read_results(tmp_path / "mine")
    system = {"name": "a", "method": {"gate": 1}}
    with RunFolder(tmp_path / "run", {**ABOUT, "systems": [system]}):
        pass
    with pytest.raises(SpecError, match="in which system 'a' had another method"):
        RunFolder(tmp_path / "run", {**ABOUT, "systems": [{"name": "a", "method": {"gate": 2}}]})
    with RunFolder(tmp_path / "run", {**ABOUT, "systems": [{"name": "b", "method": {}}]}):
        pass
    assert [each["name"] for each in read_results(tmp_path / "run").about["systems"]] == ["a", "b"]


def test_answers_survive_being_written_down(panel: ModelPool, tmp_path: Path) -> None:
    run(panel, tmp_path)
    for answer in read_results(tmp_path).answers:
        assert Answer.from_json(answer.to_json()) == answer
        assert 0 <= answer.confidence <= 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("", "a variant is empty"),
        ("gate=perhaps", "perhaps"),
        ("lead=c", "the lead 'c' is not a member"),
        ("weights=a", "is not MEMBER:NUMBER"),
        ("weights=a:0", "is not MEMBER:NUMBER"),
        ("weights=z:1", "of no member that votes"),
        ("weights=a:1,a:2", "given twice"),
        ("temperatures=a", "the temperature 'a' is not MEMBER:NUMBER"),
        ("temperatures=a:1 temperatures=b:2", "the setting 'temperatures' is given twice"),
        ("weights=a:1 weights=b:2", "given twice"),
        ("colour=red", "unknown setting 'colour'"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(panel: ModelPool, setting: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make.variant(panel, setting)


def test_systems_have_names_of_their_own(panel: ModelPool) -> None:
    make.check_names(systems_of(panel))
    with pytest.raises(SpecError, match="two systems are named 'combine=geometric'"):
        make.check_names([make.variant(panel, "combine=geometric"), make.variant(panel, " combine=geometric ")])
    with pytest.raises(SpecError, match=r"two systems are named 'a'.*", check=lambda error: "member" in error.hint):
        make.check_names(systems_of(panel), ["a"])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model": "fake:b"}, "model"),
        ({"prefix": "Think."}, "prefix"),
        ({"system": "Be brief."}, "system"),
        ({"context": 64}, "context"),
    ],
)
def test_a_file_whose_members_are_others_is_no_variant(
    panel: ModelPool, tmp_path: Path, change: dict[str, Any], key: str
) -> None:
    file = tmp_path / "other.yaml"
    weighty = [{**each, "weight": 3} for each in SPEC["members"]]
    file.write_text(yaml.safe_dump({"members": weighty, "combine": "geometric"}))
    assert make.variant(panel, str(file)).name == "other.yaml"
    file.write_text(yaml.safe_dump({"members": [{**weighty[0], **change}, weighty[1]]}))
    with pytest.raises(SpecError, match=f"the member 'a' has another {key}"):
        make.variant(panel, str(file))


@pytest.mark.parametrize("key", OF_PATHS)
def test_paths_of_a_variant_are_compared_by_where_they_lead(tmp_path: Path, key: str) -> None:
    """The same words in two folders are two models, or adapters; other words for one path are one."""
    member = {"name": "m", "url": "http://127.0.0.1:1"} if key == "tokenizer" else {"name": "m", "model": "fake:a"}
    specs = {}
    for folder, words in (("a", "its"), ("b", "its"), ("c", "../a/its"), ("d", str(tmp_path / "a" / "its"))):
        (tmp_path / folder / "its").mkdir(parents=True)
        file = tmp_path / folder / "x.yaml"
        file.write_text(yaml.safe_dump({"members": [{**member, key: words}]}))
        specs[folder] = load_spec(file)
    for same in ("a", "c", "d"):
        make._check_same_member(specs["a"], specs[same], "m", tmp_path)
    with pytest.raises(SpecError, match=f"the member 'm' has another {key}"):
        make._check_same_member(specs["a"], specs["b"], "m", tmp_path)


def test_weights_of_a_variant_are_those_that_vote(panel: ModelPool) -> None:
    system = make.variant(panel, "weights=a:3,b:1")
    [generation] = panel.generate(system, [(Prompt(text="The cat"), Limits(3))])
    with Ensemble.load({"members": [{**SPEC["members"][0], "weight": 3}, SPEC["members"][1]]}) as heavy:
        expected = heavy.generate("The cat", max_new_tokens=3, trace=True)
    assert not isinstance(generation, Exception)
    assert [step.p for step in generation.steps or ()] == pytest.approx([step.p for step in expected.steps or ()])


def test_a_subtracted_member_is_no_voter_of_a_dispute_and_what_it_changes_is_one() -> None:
    tops = {"a": ((b"x", 0.9),), "b": ((b"x", 0.8),), "c": ((b"y", 0.7),)}
    agreed = StepRecord(b"x", 0.9, tuple(tops), {}, tops, subtracted=("c",))
    [changed] = _disputes([agreed, replace(agreed, piece=b"z")])
    assert (changed.position, changed.piece, set(changed.members)) == (1, "z", {"a", "b"})
