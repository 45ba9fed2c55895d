"""Scored questions: a member alone, beside lm-evaluation-harness's own ``hf`` model of the same weights in float32.

Usage: python benchmarks/beside_lm_eval.py --data DIR [--tasks piqa] [--questions N] [--rounds N] [--batch N]

Prints JSON: seconds a question of each, and their ratio, each the median with the smallest and largest round, and how
far apart the log-likelihoods are at most. Rounds take other questions each and begin with an empty prefix cache; the
order turns. ``--batch`` is what lm-evaluation-harness calls so: choices in a pass. The model is a demo model, and both
read its GGUF file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Pairs = Sequence[tuple[Any, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", default="piqa", help="one task")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a demo model")
    parser.add_argument("--questions", type=int, default=32, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    print(json.dumps(measure(parser.parse_args()), indent=2))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from unisono.config.ensemble import load_spec
    from unisono.evals import systems as make
    from unisono.evals.model_pool import ModelPool
    from unisono.evals.tasks import load_tasks

    [task] = load_tasks([options.tasks], data=options.data, limit=options.questions * options.rounds)
    member = {"name": "one", "model": f"demo:{options.model}", "backend": "transformers", "dtype": "float32"}
    with ModelPool(load_spec({"members": [member]})) as pool:
        pool.load_weights()
        alone = make.members(pool)
        theirs = hf_model(options.model, options.batch)

        def ours(asked: Pairs) -> list[float]:
            pool.forget()
            return [score.logp for score in pool.score_all(alone, asked)[0]]  # type: ignore[union-attr]

        ways: dict[str, Callable[[Pairs], list[float]]] = {"unisono": ours, "hf": theirs}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        apart = 0.0
        for turn in range(options.rounds):
            questions = task.questions[turn * options.questions : (turn + 1) * options.questions]
            asked = [(each.prompt, choice) for each in questions for choice in each.choices]
            found = {}
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                began = time.perf_counter()
                found[name] = ways[name](asked)
                seconds[name].append((time.perf_counter() - began) / len(questions))
            apart = max(apart, *(abs(one - other) for one, other in zip(*found.values(), strict=True)))
    ratios = [one / other for one, other in zip(seconds["unisono"], seconds["hf"], strict=True)]
    return {
        "seconds a question": {name: spread(its) for name, its in seconds.items()},
        "unisono ÷ hf": spread(ratios),
        "log-likelihoods differ by at most": round(apart, 5),
    }


def hf_model(name: str, batch: int) -> Callable[[Pairs], list[float]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from unisono.config.demo import demo_path

    path = demo_path(name)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")
    theirs = HFLM(pretrained=model.eval(), tokenizer=tokenizer, device="cpu", batch_size=batch)

    def scored(asked: Pairs) -> list[float]:
        instances = [
            Instance("loglikelihood", {}, (prompt.text, choice), place, ("t", place, 1))
            for place, (prompt, choice) in enumerate(asked)
        ]
        return [logp for logp, _ in theirs.loglikelihood(instances, disable_tqdm=True)]

    return scored


def spread(values: Sequence[float]) -> list[float]:
    return [round(each, 4) for each in (statistics.median(values), min(values), max(values))]


if __name__ == "__main__":
    main()
