"""Every error that unisono raises on purpose.

Each carries a ``hint``: what to do about it. The command line prints both and exits with 2; nothing else of unisono's
own is ever shown to a user as a traceback.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import date


class UnisonoError(Exception):
    """The base of all errors.

    Attributes:
        message: what is wrong, with the subject, the value and the choices.
        hint: what to do about it, or ``None``.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SpecError(UnisonoError, ValueError):
    """An ensemble file, a flag or an argument is wrong."""


class ModelError(UnisonoError):
    """A member's model cannot be loaded or used."""


class ModelNotFound(ModelError):
    """There is no such file, folder, hub id or demo model."""


class ModelCorrupt(ModelError):
    """The model's file is damaged, truncated, or its checksum is wrong."""


class ModelUnsupported(ModelError):
    """The file is sound, but its model cannot be a member of an ensemble."""


class MemberUnavailable(ModelError):
    """A member that lives elsewhere does not answer, or its answer cannot be used."""

    def __init__(
        self, member: str, address: str, reason: str, *, retry_after: float | None = None, refused: bool = False
    ) -> None:
        super().__init__(
            f"member {member!r} at {address} is not available: {reason}",
            hint=f"look whether it runs and can be reached from here: `unisono doctor` asks {address}",
        )
        self.member = member
        self.address = address
        self.reason = reason
        self.retry_after = retry_after
        """Seconds after which the engine wants the next request; ``None`` if it named no time."""
        self.refused = refused
        """Whether it answers but is another model than at the beginning, so that another request cannot help."""


class BackendMissing(UnisonoError):
    """The library behind a backend, or behind constraints, is not installed."""


class CapacityError(UnisonoError, RuntimeError):
    """Fewer slots are free than a text needs."""


class ClosedError(UnisonoError, RuntimeError):
    """An ensemble is used after it was closed."""


class VocabularyError(UnisonoError):
    """A vocabulary, a union or a spelling is impossible, for instance because a member cannot spell printable ASCII."""


class PromptError(UnisonoError, ValueError):
    """A prompt is empty, too long, or cannot be represented by a member."""


class PromptTooLong(PromptError):
    """A prompt has more tokens than a member's context holds."""


class DeviceError(UnisonoError):
    """A device does not exist or has not enough memory."""


class CacheError(UnisonoError):
    """A cache folder cannot be written."""


class QueueFull(UnisonoError):
    """Too many requests are waiting to be served."""


class RequestTimeout(UnisonoError):
    """A request took longer than its timeout."""


class OldNameWarning(FutureWarning):
    """An old name or key still works, and has a new name. Python shows a `FutureWarning` to users by default."""


def deprecated(words: str) -> None:
    warnings.warn(words, OldNameWarning, stacklevel=3)


LONGEST_WORD = 100
"""Characters; what is longer resembles no name."""
MOST_COMPARED = 100_000
"""Characters of a word times those of all choices; more are not looked through, as clients may write both."""
LONGEST_SHOWN = 60


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest choice, or an empty string when none is close."""
    close = closest(word, choices)
    return "" if close is None else f"; did you mean {close!r}?"


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is closest to a word, or ``None`` when none is close."""
    if len(word) > LONGEST_WORD:
        return None
    written = {choice.lower(): choice for choice in choices}
    if len(word) * sum(map(len, written)) > MOST_COMPARED:
        return None
    close = difflib.get_close_matches(word.lower(), written, n=1)
    return written[close[0]] if close else None


def shown(value: object) -> str:
    """A value as a message shows it, shortened: as JSON and YAML write it, for these are what most users write.

    A text has single quotes, as names have in messages; within a list or an object it has JSON's.
    """
    text = ""
    try:
        for part in [repr(value)] if isinstance(value, str) else _written(value):
            text += part
            if len(text) > LONGEST_SHOWN:
                return text[: LONGEST_SHOWN - 3] + "…"
    except Exception:  # an integer of thousands of digits; an object whose repr is broken
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text


def _written(value: object) -> Iterator[str]:
    """A value as JSON writes it, bit by bit; what JSON does not know, as Python does."""
    if isinstance(value, str):
        yield f'"{"".join(map(_character, value[:LONGEST_SHOWN]))}"'
    elif value is None or isinstance(value, bool):
        yield str(value).lower() if value is not None else "null"
    elif isinstance(value, Mapping):
        yield "{"
        for place, (key, item) in enumerate(value.items()):
            yield ", " if place else ""
            yield from _written(key)
            yield ": "
            yield from _written(item)
        yield "}"
    elif isinstance(value, list | tuple | set | frozenset):
        yield "["
        for place, item in enumerate(value):
            yield ", " if place else ""
            yield from _written(item)
        yield "]"
    else:
        yield str(value) if isinstance(value, date) else repr(value)


def _character(character: str) -> str:
    return character if character.isprintable() and character not in '"\\' else json.dumps(character)[1:-1]


_RENAMED = {"NoRoom": CapacityError, "TimedOut": RequestTimeout}


def __getattr__(name: str) -> type[UnisonoError]:
    if name not in _RENAMED:
        raise AttributeError(f"module 'unisono.errors' has no attribute {name!r}")
    new = _RENAMED[name]
    deprecated(f"{name} is now {new.__name__}")
    return new
