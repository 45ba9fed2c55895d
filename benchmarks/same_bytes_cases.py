"""What a recorded case is, how it becomes comparable, and the place where cases run; see same_bytes.py."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

HERE = Path(__file__).resolve().parent
Json = Any
HIDDEN = "(varies)"
VOLATILE = {
    *("seconds", "date", "created", "command", "versions", "machine", "system_fingerprint", "writing"),
    *("sha256", "peak_memory_bytes", "host_memory_bytes"),
}
"""Keys whose values follow the clock, the machine or the code."""
DRAFT_COUNTS = {"blocks", "drafted", "accepted", "draft"}
"""Keys whose values follow the clock where members draft: the length of a draft does."""
IDENTIFIER = re.compile(r"\b(chatcmpl|cmpl|call|req)[-_][0-9A-Za-z]{8,}\b")
ADDRESS = re.compile(r"\b(127\.0\.0\.1|localhost):\d+")
LAUNCHER = HERE / "same_bytes_fakes.py"
UNISONO_TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class Case:
    """One run, which becomes one file."""

    name: str
    """Also the name of its file; parts are separated by dots."""
    record: Callable[[], Json]
    drafts: bool = False
    """Whether members draft, so that the counters of drafts follow the clock."""
    digits: int | None = None
    """Decimal digits that are kept of each number; `None` keeps all."""
    unordered: bool = False
    """Whether the order of keys does not matter."""


def comparable(value: Json, work: Workplace, *, drafts: bool = False, digits: int | None = None) -> Json:
    """Replace what differs from run to run."""
    if isinstance(value, Mapping):
        hidden = VOLATILE | (DRAFT_COUNTS if drafts else set()) | ({"id"} if "function" in value else set())
        return {
            _text(str(key), work): HIDDEN
            if key in hidden and value is not None
            else comparable(each, work, drafts=drafts, digits=digits)
            for key, each in value.items()
        }
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, str):
        return _text(value, work)
    if isinstance(value, Iterable):
        return [comparable(each, work, drafts=drafts, digits=digits) for each in value]
    if isinstance(value, float) and digits is not None:
        return round(value, digits) + 0.0
    return value


def _text(text: str, work: Workplace) -> str:
    for path, name in ((work.scratch, "SCRATCH"), (work.root, "ROOT"), (Path(sys.prefix), "PREFIX")):
        text = text.replace(str(path), name)
    return ADDRESS.sub(r"\1:PORT", IDENTIFIER.sub(r"\1-ID", text))


class Workplace:
    """A scratch folder, the loaded ensemble of the moment, and the server of the moment."""

    def __init__(self) -> None:
        """Find the tree that is recorded: the one whose `unisono` this interpreter imports."""
        found = importlib.util.find_spec("unisono")
        if found is None or found.origin is None:
            raise SystemExit("unisono cannot be imported: set PYTHONPATH=TREE/src")
        self.package = Path(found.origin).resolve().parent
        self.root = self.package.parent.parent
        self.scratch = Path(tempfile.mkdtemp(prefix="same-bytes-"))
        self._held: tuple[str, Any, contextlib.ExitStack] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._drop()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def file(self, name: str, content: str | Json) -> Path:
        """Write a file of the scratch folder: text as it is, all else as JSON, which is YAML too."""
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False))
        return path

    def lines(self, name: str, rows: Iterable[Json]) -> Path:
        """Write a file of JSON lines."""
        return self.file(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def unisono(self, *words: object, fakes: bool = False, stdin: str | None = None) -> Json:
        """Run the command line; return its status and stdout, as values where all its lines are JSON."""
        done = subprocess.run(
            self._command(words, fakes),
            cwd=self.scratch,
            input=(stdin or "").encode(),
            capture_output=True,
            timeout=UNISONO_TIMEOUT,
            env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"},
        )
        if b"Traceback (most recent call last)" in done.stderr:
            raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
        return {"exit": done.returncode, "stdout": read_output(done.stdout.decode())}

    def ensemble(self, name: str, spec: Mapping[str, Any], batch: int = 1) -> Any:
        """The loaded ensemble of that name; one at a time is held."""
        import unisono

        return self._hold(name, lambda stack: stack.enter_context(unisono.Ensemble.load(dict(spec), batch=batch)))

    def server(self, name: str, *words: object, fakes: bool = False) -> str:
        """The address of the running server of that name; one at a time is held."""
        return cast(str, self._hold(name, lambda stack: stack.enter_context(self._serve(words, fakes))))

    def _command(self, words: Iterable[object], fakes: bool) -> list[str]:
        begin = [sys.executable, "-P", *((str(LAUNCHER),) if fakes else ("-m", "unisono"))]
        return [*begin, *map(str, words)]

    def _hold(self, name: str, load: Callable[[contextlib.ExitStack], Any]) -> Any:
        if self._held is None or self._held[0] != name:
            self._drop()
            stack = contextlib.ExitStack()
            self._held = (name, load(stack), stack)
        return self._held[1]

    def _drop(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            held[2].close()

    @contextlib.contextmanager
    def _serve(self, words: Iterable[object], fakes: bool) -> Iterator[str]:
        import httpx2

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = (self.scratch / "server.log").open("wb")
        command = self._command(["serve", *words, "--port", port, "--grace", 2], fakes)
        with log, subprocess.Popen(command, cwd=self.scratch, stdout=log, stderr=log) as process:
            try:
                address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
                while True:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"the server does not start: {(self.scratch / 'server.log').read_text()}")
                    with contextlib.suppress(httpx2.TransportError):
                        if httpx2.get(f"{address}/ready").status_code == 200:
                            break
                    time.sleep(0.1)
                yield address
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def read_output(text: str) -> Json:
    """A program's output as values, where it is JSON or JSON lines, else as lines."""
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(text)
    lines = text.split("\n")
    with contextlib.suppress(json.JSONDecodeError):
        return [json.loads(line) for line in lines if line]
    return lines


def written(ensemble: Any, *prompt: str, **keys: Any) -> Json:
    """A generated text, or the error that refuses it, as JSON."""
    import unisono

    try:
        found = ensemble.generate(*prompt, **keys)
    except unisono.UnisonoError as error:
        return refusal(error)
    return {**found.to_json(), "bytes": found.data}


def refusal(error: Exception) -> Json:
    """An error of unisono's own, as JSON."""
    return {"error": str(error), "hint": getattr(error, "hint", None)}
