"""How a text is written, said by flags, by settings in one string, and by arguments in Python."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command_line import Run, jsonl
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Message, Prompt
from unisono.cli.answers import closing
from unisono.cli.trace_file import TraceFile
from unisono.config.gate import Gate
from unisono.config.method import Method
from unisono.config.setting import parse_setting
from unisono.config.speculation import Speculation
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.errors import SpecError
from unisono.fusion.gate_scores import GATE_KINDS
from unisono.records import Generation, Limits, Seconds, Usage
from unisono.step_records import StepRecord

PROMPT = "Together"
"""What the fakes answer at length, whoever of them is asked."""
ASKED = [Message(role="user", content=PROMPT)]
PIECES = 12


@pytest.fixture
def ensemble(duo: Path) -> Iterator[Ensemble]:
    with Ensemble.load(duo, batch=3) as loaded:
        yield loaded


def traced(run: Run, duo: Path, *flags: object) -> tuple[str, list[dict[str, Any]]]:
    """What is written with some flags, and its trace."""
    trace = duo.with_suffix(".jsonl")
    shown = run("run", duo, PROMPT, "--max-new-tokens", PIECES, "-q", "--trace", trace, *flags)
    assert (shown.code, shown.err) == (0, "")
    return shown.out, [json.loads(line) for line in trace.read_text().splitlines()]


def voters(steps: list[dict[str, Any]]) -> list[list[str]]:
    return [step["voted"] for step in steps]


def test_without_flags_everybody_is_asked_at_every_step(run: Run, duo: Path) -> None:
    text, steps = traced(run, duo)
    assert voters(steps) == [["a", "b"]] * PIECES
    assert all(step["gate"] is None and step["draft"] is None for step in steps)
    assert text == traced(run, duo, "--gate", "always", "--speculate", "off")[0]


def test_a_gate_decides_who_is_asked(run: Run, duo: Path) -> None:
    steps = traced(run, duo, "--gate", "first:2")[1]
    assert voters(steps) == [["a", "b"]] * 2 + [["a"]] * (PIECES - 2)
    assert steps[2]["gate"] == {"score": 2, "threshold": 2, "asked": False, "inside": None}
    assert voters(traced(run, duo, "--gate", "every:3")[1]) == [["a", "b"], ["a"], ["a"]] * (PIECES // 3)
    asked = traced(run, duo, "--gate", "confidence:0.5")[1]
    assert all((step["gate"]["score"] <= 0.5) == step["gate"]["asked"] for step in asked)


def test_the_lead_is_who_writes_where_the_gate_is_shut(run: Run, duo: Path) -> None:
    text, steps = traced(run, duo, "--lead", "b", "--gate", "first:0")
    assert voters(steps) == [["b"]] * PIECES
    alone = duo.with_name("alone.yaml")
    alone.write_text("members: [{name: b, model: 'fake:b'}]")
    assert text == run("run", alone, PROMPT, "--max-new-tokens", PIECES, "-q").out


def test_a_boundary_can_be_set_and_taken_away(run: Run, duo: Path) -> None:
    with_it, without = (traced(run, duo, flag)[1] for flag in ("--boundary", "--no-boundary"))
    assert all(step["gate"]["asked"] == (step["gate"]["inside"] is None) for step in with_it)
    assert all(step["gate"] is None for step in without)
    duo.write_text(duo.read_text() + "gate: {kind: every, n: 3, boundary: true}\n")
    steps = traced(run, duo, "--no-boundary")[1]
    assert [step["gate"]["asked"] for step in steps] == [place % 3 == 0 for place in range(PIECES)]


@pytest.mark.parametrize("flags", [("a",), ("b:2",), ("ngram",), ("auto",), ("a", "--max-pieces", 1)])
@pytest.mark.parametrize("gate", ["always", "every:3"])
def test_speculation_changes_nothing_that_is_written(run: Run, duo: Path, flags: tuple[object, ...], gate: str) -> None:
    plain, _ = traced(run, duo, "--gate", gate)
    drafted, steps = traced(run, duo, "--gate", gate, "--speculate", *flags)
    assert drafted == plain
    drafters = {step["draft"]["drafter"] for step in steps if step["draft"] is not None}
    drafter = str(flags[0]).partition(":")[0]
    assert drafters <= ({drafter} if drafter != "auto" else {"a", "b", "ngram"})
    assert drafters or drafter in ("ngram", "auto") or gate != "always"


def test_flags_replace_the_keys_of_the_file(run: Run, duo: Path) -> None:
    duo.write_text(duo.read_text() + "lead: b\ngate: first:2\nspeculate: a:2\n")
    assert voters(traced(run, duo)[1])[-1] == ["b"]
    assert voters(traced(run, duo, "--lead", "a")[1])[-1] == ["a"]
    steps = traced(run, duo, "--gate", "always", "--speculate", "off")[1]
    assert voters(steps) == [["a", "b"]] * PIECES
    assert all(step["draft"] is None for step in steps)


def test_the_flags_go_with_a_file_of_prompts_too(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", *({"id": n, "prompt": f"Hello {n}"} for n in range(3)))
    words = ("--prompts", prompts, "--batch", 2, "--max-new-tokens", PIECES, "-q", "--trace")
    rows = run("run", duo, *words, "--lead", "b", "--gate", "first:2", "--speculate", "b", "--max-pieces", 2).lines()
    for row in rows:
        assert voters(row["steps"]) == [["a", "b"]] * 2 + [["b"]] * (PIECES - 2)
        assert row["usage"]["ensembled"] == 2
        assert row["usage"]["drafted"] >= row["usage"]["accepted"]
    alone = run("run", duo, "Hello 1", "--max-new-tokens", PIECES, "--lead", "b", "--gate", "first:2", "--json", "-q")
    assert [row["text"] for row in rows if row["id"] == 1] == [alone.lines()[0]["text"]]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--lead", "c"), "the lead 'c' is not a member that votes"),
        (("--lead", "mute"), "the lead 'mute' has weight 0, so it is left out"),
        (("--gate", "off"), "unknown gate 'off'; known: always, confidence, margin, entropy, every, first"),
        (("--gate", "confidance:0.5"), "did you mean 'confidence'"),
        (("--gate", "confidence"), "the gate 'confidence' needs threshold"),
        (("--gate", "confidence:1.5"), "1.5: it must be a number from 0 to 1"),
        (("--gate", "every:0"), "0: it must be a whole number of 1 or more"),
        (("--gate", "always:3"), "unknown gate 'always:3'"),
        (("--speculate", "c"), "the drafter 'c' is not a member that votes"),
        (("--speculate", "mute"), "the drafter 'mute' has weight 0"),
        (("--speculate", "a:0"), "max_pieces is 0: it must be a whole number from 1 to 64"),
        (("--speculate", "a:many"), "max_pieces is 'many'"),
        (("--speculate", "a", "--max-pieces", "65"), "max_pieces is 65"),
        (("--max-pieces", "4"), "max_pieces is given, but nobody drafts"),
        (("--speculate", "off", "--max-pieces", "4"), "max_pieces is given, but nobody drafts"),
        (("--max-pieces", "four"), "Invalid value for '--max-pieces': 'four' is not a whole number"),
        (("--max-pieces", "４"), "'４' is not a whole number"),
        (("--max-pieces", "9" * 5000), "is not a whole number"),
        (("--speculate", "a:" + "9" * 5000), "max_pieces is '999"),
        (("--speculate", "none"), "not a member that votes"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_wrong_flags_are_refused_before_the_models_are_touched(
    run: Run, duo: Path, tmp_path: Path, flags: tuple[str, ...], problem: str, many: bool
) -> None:
    duo.write_text(duo.read_text() + "  - {name: mute, model: 'fake:a', weight: 0}\n")
    what = ("--prompts", jsonl(tmp_path / "in.jsonl", {"id": 1, "prompt": "Hello"})) if many else ("Hello",)
    shown = run("run", duo, *what, *flags)
    assert (shown.code, shown.out) == (2, "")
    assert problem in re.sub(r"[\s│]+", " ", shown.err)
    assert "reading the vocabulary" not in shown.err


@pytest.mark.parametrize("flags", [("--gate", "confidence:0.5"), ("--boundary",), ("--speculate", "a")])
def test_a_member_alone_has_nobody_to_ask(run: Run, duo: Path, flags: tuple[str, ...]) -> None:
    duo.write_text("members: [{name: a, model: 'fake:a'}]")
    shown = run("run", duo, "Hello", *flags)
    assert shown.code == 2
    assert "votes alone" in shown.err


def test_the_help_lists_the_kinds_of_gates(run: Run) -> None:
    words = re.sub(r"[\s│]+", " ", run("run", "--help").out)
    assert all(kind in words for kind in GATE_KINDS)
    assert all(f" {flag}" in words for flag in ("--lead", "--boundary", "--no-boundary", "--speculate", "--max-pieces"))


def generation(**usage: int) -> Generation:
    return Generation("x", b"x", "end", Usage(prompt_tokens={}, **usage), Seconds(2.1, 0.1, {}))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Method(), "[64 pieces in 2.1 s, 30.5 a second; end]"),
        (Method(gate=Gate("first", n=20)), "[64 pieces in 2.1 s, 30.5 a second; 31 % ensembled; end]"),
        (Method(gate=Gate(boundary=True)), "[64 pieces in 2.1 s, 30.5 a second; 31 % ensembled; end]"),
        (
            Method(gate=Gate("first", n=20), speculate=Speculation("a")),
            "[64 pieces in 2.1 s, 30.5 a second; 31 % ensembled; 40 of 52 drafted pieces accepted; end]",
        ),
    ],
)
def test_the_closing_line_tells_what_the_gate_and_the_drafts_have_saved(method: Method, words: str) -> None:
    assert closing(generation(pieces=64, ensembled=20, drafted=52, accepted=40), method) == words


def test_the_closing_line_tells_whom_nobody_had_to_ask() -> None:
    text = Generation("x", b"x", "end", Usage({}, 64, 20, unasked={"b": 40, "c": 44}), Seconds(2.1, 0.1, {}))
    words = "[64 pieces in 2.1 s, 30.5 a second; 31 % ensembled; certain without b at 40; certain without c at 44; end]"
    assert closing(text, Method(gate=Gate("certain"))) == words


def test_the_gate_that_is_certain_writes_the_text_of_all(run: Run, duo: Path) -> None:
    duo.write_text("members:\n  - {name: a, model: 'fake:a', weight: 30}\n  - {name: b, model: 'fake:b'}\n")
    words = ("run", duo, PROMPT, "--max-new-tokens", PIECES, "--json", "-q")
    certain, always = json.loads(run(*words, "--gate", "certain").out), json.loads(run(*words).out)
    assert certain["text"] == always["text"]
    assert certain["usage"]["unasked"]["b"] > 0
    for rule in ("mean sharpen:0.2", "mean truncate:2", "mean weights:entropy", "geometric weights:consistency"):
        asked = (*words, "--combine", rule)
        all_asked, always = json.loads(run(*asked, "--gate", "certain").out), json.loads(run(*asked).out)
        assert all_asked["text"] == always["text"]
        assert not all_asked["usage"].get("unasked")


def test_the_closing_line_of_an_empty_text_is_written_too() -> None:
    method = Method(gate=Gate("first", n=0), speculate=Speculation("ngram"))
    assert (
        closing(generation(pieces=0, ensembled=0), method) == "[0 pieces in 2.1 s, 0.0 a second; nothing drafted; end]"
    )


def test_uncertain_pieces_are_told(run: Run, duo: Path) -> None:
    text = generation(pieces=64, ensembled=64, uncertain=3)
    assert closing(text, Method()) == "[64 pieces in 2.1 s, 30.5 a second; 3 uncertain; end]"
    FAKE_MODELS["b"].top = 3
    words = ("run", duo, PROMPT, "--max-new-tokens", PIECES)
    refused = run(*words, "--temperature", 1)
    assert refused.code
    assert "temperature 1 needs whole distributions, but member 'b' tells its likeliest ids only" in refused.err
    drawn = run(*words, "--temperature", 1, "--seed", 1, "--truncated-sampling", "--json")
    assert json.loads(drawn.out)["usage"]["uncertain"] == PIECES
    several = run(*words, "--temperature", 1, "--seed", 1, "--truncated-sampling", "--n", 2)
    assert f"[{PIECES} uncertain; seed:1; length]" in several.err
    _, steps = traced(run, duo)
    written = json.loads(run(*words, "--json").out)
    assert written["usage"]["uncertain"] == sum(not step["certain"] for step in steps)


def test_the_closing_line_is_shown_on_a_terminal(
    run: Run, duo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    words = ("run", duo, "Hello", "--max-new-tokens", 8, "--gate", "every:4")
    assert run(*words).code == 0
    assert re.search(r"\[8 pieces in .* a second; 25 % ensembled; length\]\n$", terminal.getvalue())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", {}),
        ("gate=always", {"gate": "always"}),
        (
            " gate=confidence:0.5  boundary=true speculate=smol lead=smol max_pieces=4 ",
            {"gate": "confidence:0.5", "boundary": True, "speculate": "smol", "lead": "smol", "max_pieces": 4},
        ),
        ("boundary=false", {"boundary": False}),
    ],
)
def test_settings_are_read_from_one_string(text: str, keys: dict[str, object]) -> None:
    assert parse_setting(text) == keys
    drafting = Method(speculate=Speculation("smol"))
    assert isinstance(drafting.but(**parse_setting(text)), Method)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gate", "the setting 'gate' is not KEY=VALUE"),
        ("gate=", "the setting 'gate=' is not KEY=VALUE"),
        (
            "gaet=always",
            "unknown setting 'gaet'; did you mean 'gate'?; known: lead, combine, gate",
        ),
        ("lead=a lead=b", "the setting 'lead' is given twice"),
        ("boundary=yes", "the setting boundary is 'yes'"),
        ("max_pieces=many", "the setting max_pieces is 'many': it must be a whole number"),
        ("max_pieces=" + "9" * 5000, "the setting max_pieces is '999"),
        ("max_pieces=1_0", "the setting max_pieces is '1_0'"),
        ("max_pieces=²", "the setting max_pieces is '²'"),
    ],
)
def test_wrong_settings_are_named(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_setting(text)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_trace_is_written_while_its_text_is(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"bytes": [120]}\n')
    steps = [StepRecord(b"x", 0.5, ("a",), {"a": 0.5}) for _ in range(3)]
    with TraceFile(path) as trace:
        assert path.read_text() == '{"bytes": [120]}\n'
        trace.begin()
        for count in (1, 1, 3):
            trace.write(steps[:count])
            assert path.read_text().count("\n") == count
    assert [json.loads(line) for line in path.read_text().splitlines()] == [step.to_json() for step in steps]


def test_an_earlier_trace_is_kept_when_nothing_comes_to_be_written(run: Run, duo: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"about": {}}\n')
    assert run("run", duo, "Hello", "--trace", trace, "--lead", "c").code == 2
    assert trace.read_text() == '{"about": {}}\n'
    assert run("run", duo, "Hello", "--trace", tmp_path).code == 2


def test_a_trace_replaces_no_other_file(run: Run, duo: Path) -> None:
    before = duo.read_text()
    shown = run("run", duo, "Hello", "--trace", duo)
    assert shown.code == 2
    assert "which is there already and is no trace" in shown.err
    assert duo.read_text() == before


@pytest.mark.parametrize("words", [("--trace", "{new}"), ("Hello", "--lead", "c", "--trace", "{new}")])
def test_a_run_that_is_refused_leaves_no_trace(run: Run, duo: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    new = tmp_path / "Hi"
    assert run("run", duo, *(word.format(new=new) for word in words)).code == 2
    assert not new.exists()
    assert run("run", duo, "Hello", "--max-new-tokens", 2, "--trace", new).code == 0
    assert len(new.read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["none/trace", "x" * 5000, "duo.yaml/trace"])
def test_a_trace_that_cannot_be_written_is_refused_before_the_models_are_touched(
    run: Run, duo: Path, tmp_path: Path, name: str
) -> None:
    shown = run("run", duo, "Hello", "--trace", tmp_path / name)
    assert shown.code == 2
    assert "cannot write the trace to" in shown.err
    assert "reading the vocabulary" not in shown.err


def test_the_method_of_an_ensemble_can_be_replaced_text_by_text(ensemble: Ensemble) -> None:
    assert ensemble.method == Method()
    plain = ensemble.generate(messages=ASKED, max_new_tokens=PIECES, trace=True)
    for gate in ("first:2", Gate("first", n=2), {"kind": "first", "n": 2}):
        gated = ensemble.generate(messages=ASKED, max_new_tokens=PIECES, lead="b", gate=gate, trace=True)
        assert [step.voted for step in gated.steps or ()] == [("a", "b")] * 2 + [("b",)] * (PIECES - 2)
        assert (gated.usage.pieces, gated.usage.ensembled) == (PIECES, 2)
    for speculate in ("a:3", Speculation("ngram"), {"drafter": "b"}, "off"):
        assert ensemble.generate(messages=ASKED, max_new_tokens=PIECES, speculate=speculate).data == plain.data
    assert "".join(ensemble.stream(messages=ASKED, max_new_tokens=PIECES, speculate="a")) == plain.text
    assert ensemble.method == Method()


def test_an_ensemble_writes_as_its_spec_says(duo: Path) -> None:
    duo.write_text(duo.read_text() + "lead: b\ngate: first:2\nspeculate: a:2\n")
    with Ensemble.load(duo) as ensemble:
        assert ensemble.method == Method("b", "mean", Gate("first", n=2), Speculation("a", 2))
        assert ensemble.generate(messages=ASKED, max_new_tokens=PIECES).usage.ensembled == 2
        off = ensemble.generate(messages=ASKED, max_new_tokens=PIECES, gate="always", speculate="off")
        assert (off.usage.ensembled, off.usage.drafted) == (PIECES, 0)


def test_every_request_of_a_batch_may_be_written_in_its_own_way(ensemble: Ensemble) -> None:
    methods = {
        "plain": None,
        "gated": Method(lead="b", gate=Gate("first", n=2)),
        "drafted": Method(speculate=Speculation("a")),
        "wrong": Method(lead="c"),
    }
    requests = [
        Request(name, Prompt(messages=ASKED), Limits(PIECES), method=method) for name, method in methods.items()
    ]
    results = {request.id: result for request, result in ensemble.generate_batch(requests)}
    wrong = results.pop("wrong")
    assert isinstance(wrong, SpecError)
    assert "the lead 'c' is not a member that votes" in str(wrong)
    written = {name: result for name, result in results.items() if isinstance(result, Generation)}
    assert written["plain"].data == written["drafted"].data
    alone = ensemble.generate(messages=ASKED, max_new_tokens=PIECES, lead="b", gate="first:2")
    assert (written["gated"].data, written["gated"].usage.ensembled) == (alone.data, 2)


def test_sampling_flags_that_have_no_effect_are_checked_and_said(run: Run, duo: Path) -> None:
    for flags, words in ((("--top-p", 3), "top_p is 3.0: it must be"), (("--min-p", 7), "min_p is 7.0: it must be")):
        refused = run("run", duo, PROMPT, *flags)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err
    for off in (0, -1):  # which other tools write for all pieces, and for a new seed
        shown = run("run", duo, PROMPT, "--max-new-tokens", 4, "--temperature", 1, "--top-k", off, "--seed", -1)
        assert shown.code == 0
    greedy = run("run", duo, PROMPT, "--max-new-tokens", 4, "--top-p", 0.5, "--top-k", 2)
    assert greedy.out == run("run", duo, PROMPT, "--max-new-tokens", 4, "-q").out
    for flag in ("--top-p", "--top-k"):
        assert f"unisono: {flag} has no effect at temperature 0" in greedy.err
    assert "effect" not in run("run", duo, PROMPT, "--max-new-tokens", 4, "--top-p", 0.5, "--temperature", 1).err


def test_a_member_that_was_away_is_told_on_stderr(run: Run, duo: Path) -> None:
    from unisono.backends.fake.backend import FAKE_MODELS

    FAKE_MODELS["b"].away = lambda feeds: "refused"
    shown = run("run", duo, "Hello", "--max-new-tokens", PIECES)
    assert shown.code == 2
    assert "member 'b' at fake://elsewhere is not available: refused" in shown.err
    duo.write_text(duo.read_text().replace("'fake:b'", "'fake:b', on_failure: degrade"))
    for words in ((), ("--json",)):
        shown = run("run", duo, "Hello", "--max-new-tokens", PIECES, "-q", *words)
        assert f"member 'b' was away from {PIECES} of {PIECES} choices" in shown.err
    assert shown.lines()[0]["usage"]["degraded"] == {"b": PIECES}
