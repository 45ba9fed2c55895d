"""How many greedy choices are certified where members tell their k likeliest ids only, on real text.

    python benchmarks/certified.py [SPEC] [--pieces N] [--rule RULE …] > certified.json

The thirty prompts of the tests are continued, eight at a time: by whole distributions, then by the same loaded members
of which k ids a step are told, once and for all or with 10 and 100 times as many where that does not prove a choice.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.demo import written
from support.prompts import ALL
from unisono.backends.base import Truncation
from unisono.backends.truncated import TruncatedBackend
from unisono.config.method import Method
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.ensemble import Ensemble

TOPS = (5, 20, 200)
BATCH = 8


def truncated(engine: Engine, truncation: Truncation, calls: list[int]) -> Engine:
    """The same loaded members, of whose distributions so much is told; ``calls`` counts rows that were asked again."""

    class Counted(TruncatedBackend):
        def advance(self, feeds: Any) -> Any:
            calls[0] += sum(feed.top > 0 for feed in feeds)
            return super().advance(feeds)

    return Engine(
        [
            Member(each.name, each.weight, Counted(each.backend, truncation), each.encoder, each.speller, each.map)
            for each in engine.members
        ],
        engine.union,
    )


def measure(engine: Engine, method: Method, pieces: int, tops: Sequence[int] = TOPS) -> list[dict[str, Any]]:
    """By k, the share of certified choices, of texts that are those of whole distributions, and of rows asked again."""
    expected = [text.generation().data for text in written(engine, ALL, pieces, BATCH, method)]
    found = []
    for top in tops:
        for more in (1, 100):
            calls = [0]
            told = truncated(engine, Truncation(top, more * top), calls)
            texts = written(told, ALL, pieces, BATCH, method)
            steps = [step for text in texts for step in text.steps]
            same = [text.generation().data == data for text, data in zip(texts, expected, strict=True)]
            unproved = {text: text.uncertain for text in texts}
            found.append(
                {
                    "rule": str(method.combine),
                    "k": top,
                    "most": more * top,
                    "choices": len(steps),
                    "certified": sum(bool(step.certain) for step in steps) / len(steps),
                    "proved_texts": sum(not uncertain for uncertain in unproved.values()) / len(texts),
                    "same_texts": sum(same) / len(same),
                    # By rounding alone: through llama.cpp, batches of another size compute other last bits.
                    "proved_texts_that_differ": sum(
                        not its and not unproved[text] for text, its in zip(texts, same, strict=True)
                    ),
                    "asked_again": calls[0] / len(steps) / len(engine.members),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="examples/duo.yaml")
    parser.add_argument("--pieces", type=int, default=24)
    parser.add_argument("--rule", nargs="*", default=["mean"])
    given = parser.parse_args()
    with Ensemble.load(given.spec, batch=BATCH) as ensemble:
        figures = [
            each for rule in given.rule for each in measure(ensemble._engine, Method(combine=rule), given.pieces)
        ]
    kept = {"date": datetime.now(UTC).date().isoformat(), "machine": platform.platform(), "spec": given.spec}
    print(json.dumps({**kept, "pieces": given.pieces, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
