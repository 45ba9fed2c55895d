"""Structured logs: a JSON object a line on stderr. No text of a prompt or an answer is in them unless asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("unisono.server")


def say(event: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log an event and its facts; those that are ``None`` are left out."""
    if log.isEnabledFor(level):
        log.log(level, event, extra={"facts": {name: value for name, value in facts.items() if value is not None}})


class JsonLines(logging.Formatter):
    """Writes each record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = where(record.exc_info[1])
        return json.dumps(line, default=repr)


def where(error: BaseException) -> str:
    """Which error it was and where it came up; not its message, which may hold what somebody wrote."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__ + place


@contextlib.contextmanager
def to_stderr() -> Iterator[None]:
    """Send what we and uvicorn log to stderr meanwhile, a JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    loggers = {logging.getLogger("unisono"): logging.INFO, logging.getLogger("uvicorn"): logging.WARNING}
    before = {logger: (logger.handlers[:], logger.level, logger.propagate) for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.handlers[:], logger.propagate = [handler], False
            logger.setLevel(level)
        yield
    finally:
        for logger, (handlers, level, propagate) in before.items():
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
