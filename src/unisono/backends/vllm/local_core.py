"""An engine in this process, whose passes are called for one by one: so chunks of a step are admitted together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from unisono.backends.vllm import library
from unisono.backends.vllm.board import RowBoard
from unisono.backends.vllm.core import Chunk, Step

ROWS = 64
"""Rows of the board, at least: as many positions of a text are told in one pass."""


class LocalCore:
    def __init__(self, arguments: Mapping[str, object], context: int) -> None:
        """Load a model. ``arguments`` are those of `library.engine_config`."""
        config = library.engine_config(arguments)
        self.board = RowBoard.create(
            max(ROWS, config.scheduler_config.max_num_seqs), int(config.model_config.get_vocab_size())
        )
        try:
            self._engine: Any = library.make_engine(config)
        except BaseException:
            self.board.forget_name()
            raise
        self.device = str(config.device_config.device_type)
        self.sessions = int(config.scheduler_config.max_num_seqs)
        self.context = context
        self.tokens = sys.maxsize  # it is told apart by what does not go on
        self.blocks = library.tells_blocks(config)
        self._named = True

    def admit(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            request, wave = self._engine.preprocess_add_request(library.request_of(self.board, chunk))
            self._engine.add_request(request, wave)

    def step(self) -> Step:
        outputs, moved = self._engine.step_fn()
        self._engine.post_step(moved)
        told = library.answered(outputs[0].outputs) if outputs and 0 in outputs else []
        if self._named and self.board.stamps_N.any():  # its workers have found it
            self._named = False
            self.board.forget_name()
        return Step(told, moved)

    def end(self, sessions: Sequence[str]) -> None:
        self._engine.abort_requests(list(sessions))

    def shut_down(self) -> None:
        self.board.forget_name()
        with contextlib.suppress(Exception):  # of an engine that has failed
            self._engine.shutdown()
        library.release()
