"""What a trace costs: the time of streamed answers with it and without it, by turns, of a running server.

    unisono serve examples/duo.yaml
    python benchmarks/traced.py [--url URL] [--model NAME] [--pieces N] [--rounds N] > traced.json

Each round asks the same question both ways, in an order that alternates; all pieces are read as they come. The ratio of
a round is time with a trace over time without. An answer has the same pieces both ways, as nothing is sampled.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from typing import Any

import httpx2

QUESTION = "Tell a long story about a lighthouse, its keeper and a storm."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="duo")
    parser.add_argument("--pieces", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()

    def ask(trace: bool) -> float:
        return answer_seconds(given.url, given.model, given.pieces, trace=trace)

    for trace in (False, True):
        ask(trace)  # the prompt is read, and caches are filled
    ratios = []
    for number in range(given.rounds):
        seconds = {trace: ask(trace) for trace in ((True, False) if number % 2 else (False, True))}
        ratios.append(seconds[True] / seconds[False])
    figures: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "model": given.model,
        "pieces": given.pieces,
        "ratios": [round(ratio, 4) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 4),
    }
    print(json.dumps(figures, indent=2))


def answer_seconds(url: str, model: str, pieces: int, *, trace: bool) -> float:
    """How long a streamed answer takes, until its last event."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": pieces,
        "ignore_eos": True,
        "stream": True,
        "unisono": {"trace": trace},
    }
    began = time.perf_counter()
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600) as answer:
        answer.raise_for_status()
        for _ in answer.iter_bytes():
            pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
