"""What `vocabulary: bytes` costs beside a union, and what it changes: time a byte of text, parted cuts, nats a byte.

    python benchmarks/byte_vocabulary.py examples/duo.yaml --pieces 48 --rounds 3

The two write the same prompts greedily and take turns; the table shows milliseconds a byte of text by round, and the
median of their ratio, of wall clock and of processor time. Then both score the same texts (or those of
`--passages FILE`, one a line): nats a byte and seconds; `--exact` scores them again with a wide beam.

    python benchmarks/byte_vocabulary.py examples/duo.yaml --data DIR --tasks arc_easy,piqa,triviaqa --questions 20

answers questions of tasks, too, by union and by bytes, with the report of `unisono eval --variant vocabulary=bytes`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.engine.engine import Engine
from unisono.loaded_models import load_engine
from unisono.records import Generation, Limits

PROMPTS = (
    "The lighthouse keeper opened the door and",
    "Photosynthesis is the process by which",
    "Die Hauptstadt von Österreich ist",
    "def quicksort(items):\n    ",
    "In 1969 the first astronauts walked on",
    "La tour Eiffel a été construite",
)
TEXTS = (
    " saw the storm that had been gathering over the grey water since noon, and knew at once what it meant.",
    " green plants turn light, water and carbon dioxide into sugar and oxygen inside their chloroplasts.",
    " Wien, und die zweitgrößte Stadt des Landes ist Graz, gefolgt von Linz, Salzburg und Innsbruck.",
    "if len(items) < 2:\n        return items\n    pivot = items[len(items) // 2]\n",
    " the Moon, while hundreds of millions of people watched them on television sets around the world.",
    " pour l'exposition universelle de 1889, et devait être démontée vingt ans après son inauguration.",
)


def write(engine: Engine, vocabulary: str, pieces: int) -> tuple[float, float, list[Generation]]:
    """Seconds and seconds of processors that it takes to write all prompts, one after the other, and the texts."""
    method = engine.method.but(vocabulary=vocabulary)
    texts = []
    began, busy = time.perf_counter(), time.process_time()
    for prompt in PROMPTS:
        text = engine.add(Prompt(text=prompt), Limits(pieces), method=method)
        while engine.active:
            engine.step()
        texts.append(text.generation())
    return time.perf_counter() - began, time.process_time() - busy, texts


def nats(engine: Engine, vocabulary: str, asked: Sequence[tuple[str, str]], *, together: int = 1) -> list[float]:
    """Nats a byte of texts that follow prompts."""
    method, found = engine.method.but(vocabulary=vocabulary), []
    for start in range(0, len(asked), together):
        some = asked[start : start + together]
        for score, (_, text) in zip(
            engine.score([(Prompt(text=prompt), text) for prompt, text in some], method=method), some, strict=True
        ):
            found.append(-score.logp / len(text.encode()))
    return found


def answer(spec: str, vocabulary: str, data: Path, tasks: str, questions: int, out: Path) -> None:
    """Answer questions of tasks by union and by bytes; the report has both, and the intervals of their difference."""
    flags = ["--data", str(data), "--tasks", tasks, "--limit", str(questions), "--variant", f"vocabulary={vocabulary}"]
    command = [sys.executable, "-m", "unisono", "eval", spec, *flags, "--out", str(out)]
    subprocess.run(command, check=True)


def show(title: str, values: Sequence[Any]) -> None:
    print(f"{title:24}", *(f"{value:8.4f}" if isinstance(value, float) else f"{value!s:>8}" for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--vocabulary", default="bytes")
    parser.add_argument("--pieces", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", default="bytes beam:32 least:0.00001", help="what scores are held to; or empty")
    parser.add_argument("--passages", type=Path, help="texts to score, one a line, in place of those above")
    parser.add_argument("--together", type=int, default=1, help="texts that are scored in the same passes")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tasks", default="arc_easy,piqa,triviaqa")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("byte-vocabulary"))
    given = parser.parse_args()
    spec = load_spec(given.spec)
    widest = max(spec.but(vocabulary=words).method.slots for words in (given.vocabulary, given.exact or "union"))
    asked = list(zip(PROMPTS, TEXTS, strict=True))
    if given.passages:
        asked = [("", line) for line in given.passages.read_text(encoding="utf-8").splitlines() if line]
    with load_engine(prepare(spec.but(vocabulary="union"), batch=max(widest, 2 * given.together))) as engine:
        write(engine, given.vocabulary, 4)
        ratios = [compare_writing(engine, given.vocabulary, given.pieces) for _ in range(given.rounds)]
        for title, its in zip(("ratio a byte", "of processors"), zip(*ratios, strict=True), strict=True):
            show(title, [statistics.median(its), min(its), max(its)])
        for vocabulary in ("union", given.vocabulary, *([given.exact] if given.exact else [])):
            began, busy = time.perf_counter(), time.process_time()
            values = nats(engine, vocabulary, asked, together=given.together)
            spent = [time.perf_counter() - began, time.process_time() - busy]
            show(vocabulary, [statistics.mean(values), *spent, *values])
    if given.data:
        answer(given.spec, given.vocabulary, given.data, given.tasks, given.questions, given.out)


def compare_writing(engine: Engine, vocabulary: str, pieces: int) -> list[float]:
    """Time a byte of text by ``vocabulary`` ÷ by the union: of wall clock, and of processors."""
    times = []
    for its in ("union", vocabulary):
        seconds, busy, texts = write(engine, its, pieces)
        written = sum(len(each.data) for each in texts)
        times.append((seconds / written, busy / written))
        parted, count = sum(each.usage.parted or 0 for each in texts), sum(each.usage.pieces for each in texts)
        show(its, [1000 * seconds / written, 1000 * busy / written, written, count, f"{parted / count:.0%}"])
    return [other / one for one, other in zip(*times, strict=True)]


if __name__ == "__main__":
    main()
