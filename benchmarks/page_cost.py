"""What the page costs: streamed answers in it, and with a trace, over those without.

    python benchmarks/page_cost.py [--url URL [--pid PID]] [--model NAME] [--pieces N] [--rounds N] [--no-page]

Without the address of a server, `examples/duo.yaml` is served. Each round asks the same question three ways, in an
order that turns: without a trace and with one by a client that reads all pieces as they come, and in the page, which
is open in a headless Chromium of the same machine and shows them. An answer has the same pieces each way, as nothing
is sampled. A time is that from the request to the last byte of its answer, or until the page has it; where the server's
process is known, the processor time that it took is told, too, which other programs of the machine change little. The
ratio of a round is over the answer without a trace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from page_frames import chromium
from served import serve

QUESTION = "Tell a long story about a lighthouse, its keeper and a storm."
SPEC = Path(__file__).resolve().parent.parent / "examples" / "duo.yaml"


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer took, in seconds."""

    wall: float
    processor: float | None
    """Of the server; ``None`` where its process is not known."""


ASK = """
() => new Promise((resolve, reject) => {
  const began = performance.now();
  new MutationObserver((_, watch) => {
    const state = document.querySelector(".answer")?.dataset.state;
    if (!["done", "stopped", "failed"].includes(state)) return;
    watch.disconnect();
    if (state === "done") resolve(performance.now() - began);
    else reject(new Error(document.querySelector("#status").textContent));
  }).observe(document.querySelector("#conversation"), { subtree: true, attributeFilter: ["data-state"] });
  document.querySelector("#composer").requestSubmit();
})
"""
Ask = Callable[[], float]
"""Asks the question, and returns how long its answer took, in seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--pid", type=int, help="the process at that address, on this machine")
    parser.add_argument("--model", default="duo")
    parser.add_argument("--pieces", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-page", action="store_true", help="without Chromium: the trace alone")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url, process = given.url, given.pid
        if url is None:
            served = stack.enter_context(serve(SPEC))
            url, process = served.url, served.process.pid
        ask = partial(client_seconds, url, given.model, given.pieces)
        ways: dict[str, Ask] = {"without": partial(ask, trace=False), "trace": partial(ask, trace=True)}
        if not given.no_page:
            page = stack.enter_context(opened(url, given.model, given.pieces))
            ways["page"] = lambda: page_seconds(page)
        for each in ways.values():
            each()  # the prompt is read, and caches are filled
        rounds = []
        for number in range(given.rounds):
            rounds.append(one_round(ways, number, process))
            print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "model": given.model,
        "pieces": given.pieces,
        "seconds_without": round(statistics.median(each["without"].wall for each in rounds), 3),
    }
    for way in ways.keys() - {"without"}:
        figures[way] = ratios([each[way].wall / each["without"].wall for each in rounds])
        if process is not None:
            shares = [(each[way].processor or 0) / (each["without"].processor or 1) for each in rounds]
            figures[f"{way}, processor time of the server"] = ratios(shares)
    json.dump(figures, sys.stdout, indent=2)
    print()


def one_round(ways: dict[str, Ask], number: int, process: int | None) -> dict[str, Asked]:
    """What each way takes, asked in an order that the round's number turns."""
    names = [*ways]
    turned = names[number % len(names) :] + names[: number % len(names)]
    return {name: measured(ways[name], process) for name in (turned if number % 2 else turned[::-1])}


def measured(ask: Ask, process: int | None) -> Asked:
    if process is None:
        return Asked(ask(), None)
    before = processor_seconds(process)
    wall = ask()
    return Asked(wall, processor_seconds(process) - before)


def processor_seconds(process: int) -> float:
    """Processor time of a process's threads so far (Linux)."""
    told = [task.read_text() for task in Path(f"/proc/{process}/task").glob("*/schedstat")]
    return sum(int(each.split()[0]) for each in told) / 1e9


def ratios(found: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(found), 4),
        "least": round(min(found), 4),
        "most": round(max(found), 4),
        "rounds": [round(ratio, 4) for ratio in found],
    }


def client_seconds(url: str, model: str, pieces: int, *, trace: bool) -> float:
    """How long a streamed answer takes, until its last byte."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": pieces,
        "stream": True,
        "unisono": {"trace": trace},
    }
    began = time.perf_counter()
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600) as answer:
        answer.raise_for_status()
        for _ in answer.iter_bytes():
            pass
    return time.perf_counter() - began


@contextlib.contextmanager
def opened(url: str, model: str, pieces: int) -> Iterator[Any]:
    """The page of the server, with the settings of the answers."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(url)
        page.locator("#model option").first.wait_for(state="attached", timeout=60_000)
        page.locator("#model").select_option(model)
        page.locator("#settings summary").click()
        for name, value in (("temperature", 0), ("max_tokens", pieces)):
            page.locator(f"#controls [name={name}]").fill(str(value))
        yield page


def page_seconds(page: Any) -> float:
    """How long an answer takes that the page asks for, in a new conversation, until the page has all of it."""
    page.get_by_text("New conversation").click()
    page.locator("#message").fill(QUESTION)
    return float(page.evaluate(ASK)) / 1000


if __name__ == "__main__":
    main()
