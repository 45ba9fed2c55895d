"""The one file that imports llama.cpp: its log, and how a model is loaded so that Ctrl-C frees it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as _library

from unisono.backends.gguf import GgufFile
from unisono.backends.llamacpp import log

library: Any = _library
VERSION: str = llama_cpp.__version__


@library.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_log(level: int, text: bytes, _: object) -> None:
    log.keep(level, text.decode("utf-8", "replace"))


library.llama_log_set(_keep_log, ctypes.c_void_p(0))
library.llama_backend_init()


def load_model(file: GgufFile, params: Any, report: Callable[[float], None] | None = None) -> int:
    """Load a model. Ctrl-C, or an exception in ``report``, aborts the load."""
    failures: list[BaseException] = []

    @library.llama_progress_callback  # type: ignore[untyped-decorator]
    def on_progress(done: float, _: object) -> bool:
        try:
            if report is not None:
                report(done)
        except BaseException as error:  # must not leave a C callback, where it would be printed and lost
            failures.append(error)
        return not failures and not interrupts

    params.progress_callback = on_progress
    log.clear()
    with _held_interrupts() as interrupts:
        model: int | None = library.llama_model_load_from_file(os.fsencode(file.path), params)
    if model and (failures or interrupts):
        library.llama_model_free(model)
    if failures:
        raise failures[0]
    if interrupts:
        raise KeyboardInterrupt
    if not model:
        raise log.load_error(file)
    return model


@contextlib.contextmanager
def _held_interrupts() -> Iterator[list[int]]:
    """Record Ctrl-C instead of raising it: an exception raised inside a C callback would be lost."""
    seen: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT) if in_main else None
    if not callable(previous):  # another thread, or Ctrl-C is ignored or not Python's to handle
        yield seen
        return

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)
    if seen:
        with contextlib.suppress(KeyboardInterrupt):  # raised by the caller, when all is freed
            previous(signal.SIGINT, None)


def set_where_known(params: Any, name: str, value: object) -> None:
    if any(field[0] == name for field in params._fields_):
        setattr(params, name, value)
