"""Counts the BBH answers of a run by the first clause behind "the answer is", beside lm-eval's metric.

lm-eval takes all that stands behind those words on their line. Usage: ``python bbh_first_clause.py FOLDER MEMBER``, the
folder of the run and the member that the others are compared with.
"""

import re
import sys
from pathlib import Path

from unisono.evals.report.cells import compare
from unisono.evals.results import read_results

FIRST_CLAUSE = re.compile(r"[Tt]he answer is:?\s*(.*?)(?:\.(?:\s|$)|\n|$)")

folder, best = Path(sys.argv[1]), sys.argv[2]
results = read_results(folder)
answers = [answer for answer in results.answers if answer.task == "bbh"]
if best not in {answer.system for answer in answers}:
    sys.exit(f"{folder}: {best!r} was asked nothing of bbh there")
targets = {name: str(question["target"]).strip() for name, question in results.about["examples"]["bbh"].items()}
strict: dict[str, dict[str, float]] = {}
clause: dict[str, dict[str, float]] = {}
for answer in answers:
    found = FIRST_CLAUSE.search(answer.text or "")
    is_right = found is not None and found[1].strip().rstrip(".").lower() == targets[answer.question].lower()
    clause.setdefault(answer.system, {})[answer.question] = float(is_right)
    strict.setdefault(answer.system, {})[answer.question] = max(answer.metrics.values(), default=0.0)
for system, right in clause.items():
    against = compare(best, right, clause[best])
    low, high = 100 * against.interval.low, 100 * against.interval.high
    figures = f"lm-eval {sum(strict[system].values()):.0f}, first clause {sum(right.values()):.0f} of {len(right)}"
    print(f"{system:33} {figures}")
    print(f"{'':33} to {best} {100 * against.difference:+.1f} ({low:+.1f} to {high:+.1f}; p {against.p:.3f})")
