"""What `gate: certain` saves: the share of rows that were not asked for, and the time, interleaved with `always`.

    python benchmarks/certain.py --data DIR [--backend B] [--pieces N] [--texts N] [--case CASE …] > certain.json

A case is `smol:2+gemma:1`, with `/max` or another rule behind it. Its questions are those of `key_tokens`. Each text is
written by both gates in turn, from nothing: reading the prompt counts, as a member that is not asked does not read it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from key_tokens import questions
from run import MODELS
from unisono.config.method import Method
from unisono.engine.request import GenerationRequest
from unisono.ensemble import Ensemble
from unisono.records import Limits

MODELS["coder"] = {"model": "demo:qwen2.5-coder-0.5b-instruct"}
CASES = (
    "smol:1+gemma:1+coder:1",
    "smol:1+gemma:1+coder:3",
    "smol:1+gemma:1+coder:1/max",
    "smol:1+gemma:1+coder:1/geometric",
    "smol:1+gemma:1",
    "smol:1+gemma:2",
    "smol:1+gemma:4",
)
GATES = ("always", "certain")


def measure(case: str, backend: str, data: Path, pieces: int, texts: int) -> dict[str, Any]:
    """Write every text by both gates; figures are sums over the texts, and medians of the ratios a text."""
    members, _, rule = case.partition("/")
    weights = {name: float(weight) for name, weight in (word.split(":") for word in members.split("+"))}
    spec = {
        "members": [{"name": name, "backend": backend, "weight": weights[name], **MODELS[name]} for name in weights]
    }
    seconds: dict[str, list[float]] = {gate: [] for gate in GATES}
    unasked, written, same, choices, gaps = Counter[str](), 0, 0, 0, list[float | None]()
    with Ensemble.load(spec) as ensemble:
        engine = ensemble._engine
        for number, prompt in enumerate(questions(data)[: texts + 1]):
            answers = {}
            for gate in GATES if number % 2 else GATES[::-1]:
                method = Method().but(combine=rule or "mean", gate=gate)
                began = time.perf_counter()
                text = engine.add(prompt, Limits(pieces), method=method)
                while text.finish is None:
                    engine.step()
                seconds[gate].append(time.perf_counter() - began)
                answers[gate] = text.generation()
            if not number:  # the first warms up
                continue
            if answers["certain"].data == answers["always"].data:
                same += 1
            else:
                gaps.append(gap(engine, prompt, pieces, rule or "mean"))
            usage = answers["certain"].usage
            unasked.update(usage.unasked or {})
            written += usage.pieces
            choices += usage.pieces + (answers["certain"].finish_reason == "end")
    always, certain = (its[1:] for its in seconds.values())
    ratios = sorted(one / other for one, other in zip(always, certain, strict=True))
    return {
        "case": case,
        "texts": len(ratios),
        "same_texts": same,
        "gaps_where_they_part": gaps,
        "pieces": written,
        "rows_not_asked": sum(unasked.values()) / choices / len(weights),
        "choices_without": {name: count / choices for name, count in unasked.items()},
        "ms_per_piece": {gate: 1000 * sum(its[1:]) / written for gate, its in seconds.items()},
        "times_as_fast": {
            "of_sums": sum(always) / sum(certain),
            "median": statistics.median(ratios),
            "p10": ratios[len(ratios) // 10],
            "p90": ratios[-1 - len(ratios) // 10],
        },
        "load": os.getloadavg()[0],
    }


def gap(engine: Any, prompt: Any, pieces: int, rule: str) -> float | None:
    """By which share the second likeliest piece is less than the first, where the two texts part.

    Next to nothing where it is rounding: llama.cpp computes what is read in one block in other last bits.
    """
    steps = {}
    for gate in GATES:
        method, top = Method().but(combine=rule, gate=gate), 2 if gate == "always" else 0
        request = GenerationRequest("", prompt, Limits(pieces), trace=True, method=method, top_logprobs=top)
        [text] = engine.begin(engine.prepare(request)).sequences
        while text.finish is None:
            engine.step()
        steps[gate] = text.steps
    for one, other in zip(*steps.values(), strict=False):
        if one.piece != other.piece:
            (_, first), (_, second) = one.likeliest
            return float(1 - second / first)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backend", default="llamacpp")
    parser.add_argument("--pieces", type=int, default=48)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--case", nargs="*", default=CASES)
    given = parser.parse_args()
    kept = {"date": datetime.now(UTC).date().isoformat(), "machine": platform.platform(), "backend": given.backend}
    figures = [measure(case, given.backend, given.data, given.pieces, given.texts) for case in given.case]
    print(json.dumps({**kept, "cores": os.cpu_count(), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
