"""The command line, in this process and on fake members; what only a real process shows is in test_cli_real."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from support.command_line import Run, jsonl
from unisono.ensemble import Ensemble
from unisono.errors import ClosedError, SpecError
from unisono.evals.analysis.references import read_answers
from unisono.records import Usage
from unisono.reference_answers import FORM as ANSWERS


def test_an_answer_goes_to_stdout_and_talk_to_stderr(run: Run, duo: Path) -> None:
    shown = run("run", duo, "Hello", "--max-new-tokens", 6)
    assert shown.code == 0
    assert shown.out.endswith("\n")
    assert shown.err.splitlines()[:2] == ["a: loaded", "b: loaded"], "a log has a line a member"
    quiet = run("run", duo, "Hello", "--max-new-tokens", 6, "-q")
    assert (quiet.out, quiet.err) == (shown.out, "")


def test_the_text_may_come_on_stdin(run: Run, duo: Path) -> None:
    given = run("run", duo, "--raw", "日本 Hello", "--max-new-tokens", 5, "-q")
    for words in ((), ("-",)):
        piped = run("run", duo, *words, "--raw", "--max-new-tokens", 5, "-q", stdin="日本 Hello\n".encode())
        assert piped.out == given.out
    broken = run("run", duo, "-q", stdin=b"\xff")
    assert broken.code == 2
    assert "stdin is not UTF-8" in broken.err


def test_what_never_ends_on_stdin_is_not_waited_for(run: Run, duo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.cli.inputs.DOCUMENT", 10)
    endless = run("run", duo, "-q", stdin=b"y" * 11)
    assert (endless.code, "the text on stdin has more than 10 bytes" in endless.err) == (2, True)
    assert run("run", duo, "-q", "--max-new-tokens", 2, stdin=b"y" * 10).code == 0


def test_json_has_what_the_contract_says(run: Run, duo: Path) -> None:
    shown = run("run", duo, "Hello", "--max-new-tokens", 6, "--json", "-q")
    (record,) = shown.lines()
    assert record.keys() == {"text", "finish_reason", "usage", "seconds"}
    some = {"uncertain", "degraded", "unasked", "parted"}
    assert record["usage"].keys() == {field.name for field in dataclasses.fields(Usage)} - some
    assert record["usage"]["prompt_tokens"].keys() == {"a", "b"}
    assert record["usage"]["pieces"] == record["usage"]["ensembled"] == 6
    assert record["finish_reason"] == "length"
    assert record["text"] + "\n" == run("run", duo, "Hello", "--max-new-tokens", 6, "-q").out


def test_a_trace_has_a_line_a_step(run: Run, duo: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    shown = run("run", duo, "Hello", "--max-new-tokens", 6, "--json", "-q", "--trace", trace)
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert len(steps) == 6
    keys = {"bytes", "p", "lead", "voted", "members", "top", "likeliest", "gate", "draft", "seconds"}
    keys |= {"kind", "winners", "entropy", "variation", "spelled"}
    assert steps[0].pop("about")["version"] == 2
    assert all(step.keys() == keys for step in steps)
    assert steps[0]["voted"] == ["a", "b"]
    assert steps[0]["top"].keys() == steps[0]["seconds"]["members"].keys() == {"a", "b"}
    text = b"".join(bytes(step["bytes"]) for step in steps).decode("utf-8", "replace")
    assert text.startswith(shown.lines()[0]["text"].rstrip("\ufffd"))


def test_stop_strings_and_system_messages_are_heeded(run: Run, duo: Path) -> None:
    whole = run("run", duo, "Hello", "--max-new-tokens", 12, "-q").out[:-1]
    middle = next(character for character in whole[2:] if character.isascii())
    shown = run("run", duo, "Hello", "--max-new-tokens", 12, "--stop", middle, "--stop", "nowhere", "--json", "-q")
    assert shown.lines()[0]["finish_reason"] == "stop"
    assert shown.lines()[0]["text"].rstrip("\ufffd") == whole[: whole.index(middle)].rstrip("\ufffd")
    assert run("run", duo, "Hello", "--system", "Be brief", "--max-new-tokens", 6, "-q").out != whole[:6]


def test_a_file_of_prompts_gives_a_line_each_and_a_bad_line_spoils_no_other(
    run: Run, duo: Path, tmp_path: Path
) -> None:
    prompts = jsonl(
        tmp_path / "in.jsonl",
        {"id": "one", "prompt": "Hello"},
        {"id": 2, "messages": [{"role": "user", "content": "日本?"}]},
        "{not json",
        {"prompt": "no id"},
        {"id": "both", "prompt": "a", "messages": []},
        {"id": "typo", "promt": "a"},
        {"id": "empty", "prompt": ""},
        {"id": "one", "prompt": "again"},
        "",
        {"id": "role", "messages": [{"role": "user"}]},
        {"id": "last", "prompt": "é"},
    )
    out = tmp_path / "out.jsonl"
    shown = run("run", duo, "--prompts", prompts, "--out", out, "--batch", 2, "--max-new-tokens", 5, "--trace")
    assert shown.code == 0
    assert "10 lines written; errors among them: 7" in shown.err
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    good = {record["id"]: record for record in records if "error" not in record}
    bad = {record.get("line", record["id"]): record["error"] for record in records if "error" in record}
    assert good.keys() == {"one", 2, "last"}
    assert len(good["one"]["steps"]) == 5
    assert bad.keys() == {3, 4, "both", "typo", "empty", 8, "role"}
    assert "line 3: not JSON" in bad[3]
    assert "promt" in bad["typo"]
    assert "empty" in bad["empty"]
    alone = run("run", duo, "Hello", "--max-new-tokens", 5, "--json", "-q").lines()[0]
    assert good["one"]["text"] == alone["text"]


def test_without_out_the_answers_go_to_stdout(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 1, "prompt": "Hello"})
    assert [row["id"] for row in run("run", duo, "--prompts", prompts, "--raw", "-q").lines()] == [1]


@pytest.mark.parametrize("kept", [0, 1, 3])
@pytest.mark.parametrize("torn", ["", '{"id": "4", "te', '{"id": "4", "text": "x"}'])
def test_an_interrupted_run_goes_on_and_loses_and_repeats_nothing(
    run: Run, duo: Path, tmp_path: Path, kept: int, torn: str
) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", *({"id": str(n), "prompt": f"Hello {n}"} for n in range(5)), "broken")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    words = ("--prompts", prompts, "--max-new-tokens", 4, "-q", "--batch", 2)
    assert run("run", duo, *words, "--out", whole).code == 0
    lines = whole.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:kept]) + torn)
    assert run("run", duo, *words, "--out", out, "--resume").code == 0

    def texts(path: Path) -> list[tuple[Any, Any]]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return sorted((str(row["id"]), row.get("text")) for row in rows)

    assert texts(out) == texts(whole)
    again = out.read_text()
    assert run("run", duo, *words, "--out", out, "--resume").code == 0
    assert out.read_text() == again


def test_answers_are_not_overwritten_unless_asked(run: Run, duo: Path, tmp_path: Path) -> None:
    prompts = jsonl(tmp_path / "in.jsonl", {"id": 1, "prompt": "Hello"})
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    refused = run("run", duo, "--prompts", prompts, "--out", out)
    assert refused.code == 2
    assert "--resume" in refused.err
    foreign = run("run", duo, "--prompts", prompts, "--out", out, "--resume")
    assert foreign.code == 2
    assert "is not the output of a run: line 1" in foreign.err
    assert out.read_text() == "precious\n"
    assert run("run", duo, "--prompts", prompts, "--out", out, "--overwrite", "-q").code == 0
    assert "precious" not in out.read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("run", "none.yaml", "x"), "there is no ensemble file 'none.yaml'"),
        (("run", "{duo}", "x", "--max-new-tokens", "0"), "max_new_tokens is 0"),
        (("run", "{duo}", "x", "--stop", ""), "a stop string is empty"),
        (("run", "{duo}", ""), "the prompt is empty"),
        (("run", "{duo}", "x", "--batch", "3"), "--batch goes with --prompts"),
        (("run", "{duo}", "--prompts", "nowhere.jsonl", "--batch", "0"), "Invalid value for '--batch'"),
        (("run", "{duo}", "x", "--out", "f"), "--out goes with --prompts"),
        (("run", "{duo}", "x", "--raw", "--system", "s"), "--system does not go with --raw"),
        (("run", "{duo}", "x", "--trace"), "--trace needs a file"),
        (("run", "{duo}", "x", "--prompts", "f"), "a text does not go with --prompts"),
        (("run", "{duo}", "--prompts", "f", "--json"), "--json does not go with --prompts"),
        (("run", "{duo}", "--prompts", "nowhere.jsonl"), "cannot read the prompts 'nowhere.jsonl'"),
        (("run", "{duo}", "--prompts", "{lines}", "--out", "/dev/null/x"), "cannot write"),
        (("run", "{duo}", "--prompts", "{duo}"), "are no JSON lines: line 1: not JSON"),
        (("run", "{duo}", "--prompts", "{duo}", "--resume"), "--resume needs --out"),
        (("run", "{duo}", "--prompts", "{duo}", "--out", "f", "--resume", "--overwrite"), "contradict"),
        (("doctor", "none.yaml"), "there is no ensemble file"),
        (("bench", "none.yaml"), "there is no ensemble file"),
    ],
)
def test_bad_input_is_named_and_no_traceback_is_shown(
    run: Run, duo: Path, words: tuple[str, ...], problem: str
) -> None:
    lines = jsonl(duo.with_name("in.jsonl"), {"id": 1, "prompt": "Hello"})
    shown = run(*(word.format(duo=duo, lines=lines) for word in words))
    assert shown.code == 2
    assert problem in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("content", [None, b"\xff\xfea\0", b"a\0b"], ids=str)
def test_the_form_of_the_lines_is_shown_where_a_file_is_read_and_is_no_text(
    run: Run, duo: Path, content: bytes | None
) -> None:
    path = duo.with_name("prompts.jsonl")
    if content is not None:
        path.write_bytes(content)
    shown = run("run", duo, "--prompts", path).err
    assert ("write a JSON object a line" in shown) is (content is not None)
    assert ("check the path" in shown) is (content is None)
    with pytest.raises(SpecError) as told:
        read_answers(path)
    assert told.value.hint == ("check the path" if content is None else ANSWERS)


def test_wrong_usage_is_explained(run: Run, duo: Path) -> None:
    assert run("run").code == 2
    assert "No such option" in run("run", duo, "--bogus").err
    assert "run" in run("runn", duo).err


def test_a_fault_of_ours_is_owned_up_to_without_a_traceback(
    run: Run, duo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.engine.sampler.Unfolded.likeliest", lambda *given: 1 / 0)
    shown = run("run", duo, "x")
    assert shown.code == 1
    assert "internal error: ZeroDivisionError" in shown.err
    assert "Traceback" not in shown.err


def test_doctor_tells_what_an_ensemble_is_made_of(run: Run, duo: Path) -> None:
    record = json.loads(run("doctor", duo, "--json", "-q").out)
    assert [member["name"] for member in record["members"]] == ["a", "b"]
    assert record["members"][0]["end"] == [{"id": 2, "text": "</s>", "why": "declared by the model's files"}]
    assert record["union_size"] > 256
    assert record["pairs"][0]["members"] == ["a", "b"]
    assert 0 < record["ordinary_text_share"] <= 1
    assert (record["members"][0]["self_check"], bool(record["members"][0]["not_checked"])) == ("not done", True)
    shown = run("doctor", duo, "-q", "--weights").out
    for words in (
        "not done: ",
        "SentencePiece BPE",
        "union:",
        "share",
        "ordinary text:",
        "context:",
        "memory:",
        "weights loaded",
    ):
        assert words in shown


def test_doctor_tells_how_an_ensemble_writes_where_that_is_not_the_default(run: Run, duo: Path) -> None:
    assert "method:" not in run("doctor", duo, "-q").out
    record = json.loads(run("doctor", duo, "-q", "--json").out)["method"]
    assert (record["lead"], record["combine"]["rule"], record["draw"]["temperature"]) == ("a", "mean", 0)
    assert record["gate"] == {"kind": "always", "threshold": None, "n": None, "boundary": False}
    assert (record["speculate"], record["spelling"]) == (None, "piecewise")
    more = (
        "gate: confidence:0.5 boundary\nspeculate: b\ncombine: geometric\nsampling: {temperature: 0.5, bias: {é: 1}}\n"
    )
    duo.write_text(duo.read_text().replace("combine: mean\n", "") + more)
    shown = run("doctor", duo, "-q").out
    assert "combined by geometric, a leads, gate confidence:0.5 boundary, b drafts 6 pieces at most" in shown
    assert "sampling temperature:0.5 bias:%C3%A9=1" in shown
    record = json.loads(run("doctor", duo, "-q", "--json").out)["method"]
    assert (record["gate"]["threshold"], record["speculate"]["drafter"]) == (0.5, "b")


def test_doctor_says_in_words_what_would_hurt(run: Run, tmp_path: Path, duo: Path) -> None:
    from unisono.testing import FakeModel, LongestMatchTokenizer, byte_level_table, hashed_rule, register_fake

    table = byte_level_table(without=[0x04], chat_template=None)
    register_fake("base", FakeModel(LongestMatchTokenizer(table), hashed_rule(len(table.texts))))
    duo.write_text("members: [{name: a, model: 'fake:a', context: 100}, {name: base, model: 'fake:base', weight: 99}]")
    shown = run("doctor", duo, "-q").out
    assert "base has no chat template" in shown
    assert "base cannot spell 1 bytes (04)" in shown
    assert "base has 99% of the vote" in shown
    assert "the context of a, 100 tokens, ends every text" in shown


def test_doctor_tells_who_knows_tools_and_how_a_call_is_written(run: Run, duo: Path) -> None:
    from support.tool_templates import CONTROL, TAGGED

    members = [
        {"name": "a", "model": "fake:a", "chat_template": TAGGED},
        {"name": "b", "model": "fake:b", "chat_template": CONTROL},
        {"name": "c", "model": "fake:b"},
    ]
    duo.write_text(json.dumps({"members": members}))
    told = json.loads(run("doctor", duo, "-q", "--json").out)["members"]
    assert [member["tools"] for member in told] == [True, True, False]
    written = '<tool_call>\n{"name": "NAME", "arguments": {}}\n</tool_call>'
    marked = '<|system|>{"name": "NAME", "arguments": {}}'
    assert [member["call"] for member in told] == [written, marked, None]
    shown = run("doctor", duo, "-q").out
    assert "<tool_call>" in shown
    assert "not known" in shown


def test_bench_times_each_member_and_the_ensemble(run: Run, duo: Path) -> None:
    record = json.loads(run("bench", duo, "--json", "-q", "--rounds", 2, "--pieces", 4).out)
    assert [system["name"] for system in record["systems"]] == ["a", "b", "ensemble"]
    for system in record["systems"]:
        assert system["step"]["low"] <= system["step"]["median"] <= system["step"]["high"]
        assert system["forward"]["median"] <= system["step"]["median"]
    assert record["ratio_low"] <= record["ratio"] <= record["ratio_high"]
    shown = run("bench", duo, "-q", "--rounds", 1, "--pieces", 4, "--batch", 2).out
    assert "ensemble ÷ sum of its members" in shown
    assert "(in 1 round)" in shown
    assert " to " not in shown.replace("members: ", "")
    assert "ensemble: " not in shown


def test_bench_says_how_the_ensemble_of_the_file_writes(run: Run, duo: Path) -> None:
    duo.write_text(duo.read_text() + "lead: b\ngate: every:2\nspeculate: ngram:3\n")
    words = ("bench", duo, "-q", "--rounds", 2, "--pieces", 4)
    shown = run(*words).out
    assert "\nensemble: b leads, gate every:2, ngram drafts 3 pieces at most\n" in shown
    assert "in 2 rounds" in shown
    record = json.loads(run(*words, "--json").out)
    assert record["method"]["speculate"] == {"drafter": "ngram", "max_pieces": 3}
    for empty in ("", "  "):
        refused = run(*words, "--variant", empty)
        assert (refused.code, refused.out) == (2, "")
        assert "a --variant is empty" in refused.err


def test_bench_compares_settings_side_by_side(run: Run, duo: Path) -> None:
    settings = ("gate=every:2", "gate=every:2 speculate=ngram", "speculate=auto max_pieces=2")
    flags = [word for setting in settings for word in ("--variant", setting)]
    record = json.loads(run("bench", duo, "--json", "-q", "--rounds", 2, "--pieces", 6, *flags).out)
    gated, drafted, automatic = record["systems"][3:]
    assert (gated["name"], drafted["name"]) == settings[:2]
    assert gated["ensembled"] == pytest.approx(drafted["ensembled"]) == pytest.approx(4 / 7, abs=0.2)
    assert gated["same_text"] is None
    assert drafted["same_text"] == automatic["same_text"] == 1.0
    assert record["systems"][2]["speedup"]["median"] == 1.0
    table = run("bench", duo, "-q", "--rounds", 1, "--pieces", 4, *flags).out
    assert "gate=every:2 ÷ (its lead +" in table
    assert "same text" in table
    assert "did you mean 'gate'" in run("bench", duo, "--variant", "gates=every:2").err
    assert "'nobody' is not a member" in run("bench", duo, "--variant", "speculate=nobody").err


def test_bench_counts_members_of_a_certain_gate_as_often_as_they_were_asked(run: Run, duo: Path) -> None:
    members = "members:\n  - {name: a, model: 'fake:a', weight: 9}\n  - {name: b, model: 'fake:b'}\n"
    duo.write_text(members + "lead: b\ngate: certain\n")
    words = ("bench", duo, "-q", "--rounds", 1, "--pieces", 6)
    record = json.loads(run(*words, "--json", "--variant", "gate=always").out)
    alone = {system["name"]: system["step"]["median"] for system in record["systems"][:2]}
    certain, always = record["systems"][2:]
    assert (certain["asked"]["a"], always["asked"]) == (1, None)
    assert certain["asked"]["b"] < 1  # it leads, and is seldom needed
    assert certain["asked"]["b"] == pytest.approx(certain["ensembled"], abs=0.2)
    parts = sum(share * alone[name] for name, share in certain["asked"].items())
    assert certain["to_parts"]["median"] == pytest.approx(certain["step"]["median"] / parts)
    assert always["to_parts"]["median"] == pytest.approx(always["step"]["median"] / sum(alone.values()))
    assert "ensemble ÷ (its members' time, each as often as it was asked: 100% of a's, " in run(*words).out


def test_version_and_help_are_shown(run: Run) -> None:
    assert run("--version").out.startswith("unisono 0.")
    for verb in ("run", "doctor", "bench", "models"):
        assert "Usage" in run(verb, "--help").out


def test_small_slips_are_told_with_their_place_and_way_out(run: Run, duo: Path, tmp_path: Path) -> None:
    """What a newcomer met: blanks, a folder, names given twice, and old names among those that are offered."""
    blank = run("run", duo, "   ")
    assert (blank.code, "the prompt is empty" in blank.err) == (2, True)
    folder = run("run", duo.parent, "hi")
    assert (folder.code, "it is a folder" in folder.err, duo.name in folder.err) == (2, True, True)
    two = tmp_path / "two.yaml"
    two.write_text("members:\n  - {name: a, model: 'fake:a'}\n  - {name: a, model: 'fake:b'}\n")
    assert (
        "two.yaml, line 3, column 6: members[1].name is given again: two members are named 'a'"
        in run("run", two, "hi").err
    )
    two.write_text("combine: mean\nmembers:\n  - {name: a, model: 'fake:a', weight: 0}\n")
    assert "two.yaml, line 2, column 1: members have no vote: no weight is positive" in run("run", two, "hi").err
    unknown = run("bench", duo, "--variant", "gates=every:2").err
    assert "spelling" not in unknown
    for verb in ("run", "doctor", "bench", "serve", "report", "import-gac"):
        usage = next(line for line in run(verb, "--help").out.splitlines() if "Usage" in line)
        assert "{" not in usage
        assert usage.rstrip().endswith(("[SPEC]", "[SPEC] [TEXT]", "FILE]...", "RUN", "CONFIG")), usage


def test_malformed_lines_are_answered_where_they_stand(run: Run, duo: Path, tmp_path: Path) -> None:
    rows = ({"id": 1, "prompt": "Together"}, "nonsense", {"id": 3, "prompt": "Together"}, {"id": 4})
    shown = run("run", duo, "--prompts", jsonl(tmp_path / "in.jsonl", *rows), "--max-new-tokens", 2)
    assert "4 of 4" in shown.err
    assert [(row["id"], "error" in row) for row in shown.lines()] == [(1, False), (None, True), (3, False), (4, True)]


def test_a_closed_ensemble_says_so(duo: Path) -> None:
    with Ensemble.load(duo) as ensemble:
        with pytest.raises(
            SpecError, match=r"unknown option 'max_tokens'; did you mean 'max_\w+'\?; known: "
        ) as refused:
            ensemble.generate("a", max_tokens=3)  # type: ignore[call-overload]
        assert {"max_new_tokens", "stop"} <= set(str(refused.value).replace(",", "").split())
        assert not {"draw", "spelling"} & set(str(refused.value).replace(",", "").split())
    for ask in (ensemble.generate, ensemble.stream, lambda text: ensemble.score(text, "a")):
        with pytest.raises(ClosedError, match="the ensemble is closed"):
            ask("a")
