"""The command line shows reasoning apart from the answer, and doctor tells who marks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import Run, jsonl
from support.reasoners import ANSWER, PLAIN, QUESTION, THINKER, THOUGHT, make_reasoners
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.build import prepare
from unisono.cli import console
from unisono.cli.doctor import _marks
from unisono.config.ensemble import load_spec
from unisono.diagnosis import diagnose
from unisono.evals.report.phrases import vote
from unisono.evals.runner import _disputes
from unisono.step_records import StepRecord


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Path]:
    make_reasoners()
    path = tmp_path / "both.yaml"
    path.write_text(json.dumps({"members": [THINKER, PLAIN]}))
    yield path
    FAKE_MODELS.clear()


def test_reasoning_goes_to_stderr_and_the_answer_to_stdout(run: Run, both: Path) -> None:
    shown = run("run", both, QUESTION)
    assert shown.out == ANSWER + "\n"
    assert shown.err.endswith(THOUGHT + "\n\n")
    quiet = run("run", both, QUESTION, "-q")
    assert (quiet.out, quiet.err) == (shown.out, "")
    several = run("run", both, QUESTION, "--n", 2, "--temperature", 1, "--top-k", 1, "--reasoning", 6)
    assert several.out == f"{ANSWER}\n---\n{ANSWER}\n"
    assert several.err.count("Hm. Light\n\n[seed:") == 2


def test_on_a_terminal_it_is_dimmed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console.murmur("hm")
    monkeypatch.setenv("TERM", "dumb")
    console.murmur("hm")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console.murmur("hm")
    assert capsys.readouterr().err == "\x1b[2mhm\x1b[0mhmhm"


def test_json_has_it_and_a_flag_ends_it(run: Run, both: Path) -> None:
    [record] = run("run", both, QUESTION, "--json", "-q").lines()
    assert (record["reasoning"], record["text"]) == (THOUGHT, ANSWER)
    assert record["usage"]["reasoning"] > 0
    [record] = run("run", both, QUESTION, "--json", "-q", "--reasoning", "off").lines()
    assert "reasoning" not in record
    [record] = run("run", both, QUESTION, "--json", "-q", "--reasoning", 3).lines()
    assert (record["reasoning"], record["text"]) == ("Hm", ANSWER)
    wrong = run("run", both, QUESTION, "--reasoning", "much")
    assert wrong.code == 2
    assert "reasoning is 'much'" in wrong.err


def test_files_of_prompts_and_traces_have_it(run: Run, both: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 1, "messages": [{"role": "user", "content": QUESTION}]})
    out, trace = tmp_path / "out.jsonl", tmp_path / "trace.jsonl"
    run("run", both, "--prompts", prompts, "--out", out, "-q")
    assert json.loads(out.read_text())["reasoning"] == THOUGHT
    run("run", both, QUESTION, "-q", "--trace", trace)
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [step["mark"] for step in steps if "mark" in step] == ["reasoning_begin", "reasoning_end"]


def test_doctor_tells_who_marks_reasoning_and_how(run: Run, both: Path, duo: Path) -> None:
    shown = run("doctor", both).out
    assert "\nmarks" in shown
    assert "reasoning <think>" in shown
    first, second = json.loads(run("doctor", both, "--json").out)["members"]
    assert first["marks"] == {"reasoning_begin": "<think>", "reasoning_end": "</think>"}
    assert second["marks"] == second["reads"] == {}
    assert "\nmarks" not in run("doctor", duo).out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reasoning_begin": {"reads": "Let me think."}}, "reasoning begins, read as 'Let me think.'"),
        ({"reasoning_begin": "<|system|>", "reasoning_end": "<|user|>"}, "reasoning <|system|> … <|user|>"),
        ({"reasoning_end": "<|system|>"}, "reasoning … <|system|>"),
        ({"reasoning_begin": "<|user|>Hm", "reasoning_end": "<|system|>"}, "reasoning <|user|>Hm … <|system|>"),
        ({}, "none"),
    ],
)
def test_doctor_tells_marks_that_a_file_gives(both: Path, given: dict[str, object], words: str) -> None:
    spec = load_spec({"members": [THINKER, {**PLAIN, "marks": given}]})
    assert [_marks(member) for member in diagnose(prepare(spec)).members] == ["reasoning <think> … </think>", words]


def test_a_report_names_marks_where_voters_differ() -> None:
    tops = {"a": (("reasoning_end", 0.6),), "b": ((None, 0.5),), "c": ((b"x", 0.4),)}
    step = StepRecord(b"", 0.5, ("a", "b", "c"), {}, tops, mark="reasoning_begin")
    [found] = _disputes([step])
    assert vote((found.piece, found.p)) == "“<reasoning_begin>” 50.0"
    assert [vote(found.members[name]) for name in "abc"] == ["“<reasoning_end>” 60.0", "END 50.0", "“x” 40.0"]
