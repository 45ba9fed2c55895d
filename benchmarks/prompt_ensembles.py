"""Write an ensemble of one model under several sets of few-shot examples, which share its weights.

    python benchmarks/prompt_ensembles.py triviaqa demo:gemma3-270m --data DIR > prompts.yaml
    unisono eval prompts.yaml --tasks triviaqa --shots 0 --data DIR --compare

The examples of each member are those that questions from the end of the task's order have in their prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from unisono.evals.tasks import load_tasks


def main() -> None:
    """Print the ensemble file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    [task] = load_tasks([options.task], data=options.data, limit=options.sets, last=True, shots=options.shots)
    [bare] = load_tasks([options.task], data=options.data, limit=options.sets, last=True, shots=0)
    members: list[dict[str, object]] = []
    for number, (question, alone) in enumerate(zip(task.questions, bare.questions, strict=True), 1):
        assert question.id == alone.id
        assert question.prompt.text is not None
        assert alone.prompt.text is not None
        prefix = question.prompt.text.removesuffix(alone.prompt.text)
        assert prefix != question.prompt.text, "the prompt does not end with the question"
        weights = (
            {"model": options.model, "context": options.context} if number == 1 else {"share_weights_with": "set1"}
        )
        threads = {"threads": options.threads} if number == 1 and options.threads else {}
        members.append({"name": f"set{number}", **weights, **threads, "prefix": prefix})
    print(yaml.safe_dump({"members": members}, sort_keys=False, allow_unicode=True, width=1000), end="")


if __name__ == "__main__":
    main()
