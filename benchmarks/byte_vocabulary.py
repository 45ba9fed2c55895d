"""What `vocabulary: bytes` costs beside a union, and what it changes: time a byte of text, parted cuts, nats a byte.

    python benchmarks/byte_vocabulary.py examples/duo.yaml --pieces 48 --rounds 3

The two write the same prompts greedily and take turns; the table shows milliseconds a byte of text by round, and the
median of their ratio. Then both score the same texts, and `--exact` scores them again with a wide beam.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.engine.engine import Engine
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


def write(engine: Engine, vocabulary: str, pieces: int) -> tuple[float, list[Generation]]:
    """Seconds that it takes to write all prompts, one after the other, and the texts."""
    method = engine.method.but(vocabulary=vocabulary)
    texts = []
    began = time.perf_counter()
    for prompt in PROMPTS:
        text = engine.add(Prompt(text=prompt), Limits(pieces), method=method)
        while engine.active:
            engine.step()
        texts.append(text.generation())
    return time.perf_counter() - began, texts


def nats(engine: Engine, vocabulary: str) -> list[float]:
    """Nats a byte of each text."""
    method, found = engine.method.but(vocabulary=vocabulary), []
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        [score] = engine.score([(Prompt(text=prompt), text)], method=method)
        found.append(-score.logp / len(text.encode()))
    return found


def show(title: str, values: Sequence[Any]) -> None:
    print(f"{title:24}", *(f"{value:8.4f}" if isinstance(value, float) else f"{value!s:>8}" for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--vocabulary", default="bytes")
    parser.add_argument("--pieces", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exact", default="bytes beam:32 least:0.00001", help="what scores are held to; or empty")
    given = parser.parse_args()
    spec = load_spec(given.spec)
    widest = max(spec.but(vocabulary=words).method.slots for words in (given.vocabulary, given.exact or "union"))
    with prepare(spec.but(vocabulary="union"), batch=widest).load() as engine:
        ratios = []
        write(engine, given.vocabulary, 4)
        for _ in range(given.rounds):
            times = []
            for vocabulary in ("union", given.vocabulary):
                seconds, texts = write(engine, vocabulary, given.pieces)
                written = sum(len(each.data) for each in texts)
                times.append(1000 * seconds / written)
                parted = sum(each.usage.parted or 0 for each in texts)
                pieces = sum(each.usage.pieces for each in texts)
                show(vocabulary, [times[-1], written, pieces, f"{parted / pieces:.0%}"])
            ratios.append(times[1] / times[0])
        show("ratio a byte", [statistics.median(ratios), min(ratios), max(ratios)])
        for vocabulary in ("union", given.vocabulary, *([given.exact] if given.exact else [])):
            began, values = time.perf_counter(), nats(engine, vocabulary)
            show(vocabulary, [statistics.mean(values), *values, time.perf_counter() - began])
        for one, other in zip(write(engine, "union", 24)[1], write(engine, given.vocabulary, 24)[1], strict=True):
            print(repr(one.text), repr(other.text), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
