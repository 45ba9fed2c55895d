"""The program as a user meets it, on the real demo models: interruptions, and what the pages say.

What is about a process has one of its own; what the pages say runs in this one, which has read the tokenizers before.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.command_line import Run
from support.covering import some
from unisono.build import prepare
from unisono.config.ensemble import load_spec

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]
DUO = ROOT / "examples" / "duo.yaml"
PROGRAM = [sys.executable, "-c", "from unisono.cli.main import main; main()"]


def unisono(*words: object, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def start(*words: object) -> subprocess.Popen[str]:
    """Start a run that hears Ctrl-C, even where these tests are run in the background and do not."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_the_demo_pair_answers_together_and_writes_whole_characters() -> None:
    shown = unisono("run", DUO, "日本の首都はどこですか。", "--max-new-tokens", 24, "--json")
    assert shown.returncode == 0, shown.stderr
    record = json.loads(shown.stdout)
    assert record["usage"]["prompt_tokens"].keys() == {"smol", "gemma"}
    assert record["text"].strip()
    assert "\ufffd" not in record["text"]
    assert "smol: " in shown.stderr


def test_the_members_of_the_example_of_tools_know_them_and_their_lead_writes_calls() -> None:
    prepared = prepare(load_spec(ROOT / "examples" / "tools.yaml"))
    assert all(member.encoder.tool_use().knows_tools for member in prepared.members)
    assert prepared.members[0].encoder.call_form().sign == "<tool_call>"


def test_the_same_text_comes_out_every_time() -> None:
    words = ("run", DUO, "--raw", "The history of the lighthouse began when", "--max-new-tokens", 8, "-q")
    first, second = (unisono(*words, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first.stdout == second.stdout
    assert first.stderr == second.stderr == ""


def test_ctrl_c_while_loading_ends_cleanly() -> None:
    with start("run", DUO, "Hello") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loaded" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in rest


def test_ctrl_c_while_writing_ends_cleanly_and_keeps_the_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with start("run", DUO, "--raw", "Once upon a time", "--max-new-tokens", 2000, "--trace", trace) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in rest
    assert "interrupted" in rest
    steps = [json.loads(line) for line in trace.read_text().splitlines()]
    assert steps
    assert all(step["voted"] == ["smol", "gemma"] for step in steps)


def rows(path: Path) -> dict[Any, str]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row["text"] for row in found}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, run: Run) -> None:
    prompts, whole, out = (tmp_path / name for name in ("in.jsonl", "whole.jsonl", "out.jsonl"))
    with prompts.open("w") as file:
        for n in range(4):
            file.write(json.dumps({"id": n, "prompt": f"Count from {n} to ten:"}) + "\n")
    words = ("run", DUO, "--prompts", prompts, "--raw", "--max-new-tokens", 12, "-q")
    assert run(*words, "--out", whole).code == 0
    with start(*words, "--out", out) as process:
        while not (out.exists() and out.read_text().count("\n") >= 2):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert len(rows(out)) < 4
    resumed = run(*words, "--out", out, "--resume")
    assert resumed.code == 0, resumed.err
    assert rows(out) == rows(whole)


@pytest.mark.parametrize("backend", ["llamacpp", "transformers"])
def test_a_damaged_model_is_named_without_a_traceback(tmp_path: Path, backend: str) -> None:
    from unisono.config.demo import demo_path

    data = demo_path("smollm2-135m-instruct").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"members: [{{name: m, model: cut.gguf, backend: {backend}}}]")
    shown = unisono("run", spec, "Hello")
    assert shown.returncode == 2
    assert "cut.gguf" in shown.stderr
    assert "'m'" in shown.stderr
    assert "Traceback" not in shown.stderr


SHORT = {"run": ("--max-new-tokens", "12"), "eval": ("--limit", "4")}
"""By verb, what holds a command of a page to fewer pieces or questions: the last of equal flags counts."""


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/command-line.md"])
def test_every_command_of_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, page: str) -> None:
    """Those that run unisono; ``make`` has its own test wherever it is used."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    own = re.compile(r'(?:echo "(?P<piped>.*)" *\| *)?unisono (?P<words>(?!serve ).*)')
    lines = [line for block in blocks for line in map(own.match, block.splitlines()) if line]
    assert len(lines) >= 3
    lines = lines if page == "README.md" else list(some(lines, 3))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")  # some write beside them
    monkeypatch.chdir(tmp_path)
    for line in lines:
        words = shlex.split(line["words"])
        shown = run(*words, *SHORT.get(words[0], ()), stdin=f"{line['piped'] or ''}\n".encode())
        assert shown.code == 0, (line[0], shown.err)
        assert shown.out


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_of_the_pages_runs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], page: str
) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        if "base_url" in block:
            continue  # it needs a server
        brief = re.sub(r"max_new_tokens=\d+", "max_new_tokens=8", block)
        exec(compile(brief, page, "exec"), {"__name__": "__main__"})
        assert capfd.readouterr().out


def test_what_the_readme_serves_answers_what_the_readme_asks() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    [serve] = re.findall(r"^unisono (serve .*)$", page, re.MULTILINE)
    [ask] = re.findall(r"^curl .*$", page, re.MULTILINE)
    [block] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "base_url" in block]
    with start(*shlex.split(serve)) as process:
        try:
            assert process.stderr is not None
            assert any('"event": "ready"' in line for line in process.stderr)
            asked = subprocess.run(ask, shell=True, capture_output=True, text=True, timeout=120)
            assert asked.stdout.startswith("data: {")
            assert asked.stdout.endswith("data: [DONE]\n\n")
            shown = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=120)
            assert shown.returncode == 0, shown.stderr
            assert re.findall(r"^duo\S*", shown.stdout, re.MULTILINE) == ["duo", "duo/smol", "duo/gemma"]
        finally:
            process.terminate()
        assert process.wait(60) == 0
