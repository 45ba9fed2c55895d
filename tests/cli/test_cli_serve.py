"""``unisono serve``: what it refuses to begin with, and how a real process ends."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.command_line import Run
from support.server_process import KEY, process
from unisono import server
from unisono.server import launch


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("duo.yaml", "other/duo.yaml"), "two ensembles are named 'duo'"),
        (("a/b=duo.yaml",), "'a/b' cannot be the name of a model"),
        (("duo.yaml", "--host", "0.0.0.0"), "there are no keys"),
        (("duo.yaml", "--api-key-file", "nowhere"), "cannot read the key file 'nowhere'"),
        (("duo.yaml", "--timeout", "0"), "the limit timeout is 0"),
        (("duo.yaml", "--max-connections", "99999999"), "the limit connections is 99999999; this process may open"),
        (("duo.yaml", "--header-timeout", "0"), "the limit headers is 0"),
        (("duo.yaml", "--allow-origin", "localhost:3000"), "'localhost:3000' is not an origin of pages"),
        (("duo.yaml", "--host", "203.0.113.7", "--no-keys"), "cannot listen on port 8000 of 203.0.113.7"),
        (("duo.yaml", "--replicas", "2"), "--replicas is 2 without --ray"),
        (("duo.yaml", "--ray", "--port", "0"), "--port is 0 with --ray"),
        (("duo.yaml", "--ray", "--max-connections", "9"), "the limit connections cannot be kept with --ray"),
        (("nowhere.yaml",), "there is no ensemble file"),
        (("lost.yaml", "--port", "0"), "there is no fake model 'lost'"),
    ],
)
def test_what_cannot_be_served_is_told_and_is_no_traceback(
    run: Run, duo: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(duo.parent)
    (duo.parent / "other").mkdir()
    (duo.parent / "other" / "duo.yaml").write_text(duo.read_text())
    (duo.parent / "lost.yaml").write_text("members: [{name: lost, model: 'fake:lost'}]")
    shown = run("serve", *words)
    assert shown.code == 2, shown.err
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_a_port_that_is_in_use_is_told_before_anything_is_loaded(run: Run, duo: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        shown = run("serve", duo, "--port", other.getsockname()[1])
    assert shown.code == 2
    assert "is in use" in shown.err
    assert "loading" not in shown.err


def test_a_library_that_is_missing_is_named_with_the_way_to_install_it(
    run: Run, duo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(server.LIBRARIES, "no_such_library", "no-such-library")
    shown = run("serve", duo)
    assert shown.code == 2
    assert "no-such-library, which is not installed" in shown.err
    assert "pip install 'unisono[server]'" in shown.err


def test_the_commands_of_the_page_on_serving_begin_to_serve(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "examples").symlink_to(root / "examples")
    (tmp_path / "keys.txt").write_text(KEY)
    monkeypatch.chdir(tmp_path)
    served: list[object] = []
    origins: list[object] = []
    monkeypatch.setattr(launch, "bind", lambda host, port: (host, port))
    monkeypatch.setattr(
        launch,
        "serve",
        lambda load, bound, *limits, **keys: (served.append(bound), origins.extend(keys["origins"])),
    )
    page = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    commands = re.findall(r"^unisono (serve .*)$", page, re.MULTILINE)
    for command in commands:
        shown = run(*shlex.split(command))
        assert shown.code == 0, shown.err
    assert origins == []  # none are allowed that are not named
    assert served == [("127.0.0.1", 8000), ("127.0.0.1", 9000)]


def test_a_server_ends_well_under_load(tmp_path: Path) -> None:
    """What can be finished is, the others are told; the status is 0."""
    with process(tmp_path, 5, "--grace", 2.5) as served:
        served.event("ready")
        answers: dict[str, httpx2.Response] = {}

        def ask(name: str, pieces: int, **keys: Any) -> None:
            answers[name] = served.ask(pieces, **keys)

        kinds: dict[str, dict[str, Any]] = {
            "short": {"pieces": 30},
            "long": {"pieces": 3000},
            "stream": {"pieces": 3000, "stream": True},
        }
        threads = [threading.Thread(target=ask, args=(name,), kwargs=keys) for name, keys in kinds.items()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while "unisono_requests_running 3.0" not in httpx2.get(f"{served.url}/metrics").text:
            assert time.monotonic() < deadline
        served.process.send_signal(signal.SIGTERM)
        served.event("draining")
        refused = httpx2.post(f"{served.url}/v1/completions", json={"model": "duo", "prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        for thread in threads:
            thread.join(30)
        assert served.end() == 0
        assert answers["short"].json()["usage"]["completion_tokens"] == 30
        assert (answers["long"].status_code, answers["long"].json()["error"]["code"]) == (503, "shutting_down")
        last = answers["stream"].text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert served.log[-1]["event"] == "ended"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with process(tmp_path, 5, "--grace", 60) as served:
        served.event("ready")
        broken: list[bool] = []

        def ask() -> None:
            with pytest.raises(httpx2.TransportError):
                served.ask(3000)
            broken.append(True)

        asking = threading.Thread(target=ask)
        asking.start()
        deadline = time.monotonic() + 20
        while "unisono_requests_running 1.0" not in httpx2.get(f"{served.url}/metrics").text:
            assert time.monotonic() < deadline
        served.process.send_signal(signal.SIGINT)
        served.event("draining")
        served.process.send_signal(signal.SIGINT)
        assert served.end(5) == 128 + signal.SIGINT
        asking.join(20)
        assert broken


def test_a_signal_while_the_models_load_ends_it(tmp_path: Path) -> None:
    with process(tmp_path, 0) as served:
        served.event("listening")
        served.process.send_signal(signal.SIGTERM)
        assert served.end(20) == 0


def test_keys_open_a_server_to_other_addresses_and_no_text_is_logged(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    flags = ("--host", "0.0.0.0", "--api-key-file", tmp_path / "keys", "--no-members-alone", "--max-output", 7)
    with process(tmp_path, 0, *flags) as served:
        served.event("ready")
        models = httpx2.get(f"{served.url}/v1/models", headers=served.headers).json()["data"]
        assert [model["id"] for model in models] == ["duo", "pair"]
        assert httpx2.get(f"{served.url}/v1/models").status_code == 401
        answer = served.ask(7, prompt="the xylophone")
        assert answer.json()["usage"]["completion_tokens"] == 7
        assert served.ask(8).headers["x-unisono-clamped"] == "max_tokens=7"
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        assert "xylophone" not in json.dumps(served.log)
        assert KEY not in json.dumps(served.log)
        assert [line["status"] for line in served.log if line.get("path") == "/v1/completions"] == [200, 200]


def test_flags_make_it_strict_and_let_pages_of_other_sites_call(tmp_path: Path) -> None:
    pages = ("https://one.example", "https://two.example")
    flags = ("--strict", "--max-output", 7, *(word for page in pages for word in ("--allow-origin", page)))
    with process(tmp_path, 0, *flags) as served:
        served.event("ready")
        assert served.ask(8).json()["error"]["param"] == "max_tokens"
        for page in pages:
            asked = {"origin": page, "access-control-request-method": "POST"}
            answer = httpx2.options(f"{served.url}/v1/completions", headers=asked)
            assert answer.headers["access-control-allow-origin"] == page
