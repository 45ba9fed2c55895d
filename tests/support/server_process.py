"""A server on fakes in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx2

PROGRAM = Path(__file__).parent / "serve_fakes.py"
KEY = "a-key-of-some-length"


class Process:
    """A server in a process of its own, and what it logs."""

    def __init__(self, folder: Path, milliseconds: int, *flags: object, files: int | None = None) -> None:
        """``files`` is the most that it may open."""
        spec = folder / "duo.yaml"
        spec.write_text("members: [{name: a, model: 'fake:a'}, {name: b, model: 'fake:b'}]")
        command = [sys.executable, PROGRAM, milliseconds, "serve", spec, f"pair={spec}", "--port", 0, *flags]
        limit = () if files is None else ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
        source = str(Path(__file__).parents[2] / "src")
        environment = {**os.environ, "PYTHONPATH": source, "UNISONO_CACHE": str(folder)}
        self.process = subprocess.Popen(
            [*limit, *(str(word) for word in command)], stderr=subprocess.PIPE, env=environment, cwd=folder
        )
        self.log: list[dict[str, Any]] = []
        assert self.process.stderr is not None
        self._reading = threading.Thread(target=self._read, args=(self.process.stderr,))
        self._reading.start()

    def _read(self, stderr: IO[bytes]) -> None:
        self.log.extend(json.loads(line) for line in stderr)

    def event(self, name: str, seconds: float = 30) -> dict[str, Any]:
        """Wait for an event of the log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.log):
                if line["event"] == name:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"there is no {name} in {self.log}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.event('listening')['port']}"

    def ask(self, pieces: int, **keys: Any) -> httpx2.Response:
        bias = {str(column): -100 for column in self.ends}
        body = {"model": "duo", "prompt": "the cat", "max_tokens": pieces, "logit_bias": bias, **keys}
        return httpx2.post(f"{self.url}/v1/completions", json=body, timeout=60, headers=self.headers)

    @property
    def ends(self) -> list[int]:
        body = {"model": "duo", "text": ""}
        found: list[int] = httpx2.post(f"{self.url}/v1/pieces", json=body, headers=self.headers).json()["end"]
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {KEY}"}

    def end(self, seconds: float = 30) -> int:
        code = self.process.wait(seconds)
        self._reading.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def process(folder: Path, milliseconds: int, *flags: object, files: int | None = None) -> Iterator[Process]:
    served = Process(folder, milliseconds, *flags, files=files)
    try:
        yield served
    finally:
        served.process.kill()
        served.end()
