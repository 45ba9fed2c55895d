"""Small files of questions for the tests of evaluation, and lm-evaluation-harness's own run over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

CHOICES = ["the sun", "a stone", "two cats", "old bread"]


def write_data(folder: Path) -> Path:
    """Some questions of every task, and examples."""
    for name, rows in _questions().items():
        write_lines(folder / f"{name}.jsonl", rows)
    for name, rows in _examples().items():
        write_lines(folder / "shots" / f"{name}.jsonl", rows)
    return folder


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def choice(name: str, number: int, count: int = 4, **more: str) -> dict[str, Any]:
    right = number % count
    return {
        "id": f"{name}.{number}",
        "question": f"Which one of these is number {number}?",
        "choices": [f"{CHOICES[(number + place) % 4]} {number}" for place in range(count)],
        "answer": "ABCD"[right],
        "answer_index": right,
        **more,
    }


def word(name: str, number: int) -> dict[str, Any]:
    return {
        "id": f"{name}.{number}",
        "question": f"who has {number} cats",
        "answer": [f"Anna {number}", 'the "Anna\'s"'],
    }


def sum_of(name: str, number: int) -> dict[str, Any]:
    solution = f"It is {number} + 1 = <<{number}+1={number + 1}>>{number + 1}.\n#### {number + 1}"
    return {
        "id": f"{name}.{number}",
        "question": f"What is {number} + 1?",
        "answer": f"{number + 1}",
        "solution": solution,
    }


def _questions() -> dict[str, list[dict[str, Any]]]:
    subjects = ("anatomy", "virology", "marketing")
    boxed = [
        {
            "id": f"math.{n}",
            "question": f"Find {n}/3.",
            "answer": f"\\frac{{{n}}}{{3}}",
            "solution": f"It is $\\boxed{{\\frac{{{n}}}{{3}}}}$.",
        }
        for n in (1, 2, 4)
    ]
    return {
        "gsm8k": [sum_of("gsm8k", n) for n in range(6)],
        "mmlu": [choice(f"mmlu.{subject}", n, subject=subject) for subject in subjects for n in range(4)],
        "bbh": [
            {"id": f"bbh.{task}.{n}", "task": task, "question": f"not ( {n} ) is", "answer": "False"}
            for task in ("boolean_expressions", "navigate")
            for n in range(2)
        ],
        "triviaqa": [word("triviaqa", n) for n in range(5)],
        "nq_open": [word("nq_open", n) for n in range(5)],
        "arc_easy": [choice("arc_easy", n, 3 + n % 2) for n in range(8)],
        "arc_challenge": [choice("arc_challenge", n) for n in range(5)],
        "hellaswag": [choice("hellaswag", n) for n in range(6)],
        "piqa": [choice("piqa", n, 2) for n in range(6)],
        "math500": boxed,
    }


def _examples() -> dict[str, list[dict[str, Any]]]:
    subjects = ("anatomy", "virology", "marketing")
    return {
        "gsm8k.train": [sum_of("train", n) for n in range(20, 32)],
        "mmlu.dev": [choice(f"dev.{subject}", n, subject=subject) for subject in subjects for n in range(20, 25)],
        "triviaqa.shots": [word("shots", n) for n in range(20, 30)],
        "nq_open.shots": [word("shots", n) for n in range(20, 30)],
        "arc_easy.train": [choice("train", n) for n in range(20, 28)],
        "piqa.shots": [choice("shots", n, 2) for n in range(20, 28)],
    }


def harness_tasks(folder: Path, name: str) -> list[Any]:
    """lm-evaluation-harness's tasks on the rows of a file, as its command line would run them."""
    from unisono.evals import lm_eval
    from unisono.evals.tasks.definitions import quiet
    from unisono.evals.tasks.rows import RECIPES, read_rows

    recipe = RECIPES[name]
    known = lm_eval.definitions(recipe.folder)
    rows, _ = read_rows(folder / f"{name}.jsonl", recipe, list(known))
    examples = []
    if recipe.shots_file is not None and (folder / "shots" / recipe.shots_file).exists():
        examples, _ = read_rows(folder / "shots" / recipe.shots_file, recipe, list(known))
    tasks = []
    with quiet():
        for part in dict.fromkeys(row.part for row in rows):
            own = [[row.values for row in some if row.part == part] for some in (rows, examples)]
            task = lm_eval.build(known[part], own[0], own[1], recipe.overrides)
            if recipe.shots is not None:
                task.set_config(key="num_fewshot", value=recipe.shots)
            tasks.append(task)
    return tasks


def harness_results(model: Any, tasks: Sequence[Any], **keys: Any) -> dict[str, Any]:
    """What lm-evaluation-harness itself finds of a model."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    keys["task_manager"] = TaskManager(include_defaults=False)  # the tasks are given; its own are 14,000 files
    with mock.patch("lm_eval.evaluator.add_env_info"):  # which asks many programs for their versions
        found: dict[str, Any] = simple_evaluate(model, tasks=list(tasks), bootstrap_iters=0, **keys)
    return found
