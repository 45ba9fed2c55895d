"""`unisono serve` in a process of its own, for benchmarks that are its clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

READY_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    """Where its standard output and error go."""

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        text = httpx2.get(f"{self.url}/metrics", timeout=30).text
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))

    def memory(self) -> int:
        """Megabytes that the process holds (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


@contextlib.contextmanager
def serve(
    spec: dict[str, Any] | Path,
    *flags: object,
    port: int | None = None,
    files: int | None = None,
    tree: Path | None = None,
) -> Iterator[Served]:
    """Serve a spec as the model ``duo``; end the server afterwards.

    Args:
        spec: the spec, or its file.
        flags: more for ``unisono serve``.
        port: by default one that is free.
        files: the most that the server may open.
        tree: whose server it is; by default that of the unisono that is installed.
    """
    with contextlib.ExitStack() as used:
        folder = Path(used.enter_context(tempfile.TemporaryDirectory()))
        if isinstance(spec, dict):
            (folder / "duo.yaml").write_text(json.dumps(spec))
            spec = folder / "duo.yaml"
        port = free_port() if port is None else port
        log = used.enter_context((folder / "log").open("w+b"))
        command = [sys.executable, "-m", "unisono", "serve", f"duo={spec}", "--port", str(port), *map(str, flags)]
        limit = [] if files is None else ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
        environment = os.environ if tree is None else os.environ | {"PYTHONPATH": str(tree / "src")}
        process = subprocess.Popen([*limit, *command], stdout=log, stderr=log, env=environment)
        try:
            served = Served(f"http://127.0.0.1:{port}", process, folder / "log")
            _await(served)
            yield served
        except BaseException:
            sys.stderr.write(served.log.read_text()[-3000:])
            raise
        finally:
            process.terminate()
            process.wait(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(served: Served) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if served.process.poll() is not None:
            raise RuntimeError("the server has ended")
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{served.url}/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError("the server is not ready")
