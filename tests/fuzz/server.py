"""`unisono serve` in a process of its own, a client that is hostile to it, and one that only asks how it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from fuzz.case import SERVED, Case, Outcome, memory_of
from fuzz.requests import COMPLETE, MODELS, post

SECONDS = 2.0
"""For any answer, and for one of /health meanwhile."""
PATIENCE = 20.0
FLAGS = (
    "--port=0",
    "--gac-api",
    "--max-output=16",
    "--max-n=4",
    "--batch=4",
    "--timeout=15",
    "--body-timeout=1",
    "--header-timeout=1",
)
BLAMELESS = (429, 501, 503)
"""What a server says where it is not to blame: it is busy, or a request has a transfer-encoding that it has not."""
STATUS = re.compile(rb"(?:\A|\n|\})HTTP/1\.1 (\d{3}) ")
ABORT = struct.pack("ii", 1, 0)
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
SERIOUS = ("error", "critical")


class Server:
    """Tries requests."""

    def __init__(self, models: Path, folder: Path) -> None:
        self._models, self._folder = models, folder
        self._closed = False
        self._begin()
        self._texts = self._canaries()
        self._bystander = threading.Thread(target=self._look, daemon=True)
        self._bystander.start()

    def _begin(self) -> None:
        self._log: list[str] = []
        """What must not be logged, since the last case began."""
        self._port, self._deaf = 0, 0.0
        specs = [str(self._models / f"{name}.yaml") for name in SERVED]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unisono", "serve", *specs, *FLAGS],
            stderr=subprocess.PIPE,
            env=os.environ
            | {"UNISONO_CACHE": str(self._folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stderr is not None
        threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True).start()
        deadline = time.monotonic() + 120
        while not self._port or b" 200 " not in self._talk([("send", HEALTH.replace(b"health", b"ready"))], 5)[0]:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the server does not start: {self._log}")
            time.sleep(0.1)

    def _read(self, stderr: IO[bytes]) -> None:
        for line in stderr:
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError:
                self._log.append(f"no JSON in the log: {line.decode(errors='replace').strip()}")
                continue
            if event["event"] == "listening":
                self._port = event["port"]
            if event["level"] in SERIOUS or event["event"] == "internal":
                self._log.append(f"logged {event['event'][:60]}: {event.get('error')}")

    def _look(self) -> None:
        """Ask how the server is, again and again, and note the longest wait."""
        while not self._closed:
            _, seconds = self._talk([("send", HEALTH)], PATIENCE)
            self._deaf = max(self._deaf, seconds)
            time.sleep(0.02)

    def run(self, case: Case) -> Outcome:
        outcome = self._try(case)
        return self._try(case) if outcome.fault in ("slow", "deaf") else outcome  # the machine may be to blame for one

    def _try(self, case: Case) -> Outcome:
        self._log.clear()
        self._deaf = 0.0
        data, seconds = self._talk(case.parts, PATIENCE)
        statuses = [status for each in STATUS.findall(data) if (status := int(each)) >= 200]
        fault = self._fault(case, statuses, seconds)
        if fault in ("hang", "deaf") or self._process.poll() is not None:
            self._process.kill()
            self._process.wait()
            self._begin()
        kind = "left" if not statuses else "accepted" if statuses[0] < 400 else "refused"
        return Outcome(kind, seconds, fault, data[:2_000].decode(errors="replace") if fault else "")

    def _fault(self, case: Case, statuses: list[int], seconds: float) -> str | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"crash: status {self._process.wait(0 if statuses else 0.02)}"
        if self._log:
            return self._log[0]
        if bad := [each for each in statuses if each >= 500 and each not in BLAMELESS]:
            return f"status {bad[0]}"
        if seconds > PATIENCE:
            return "hang"
        if case.words == ("whole",) and not statuses:
            return "no answer"
        return "deaf" if self._deaf > SECONDS else "slow" if seconds > SECONDS else None

    def _talk(self, parts: Any, patience: float) -> tuple[bytes, float]:
        """Do as the parts say, and read until the server closes the connection; what was read, and the longest wait.

        Many requests may be sent at once. They are answered one after another, each in its time.
        """
        data, seconds, last = b"", 0.0, time.monotonic()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), patience) as connection:
            connection.settimeout(patience)
            for action, sent in parts:
                if action == "send":
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered already
                        connection.sendall(sent)
                elif action == "end":
                    connection.shutdown(socket.SHUT_WR)
                elif action == "leave":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                    return b"", time.monotonic() - last
                else:  # hold it for a moment, and read what is there
                    connection.settimeout(0.1)
            while received := connection.recv(1 << 16):
                data += received
                seconds, last = max(seconds, time.monotonic() - last), time.monotonic()
        return data, max(seconds, time.monotonic() - last)

    def _canaries(self) -> list[bytes]:
        """The texts of plain requests, which nothing may change."""
        bodies = [{"model": model, "prompt": "Hello", "max_tokens": 8, "temperature": 0} for model in MODELS[:4]]
        answers = [
            self._talk([("send", post(COMPLETE, json.dumps(each).encode(), last=True))], PATIENCE) for each in bodies
        ]
        return [b"".join(re.findall(rb'"text":"(?:[^"\\]|\\.)*"', answer)) for answer, _ in answers]

    def check(self) -> str | None:
        texts = self._canaries()
        return None if texts == self._texts and all(texts) else f"texts are {texts}, and were {self._texts}"

    def memory(self) -> int:
        return memory_of(self._process.pid)

    def close(self) -> None:
        self._closed = True
        self._bystander.join()
        self._process.terminate()
        if (status := self._process.wait(30)) != 0:
            raise RuntimeError(f"the server ended with status {status}")
