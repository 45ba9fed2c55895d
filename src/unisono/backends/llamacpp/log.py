"""What llama.cpp says: its last errors, and its warnings while a model is loaded. It has one log for all models."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Iterator

from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_parts import unlike_others
from unisono.backends.notices import Notices
from unisono.backends.weight_files import named
from unisono.errors import DeviceError, ModelCorrupt, ModelUnsupported, UnisonoError

WARNING, ERROR, CONTINUED = 3, 4, 5
_INCOMPLETE = re.compile(r"missing tensor|tensor '[^']*' not found|wrong shape|wrong number of tensors")
_lines: deque[tuple[int, str]] = deque(maxlen=400)
_unheard: list[bool] = []
"""Not empty while the last line has not ended."""
_listening: list[Notices] = []


def keep(level: int, words: str) -> None:
    """Take a line of the log, or more of the last line. A line is heard when it has ended."""
    if level == CONTINUED and _lines:
        level, begun = _lines.pop()
        _lines.append((level, begun + words))
    else:
        _end_line()
        _lines.append((level, words))
        _unheard.append(True)
    if words.endswith("\n"):
        _end_line()


def _end_line() -> None:
    """Let the last line be heard, once. Its function's name is left out of a warning."""
    if not _unheard:
        return
    _unheard.clear()
    level, words = _lines[-1]
    if level in (WARNING, ERROR):
        for notices in _listening:
            notices.hear(re.sub(r"^\w+: ", "", words))


def clear() -> None:
    _end_line()
    _lines.clear()


@contextlib.contextmanager
def heard(notices: Notices) -> Iterator[None]:
    """Collect the warnings of what is loaded in this context."""
    _end_line()
    _listening.append(notices)
    try:
        yield
    finally:
        _end_line()
        _listening.remove(notices)


def load_error(file: GgufFile) -> UnisonoError:
    reason = last_errors()
    message = f"llama.cpp cannot load {file.path}: {reason}"
    if _INCOMPLETE.search(reason):
        lacking = unlike_others(file) or re.findall(r"tensor '([^']+)' not found", reason)
        return ModelCorrupt(
            f"{message}; it lacks {named(lacking)}" if lacking else message,
            hint="download or convert the model again; upgrade llama-cpp-python where the model is newer than it",
        )
    if any(sign in reason for sign in ("corrupted", "incomplete", "failed to read", "invalid", "duplicate")):
        return ModelCorrupt(message, hint="download or copy the file again")
    if any(sign in reason for sign in ("allocate", "out of memory")):
        return DeviceError(message, hint="close other programs, or choose a smaller model or quantisation")
    return ModelUnsupported(message, hint="check that it is a text-generation model, or upgrade llama-cpp-python")


def last_errors() -> str:
    lines = [text.strip() for level, text in _lines if level == ERROR and text.strip()]
    return "; ".join(dict.fromkeys(lines[-3:])) or "it gives no reason"
