"""Recorded traces: what is read, refused and shown, and that nothing in a text ever runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest

from support.traces import ABOUT, step
from unisono.errors import SpecError
from unisono.page.single_file import single_file
from unisono.page.trace_reader import Trace, read_trace
from unisono.page.trace_server import trace_server

HOSTILE = (
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<!--",
    "\x00\x07\x1b[31m",
    "\u202eright to left\u202c",
    "שלום",
    "👩‍👩‍👧",
    "{{7*7}}${7*7}",
)


def record(path: Path, pieces: list[bytes | None], times: int = 1) -> Path:
    first, *others = (json.dumps(step(piece)) for piece in pieces)
    first = json.dumps({"about": ABOUT, **json.loads(first)})
    path.write_text("\n".join([first, *others * times]) + "\n")
    return path


@contextmanager
def shown_by_server(trace: Trace, folder: Path) -> Iterator[str]:
    with trace_server(trace) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@contextmanager
def shown_as_file(trace: Trace, folder: Path) -> Iterator[str]:
    path = folder / "page.html"
    path.write_text(single_file(trace), encoding="utf-8")
    yield path.as_uri()


@pytest.mark.parametrize("shown", [shown_by_server, shown_as_file])
def test_what_a_hostile_text_holds_is_shown_and_never_run(shown: Callable[..., Any], tmp_path: Path, page: Any) -> None:
    emoji = "🎉".encode()
    pieces = [*(text.encode() for text in HOSTILE), emoji[:2], emoji[2:], None]
    trace = read_trace(record(tmp_path / "trace.jsonl", pieces))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with shown(trace, tmp_path) as url:
        page.goto(url)
        page.get_by_text("trace.jsonl: 11 steps.").wait_for()
        for place in range(len(pieces)):
            page.locator(".piece").nth(place).hover()
        assert page.locator(".prompt").text_content() == "Say <b>it</b>"
        found = page.locator(".piece").all_text_contents()
    assert page.evaluate("window.ran") is None
    assert found[:3] == list(HOSTILE[:3])
    assert found[3] == "␀␇␛[31m"
    assert found[4] == "[U+202E]right to left[U+202C]"
    assert found[5:11] == [*HOSTILE[5:], "", "🎉", ""]
    assert page.locator("#pane h2").text_content() == "END"
    assert all(each.startswith(url) for each in asked)
    assert page.locator(".columns button").count() == 0  # nobody is there to go on


def test_a_recorded_answer_is_shown_with_its_pieces(run: Any, duo: Path, tmp_path: Path, page: Any) -> None:
    trace, html = tmp_path / "trace.jsonl", tmp_path / "out.html"
    answer = run("run", duo, "Hello", "--max-new-tokens", 8, "-q", "--trace", trace).out
    assert run("show", trace, "--html", html) == (0, "", "")
    page.goto(html.as_uri())
    page.get_by_text("trace.jsonl: 8 steps.").wait_for()
    assert page.locator(".prompt").text_content() == "Hello"
    text = "".join(page.locator(".piece").all_text_contents())
    assert text
    assert answer.startswith(text.translate({0x2400 + control: control for control in range(32)})[:5])
    page.locator(".piece").first.hover()
    assert page.locator("#pane h3").all_text_contents() == ["combined", "a, weight 0.50", "b, weight 0.50"]


def test_answers_with_their_traces_are_shown_too(run: Any, duo: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"id": 1, "prompt": "Hello"}\n{"id": 2, "prompt": "the"}\n')
    assert run("run", duo, "--prompts", prompts, "--out", out, "--max-new-tokens", 4, "--trace", "-q").code == 0
    with out.open("a") as file:
        file.write('{"id": 3, "error": "the prompt is too long"}\n')
    trace = read_trace(out)
    assert sorted((text.name, text.prompt) for text in trace.texts) == [("answer 1", "Hello"), ("answer 2", "the")]
    assert [len(text.steps) for text in trace.texts] == [4, 4]
    assert trace.notes == ["Answers that failed, or were written without --trace, are left out: 1 (line 3)."]


def test_the_page_gets_what_it_reads_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    more = {"gate": None, "draft": None, "certain": None, "other": [1], "members": {"top": 0.5, "bytes": 0.5}}
    first = {"about": ABOUT, **step(None, **more)}
    first["top"]["c"] = []
    path.write_text(json.dumps(first))
    told = json.loads(read_trace(path).to_json())["texts"][0]["steps"][0]
    assert told["bytes"] is None
    assert told["about"]["gate"] == {"kind": "always"}
    assert not {"gate", "draft", "certain", "other"} & {*told}
    assert set(told["top"]) == {"a", "b"}
    assert told["members"] == {"top": 0.5, "bytes": 0.5}


def test_a_trace_that_is_cut_off_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    path = record(tmp_path / "trace.jsonl", [b"a", b"b", b"c"])
    path.write_bytes(path.read_bytes()[:-20])
    trace = read_trace(path)
    assert [len(text.steps) for text in trace.texts] == [2]
    assert trace.notes == ["The file is cut off in line 3: what stands before it is shown."]


FIRST = {"about": ABOUT, **step(b"a")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no steps"),
        ("no JSON\n", "line 1 of the trace"),
        ('{"a": "\udce9"}\n', "it is not UTF-8, at its byte 7: save the file as UTF-8"),
        ("[1]\n", "a step is an object"),
        (json.dumps(step(b"a")), "is of an earlier version"),
        (json.dumps({**FIRST, "about": {**ABOUT, "version": 3}}), "is of version 3: this unisono shows version 2"),
        (json.dumps({**FIRST, "bytes": [256]}), "bytes.0: it must be 255 or less"),
        (json.dumps({**FIRST, "gate": {"score": "high", "threshold": 0, "asked": True}}), "gate.score: it must be"),
        (json.dumps(FIRST).replace("1.0", "NaN"), "NaN is no number"),
        (json.dumps(FIRST).replace("1.0", "1e999"), "entropy: it must be"),
        (json.dumps({**FIRST, "kind": "guessed"}), "kind: it must be"),
        (json.dumps({**FIRST, "part": "middle"}), "part: it must be"),
        (json.dumps(FIRST) + "\nnonsense\n" + json.dumps(step(b"b")), "line 2 of the trace"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SpecError, match=r"trace") as refused:
        read_trace(path)
    assert words in str(refused.value)
    assert refused.value.hint


def test_a_file_that_cannot_be_read_or_written_is_named(run: Any, tmp_path: Path) -> None:
    trace = record(tmp_path / "trace.jsonl", [b"a"])
    for words in ((tmp_path / "none.jsonl",), (trace, "--html", tmp_path), (trace, "--html", trace)):
        shown = run("show", *words)
        assert (shown.code, shown.out) == (2, "")
        assert "Traceback" not in shown.err


def test_a_page_replaces_an_earlier_one_and_no_other_file(run: Any, tmp_path: Path) -> None:
    trace, html = record(tmp_path / "trace.jsonl", [b"a"]), tmp_path / "page.html"
    for _ in range(2):
        assert run("show", trace, "--html", html).code == 0
    html.write_text("<p>precious</p>")
    refused = run("show", trace, "--html", html)
    assert refused.code == 2
    assert "is there already" in refused.err
    assert html.read_text() == "<p>precious</p>"


def test_a_trace_of_fifty_megabytes_opens(tmp_path: Path, page: Any) -> None:
    line = json.dumps({**step(b" and"), "more": "x" * 10_000})
    lines = [json.dumps({"about": ABOUT, **step(b" and")}), *[line] * 5_000]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    assert path.stat().st_size > 50_000_000
    with shown_by_server(read_trace(path), tmp_path) as url:
        page.goto(url)
        page.get_by_text("5001 steps").wait_for()
        page.locator(".piece").nth(5).hover()
        assert page.locator("#pane h2").text_content() == "“ and”"


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program that ends with the test, also where it fails."""
    with subprocess.Popen(command, **options) as program:
        try:
            yield program
        finally:
            program.kill()


def test_show_answers_on_its_own_machine_until_it_is_interrupted(tmp_path: Path) -> None:
    trace = record(tmp_path / "trace.jsonl", [b"a"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "unisono", "show", str(trace), "--no-browser"]
    pipe = subprocess.PIPE
    with started(command, stdout=pipe, stderr=pipe, env=environment, text=True) as program:
        assert program.stdout is not None
        url = program.stdout.readline().strip()
        assert 'data-mode="recorded"' in httpx2.get(url).text
        assert httpx2.get(f"{url}trace.json").json()["texts"][0]["steps"][0]["bytes"] == [97]
        assert httpx2.get(f"{url}trace.json", headers={"host": "elsewhere.example:80"}).status_code == 403
        assert httpx2.get(url, headers={"host": "localhost"}).status_code == 200  # as browsers say it of port 80
        assert httpx2.get(f"{url}nothing").status_code == 404
        port = int(url.rpartition(":")[2].strip("/"))
        with socket.create_connection(("127.0.0.1", port)) as leaving:  # which resets the connection
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaving.sendall(b"GET /")
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 130
        assert program.stderr is not None
        assert "Traceback" not in program.stderr.read()


def test_the_page_is_there_when_a_browser_that_stays_in_the_terminal_asks_for_it(tmp_path: Path) -> None:
    trace, seen = record(tmp_path / "trace.jsonl", [b"a"]), tmp_path / "seen"
    reader = tmp_path / "reader.py"
    reader.write_text(
        f"import sys, urllib.request as web\nopen({str(seen)!r}, 'wb').write(web.urlopen(sys.argv[1]).read())"
    )
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "BROWSER": f"{sys.executable} {reader} %s"}
    command = [sys.executable, "-m", "unisono", "show", str(trace)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as program:
        deadline = time.monotonic() + 20
        while not (seen.exists() and seen.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        assert program.wait(10) == 130
    assert b"recorded" in seen.read_bytes()
