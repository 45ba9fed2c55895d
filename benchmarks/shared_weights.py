"""Three members that share one model's weights beside one of them alone: what a token takes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parent.parent / "examples" / "prompts-ensemble.yaml"
THREADS = 1
"""Of the model: where other work is going on, two would wait for each other, and times would tell of that work."""
QUESTIONS = (
    "Tell me a long story about a lighthouse keeper.",
    "Explain in detail how bread is made.",
    "Describe a walk through a market in the morning.",
)


def compare(backend: str, rounds: int, pieces: int) -> dict[str, Any]:
    """Measure the example's ensemble through one backend.

    Args:
        backend: ``llamacpp`` or ``transformers``, with its defaults.
        rounds: turns of each member alone and of the three together.
        pieces: pieces of each answer.

    Returns:
        What `measure` gives, the ratio to one member alone by round, and the same for bare passes of the model.
    """
    from unisono.benchmark import measure
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec

    spec = load_spec(EXAMPLE)
    owner = spec.members[0].model_copy(update={"backend": backend, "threads": THREADS})
    prepared = prepare(spec.model_copy(update={"members": [owner, *spec.members[1:]]}))
    prompts = [prepared.prompt(question) for question in QUESTIONS]
    figures = measure(prepared, rounds=rounds, pieces=pieces, prompts=prompts).to_json()
    alone: Any = figures["systems"]
    lengths = [len(member.reader.read(prompts[0])) for member in prepared.members]
    return {
        "members_to_one": {system["name"]: system["speedup"] for system in alone[: len(prepared.members)]},
        "bare_passes": _bare(prepared.members[0].loader, lengths, rounds * pieces),
        **figures,
    }


def _bare(loader: Any, lengths: list[int], passes: int) -> dict[str, float]:
    """Medians of passes of one token and of one for each member, interleaved, behind prompts of these lengths."""
    from unisono.backends.base import Feed

    backend = loader.load(lambda fraction, words: None)
    try:
        slots = [backend.open() for _ in lengths]
        backend.advance([Feed(slot, [100] * length) for slot, length in zip(slots, lengths, strict=True)])

        def milliseconds(count: int) -> float:
            began = time.perf_counter()
            backend.advance([Feed(slot, [100]) for slot in slots[:count]])
            spent = time.perf_counter() - began
            for slot, length in zip(slots[:count], lengths, strict=False):
                backend.rewind(slot, length)
            return 1e3 * spent

        times = [(milliseconds(1), milliseconds(len(slots))) for _ in range(passes)]
    finally:
        backend.unload()
    one, all_of_them = (statistics.median(turn[place] for turn in times) for place in (0, 1))
    return {"one": one, "all": all_of_them, "ratio": statistics.median(more / less for less, more in times)}
