"""Gates, drafts and traces on real questions: the time of a piece in each setting, interleaved."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

GATES = ("gate=confidence:0.3", "gate=confidence:0.5", "gate=confidence:0.7", "gate=confidence:0.9")
BOTH = "gate=confidence:0.5 boundary=true"
LONGEST_QUESTION = 160
"""Characters."""
FREE = (
    "The history of the lighthouse began when",
    "There are three reasons why bread rises. First,",
    "She opened the letter, read it twice, and",
    "In most cities the price of a flat depends on",
    "def merge_sort(values):\n    ",
)


def questions(data: Path) -> list[Any]:
    """Twenty questions (8 of GSM8K, 6 of MMLU, 6 of TriviaQA) and five texts to continue, as prompts, mixed.

    The questions are spread over the files; long ones are passed over, for every system reads them anew.
    """
    from unisono.chat.messages import Prompt

    def rows(name: str, count: int, step: int) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        parts = [found[place * step : (place + 1) * step] for place in range(count)]
        return [next(row for row in part if len(row["question"]) <= LONGEST_QUESTION) for part in parts]

    def chat(text: str) -> Any:
        return Prompt(messages=({"role": "user", "content": text},))

    gsm8k = [chat(f"{row['question']}\nThink step by step.") for row in rows("gsm8k", 8, 100)]
    mmlu = [
        chat(
            f"{row['question']}\n"
            + "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
            + "\nReason step by step, then name the letter."
        )
        for row in rows("mmlu", 6, 1500)
    ]
    trivia = [chat(f"{row['question']} Answer, and explain in a few sentences.") for row in rows("triviaqa", 6, 200)]
    free = [Prompt(text=text) for text in FREE]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(gsm8k, mmlu, trivia, free))
    return [prompt for prompt in mixed if prompt is not None]


def compare(spec: dict[str, Any], data: str, pieces: int, *, everything: bool) -> dict[str, Any]:
    """Measure every setting on all questions.

    Args:
        spec: an ensemble of two; the first member leads.
        data: the folder with the questions.
        pieces: pieces of each answer.
        everything: whether to time drafts by the lead, gates that are always shut or open, and a trace as well.
    """
    from unisono.benchmark import measure
    from unisono.benchmark_figures import Setting
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.config.setting import parse_setting

    prompts = questions(Path(data))
    checked = load_spec(spec)
    lead, other = (member["name"] for member in spec["members"])
    texts = [
        *GATES,
        *(f"speculate={drafter}" for drafter in (other, "ngram", "auto")),
    ]
    if everything:
        texts += [f"speculate={lead}", f"{BOTH} speculate=off", f"{BOTH} speculate={lead}"]
        texts += ["gate=confidence:0", "gate=confidence:1"]
    settings = [Setting(text, checked.but(**parse_setting(text)).method) for text in texts]
    if everything:
        settings.append(Setting("trace", checked.method, trace=True))
    prepared = prepare(checked)
    return measure(prepared, rounds=len(prompts), pieces=pieces, compare=settings, prompts=prompts).to_json()
