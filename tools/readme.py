"""Runs the commands and the Python of README.md, as they are written, in a folder that has a ``.venv``."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$|^## ([^\n]+)$|`(unisono [^`]* examples/[^`]*)`", re.MULTILINE | re.DOTALL)
"""A block of code, the heading of a section, or a whole command in a sentence."""
LANGUAGES = ("sh", "python")
OF_CHECKOUT = "make "
"""What begins a command that a checkout alone can run."""
SAID = "Name a colour.\n"
"""What is typed into the commands of sentences, such as those that talk."""
LIMIT = 900
"""Seconds for a block, and for a server until it is ready, on a machine that is busy with other work."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code of a page."""

    language: str
    code: str
    section: str

    @property
    def serves(self) -> bool:
        """Whether it runs until it is ended, and what follows it in its section asks it."""
        return self.code.startswith("unisono serve ")


def snippets(page: str) -> list[Snippet]:
    """The shell commands and the Python of a page, in its order, without what only a checkout can run."""
    found, section = [], ""
    for language, code, heading, sentence in BLOCK.findall(page):
        if heading:
            section = heading
        elif sentence:
            found.append(Snippet("sh", sentence, section))
        elif language in LANGUAGES and not code.startswith(OF_CHECKOUT):
            found.append(Snippet(language, code, section))
    return found


def run_page(page: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a page's snippets in ``folder``. Ends the program where one fails, prints nothing or breaks off."""
    with contextlib.ExitStack() as served:
        section = ""
        for snippet in snippets(page):
            if snippet.section != section:
                served.close()
            section = snippet.section
            began = time.monotonic()
            if snippet.serves:
                served.enter_context(_server(snippet, folder, environment))
            else:
                _run(snippet, folder, environment)
            first = snippet.code.strip().splitlines()[0]
            print(f"  {time.monotonic() - began:5.1f} s  {first[:90]}", file=sys.stderr, flush=True)


def _command(snippet: Snippet) -> list[str]:
    if snippet.language == "python":
        return [".venv/bin/python", "-c", snippet.code]
    return ["bash", "--norc", "-euo", "pipefail", "-c", snippet.code]


def _run(snippet: Snippet, folder: Path, environment: Mapping[str, str]) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        _command(snippet),
        cwd=folder,
        env=dict(environment),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )
    try:
        shown, told = process.communicate(SAID, timeout=LIMIT)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)  # what the shell has started, too
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        sys.exit(f"README.md: this has not ended after {LIMIT} s:\n{snippet.code}")
    if process.returncode or not shown.strip() or "Traceback" in told:
        sys.exit(f"README.md: this ended with status {process.returncode}:\n{snippet.code}\n{shown}\n{told}")


@contextlib.contextmanager
def _server(snippet: Snippet, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A server, ready; it has to end in good order when what asks it is done."""
    with tempfile.TemporaryFile("w+") as log:
        command = ["bash", "--norc", "-c", f"exec {snippet.code}"]
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            _await_ready(process, log.fileno(), snippet)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
        if status:
            sys.exit(f"README.md: the server ended with status {status}:\n{_read(log.fileno())}")


def _await_ready(process: subprocess.Popen[bytes], log: int, snippet: Snippet) -> None:
    until = time.monotonic() + LIMIT
    while '"event": "ready"' not in _read(log):
        if process.poll() is not None or time.monotonic() > until:
            sys.exit(f"README.md: this is not ready:\n{snippet.code}\n{_read(log)}")
        time.sleep(0.2)


def _read(log: int) -> str:
    return os.pread(log, 1 << 20, 0).decode(errors="replace")
