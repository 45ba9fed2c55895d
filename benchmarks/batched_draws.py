"""How often a batch changes what a seed draws: exactly, over all random numbers, along texts in a batch and alone.

Usage: python benchmarks/batched_draws.py [--backend NAME] [--steps N]

Eight texts of the demo pair are drawn together. Then each is written once more, alone, with the same pieces, and the
distributions at each of its positions are compared: the share of the numbers that draw another column is computed, for
the columns halved until one is left, as `draw_from` has it, and for one number among the sums of masses so far.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serving import PROMPTS
from unisono.chat.messages import Message, Prompt
from unisono.config.method import Method
from unisono.engine import sampler
from unisono.engine.engine import Engine
from unisono.ensemble import Ensemble
from unisono.records import Limits

SPEC = Path(__file__).parent.parent / "examples" / "duo.yaml"
MEMBERS: dict[str, tuple[str, ...]] = {"smol": ("smol",), "gemma": ("gemma",), "both": ("smol", "gemma")}
TEMPERATURES = ("1", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="transformers", choices=("transformers", "llamacpp"))
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    heads = ("members", "temperature", "positions", "by halves, mean (largest)", "by sums, mean (largest)")
    print("|", " | ".join(heads), "|")
    print("|---|---|---|---|---|")
    for name, members in MEMBERS.items():
        with Ensemble.load(_spec(options.backend, members), batch=len(PROMPTS)) as ensemble:
            for temperature in TEMPERATURES:
                pairs = list(_compared(ensemble._engine, temperature, options.steps))
                halves, sums = ([differs(*pair) for pair in pairs] for differs in (by_halves, by_sums))
                shown = " | ".join(f"{np.mean(found):.1e} ({max(found):.1e})" for found in (halves, sums))
                print(f"| {name} | {temperature} | {len(pairs)} | {shown} |", flush=True)


def by_sums(one_U: np.ndarray, other_U: np.ndarray) -> float:
    """The share of numbers that draw different columns where masses are added up until they exceed the number."""
    ends = [np.cumsum(q_U) / q_U.sum() for q_U in (one_U, other_U)]
    starts = [np.concatenate([[0.0], end_U[:-1]]) for end_U in ends]
    return float(1 - np.clip(np.minimum(*ends) - np.maximum(*starts), 0, None).sum())


def by_halves(one_U: np.ndarray, other_U: np.ndarray) -> float:
    """The share of numbers that draw different columns where a number chooses each half."""
    size = 1 << math.ceil(math.log2(len(one_U)))
    levels = [np.stack([np.pad(q_U, (0, size - len(q_U))) for q_U in (one_U, other_U)])]
    while levels[-1].shape[1] > 1:
        levels.append(levels[-1].reshape(2, -1, 2).sum(axis=2))
    both = np.ones(1)
    for level in reversed(levels[:-1]):
        halves = level.reshape(2, -1, 2)
        whole = halves.sum(axis=2)
        left = np.divide(halves[:, :, 0], whole, out=np.zeros_like(whole), where=whole > 0)
        both = np.stack([both * left.min(axis=0), both * (1 - left.max(axis=0))], axis=1).ravel()
    return float(1 - both[: len(one_U)][one_U > 0].sum())


def _compared(engine: Engine, temperature: str, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is drawn from at each position, in a batch and alone."""
    together, columns = _written(engine, temperature, steps, range(len(PROMPTS)), None)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(len(PROMPTS)):
        alone, _ = _written(engine, temperature, steps, [number], columns)
        pairs += zip(together[number], alone[number], strict=True)
    return pairs


def _written(
    engine: Engine, temperature: str, steps: int, numbers: Any, given: dict[int, list[int]] | None
) -> tuple[dict[int, list[np.ndarray]], dict[int, list[int]]]:
    """Write texts by the numbers of their prompts, with the columns given; tell what was drawn from, and what."""
    heard: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    columns: defaultdict[int, list[int]] = defaultdict(list)
    number_of: dict[int, int] = {}
    real: Callable[..., int] = sampler._draw

    def listening(q_U: Any, p_U: Any, state: Any, position: int) -> int:
        number = number_of[id(state.text)]
        heard[number].append(np.array(q_U, np.float64))
        drawn = real(q_U, p_U, state, position) if given is None else given[number][len(heard[number]) - 1]
        columns[number].append(drawn)
        return drawn

    sampler._draw = listening
    try:
        texts = []
        for number in numbers:
            method = Method().but(draw=f"{temperature} seed:{number}")
            texts.append(engine.add(_asking(PROMPTS[number]), Limits(steps), method=method))
            number_of[id(texts[-1])] = number
        while engine.active:
            engine.step()
    finally:
        sampler._draw = real
    return heard, columns


def _asking(question: str) -> Prompt:
    return Prompt(messages=(Message(role="user", content=question),))


def _spec(backend: str, members: tuple[str, ...]) -> dict[str, Any]:
    spec = yaml.safe_load(SPEC.read_text())
    kept = [member for member in spec["members"] if member["name"] in members]
    for member in kept:
        member["backend"] = backend
        if backend == "transformers":
            member["dtype"] = "float32"
    return {"members": kept}


if __name__ == "__main__":
    main()
