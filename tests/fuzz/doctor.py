"""`unisono doctor`, and `run`, in a process that lasts: a case costs milliseconds, and a crash only that process.

``python -m fuzz.doctor`` is that process. It reads arguments of the command line, a list of JSON a line, and answers
each with its exit status and what was said.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from fuzz.case import Case, Outcome, memory_of
from fuzz.files import BACKENDS, CACHE, MODEL, RUN, SPEC, of_gguf
from unisono.chat.template_bounds import SECONDS as RENDERING

SECONDS = 2.0
"""For a refusal, or for a tiny model to load."""
PATIENCE = 20.0
"""Seconds after which a process that says nothing is ended."""
MEMORY = 2 * 2**30
"""Bytes of address space beyond what the libraries take."""
CASES = 1_000
"""After so many another process takes over: libraries keep a little of every model."""
REFUSED = 2
"""The exit status of an error that the user can mend."""


class Doctor:
    """Tries files."""

    def __init__(self, models: Path, folder: Path) -> None:
        self._models, self._folder = models, folder
        self._place, self._cache = folder / "case", folder / CACHE
        self._said = folder / "stderr"
        self._process = self._start()
        self._sound = of_gguf("sound", [], BACKENDS[0], RUN)
        self.entries: dict[str, bytes] = {}
        """What the sound model leaves in the cache."""
        status, self._text, _ = self._ask(self._sound)
        if status != 0:
            raise RuntimeError(f"the sound model cannot be run: {self._text}")
        for path in sorted(path for path in self._cache.rglob("*") if path.is_file() and path.suffix != ".lock"):
            self.entries[str(path.relative_to(self._cache))] = path.read_bytes()

    def run(self, case: Case) -> Outcome:
        outcome = self._try(case)
        return self._try(case) if outcome.fault == "slow" else outcome  # of two, the machine may be to blame for one

    def _try(self, case: Case) -> Outcome:
        status, said, seconds = self._ask(case)
        if status is None:
            code = self._process.wait()
            with contextlib.suppress(OSError):
                said = self._said.read_bytes()[-2_000:].decode(errors="replace")
            self._process = self._start()
            return Outcome("accepted", seconds, "hang" if seconds > PATIENCE else f"crash: status {code}", said)
        kind = "refused" if status == REFUSED else "accepted"
        if status not in (0, REFUSED):
            return Outcome(kind, seconds, said.splitlines()[0], said)
        if case.target == "cache" and said != self._text:
            return Outcome(kind, seconds, "another text", said)
        limit = SECONDS + (RENDERING if case.target == "template" else 0)  # which is of processor time
        return Outcome(kind, seconds, "slow" if seconds > limit else None, said)

    def _ask(self, case: Case) -> tuple[int | None, str, float]:
        """The exit status, ``None`` where the process ended; what was said; the seconds."""
        self._lay_out(case)
        self._asked += 1
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            words = [str(self._place / SPEC) if word == SPEC else word for word in case.words[1:]]
            self._process.stdin.write(json.dumps(words).encode() + b"\n")
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else b""
        seconds = time.monotonic() - began
        if not line:
            self._process.kill()
            return None, "", seconds
        status, said = json.loads(line)
        return status, said, seconds

    def _lay_out(self, case: Case) -> None:
        """Put the sound files of a case in place, and those of its own."""
        shutil.rmtree(self._place, ignore_errors=True)
        (self._place / MODEL).mkdir(parents=True)
        for path in (self._models / case.words[0]).iterdir():
            os.link(path, self._place / MODEL / path.name)
        if case.target in ("cache", "sound") or case.words[0] == "gguf":
            shutil.rmtree(self._cache, ignore_errors=True)
        if case.target == "cache":
            for name, data in self.entries.items():
                _write(self._cache / name, data)
        for name, part in case.parts:
            _write(self._folder / name if name.startswith(f"{CACHE}/") else self._place / name, part)

    def check(self) -> str | None:
        """Whether the sound model still writes what it wrote."""
        if self._asked > CASES:
            self.close()
            self._process = self._start()
        status, said, _ = self._ask(self._sound)
        return None if (status, said) == (0, self._text) else f"the sound model says {said!r}, not {self._text!r}"

    def memory(self) -> int:
        return memory_of(self._process.pid)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self._asked = 0
        self._place.mkdir(parents=True, exist_ok=True)
        quiet = {"UNISONO_CACHE": str(self._cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self._said.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.doctor"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=os.environ | quiet,
                cwd=self._folder,
            )
        assert process.stdout is not None
        process.stdout.readline()  # once it has imported the libraries, which takes a busy machine a minute
        return process


def _write(path: Path, data: bytes | None) -> None:
    path.unlink(missing_ok=True)  # never into a linked file
    if data is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main() -> None:
    import unisono.backends.llamacpp.loader
    import unisono.backends.transformers.loader  # noqa: F401

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print("ready", file=channel, flush=True)
    for number, line in enumerate(sys.stdin):
        answer = _said_by(json.loads(line))
        if not number and sys.platform == "linux":
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        channel.write(json.dumps(answer) + "\n")
        channel.flush()
        if number % 50 == 0:
            gc.collect()


def _said_by(arguments: list[str]) -> tuple[int, str]:
    from unisono.cli.main import app
    from unisono.errors import UnisonoError

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            status: Any = app(arguments, standalone_mode=False)
    except UnisonoError as error:
        return REFUSED, error.message
    except BaseException as error:  # a panic of native code is no Exception
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"
        return 1, f"internal error: {type(error).__name__} at {where}\n{error}"
    return status or 0, said.getvalue()


if __name__ == "__main__":
    main()
