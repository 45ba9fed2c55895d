"""Tries what a recurrent model's code does right, on a few tokens, before anything is generated.

Some models read a block after others as if nothing had stood before; what a release of transformers does in each of
them is found by trying. What is not exact is done token by token, or slot by slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unisono.backends.base import Feed
from unisono.backends.transformers.state_backend import Abilities, StateBackend
from unisono.errors import ModelUnsupported, UnisonoError

Make = Callable[[Abilities], StateBackend]
"""Makes an unused backend of two slots."""
ROUNDING = 1e-4
"""Distributions so near, as their total variation, are the same but for the order of sums."""
NOISE = 4
"""How many times farther than a model's own rounding two distributions may be."""
LOST = {"float32": 0.02}
LOST_ELSE = 0.25
"""Distributions so far apart are not of the same text, in numbers of 16 bits."""
SIZE = 5
PROBED = 16
"""Tokens of context that are enough."""


def find_abilities(make: Make, rows: int, dtype: str, who: str) -> Abilities:
    """Raises a `ModelUnsupported` where even token by token a model gives what it does not give in one block."""
    ids = [(7 * n * n + 3 * n + 1) % rows for n in range(2 * SIZE)]
    others = [(5 * n * n + n + 2) % rows for n in range(2 * SIZE + 1)]
    whole_NV = _read(make(Abilities()), [[(ids, SIZE)]])
    single = [[(ids[:SIZE], 0)], [(others[: SIZE + 1], 0)]]
    for token, other in zip(ids[SIZE:], others[SIZE + 1 :], strict=False):
        single[0].append(([token], 1))
        single[1].append(([other], 0))
    apart = _apart(_read(make(Abilities()), single), whole_NV)
    if not apart < LOST.get(dtype, LOST_ELSE):
        raise ModelUnsupported(
            f"{who}: this release of transformers gives other distributions token by token than in one block "
            f"({apart:.2g} apart), so its state cannot be kept",
            hint="upgrade transformers, or use another model",
        )
    near = max(ROUNDING, NOISE * apart)
    other_NV = _read(make(Abilities()), [[(others[: SIZE + 1], SIZE + 1)]])[-1:]
    abilities = Abilities()
    if _holds(make, replace(abilities, blocks=True), [[(ids[:SIZE], 0), (ids[SIZE:], SIZE)]], whole_NV, near):
        abilities = replace(abilities, blocks=True)
    uneven = [[(ids[:-1], 0), (ids[-1:], 1)], [(others[:SIZE], 0), (others[SIZE : SIZE + 1], 1)]]
    if _holds(make, replace(abilities, uneven=True), uneven, np.concatenate([whole_NV[-1:], other_NV]), near):
        abilities = replace(abilities, uneven=True)
    return abilities


def _holds(make: Make, abilities: Abilities, texts: Sequence[Any], expected_NV: Any, near: float) -> bool:
    try:
        return bool(_apart(_read(make(abilities), texts), expected_NV) <= near)
    except UnisonoError:
        raise
    except Exception:  # whatever a model's code raises for what it was not written for
        return False


def _read(backend: StateBackend, texts: Sequence[Sequence[tuple[Sequence[int], int]]]) -> Any:
    """The rows that texts give, each read in blocks of ids with the number of rows wanted, side by side."""
    slots, rows = [backend.open() for _ in texts], []
    for blocks in zip(*texts, strict=True):
        feeds = [Feed(slot, list(ids), wanted) for slot, (ids, wanted) in zip(slots, blocks, strict=True)]
        logits_NV: Any = backend.advance(feeds)
        rows.append(np.array(logits_NV.cpu() if hasattr(logits_NV, "cpu") else logits_NV))
    return np.concatenate(rows)


def _apart(left_NV: Any, right_NV: Any) -> float:
    """The greatest total variation between two rows' distributions; not a number where they have none."""
    left, right = (np.exp(rows - rows.max(-1, keepdims=True), dtype=np.float64) for rows in (left_NV, right_NV))
    apart = np.abs(left / left.sum(-1, keepdims=True) - right / right.sum(-1, keepdims=True)).sum(-1)
    return float(0.5 * apart.max())
