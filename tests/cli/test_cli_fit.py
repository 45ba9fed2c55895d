"""unisono fit, in this process, on fake members and small files of questions and answers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.command_line import Run
from support.eval_data import write_data, write_rows
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.cli.ensemble_file import write_ensemble
from unisono.cli.fit import words_of
from unisono.config.ensemble import load_spec
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.evals.analysis.references import read_answers
from unisono.evals.results import read_results
from unisono.fitting.bounds import HOTTEST, AtBound, at_bounds
from unisono.fitting.fit import Gain, _members, _parted
from unisono.fusion.fitting import Shape
from unisono.fusion.resampling import Interval
from unisono.identity import check_fitted, marks_of
from unisono.members import PreparedMember
from unisono.reference_answers import Reference, split
from unisono.vocab.spelling import Speller

pytest.importorskip("scipy.optimize")
ANSWERS: list[dict[str, object]] = [
    {"prompt": f"the cat {place}", "answer": f" sat on {'mat' * (place % 3)} {place}"} for place in range(12)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    write_rows(tmp_path / "answers.jsonl", ANSWERS)
    return tmp_path / "answers.jsonl"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("rule", ["mean", "geometric"])
def test_a_fitted_file_is_an_ensemble_that_says_what_it_was_fitted_on(
    run: Run, duo: Path, answers: Path, here: Path, rule: str
) -> None:
    shown = run("fit", duo, "--prompts", answers, "--rule", rule, "--out", "fitted.yaml", "--json", "-q")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    content = yaml.safe_load((here / "fitted.yaml").read_text())
    assert content.get("combine", "mean") == found["rule"] == rule
    assert (found["answers"], found["held_out"], found["parameters"]) == (9, 3, 3)
    assert set(found["nats"]) == {"a", "b", "as it was", "as fitted"}
    for member, its in zip(content["members"], found["members"], strict=True):
        assert (member["weight"], member["temperature"]) == (its["weight"], its["temperature"])
    assert content["fitted"]["answers"][0]["questions"] == [f"line {line}" for line in range(1, 13)]
    assert content["fitted"]["answers"][0]["source"].startswith("answers.jsonl sha256:")
    text = (here / "fitted.yaml").read_text()
    assert "12 answers" not in text.splitlines()[0]
    assert "9 answers, 3 held out: 3 numbers" in text.splitlines()[0]
    with Ensemble.load(here / "fitted.yaml") as fitted, Ensemble.load(duo) as before:
        prompt, answer = (str(ANSWERS[-1][key]) for key in ("prompt", "answer"))
        assert fitted.score(answer, prompt)[0].logp != before.score(answer, prompt)[0].logp


def test_who_leads_is_chosen_by_what_makes_the_answers_likeliest(
    run: Run, duo: Path, answers: Path, here: Path
) -> None:
    shown = run("fit", duo, "--prompts", answers, "--out", "fitted.yaml", "--json", "-q")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert set(found["leads"]) == {"a", "b"}
    assert found["lead"] == min(found["leads"], key=found["leads"].get)
    content = yaml.safe_load((here / "fitted.yaml").read_text())
    assert content.get("lead", "a") == found["lead"]
    fitted_on, _ = split(read_answers(answers)[0])
    with Ensemble.load(here / "fitted.yaml") as fitted:
        logp = sum(fitted.score(each.answer, each.prompt.text)[0].logp for each in fitted_on)
    nats = -logp / sum(len(each.answer.encode()) for each in fitted_on)
    assert nats == pytest.approx(found["leads"][found["lead"]], abs=1e-4)


@pytest.mark.parametrize("rule", ["mean", "geometric"])
def test_leads_are_tried_on_a_part_of_many_answers_and_all_are_fitted_on(
    run: Run, duo: Path, answers: Path, here: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("fit", duo, "--prompts", answers, "--rule", rule, "--json", "-q", "--out")
    with monkeypatch.context() as patched:
        patched.setattr("unisono.fitting.fit.TRIED", 4)
        some = json.loads(run(*words, "some.yaml").out)
    duo.write_text(duo.read_text() + f"lead: {some['lead']}\n")
    whole = json.loads(run(*words, "whole.yaml").out)
    assert (some["answers"], set(some["leads"])) == (9, {"a", "b"})
    assert [each["weight"] for each in some["members"]] == pytest.approx(
        [each["weight"] for each in whole["members"]], abs=0.01
    )
    assert some["nats"]["as fitted"] == pytest.approx(whole["nats"]["as fitted"], abs=1e-3)


@pytest.mark.parametrize("more", ["lead: b\n", "lead: b\ngate: confidence:0.5\n"])
def test_a_lead_that_is_named_is_kept(run: Run, duo: Path, answers: Path, here: Path, more: str) -> None:
    duo.write_text(duo.read_text() + more)
    shown = run("fit", duo, "--prompts", answers, "--out", "fitted.yaml", "--json", "-q")
    assert (json.loads(shown.out)["lead"], set(json.loads(shown.out)["leads"])) == ("b", {"b"})


def test_the_member_that_a_gate_looks_at_stays_the_lead(run: Run, duo: Path, answers: Path, here: Path) -> None:
    duo.write_text(duo.read_text() + "gate: confidence:0.5\n")
    shown = run("fit", duo, "--prompts", answers, "--out", "fitted.yaml", "--json", "-q")
    assert set(json.loads(shown.out)["leads"]) == {"a"}


def test_the_held_out_part_promises_no_more_than_it_shows(run: Run, duo: Path, answers: Path, here: Path) -> None:
    shown = run("fit", duo, "--prompts", answers, "--no-temperatures", "--out", "fitted.yaml", "-q")
    assert shown.code == 0, shown.err
    assert "1 numbers fitted on 9 answers, 3 held out" in shown.out
    lines = [line for line in shown.out.splitlines() if line.startswith("held out, ")]
    assert len(lines) == 2
    assert all("no gain is shown, as 3 held-out answers are too few (10 can show one)" in line for line in lines)


def test_a_gain_is_shown_by_an_interval_above_zero_over_ten_answers_at_least() -> None:
    above, around = Interval(0.1, 0.2), Interval(-0.1, 0.2)
    shown = [Gain("as it was", 0.1, *its) for its in ((above, 10), (above, 9), (around, 100))]
    assert [each.is_shown for each in shown] == [True, False, False]
    assert [words_of(each, "likelihood").partition(")")[2] for each in shown] == [
        "",
        ": no gain is shown, as 9 held-out answers are too few (10 can show one)",
        ": no gain is shown, and it may be no better",
    ]


def test_a_gain_of_choices_is_told_in_points() -> None:
    gain = Gain("as it was", 0.025, Interval(-0.01, 0.06), 80)
    words = "held out, 2.5 points of right answers better than it was (95 % interval -1.0 to +6.0)"
    assert words_of(gain, "choices") == f"{words}: no gain is shown, and it may be no better"


@pytest.mark.parametrize("rule", ["mean", "geometric"])
def test_choices_of_tasks_are_fitted_on(run: Run, duo: Path, data: Path, here: Path, rule: str) -> None:
    words = (
        "--tasks",
        "arc_easy,piqa",
        "--data",
        data,
        "--objective",
        "choices",
        "--rule",
        rule,
        "--out",
        "fitted.yaml",
    )
    shown = run("fit", duo, *words, "--json", "-q")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert found["objective"] == "choices"
    assert set(found["right"]) == set(found["nats"]) == {"a", "b", "as it was", "as fitted"}
    assert all(0 <= share <= 1 for share in found["right"].values())
    assert found["parameters"] == 1, "weights alone, unless temperatures are asked for"
    fitted = load_spec(here / "fitted.yaml")
    assert [each.weight for each in fitted.members] == [each["weight"] for each in found["members"]]
    table = run("fit", duo, *words, "--temperatures", "-q").out
    assert "3 numbers fitted" in table
    assert "% right" in table
    assert "to choose right answers" in table
    assert "points of right answers" in table


def test_choices_of_a_file_and_of_python_are_fitted_on(run: Run, duo: Path, tmp_path: Path, here: Path) -> None:
    rows = [{**each, "choices": [" no", each["answer"], " perhaps"]} for each in ANSWERS]
    write_rows(tmp_path / "choices.jsonl", rows)
    words = ("--prompts", tmp_path / "choices.jsonl", "--objective", "choices", "--out", "fitted.yaml", "--json", "-q")
    shown = run("fit", duo, *words)
    assert shown.code == 0, shown.err
    with Ensemble.load(duo) as ensemble:
        named = [{**each, "choices": each["choices"]} for each in rows]
        found = ensemble.fit(named, objective="choices")
    assert found.objective == json.loads(shown.out)["objective"]
    assert found.answers == json.loads(shown.out)["answers"]


@pytest.mark.parametrize(
    ("choices", "objective", "words"),
    [
        (None, "choices", "the reference line 1 has no wrong answers"),
        ([" no", " yes"], "choices", "line 1: answer is ' sat on  0', which is none of the choices"),
        ([" no", " no"], "likelihood", 'line 1: choices is [" no", " no"]: it must be two or more different texts'),
        ("abc", "likelihood", "line 1: choices is 'abc'"),
        ([" no", 3], "likelihood", 'line 1: choices is [" no", 3]'),
        (None, "accuracy", "the objective 'accuracy' cannot be fitted"),
    ],
)
def test_choices_that_are_none_are_named(
    run: Run, duo: Path, tmp_path: Path, here: Path, choices: object, objective: str, words: str
) -> None:
    rows = [each if choices is None else {**each, "choices": choices} for each in ANSWERS]
    write_rows(tmp_path / "choices.jsonl", rows)
    shown = run("fit", duo, "--prompts", tmp_path / "choices.jsonl", "--objective", objective, "-q")
    assert shown.code == 2
    assert words in shown.err.replace("\n", " ")


def test_an_evaluation_leaves_out_what_a_file_was_fitted_on(run: Run, duo: Path, data: Path, here: Path) -> None:
    words = ("--tasks", "arc_easy,piqa", "--data", data, "-q")
    shown = run("fit", duo, *words, "--limit", 5, "--out", "fitted.yaml")
    assert shown.code == 0, shown.err
    seen = {
        each["task"]: set(each["questions"])
        for each in yaml.safe_load(Path("fitted.yaml").read_text())["fitted"]["answers"]
    }
    for command in (("eval", "fitted.yaml"), ("eval", duo, "--variant", "fitted.yaml", "--compare")):
        shown = run(*command, *words, "--out", f"out-{len(command)}")
        assert shown.code == 0, shown.err
        results = read_results(here / f"out-{len(command)}").answers
        asked = {(answer.task, answer.question) for answer in results}
        assert len(asked) == 14
        assert not {(task, question) for task, its in seen.items() for question in its} & asked
        assert all(answer.error is None for answer in results)
    shown = run("eval", "fitted.yaml", *words, "--limit", 8)
    assert "has 7 questions beside the 5 that the ensemble was fitted on" in shown.err
    again = run("fit", "fitted.yaml", *words, "--limit", 4, "--out", "again.yaml")
    assert again.code == 0, again.err
    assert len(yaml.safe_load(Path("again.yaml").read_text())["fitted"]["answers"]) == 4


def test_a_file_whose_member_is_another_model_now_is_refused_until_it_is_fitted_again(
    run: Run, duo: Path, answers: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit", duo, "--prompts", answers, "--out", "fitted.yaml", "-q").code == 0
    content = yaml.safe_load(Path("fitted.yaml").read_text())
    content["fitted"]["models"]["b"]["revision"] = "12345"
    Path("fitted.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("unisono.identity._exact", lambda member: {"revision": "67890"})
    shown = run("run", "fitted.yaml", "x", "--raw", "-q")
    assert shown.code == 2
    assert "fitted on another model of member 'b': its revision was 12345, and is 67890" in shown.err
    again = run("fit", "fitted.yaml", "--prompts", answers, "--out", "again.yaml", "-q")
    assert again.code == 0, again.err
    assert "revision" not in yaml.safe_load(Path("again.yaml").read_text())["fitted"]["models"]["b"]


def test_a_model_on_another_device_or_in_another_dtype_is_the_same(duo: Path, tmp_path: Path) -> None:
    member = prepare(load_spec(duo)).members[0]

    def told(location: str = "hub/model", **facts: Any) -> PreparedMember:
        source = replace(member.source, location=location)
        return replace(member, source=source, facts=replace(member.facts, parameters=7, **facts))

    before = {"a": marks_of(told(weight_bytes=14, dtype="float16"))}
    check_fitted([told(weight_bytes=28, dtype="float32", device="cuda")], before, whole=False)
    with pytest.raises(SpecError, match="its parameters was 7, and is 8"):
        check_fitted([replace(told(), facts=replace(told().facts, parameters=8))], before, whole=False)
    revised = {"a": marks_of(told(revision="1"))}
    check_fitted([replace(told(), facts=replace(told(revision="1").facts, parameters=8))], revised, whole=False)
    with pytest.raises(SpecError, match="its revision was 1, and is 2"):
        check_fitted([told(revision="2")], revised, whole=True)
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    folder = {"a": marks_of(told(str(tmp_path)))}
    assert folder["a"]["size"] == "4"
    (tmp_path / "model.safetensors").write_bytes(b"4321")
    check_fitted([told(str(tmp_path))], folder, whole=False)
    with pytest.raises(SpecError, match="its sha256 was"):
        check_fitted([told(str(tmp_path))], folder, whole=True)
    (tmp_path / "model.safetensors").write_bytes(b"43210")
    with pytest.raises(SpecError, match="its size was 4, and is 5"):
        check_fitted([told(str(tmp_path))], folder, whole=False)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (ANSWERS[:1], "there is 1 reference answer: too few to fit"),
        ([], "has no lines"),
        ([{"prompt": "x"}], "line 1: answer is null, not a text"),
        ([{"prompt": "x", "answer": ""}], "line 1: answer is '', not a text"),
        ([{"answer": "x"}], "line 1 has neither prompt and messages"),
        ([{"prompt": 3, "answer": "x"}], "line 1: prompt is 3, not a text"),
        ([*ANSWERS, {"prompt": "x", "answer": "é \ud800"}], "'bad.jsonl', line 13: answer has a lone surrogate"),
        ([*ANSWERS, {"prompt": "\udfff", "answer": "x"}], "'bad.jsonl', line 13: prompt has a lone surrogate"),
        ([{"messages": [{"role": "user", "content": "\ud800"}], "answer": "x"}], "line 1: messages has a lone surrog"),
        ([{"messages": [{"role": 3}], "answer": "x"}], "'bad.jsonl', line 1: message 1"),
        ([{"messages": "hi", "answer": "x"}], "'bad.jsonl', line 1: messages is str"),
    ],
)
def test_answers_that_cannot_be_fitted_on_are_named(
    run: Run, duo: Path, here: Path, lines: list[dict[str, Any]], words: str
) -> None:
    Path("bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = run("fit", duo, "--prompts", "bad.jsonl", "--out", "fitted.yaml", "-q")
    assert shown.code == 2
    assert words in shown.err
    assert not Path("fitted.yaml").exists()


def test_an_answer_that_is_too_long_is_named_before_any_is_read(run: Run, duo: Path, here: Path) -> None:
    lines = [*ANSWERS, {"prompt": "x" * 9000, "answer": "x"}, *ANSWERS]
    Path("long.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = run("fit", duo, "--prompts", "long.jsonl", "--out", "fitted.yaml", "-q")
    assert "the reference line 13: the prompt has 9000 tokens" in shown.err
    assert not [feed for model in FAKE_MODELS.values() for its in model.passes for feed in its.feeds]


def test_what_cannot_be_fitted_is_named(run: Run, duo: Path, answers: Path, data: Path, here: Path) -> None:
    words = ("--prompts", answers, "-q")
    assert "neither --tasks nor --prompts is given" in run("fit", duo).err
    assert "both --tasks and --prompts are given" in run("fit", duo, *words, "--tasks", "piqa").err
    assert "--out is" in run("fit", duo, *words, "--out", duo).err
    assert "the rule 'max' cannot be fitted" in run("fit", duo, *words, "--rule", "max").err
    shown = run("fit", duo, "--tasks", "piqa", "--data", data, "--limit", 5, "--calibrate", "-q")
    assert "there are 5 reference answers" in shown.err
    halved = run("fit", duo, "--tasks", "piqa", "--data", data).err
    assert "piqa: 6 questions, half of those that there are\nunisono: there are 6 reference answers" in halved
    before = duo.read_text()
    duo.write_text(before + "sampling: {member_top_k: 3, member_temperature: 0.5, top_p: 0.9, temperature: 1}\n")
    assert "sampling has member_temperature, member_top_k, which is no part" in run("fit", duo, *words).err
    duo.write_text("members:\n  - {name: a, model: 'fake:a'}\n")
    assert "the ensemble has one member" in run("fit", duo, *words).err


def test_python_fits_without_changing_the_ensemble(duo: Path) -> None:
    with Ensemble.load(duo) as ensemble:
        before = ensemble.score(" sat", "the cat")
        found = ensemble.fit(ANSWERS)
        assert [member.name for member in found.members] == ["a", "b"]
        assert ensemble.score(" sat", "the cat") == before
        assert found.to_json()["is_better"] == found.is_better
        with pytest.raises(SpecError, match="answer 1 is 3, not a mapping"):
            ensemble.fit([3])  # type: ignore[list-item]


def test_the_last_quarter_of_each_task_is_held_out() -> None:
    references = [Reference(str(n), Prompt(text=f"x {n}"), "y", task) for task in ("t", "u") for n in range(8)]
    fitted_on, held_out = split(references)
    assert [(each.task, each.id) for each in held_out] == [("t", "6"), ("t", "7"), ("u", "6"), ("u", "7")]
    assert len(fitted_on) == 12


def test_answers_of_no_task_are_parted_whatever_their_order_and_equal_prompts_never() -> None:
    references = [Reference(str(n), Prompt(text=f"x {n // 3}"), "y") for n in range(60)]
    fitted_on, held_out = split(references)
    assert len(held_out) == 15
    assert not {each.prompt.text for each in fitted_on} & {each.prompt.text for each in held_out}
    assert {each.id for each in held_out} != {str(n) for n in range(45, 60)}
    assert {each.id for each in split(references[::-1])[1]} == {each.id for each in held_out}
    uneven = [*(Reference(str(n), Prompt(text="x"), "y") for n in range(9)), *references[:6]]
    assert [len(its) for its in split(uneven)] == [12, 3]
    chats = [Reference("", Prompt(messages=[{"role": "user", "content": words}]), "y") for words in "abab"]
    assert [len(its) for its in split(chats)] == [2, 2]


def test_answers_to_one_prompt_cannot_be_parted(run: Run, duo: Path, here: Path) -> None:
    write_rows(here / "same.jsonl", [{"prompt": "x", "answer": f" y {place}"} for place in range(9)])
    shown = run("fit", duo, "--prompts", "same.jsonl", "-q")
    assert shown.code == 2
    assert "all answers that are given follow the same prompt: none can be held out" in shown.err


def test_an_answer_that_cannot_be_spelled_is_named_before_any_weights_are_loaded(
    run: Run, duo: Path, answers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own_encoding", "longest_match", "is_exact"):
        real = getattr(Speller, name)
        lacking = lambda *given, real=real: None if b"7" in given[-1] else real(*given)  # noqa: E731
        monkeypatch.setattr(Speller, name, lacking)
    monkeypatch.setattr("unisono.evals.model_pool.load_models", None)
    shown = run("fit", duo, "--prompts", answers, "-q")
    assert shown.code == 2
    assert "the reference line 8: the text to score, ' sat on mat 7', holds a piece" in shown.err


def test_no_fit_begins_whose_file_could_not_be_written(run: Run, duo: Path, answers: Path, here: Path) -> None:
    (here / "notes.txt").write_text("mine: {members of the club}")
    (here / "link.yaml").symlink_to(answers)
    for out, words in (
        (answers, "the file of the prompts itself"),
        ("link.yaml", "the file of the prompts itself"),
        (duo, "the ensemble file itself"),
        (here, "a folder"),
        ("none/fitted.yaml", "in a folder that does not exist"),
        ("notes.txt", "which is not an ensemble file and would be overwritten"),
    ):
        shown = run("fit", duo, "--prompts", answers, "--out", out, "-q")
        assert shown.code == 2
        assert f"--out is {str(out)!r}, {words}" in shown.err
    assert (here / "notes.txt").read_text() == "mine: {members of the club}"


def test_what_was_found_is_shown_where_it_cannot_be_written(
    run: Run, duo: Path, answers: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "fitted.yaml").write_text("members: []")

    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target.name == "fitted.yaml":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    shown = run("fit", duo, "--prompts", answers, "--out", "fitted.yaml", "-q")
    assert shown.code == 2
    assert "3 numbers fitted on 9 answers" in shown.out
    assert "cannot write 'fitted.yaml': No space left on device" in shown.err
    assert [(file.name, file.read_text()) for file in here.iterdir()] == [("fitted.yaml", "members: []")]


def test_relative_paths_hold_from_where_a_file_is_written_across_links(tmp_path: Path) -> None:
    for folder in ("deep/er/specs", "deep/models", "deep/er/specs/tuned", "elsewhere/far/off"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "deep" / "models" / "m.gguf").touch()
    (tmp_path / "specs").symlink_to(tmp_path / "deep" / "er" / "specs")
    (tmp_path / "off").symlink_to(tmp_path / "elsewhere" / "far" / "off")
    members = [
        {"name": "a", "model": "../../models/m.gguf", "adapter": "tuned"},
        {"name": "b", "url": "http://127.0.0.1:1", "tokenizer": "../../models"},
        {"name": "c", "model": "org/name"},
    ]
    spec = tmp_path / "specs" / "duo.yaml"
    spec.write_text(yaml.safe_dump({"members": members}))
    out = tmp_path / "off" / "fitted.yaml"
    write_ensemble(out, spec.parent, yaml.safe_load(spec.read_text()), "# found\n")
    found = load_spec(out)
    assert (found.folder / (found.members[0].model or "")).samefile(tmp_path / "deep" / "models" / "m.gguf")
    assert (found.folder / (found.members[0].adapter or "")).samefile(spec.parent / "tuned")
    assert (found.folder / (found.members[1].tokenizer or "")).samefile(tmp_path / "deep" / "models")
    assert found.members[2].model == "org/name"


def test_what_is_for_tasks_is_refused_with_prompts(run: Run, duo: Path, answers: Path, data: Path, here: Path) -> None:
    for words in (("--limit", 5), ("--data", data), ("--shots", 1), ("--chat",), ("--calibrate",)):
        shown = run("fit", duo, "--prompts", answers, *words)
        assert shown.code == 2
        assert f"{words[0]} given with --prompts" in shown.err
    shown = run("fit", duo, "--prompts", answers, "--out", "fitted.yaml")
    assert f"fitted.yaml is the fitted ensemble; evaluate it on questions that are not in {answers}" in shown.err


def test_answers_of_earlier_fits_count_among_those_that_a_file_can_record(
    run: Run, duo: Path, answers: Path, here: Path
) -> None:
    many = [f"arc_easy.{place}" for place in range(4_990)]
    earlier = {"answers": [{"task": "arc_easy", "source": "x", "questions": many}], "models": {}}
    (here / "fitted.yaml").write_text(yaml.safe_dump({**yaml.safe_load(duo.read_text()), "fitted": earlier}))
    shown = run("fit", "fitted.yaml", "--prompts", answers, "-q")
    assert shown.code == 2
    assert "there are 12 answers beside the 4,990 that the file was fitted on before" in shown.err


@pytest.mark.parametrize(("was", "found", "expected"), [(0.02, 0.25, 0.01), (90, 4, 100), (1.5, 2, 3)])
def test_fitted_temperatures_are_those_that_a_file_may_have(
    duo: Path, was: float, found: float, expected: float
) -> None:
    prepared = prepare(load_spec(duo)).reshaped({"a": {"temperature": was}})
    members = _members(prepared, Shape(np.array([0.5, 0.5]), np.array([found, 1.0])))
    assert [each.temperature for each in members] == [expected, 1]


def test_a_fit_says_which_parameters_are_at_a_bound(run: Run, duo: Path, answers: Path, here: Path) -> None:
    words = ("fit", duo, "--prompts", answers, "--rule", "geometric", "--out", "fitted.yaml")
    found = json.loads(run(*words, "--json", "-q").out)
    assert {(each["parameter"], each["bound"], each["value"]) for each in found["at_bounds"]} == {
        ("temperature", "highest", 4.0)
    }
    shown = " ".join(run(*words, "-q").out.split())
    said = (
        f"at a bound: {found['at_bounds'][0]['member']}'s temperature is 4, the highest that is fitted: 9 answers do "
    )
    assert f"{said}not say where it should be; give more answers, or fit weights alone" in shown
    assert f"# {said}" in (here / "fitted.yaml").read_text()
    assert json.loads(run(*words, "--no-temperatures", "--json", "-q").out)["at_bounds"] == []


def test_bounds_are_those_of_weights_temperatures_and_calibrations() -> None:
    shape = Shape(np.array([0.0005, 0.9, 0.0995]), np.array([4.0, 0.25, 3.0]))
    found = at_bounds(["a", "b", "c"], shape, [6.0, 0.25, HOTTEST], {"b": {"A": 1e-6, "B": 0.9}})
    assert found == (
        AtBound("a", "weight", 0.001, "lowest"),
        AtBound("a", "temperature", 6.0, "highest"),
        AtBound("b", "temperature", 0.25, "lowest"),
        AtBound("b", "calibrate 'A'", 1e-6, "lowest"),
        AtBound("c", "temperature", HOTTEST, "highest"),
    )
    within = Shape(np.array([0.5, 0.5]), np.array([3.9, 0.26]))
    assert at_bounds(["a", "b"], within, [3.9, 0.26], {}) == ()


def test_leads_are_tried_on_answers_of_every_task_from_all_over_it() -> None:
    tasks = {"few": 95, "more": 192}
    references = [
        Reference(str(place), Prompt("x"), "y", task) for task, count in tasks.items() for place in range(count)
    ]
    tried, rest = _parted(references)
    by_task = {task: [int(each.id) for each in tried if each.task == task] for task in tasks}
    assert {task: len(its) for task, its in by_task.items()} == {"few": 32, "more": 64}
    assert by_task["few"][-1] > 90
    assert by_task["more"][-1] > 185
    assert sorted(map(id, [*tried, *rest])) == sorted(map(id, references))
