"""What HTTP and scheduling add to a piece of one stream, and when its first piece comes.

    python benchmarks/http_overhead.py [--before TREE] [--prompts 32] [--pieces 48]

The demo pair through llama.cpp, a thread a member, writes the same prompts by the library's own loop and behind
`unisono serve`; where another tree of the repository is named, behind its server, too. They take turns prompt by
prompt, in random order. The client is a bare socket, as a client's library takes processor time from models on the
same machine. Told are medians of the ratios prompt by prompt, and quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from served import serve
from serving import PROMPTS, in_loop
from unisono.ensemble import Ensemble

TEMPLATE = "{% for message in messages %}{{ message['content'] }}\\n{% endfor %}"
"""What every tree reads alike."""
MEMBERS = (
    {"name": "smol", "model": "demo:smollm2-135m-instruct"},
    {"name": "gemma", "model": "demo:gemma3-270m", "chat_template": TEMPLATE},
)
SPEC = {"members": [member | {"backend": "llamacpp", "threads": 1, "context": 1024} for member in MEMBERS]}


def over_http(url: str, prompt: str, pieces: int) -> tuple[float, float]:
    """Seconds to the first piece of an answer, and for each piece after it."""
    asked = {
        "model": "duo",
        "stream": True,
        "max_tokens": pieces,
        "messages": [{"role": "user", "content": prompt}],
        "stream_options": {"include_usage": True},
    }
    times, written = [], 0
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)) as connection:
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                times.append(time.perf_counter())
            if chunk.get("usage"):
                written = chunk["usage"]["completion_tokens"]
    return times[0] - began, (times[-1] - times[0]) / (written - 1)


def compare(before: Path | None, prompts: int, pieces: int) -> dict[str, Any]:
    """The ratios of what the ways take: of a piece, and of the first one."""
    taken: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as used:
        ensemble = used.enter_context(Ensemble.load(SPEC))
        ways: dict[str, Callable[[str], tuple[float, float]]] = {"loop": partial(in_loop, ensemble, pieces=pieces)}
        for name, tree in (("now", None), ("before", before)):
            if name == "now" or tree is not None:
                url = used.enter_context(serve(SPEC, "--batch", 16, tree=tree)).url
                ways[name] = partial(over_http, url, pieces=pieces)
        for number in range(-2, prompts):  # the first two warm up
            prompt = f"{PROMPTS[number % len(PROMPTS)]} Begin with the number {number}."
            for name in random.sample(list(ways), len(ways)):
                found = ways[name](prompt)
                if number >= 0:
                    taken.setdefault(name, []).append(found)
    ratios = {"a piece, HTTP ÷ loop": _ratio(taken["now"], taken["loop"], 1)}
    if before is not None:
        ratios["first piece, now ÷ before"] = _ratio(taken["now"], taken["before"], 0)
        ratios["a piece, now ÷ before"] = _ratio(taken["now"], taken["before"], 1)
    return {
        "ratios": ratios,
        "ms": {
            name: {
                words: 1e3 * statistics.median(each[place] for each in all_of) for place, words in enumerate(MEASURED)
            }
            for name, all_of in taken.items()
        },
    }


MEASURED = ("first piece", "a piece")


def _ratio(these: list[tuple[float, float]], those: list[tuple[float, float]], place: int) -> list[float]:
    """Median and quartiles of the ratios prompt by prompt."""
    found = [one[place] / other[place] for one, other in zip(these, those, strict=True)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return [middle, low, high]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="another tree of the repository")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--pieces", type=int, default=48)
    options = parser.parse_args()
    found = compare(options.before, options.prompts, options.pieces)
    for words, (middle, low, high) in found["ratios"].items():
        print(f"{words}: {middle:.2f} ({low:.2f} to {high:.2f})")
    for name, figures in found["ms"].items():
        print(f"{name}: " + ", ".join(f"{words} {value:.1f} ms" for words, value in figures.items()))


if __name__ == "__main__":
    main()
