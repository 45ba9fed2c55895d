"""A member's engine in a process of its own: a worker of `unisono.worker.child` on a socket that only this one knows.

The process ends when its input does, so it never outlives its parent. It is asked as workers on other machines are.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from unisono.backends.base import Array, Backend, Feed, LoadRequest, ModelFacts, Progress, Slot
from unisono.backends.endpoint.backend import EndpointBackend
from unisono.backends.endpoint.client import Client
from unisono.backends.endpoint.direct import Direct
from unisono.backends.endpoint.settings import EndpointSource
from unisono.backends.endpoint.worker import WorkerAdapter
from unisono.backends.options import VllmOptions
from unisono.backends.top_logprobs import TopLogprobs
from unisono.errors import ModelError, SpecError, shown

STEP_SECONDS = 600.0
"""How long a pass may take: a long prompt on a processor takes minutes."""
ENDING_SECONDS = 20.0
BACKLOG = 64
CHILD = "unisono.worker.child"


def start_backend(request: LoadRequest, options: VllmOptions, facts: ModelFacts, progress: Progress) -> Backend:
    """Load a member in a process of its own. Raises a `UnisonoError`."""
    token = secrets.token_urlsafe(24)
    process = MemberProcess(request.name, options.python or sys.executable, _order(request, options, token))
    try:
        process.wait(progress)
        source = EndpointSource(kind="endpoint", location=process.address, timeout=STEP_SECONDS)
        client = Client(request.name, source, token)
        adapter = WorkerAdapter(client, None, Direct(client.address, client.authorization))
        told = client.run(adapter.describe())
        backend = EndpointBackend(
            client, adapter, told, context=min(facts.context, told.context), slots=request.slots, warnings=told.warnings
        )
    except BaseException:
        process.end()
        raise
    return ProcessBackend(backend, process)


def _order(request: LoadRequest, options: VllmOptions, token: str) -> dict[str, Any]:
    """What the process is told to serve."""
    source = request.source
    member: dict[str, object] = {
        "name": request.name,
        "backend": "vllm",
        "model": str(source.path.absolute()) if source.kind == "folder" else source.location,
        "options": options.model_dump(exclude_none=True, exclude={"python"}),
    }
    for key in ("dtype", "context", "threads"):
        if (value := getattr(request, key)) is not None:
            member[key] = value
    return {"member": member, "slots": request.slots, "token": token}


class MemberProcess:
    def __init__(self, member: str, python: str, order: Mapping[str, Any]) -> None:
        self._member = member
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.bind(("127.0.0.1", 0))
        bound.listen(BACKLOG)
        self.address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        threads = order["member"].get("threads")
        environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
        try:
            self._process = subprocess.Popen(
                [python, "-m", CHILD, str(bound.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[bound.fileno()],
                start_new_session=True,  # a Ctrl-C is this process's: it may have texts to end
                env=environment,
            )
        except OSError as error:
            self._log.close()
            raise SpecError(
                f"member {member!r}: options.python is {shown(python)}, which cannot be started: {error.strerror}",
                hint="give the path of the Python that has vLLM and unisono",
            ) from error
        finally:
            bound.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._says = self._process.stdout
        with contextlib.suppress(OSError):  # of one that ended at once
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def wait(self, progress: Progress) -> None:
        """Wait until the member is loaded. Raises a `ModelError` with what the process says of why it is not."""
        for line in self._says:
            try:
                told: Any = json.loads(line)
            except ValueError:
                continue
            match told:
                case {"ready": True}:
                    return
                case {"error": str(words), "hint": hint}:
                    raise ModelError(words, hint=hint)
                case {"doing": str(words), "fraction": float(fraction)}:
                    progress(min(fraction, 0.99), words)
        status = self._process.wait()
        raise ModelError(
            f"the process of member {self._member!r} ended with status {status} before its model was loaded: "
            f"{self._last_words()}",
            hint="its Python has to have vLLM and unisono[vllm]; options.python names another",
        )

    @property
    def status(self) -> int | None:
        """With what the process ended; ``None`` while it runs."""
        return self._process.poll()

    def end(self) -> None:
        """End the process: by itself, else by force. Idempotent."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"


class ProcessBackend:
    """A backend whose process ends with it."""

    def __init__(self, backend: EndpointBackend, process: MemberProcess) -> None:
        self.facts = backend.facts
        self._backend = backend
        self._process = process

    def open(self, copy_of: Slot | None = None) -> Slot:
        return self._backend.open(copy_of)

    def advance(self, feeds: Sequence[Feed]) -> Array | TopLogprobs:
        return self._backend.advance(feeds)

    def rewind(self, slot: Slot, length: int) -> None:
        self._backend.rewind(slot, length)

    def close(self, slot: Slot) -> None:
        self._backend.close(slot)

    def unload(self) -> None:
        self._backend.unload(says_so=False)
        self._process.end()
