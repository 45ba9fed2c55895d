"""unisono eval, tune and match, in this process, on fake members and small files of questions."""

from __future__ import annotations

import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.command_line import Run
from support.eval_data import write_data
from unisono.errors import SpecError
from unisono.evals.analysis.tune import Trial, _by_gain, _end_of_gates, _end_of_shares
from unisono.evals.results import check_same, read_results
from unisono.fitting.fit import Fit, FittedMember, Gain
from unisono.fusion.resampling import Interval
from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake

TASKS = "arc_easy,triviaqa"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.slow
def test_an_ensemble_is_asked_beside_its_members_and_its_variants(
    run: Run,
    duo: Path,
    data: Path,
    here: Path,
) -> None:
    words = ("eval", duo, "--tasks", TASKS, "--data", data, "--compare", "--variant", "gate=confidence:0.5 lead=b")
    shown = run(*words, "--variant", "weights=a:3", "--baseline", "majority", "--report", "out", "--limit", 5)
    assert shown.code == 0, shown.err
    for word in ("arc_easy", "triviaqa", "ensemble", "majority", "weights=a:3", "gate=confidence:0.5 lead=b"):
        assert word in shown.out
    results = read_results(here / "eval-duo")
    assert len(results.answers) == 2 * 5 * 6
    assert {path.name for path in (here / "out").iterdir()} == {"index.html", "report.md", "report.json", "plots"}
    again = run(*words, "--variant", "weights=a:3", "--baseline", "majority", "--limit", 5, "--json", "-q")
    assert again.err == ""
    assert "a: loaded" in shown.err
    assert "a: loaded" not in run(*words, "--variant", "weights=a:3", "--limit", 5).err
    figures = json.loads(again.out)
    assert [task["facts"]["name"] for task in figures["tasks"]] == TASKS.split(",")
    shares = {cell["system"]: cell["share"] for cell in figures["tasks"][0]["cells"]}
    assert (shares["a"], shares["ensemble"], shares["majority"]) == (None, 1.0, None)
    more = run(*words, "--variant", "weights=a:3", "--baseline", "majority", "--limit", 7, "-q")
    assert more.code == 0, more.err
    assert len(read_results(here / "eval-duo").answers) == 2 * 7 * 6
    fewer = run(*words, "--variant", "weights=a:3", "--limit", 2)
    assert "has answers to 14 questions, of which 4 were asked for now: the results cover all of them" in fewer.err
    assert "majority, which was not asked for now, is shown too" in fewer.err
    quiet = run("eval", duo, "--tasks", "arc_easy", "--data", data, "--limit", 2, "-q")
    assert "has answers to 14 questions, of which 2 were asked for now" in quiet.err
    names = "a, b, gate=confidence:0.5 lead=b, weights=a:3 and majority"
    assert f"{names}, which were not asked for now, are shown too" in quiet.err
    assert read_results(here / "eval-duo").answers[:60] == results.answers
    told = run("report", "eval-duo", "--out", "again")
    assert (told.code, told.out, "report: again/index.html" in told.err) == (0, more.out, True)
    assert json.loads(run("report", "eval-duo", "--json", "-q").out)["headline"]
    page = Path(__file__).parents[2] / "docs" / "report.md"
    [example] = re.findall(r"(?s)```python\n(.*?)```", page.read_text())
    names: dict[str, Any] = {}
    exec(example, names)
    names["show"](here / "eval-duo")
    assert (here / "out" / "index.html").read_text() == (here / "again" / "index.html").read_text()
    refused = run("report", "out")
    assert (refused.code, "'out' is not the folder of a run" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--tasks", "arc_eazy"), "no task 'arc_eazy'", "arc_easy"),
        (("--tasks", ","), "no task is named", "--tasks gsm8k,mmlu"),
        (("--tasks", "gsm8k"), "gsm8k.jsonl", ""),
        (("--tasks", "arc_easy", "--limit", 13), "limit is 13, but the task 'arc_easy' has 12 questions", "smaller"),
        (("--tasks", "arc_easy", "--variant", "lead=z"), "the lead 'z' is not a member", "a, b"),
        (("--tasks", "arc_easy", "--variant", "combine=mean", "--variant", "combine=mean"), "two systems", ""),
        (("--tasks", "arc_easy", "--baseline", "majorite"), "unknown baseline 'majorite'", ""),
        (("--tasks", "arc_easy", "--variant", "other.yaml"), "there is no ensemble file 'other.yaml'", ""),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_way_out(
    run: Run,
    duo: Path,
    data: Path,
    here: Path,
    words: tuple[Any, ...],
    message: str,
    hint: str,
) -> None:
    shown = run("eval", duo, "--data", data, "-q", *words)
    assert shown.code == 2
    assert message in shown.err
    assert hint in shown.err
    assert "Traceback" not in shown.err


def test_another_run_in_the_same_folder_is_refused(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("eval", duo, "--tasks", "piqa", "--data", data, "-q")
    assert run(*words, "--limit", 3).code == 0
    before = (here / "eval-duo" / "answers.jsonl").read_bytes()
    shown = run(*words, "--limit", 3, "--shots", 0, "--batch", 2)
    assert shown.code == 2
    assert "holds a run with another batch: 1, not 2" in shown.err
    duo.write_text(duo.read_text() + "combine: geometric\n")
    refused = run(*words, "--limit", 3).err
    assert "holds a run with another spec: line " in refused
    assert " is null, not 'combine: geometric'" in refused
    long = {"a": "x" * 100, "name": "one"}
    with pytest.raises(SpecError, match=r"'name': 'one'}, not .*'name': 'two'}"):
        check_same(here, {"spec": long}, {"spec": long | {"name": "two"}})
    assert (here / "eval-duo" / "answers.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_tuned_ensemble_is_not_evaluated_on_what_it_was_tuned_on(
    run: Run,
    duo: Path,
    data: Path,
    here: Path,
) -> None:
    shown = run("tune", duo, "--task", "arc_easy,piqa", "--data", data, "--limit", 5, "--json", "-q")
    assert shown.code == 0, shown.err
    search = json.loads(shown.out)
    tuned = duo.with_name("duo-tuned.yaml")
    content = yaml.safe_load(tuned.read_text())
    assert [each["last"] for each in content["tuned_on"]] == [5, 5]
    assert {trial["stage"] for trial in search["trials"]} == {"fit", "rule", "weights", "gate"}
    assert (search["fit"]["answers"], search["fit"]["held_out"]) == (8, 2)
    best = max(trial["accuracy"] for trial in search["trials"] if trial["stage"] != "gate")
    assert next(trial for trial in search["trials"] if trial["setting"] == search["setting"])["accuracy"] >= best
    assert json.loads((here / "tune-duo" / "search.json").read_text()) == json.loads(shown.out)
    asked = {(answer.task, answer.question) for answer in read_results(here / "tune-duo").answers}
    assert len(asked) == 10
    words = ("eval", tuned, "--tasks", "arc_easy,piqa", "--data", data, "-q")
    shown = run(*words, "--variant", duo, "--out", "evaluated")
    assert shown.code == 0, shown.err
    reported = {(answer.task, answer.question) for answer in read_results(here / "evaluated").answers}
    assert len(reported) == 14
    assert not asked & reported
    assert {answer.system for answer in read_results(here / "evaluated").answers} == {"ensemble", "duo.yaml"}
    shown = run("eval", tuned, "--tasks", "arc_easy", "--data", data, "-q", "--limit", 8)
    assert "has 7 questions beside the 5 that the ensemble was tuned on" in shown.err
    beside = run("eval", duo, "--tasks", "arc_easy,piqa", "--data", data, "--variant", tuned, "--out", "beside", "-q")
    assert beside.code == 0, beside.err
    assert {(answer.task, answer.question) for answer in read_results(here / "beside").answers} == reported
    before = json.loads(run("tune", duo, "--task", "arc_easy,piqa", "--data", data, "--limit", 5, "--json", "-q").out)
    assert before == search
    again = ("tune", tuned, "--task", "piqa,arc_easy", "--data", data, "--limit", 3, "--stages", "rule", "-q")
    assert run(*again, "--out", tuned.with_name("again.yaml")).code == 0
    content = yaml.safe_load(tuned.with_name("again.yaml").read_text())
    assert {each["task"]: each["last"] for each in content["tuned_on"]} == {"arc_easy": 5, "piqa": 5}


def test_baselines_need_somebody_to_choose_among(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("--tasks", "arc_easy", "--data", data, "--limit", 2, "-q")
    duo.write_text("members:\n  - {name: a, model: 'fake:a'}\n")
    assert "the ensemble has one" in run("eval", duo, *words, "--baseline", "majority").err
    duo.write_text("members:\n  - {name: majority, model: 'fake:a'}\n  - {name: b, model: 'fake:b'}\n")
    assert "two systems are named 'majority'" in run("eval", duo, *words, "--baseline", "majority").err
    shown = run("eval", duo, *words, "--baseline", "cascade", "--baseline", "cascade:0.8")
    assert shown.code == 0, shown.err


@pytest.mark.parametrize("verb", ["eval", "tune"])
def test_questions_that_are_examples_in_their_own_prompts_are_named(
    run: Run, duo: Path, data: Path, here: Path, verb: str
) -> None:
    examples = data / "shots" / "arc_easy.train.jsonl"
    examples.write_bytes((data / "arc_easy.jsonl").read_bytes())
    words = ("--data", data, "--limit", 2, "-q", *(("--stages", "rule") if verb == "tune" else ("--report", "report")))

    def said(name: str, shots: int) -> str:
        """What a run of its own says."""
        ensemble = duo.with_name(f"{name}.yaml")
        ensemble.write_bytes(duo.read_bytes())
        shown = run(verb, ensemble, "--task" if verb == "tune" else "--tasks", "arc_easy", *words, "--shots", shots)
        assert shown.code == 0, shown.err
        return shown.err + ((here / "report" / "report.md").read_text("utf-8") if verb == "eval" else "")

    all_own, stand = said("all", 12), "stand, with their answers, among the examples of their own prompts"
    assert f"arc_easy: 2 of 2 questions {stand} (" in all_own
    assert (f"2 of the questions {stand}" in all_own) == (verb == "eval")
    assert "stand" not in said("none", 0)
    lines = examples.read_text("utf-8").splitlines(keepends=True)
    examples.write_text("".join(line.replace("Which of these", "Which of those") for line in lines), "utf-8")
    assert "stand" not in said("other", 2)


def test_nothing_is_left_out_of_another_file_and_that_is_said(run: Run, duo: Path, data: Path, here: Path) -> None:
    shown = run("tune", duo, "--task", "piqa", "--data", data, "--stages", "rule")
    assert "piqa: 6 questions, half of those that there are" in shown.err
    assert f"unisono eval {duo.with_name('duo-tuned.yaml')} --tasks piqa --data {data} --compare" in shown.err
    words = ("eval", duo.with_name("duo-tuned.yaml"), "--tasks", "piqa", "--data", data, "--out")
    assert "nothing is left out" not in run(*words, "one").err
    assert len(read_results(here / "one").answers) == 6
    with (data / "piqa.jsonl").open("a") as file:
        file.write("\n")
    assert "piqa: tuned on piqa of piqa.jsonl sha256:" in run(*words, "other", "-q").err
    told = read_results(here / "other").about["tuned_on"]
    assert [(each["task"], each["may_be_asked"]) for each in told] == [("piqa", True)]
    assert len(read_results(here / "other").answers) == 12


def test_as_many_are_answered_at_once_as_is_asked_for(run: Run, duo: Path, data: Path, here: Path) -> None:
    shown = run("eval", duo, "--tasks", "triviaqa", "--data", data, "--batch", 12, "-q")
    assert shown.code == 0, shown.err
    assert {times.at_once for times in read_results(here / "eval-duo").times} == {12}
    shown = run("tune", duo, "--task", "triviaqa", "--data", data, "--batch", 3, "--stages", "rule", "-q")
    assert shown.code == 0, shown.err
    assert {times.at_once for times in read_results(here / "tune-duo").times} == {3}
    shown = run("tune", duo, "--task", "triviaqa", "--data", data, "--stages", "rule", "-q")
    assert "holds a run with another batch" in shown.err


def test_who_has_one_question_can_tune_on_none(run: Run, duo: Path, data: Path, here: Path) -> None:
    file = data / "piqa.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    shown = run("tune", duo, "--task", "piqa", "--data", data, "-q")
    assert (shown.code, "the task 'piqa' has one question" in shown.err) == (2, True)
    source = f"piqa.jsonl sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    spec = yaml.safe_load(duo.read_text()) | {"tuned_on": [{"task": "piqa", "source": source, "last": 1}]}
    duo.write_text(yaml.safe_dump(spec))
    shown = run("eval", duo, "--tasks", "piqa", "--data", data, "-q")
    assert (shown.code, "tuned on all 1 questions of the task 'piqa'" in shown.err) == (2, True)


def test_a_search_takes_no_file_for_another(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("tune", duo, "--task", "piqa", "--data", data, "-q")
    assert "the ensemble file itself" in run(*words, "--out", duo).err
    assert "--stages is 'rules'" in run(*words, "--stages", "rules").err
    assert "unknown gate 'margn:1'; did you mean 'margin'" in run(*words, "--gates", "confidence:0.5,margn:1").err
    assert "--gates has 'margin:0.1 boundary'" in run(*words, "--gates", "margin:0.1 boundary").err


def test_a_search_begins_with_a_fit_and_goes_on_from_it(
    run: Run, duo: Path, data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy.optimize")
    monkeypatch.setattr("unisono.evals.analysis.tune._best", lambda trials: trials[min(1, len(trials) - 1)])
    tasks = ("--tasks", "arc_easy,piqa", "--data", data, "--limit", 5, "-q", "--json")
    shown = run("tune", duo, *tasks, "--stages", "fit,rule", "--out", "tuned.yaml")
    assert shown.code == 0, shown.err
    search, members = json.loads(shown.out), yaml.safe_load(Path("tuned.yaml").read_text())["members"]
    fitted = json.loads(run("fit", duo, *tasks, "--out", "fitted.yaml").out)["members"]
    numbers = [{key: each[key] for key in ("weight", "temperature")} for each in fitted]
    assert [{key: each[key] for key in ("weight", "temperature")} for each in members] == numbers
    assert search["fit"]["members"] == fitted
    start = search["trials"][1]["setting"]
    assert start.startswith(("lead=a weights=a:", "lead=b weights=a:"))
    assert [trial["setting"] for trial in search["trials"][2:]] == [
        f"{start} combine={rule}" for rule in ("geometric", "mean,weights:entropy", "mean,weights:consistency")
    ]
    content = yaml.safe_load(Path("tuned.yaml").read_text())
    assert (content["fitted"]["answers"], set(content["fitted"]["models"])) == ([], {"a", "b"})
    assert "# fit: 3 numbers on 8 answers\n# fit: held out, " in Path("tuned.yaml").read_text()
    assert run("eval", "tuned.yaml", "--tasks", "piqa", "--data", data, "-q", "--out", "after").code == 0
    assert len(read_results(here / "after").answers) == 7


@pytest.mark.parametrize(("gain", "first"), [(0.1, "lead=b w"), (-0.1, "")])
def test_of_two_that_are_right_equally_often_the_fit_is_taken_where_it_shows_a_gain(gain: float, first: str) -> None:
    gains = (Gain("as it was", gain, Interval(gain - 0.05, gain + 0.05), 20),)
    members = tuple(FittedMember(name, 0.5, 1.25, {}) for name in "ab")
    order = _by_gain(Fit("mean", "likelihood", "b", members, 3, 60, 20, {}, {}, gains))
    assert (order[0][:8], set(order)) == (first, {"", "lead=b weights=a:0.5,b:0.5 temperatures=a:1.25,b:1.25"})


def test_a_search_says_why_nothing_is_fitted(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("tune", duo, "--task", "piqa", "--data", data, "--limit", 3)
    refused = run(*words, "--stages", "fit,rule", "-q")
    assert (refused.code, "there are 3 reference answers: too few to fit" in refused.err) == (2, True)
    shown = run(*words, "--gates", "confidence:0.5")
    assert shown.code == 0, shown.err
    assert "nothing is fitted: there are 3 reference answers" in shown.err
    assert json.loads((here / "tune-duo" / "search.json").read_text())["fit"] is None


def test_a_search_tries_the_gates_that_it_is_told(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("tune", duo, "--task", "piqa", "--data", data, "--limit", 3, "--stages", "gate")
    tried = json.loads(run(*words, "--gates", "margin:0.2, entropy:0.3", "--json", "-q").out)["trials"]
    found = {trial["setting"] for trial in tried}
    assert found == {"", *(f"gate={gate} lead={lead}" for gate in ("margin:0.2", "entropy:0.3") for lead in "ab")}


def test_a_search_says_where_it_took_the_end_of_what_it_tried(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("tune", duo, "--task", "piqa", "--data", data, "--limit", 3, "--stages", "gate", "--gates")
    found = json.loads(run(*words, "margin:0.2,margin:0.1", "--json", "-q").out)
    assert bool(found["at_ends"]) == bool(found["setting"])
    trial = partial(Trial, "gate", accuracy=1.0, error=0.0, by_task={}, questions=1, seconds=0.0)
    trials = [
        trial(setting=f"gate={gate} lead={lead}", ensembled=ensembled)
        for gate, lead, ensembled in (("margin:0.1", "a", 0.2), ("margin:0.2", "a", 0.5), ("margin:0.1", "b", 0.1))
    ]
    assert "the gate margin:0.1 asks least of those" in _end_of_gates("margin:0.1", trials[0].setting, trials)
    assert _end_of_gates("margin:0.2", trials[1].setting, trials) == ""
    assert _end_of_shares("a", 0.8).startswith("a's share of the weights, 0.8, is the largest that was tried")
    assert _end_of_shares("a", 0.65) == ""


def test_models_are_matched_by_what_there_is_unless_more_is_asked_for(
    run: Run, duo: Path, data: Path, here: Path
) -> None:
    words = ("match", "a=fake:a", "b=fake:b", "--tasks", "piqa", "--data", data, "-q")
    assert run(*words).code == 0
    assert len(read_results(here / "match-a-b").answers) == 2 * 12
    assert "limit is 13, but the task 'piqa' has 12 questions" in run(*words, "--limit", 13).err
    few = run("match", "a=fake:a", "b=fake:b", "--tasks", "arc_easy", "--data", data, "-q", "--limit", 3, "--json")
    assert json.loads(few.out)["pairs"][0]["questions"] == 3


def test_models_are_matched_in_pairs(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("match", "one=fake:a", "fake:b", "fake:a", "--tasks", TASKS, "--data", data, "--limit", 6, "-q")
    shown = run(*words, "--json")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert len(found["pairs"]) == 3
    same = next(pair for pair in found["pairs"] if {pair["first"], pair["second"]} == {"one", "fake-a"})
    assert (same["gap"], same["one_right"], same["vocabulary_overlap"]) == (0, 0, 1)
    assert "UniTE" in run(*words).out
    both = run("match", "fake:a", "fake:a.b", "--tasks", TASKS, "--data", data, "-q")
    assert "two members" not in both.err
    assert "one model alone" in run("match", "fake:a", "--tasks", TASKS, "--data", data, "-q").err


def test_questions_are_asked_as_chats_only_of_members_that_read_chats(
    run: Run,
    duo: Path,
    data: Path,
    here: Path,
) -> None:
    words = ("eval", duo, "--tasks", "triviaqa", "--data", data, "--limit", 2, "--chat", "-q")
    assert run(*words).code == 0
    table = byte_level_table([" the"], chat_template=None)
    register_fake("base", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts), 3)))
    duo.write_text("members:\n  - {name: a, model: 'fake:a'}\n  - {name: base, model: 'fake:base'}\n")
    shown = run(*words, "--out", "other")
    assert shown.code == 2
    assert "task triviaqa: member 'base' has no chat template" in shown.err
