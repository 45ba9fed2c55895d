"""Tries what a recurrent model's code does right, on a few tokens, before anything is generated.

Some models read a block after others as if nothing had stood before, or read it otherwise than token by token; what a
release of transformers does in each of them is found by trying. What is not exact is done token by token, or slot by
slot.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unisono.backends.base import Feed
from unisono.backends.transformers.state_backend import Abilities, StateBackend
from unisono.errors import ModelUnsupported, UnisonoError

Make = Callable[[Abilities], StateBackend]
"""Makes an unused backend of three slots."""
ROUNDING = 3e-4
"""Logits so near, by their length, are the same but for the order of sums."""
NOISE = 4
"""How many times farther than a model's own rounding two rows may be."""
ROUNDING_IN_HALF = 0.1
"""The same, at most, where numbers have 16 bits."""
SIZE = 5
PROBED = 16
"""Tokens of context that are enough."""


def find_abilities(make: Make, rows: int, dtype: str, who: str) -> Abilities:
    """Raises a `ModelUnsupported` where a model does not give what it gives with a cache of its own."""
    first = [(7 * n * n + 3 * n + 1) % rows for n in range(2 * SIZE)]
    second = [(5 * n * n + n + 2) % rows for n in range(2 * SIZE)]
    texts = [_Text(first, SIZE), _Text(second, SIZE), _Text(second, SIZE - 1)]
    single = [text.cut([1] * SIZE) for text in texts]
    single_NV = _read(make(Abilities()), single)
    own = [single_NV[n :: len(texts)] for n in range(len(texts))]
    exact = dtype in ("float32", "float64")
    wanted_NV = _host(make(Abilities()).by_itself([ids for ids, _ in single[0]]))[1:]
    if not _apart(own[0], wanted_NV) <= (ROUNDING if exact else ROUNDING_IN_HALF):
        raise ModelUnsupported(
            f"{who}: with its state in our cache, this release of transformers gives other distributions",
            hint="upgrade transformers, or use another model",
        )
    noise = _apart(own[0], _read(make(Abilities()), [[(first, SIZE)]]))
    near = ROUNDING if exact else min(max(ROUNDING, NOISE * noise), ROUNDING_IN_HALF)

    def holds(abilities: Abilities, *members: int) -> bool:
        sizes = [1, 2, 2] if abilities.blocks else [1] * SIZE
        expected = [own[n][start : start + size] for start, size in _spans(sizes) for n in members]
        try:
            found_NV = _read(make(abilities), [texts[n].cut(sizes) for n in members])
            return bool(_apart(found_NV, np.concatenate(expected)) <= near)
        except UnisonoError:
            raise
        except Exception:  # whatever a model's code raises for what it was not written for
            return False

    abilities = Abilities()
    for more, members in (({"blocks": True}, [0]), ({"together": True}, [0, 1]), ({"uneven": True}, [0, 2])):
        if (abilities.together or "uneven" not in more) and holds(replace(abilities, **more), *members):
            abilities = replace(abilities, **more)
    return abilities


@dataclass(frozen=True, slots=True)
class _Text:
    ids: list[int]
    begun: int
    """How many ids are read first, in one block."""

    def cut(self, sizes: Sequence[int]) -> list[tuple[list[int], int]]:
        """Blocks of ids, each with the number of rows that are wanted: none of the first."""
        rest = self.ids[self.begun :]
        return [(self.ids[: self.begun], 0), *((rest[start : start + size], size) for start, size in _spans(sizes))]


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(itertools.accumulate(sizes, initial=0), sizes, strict=False))


def _read(backend: StateBackend, texts: Sequence[Sequence[tuple[Sequence[int], int]]]) -> Any:
    """The rows that texts give, each read in blocks of ids with the number of rows wanted, side by side."""
    slots, rows = [backend.open() for _ in texts], []
    for blocks in zip(*texts, strict=True):
        feeds = [Feed(slot, list(ids), wanted) for slot, (ids, wanted) in zip(slots, blocks, strict=True)]
        logits_NV: Any = backend.advance(feeds)
        rows.append(_host(logits_NV))
    return np.concatenate(rows)


def _host(logits_NV: Any) -> Any:
    return np.array(logits_NV.cpu() if hasattr(logits_NV, "cpu") else logits_NV)


def _apart(left_NV: Any, right_NV: Any) -> float:
    """The greatest distance of two rows of logits by the length of the second; not a number where a row has none.

    Unlike the distance of distributions it also shows where a model is sure of its next token.
    """
    left, right = (np.float64(rows_NV) - rows_NV.mean(-1, keepdims=True) for rows_NV in (left_NV, right_NV))
    return float((np.linalg.norm(left - right, axis=-1) / np.linalg.norm(right, axis=-1)).max())
