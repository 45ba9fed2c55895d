"""Engines and workers as processes, for tests that want the real ones. `make test-engines` installs the engines."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx2

from unisono.config.demo import demo_path

ENGINES = Path(os.environ.get("UNISONO_ENGINES", ""))
SMOL, GEMMA, CODER = "demo:smollm2-135m-instruct", "demo:gemma3-270m", "demo:qwen2.5-coder-0.5b-instruct"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Sequence[object], health: str, seconds: float = 120, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it is well until the end of the test, with all processes that it has started."""
    environment = {**os.environ, **(environment or {})}
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        await_health(health, process, seconds)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # a `vllm serve` that is killed leaves its engine
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def await_health(url: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"it ended with {process.returncode}"
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url, timeout=2).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"{url} is not well after {seconds} s")


def llama_server_command(port: int, slots: int = 8, context: int = 1024) -> list[object]:
    model = demo_path(SMOL.removeprefix("demo:"))
    return [
        ENGINES / "llama-server", "-m", model, "--port", port, "-np", slots, "-c", slots * context, "-t", 1,
        "--no-webui",
    ]  # fmt: skip


def worker_command(folder: Path, port: int, *, host: str = "127.0.0.1", slots: int = 16) -> list[object]:
    spec = folder / "worker.yaml"
    spec.write_text(f'members: [{{name: gemma, model: "{GEMMA}", threads: 1}}]')
    return [
        sys.executable, "-m", "unisono", "member", "serve", spec, "--member", "gemma", "--host", host, "--port", port,
        "--slots", slots,
    ]  # fmt: skip


VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "PYTHONPATH": "",
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip


def vllm_command(folder: Path, port: int) -> list[object]:
    return [
        ENGINES / "vllm" / "bin" / "vllm", "serve", folder, "--served-model-name", "smol", "--host", "127.0.0.1",
        "--port", port, "--dtype", "float32", "--max-model-len", 1024, "--max-num-seqs", 16, "--block-size", 32,
        "--max-logprobs", 200, "--enable-prefix-caching", "--enforce-eager",
    ]  # fmt: skip
