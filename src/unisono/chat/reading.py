"""A process that encodes long prompts for a server: ``python -m unisono.chat.reading``.

Templates and tokenizers hold the interpreter's lock for as long as they work, and some tokenizers recurse over what a
client wrote. Here that delays no step of the models, and crashes nothing: the process ends at its limits, and the
server starts another one. From stdin it reads the members' encoders (a pickle of the server's own), then a question a
line, in JSON: ``[encoder, "prompt", "text" or "spell", …, the most ids]``. It answers with a line: ``{"ids": […]}``,
``{"length": …}`` where there are more, ``{"error": [message, hint]}``, or ``{"unable": why}`` where the encoders cannot
be had in a second process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from unisono.chat.messages import Prompt, content_of
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.errors import PromptError

PROCESSOR_SECONDS = 5.0
"""For one prompt, and one more for every `CHARACTERS_A_SECOND`; most tokenizers read a million in a second."""
CHARACTERS_A_SECOND = 100_000
MEMORY = 2**31
"""Bytes beside what the encoders take."""
STACK = 2**29
"""Bytes: regular expressions of llama.cpp take up to 400 for a character of a word."""
IDLE = 600
"""Seconds without a question after which the process ends: a vocabulary of 262,000 tokens takes up to 1 GB."""
OF_MESSAGE = 64
"""Characters for which a message counts, however short it is."""


def size_of(prompt: Prompt) -> int:
    """About how many characters the members have to read."""
    if prompt.messages is None:
        return len(prompt.text or "")
    rest = [{key: each[key] for key in each if key != "content"} for each in prompt.messages]  # type: ignore[literal-required]
    beside = len(json.dumps(rest)) if any(each.keys() - {"role"} for each in rest) else 0
    others = json.dumps([prompt.tools, prompt.template_kwargs]) if prompt.tools or prompt.template_kwargs else ""
    return sum(len(content_of(each)) + OF_MESSAGE for each in prompt.messages) + beside + len(others)


def packed(encoders: Sequence[PromptEncoder]) -> bytes:
    """Encoders for the process. Raises what `pickle` raises where one cannot leave this process."""
    frames = _Frames()
    _Pickler(frames).dump(list(encoders))
    return b"".join(frames)


def question(encoder: int, what: Prompt | str | bytes, *, off: bool, may_be_empty: bool, most: int) -> bytes:
    """What the process is asked: the ids of a prompt, those of a plain text, or the exact ones of a text's bytes."""
    if isinstance(what, str | bytes):
        kind, text = ("text", what) if isinstance(what, str) else ("spell", what.decode())
        return json.dumps([encoder, kind, text, most]).encode() + b"\n"
    given = {field.name: getattr(what, field.name) for field in dataclasses.fields(what)}
    return json.dumps([encoder, "prompt", given, off, may_be_empty, most]).encode() + b"\n"


class _Frames(list[bytes]):
    """A file in memory. Between two writes other threads have their turn, as they would not with `io.BytesIO`."""

    def write(self, frame: Any) -> int:
        self.append(bytes(frame))
        return len(frame)


class _Pickler(pickle.Pickler):
    """Leaves out what encoders have found out so far: it is found again."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is PromptEncoder:
            names = ("name", "tokenizer", "speller", "template", "given_template", "system", "prefix")
            return _encoder, ({name: getattr(obj, name) for name in names},)
        return NotImplemented


def _encoder(parts: dict[str, Any]) -> PromptEncoder:
    return PromptEncoder(**parts)


def main() -> None:
    _hold_back()
    try:
        encoders: list[PromptEncoder] = pickle.load(sys.stdin.buffer)  # the server wrote it
        for encoder in encoders:
            encoder.tokenizer.encode("a")
    except Exception as error:  # such as modules that only the server finds
        unable = json.dumps({"unable": f"{type(error).__name__}: {error}"})
        for _ in sys.stdin.buffer:
            print(unable, flush=True)
        return
    threading.stack_size(STACK)
    _limit_memory()
    while True:
        _call_time(IDLE)
        line = sys.stdin.buffer.readline()
        _call_time(0)
        if not line:
            return
        outcome: list[dict[str, object]] = []
        reading = threading.Thread(target=_read, args=(encoders, line, outcome))
        _limit(PROCESSOR_SECONDS + len(line) / CHARACTERS_A_SECOND)
        reading.start()
        reading.join()
        _limit(0)
        print(json.dumps(outcome[0]), flush=True)


def _read(encoders: Sequence[PromptEncoder], line: bytes, outcome: list[dict[str, object]]) -> None:
    try:
        number, kind, given, *how = json.loads(line)
        encoder, most = encoders[number], how[-1]
        if kind == "spell":
            data = given.encode()
            ids = list(encoder.speller.own_encoding(data) or encoder.speller.longest_match(data) or ())
        elif kind == "text":
            ids = encoder.encode_text(given)
        else:
            ids = encoder.encode(Prompt(**given), off=how[0], may_be_empty=how[1])
        outcome.append({"ids": ids} if len(ids) <= most else {"length": len(ids)})
    except PromptError as error:
        outcome.append({"error": [error.message, error.hint]})
    except (RecursionError, MemoryError):
        outcome.append({"error": ["the prompt is nested too deeply, or too long", "shorten it"]})
    except BaseException as error:  # a panic in native code is no Exception
        outcome.append({"error": [f"the prompt cannot be read: {type(error).__name__}", "shorten it"]})


def _hold_back() -> None:
    if sys.platform != "win32":
        import os
        import resource

        os.nice(5)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_memory() -> None:
    """Bound what is taken from now on, on Linux."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        most = taken + STACK + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit(seconds: float) -> None:
    """End the process after so much processor time from now on, wherever it is then; 0 lifts the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _call_time(seconds: int) -> None:
    """End the process after so many seconds; 0 lets it live."""
    with contextlib.suppress(AttributeError):
        signal.alarm(seconds)


if __name__ == "__main__":
    main()
