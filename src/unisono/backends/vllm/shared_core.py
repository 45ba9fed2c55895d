"""The engine of a server that serves others, too: sessions are its resumable requests, in the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from unisono.backends.vllm import library
from unisono.backends.vllm.board import RowBoard
from unisono.backends.vllm.core import Chunk, Step
from unisono.backends.vllm.groups import GroupName
from unisono.errors import ModelError

ROWS = 64
"""Rows of the board, at least."""
SHARE = 2
"""Of its places and of its memory for keys and values, a server keeps one part of so many for unisono at most."""
LOOK_SECONDS = 1.0
STUCK_SECONDS = 60.0
"""So long without an answer, an engine is busy with others; after that it is taken to lack memory."""

Said = Callable[[tuple[str, BaseException | None]], None]


class SharedCore:
    """Called in a thread of its own, not in the loop."""

    def __init__(self, engine: Any, loop: asyncio.AbstractEventLoop) -> None:
        """``engine`` is the server's `AsyncLLM`."""
        config = engine.vllm_config
        self.sessions = max(1, int(config.scheduler_config.max_num_seqs) // SHARE)
        self.context = int(config.model_config.max_model_len) - 1
        self.tokens = _tokens(config.cache_config) // SHARE
        self.blocks = library.tells_blocks(config)
        self.device = str(config.device_config.device_type)
        self.board = RowBoard.create(max(ROWS, self.sessions), int(config.model_config.get_vocab_size()))
        self._engine = engine
        self._loop = loop
        self._owner = secrets.token_hex(8)
        self._steps = itertools.count(1)
        self._sessions: dict[str, _Session] = {}
        """Changed in the loop alone."""
        self._answers: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
        self._heard = 0.0
        self._named = True

    def admit(self, chunks: Sequence[Chunk]) -> None:
        self._heard = time.monotonic()
        name = GroupName(self._owner, next(self._steps), len(chunks))
        self._loop.call_soon_threadsafe(self._read, [(chunk, name) for chunk in chunks])

    def step(self) -> Step:
        told = list[str]()
        with contextlib.suppress(queue.Empty):
            answer = self._answers.get(timeout=LOOK_SECONDS)
            while True:
                name, error = answer
                if error is not None:
                    raise ModelError(
                        f"the server's engine does not read what it is given: {type(error).__name__}: {error}"
                    ) from error
                told.append(name)
                answer = self._answers.get_nowait()
        now = time.monotonic()
        self._heard = now if told else self._heard
        if self._named and self.board.stamps_N.any():
            self._named = False
            self.board.forget_name()
        return Step(told, now - self._heard < STUCK_SECONDS)

    def end(self, sessions: Sequence[str]) -> None:
        self._loop.call_soon_threadsafe(self._end, list(sessions))

    def shut_down(self) -> None:
        self.board.forget_name()
        with contextlib.suppress(RuntimeError):  # of a loop that is closed
            self._loop.call_soon_threadsafe(lambda: self._end(list(self._sessions)))

    def _read(self, chunks: Sequence[tuple[Chunk, GroupName]]) -> None:
        for chunk, group in chunks:
            if chunk.fresh:
                params = library.params_of(self.board, chunk)
                self._sessions[chunk.session] = _Session(self._engine, chunk.session, params, self._say)
            if (session := self._sessions.get(chunk.session)) is not None:
                session.read(library.input_of(self.board, chunk, group))

    def _say(self, answer: tuple[str, BaseException | None]) -> None:
        if answer[0] in self._sessions:
            self._answers.put(answer)

    def _end(self, sessions: Sequence[str]) -> None:
        for name in sessions:
            if (session := self._sessions.pop(name, None)) is not None:
                session.end()


class _Session:
    """A resumable request. All of it runs in the server's loop."""

    def __init__(self, engine: Any, name: str, params: Any, say: Said) -> None:
        self._chunks: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._run(engine, name, params, say))

    def read(self, chunk: Any) -> None:
        self._chunks.put_nowait(chunk)

    def end(self) -> None:
        self._task.cancel()

    async def _inputs(self) -> AsyncGenerator[Any, None]:
        while True:
            yield await self._chunks.get()

    async def _run(self, engine: Any, name: str, params: Any, say: Said) -> None:
        try:
            async for output in engine.generate(self._inputs(), params, name):
                if output.outputs and output.outputs[0].token_ids:
                    say((name, None))
        except Exception as error:  # of the engine, whatever it is: the call that waits is told
            say((name, error))


def _tokens(cache: Any) -> int:
    """Tokens whose keys and values the engine has memory for, where it says so."""
    blocks = getattr(cache, "num_gpu_blocks", None)
    return int(blocks) * int(cache.block_size) if blocks else sys.maxsize
