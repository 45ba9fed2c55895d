"""A process that encodes long prompts for a server: ``python -m unisono.chat.encoding_process``.

Templates and tokenizers hold the interpreter's lock for as long as they work, and some tokenizers recurse over what a
client wrote. Here that delays no step of the models, and crashes nothing: the process ends at its limits, and the
server starts another one. From stdin it reads lines. ``load 3 5000`` comes before the members' encoders that share a
tokenizer, a pickle of the server's own of so many bytes; the answer is ``{"loaded": true}``, or ``{"unable": why}``
where it cannot be read here. Other lines are questions: how many characters it has, and in JSON ``[[pickle, encoder],
"prompt", "text" or "spell", …, the most ids]``. The answer is ``{"ids": […]}``, ``{"length": …}`` where there are more,
``{"error": [message, hint]}``, ``{"away": [member, address, reason, seconds]}`` where the tokenizer is elsewhere and
does not answer, or ``{"missing": true}`` where that pickle has not come.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from unisono.chat.messages import Prompt, content_of
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.errors import MemberUnavailable, PromptError

PROCESSOR_SECONDS = 5.0
"""For one prompt, and one more for every `CHARACTERS_A_SECOND`; most tokenizers read a million in a second."""
CHARACTERS_A_SECOND = 100_000
MEMORY = 2**31
"""Bytes beside what the encoders take."""
STACK = 2**29
"""Bytes: regular expressions of llama.cpp take up to 400 for a character of a word."""
LOAD = b"load"
IDLE = 600
"""Seconds without a question after which the process ends: a vocabulary of 262,000 tokens takes up to 1 GB."""
OF_MESSAGE = 64
"""Characters for which a message counts, however short it is."""
OF_VALUE = 4
"""Characters that stand around a key or a value where a template writes it as JSON."""


def size_of(prompt: Prompt) -> int:
    """About how many characters the members have to read."""
    if prompt.messages is None:
        return len(prompt.text or "")
    beside = [{key: each[key] for key in each if key not in ("role", "content")} for each in prompt.messages]  # type: ignore[literal-required]
    contents = sum(len(content_of(each)) + OF_MESSAGE for each in prompt.messages)
    return contents + _characters([each for each in beside if each] + [prompt.tools, prompt.template_kwargs])


def _characters(values: list[Any]) -> int:
    """How many the texts, keys and numbers in a value have, and what stands around each."""
    count, inside = 0, [value for value in values if value is not None]
    while inside:
        value = inside.pop()
        if isinstance(value, Mapping):
            inside += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            inside += value
        else:
            count += len(value if isinstance(value, str) else str(value)) + OF_VALUE
    return count


def packed(encoders: Sequence[PromptEncoder]) -> bytes:
    """Encoders for the process. Raises what `pickle` raises where one cannot leave this process."""
    frames = _Frames()
    _Pickler(frames).dump(list(encoders))
    return b"".join(frames)


def load(number: int, data: bytes) -> bytes:
    """What the process is sent before it is asked anything of a pickle."""
    return b"%s %d %d\n%b" % (LOAD, number, len(data), data)


def question(
    encoder: tuple[int, int], what: Prompt | str | bytes, *, off: bool, may_be_empty: bool, most: int | None
) -> bytes:
    """What the process is asked: the ids of a prompt, those of a plain text, or the exact ones of a text's bytes.

    ``encoder`` is the number of its pickle, and its own in there; ``most`` is how many ids are wanted at most.
    """
    if isinstance(what, str | bytes):
        kind, text = ("text", what) if isinstance(what, str) else ("spell", what.decode())
        size, asked = len(text), json.dumps([encoder, kind, text, most])
    else:
        given = {field.name: getattr(what, field.name) for field in dataclasses.fields(what)}
        size, asked = size_of(what), json.dumps([encoder, "prompt", given, off, may_be_empty, most])
    return f"{size} {asked}\n".encode()


def seconds_for(line: bytes) -> float:
    """The processor time that a question may take."""
    return PROCESSOR_SECONDS + int(line.partition(b" ")[0]) / CHARACTERS_A_SECOND


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
    threading.stack_size(STACK)
    loaded: dict[int, list[PromptEncoder]] = {}
    while True:
        _call_time(IDLE)
        line = sys.stdin.buffer.readline()
        _call_time(0)
        if not line:
            return
        print(json.dumps(_load(loaded, line) if line.startswith(LOAD) else _answer(loaded, line)), flush=True)


def _load(loaded: dict[int, list[PromptEncoder]], line: bytes) -> dict[str, object]:
    """Read a pickle, which a line announces."""
    _, number, size = line.split()
    data = sys.stdin.buffer.read(int(size))
    _bound_memory(None)
    try:
        encoders: list[PromptEncoder] = pickle.loads(data)  # the server wrote it
        for encoder in encoders:
            with contextlib.suppress(MemberUnavailable):
                encoder.tokenizer.encode("a")
    except Exception as error:  # such as modules that only the server finds
        return {"unable": f"{type(error).__name__}: {error}"}
    finally:
        _bound_memory(STACK + MEMORY)
    loaded[int(number)] = encoders
    return {"loaded": True}


def _answer(loaded: Mapping[int, list[PromptEncoder]], line: bytes) -> dict[str, object]:
    outcome: list[dict[str, object]] = []
    reading = threading.Thread(target=_read, args=(loaded, line, outcome))
    _limit(seconds_for(line))
    reading.start()
    reading.join()
    _limit(0)
    return outcome[0]


def _read(loaded: Mapping[int, list[PromptEncoder]], line: bytes, outcome: list[dict[str, object]]) -> None:
    try:
        (number, place), kind, given, *how = json.loads(line.partition(b" ")[2])
        if number not in loaded:
            outcome.append({"missing": True})
            return
        encoder, most = loaded[number][place], how[-1]
        if kind == "spell":
            data = given.encode()
            ids = list(encoder.speller.own_encoding(data) or encoder.speller.longest_match(data) or ())
        elif kind == "text":
            ids = encoder.encode_text(given)
        else:
            ids = encoder.encode(Prompt(**given), off=how[0], may_be_empty=how[1])
        outcome.append({"ids": ids} if most is None or len(ids) <= most else {"length": len(ids)})
    except PromptError as error:
        outcome.append({"error": [error.message, error.hint]})
    except MemberUnavailable as error:
        outcome.append({"away": [error.member, error.address, error.reason, error.retry_after]})
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


def _bound_memory(more: int | None) -> None:
    """Bound what is taken from now on, on Linux; ``None`` lifts the bound."""
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        bound = most
        if more is not None:
            with open("/proc/self/statm") as file:
                bound = int(file.read().split()[0]) * resource.getpagesize() + more
            bound = bound if most == resource.RLIM_INFINITY else min(bound, most)
        resource.setrlimit(resource.RLIMIT_AS, (bound, most))


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
