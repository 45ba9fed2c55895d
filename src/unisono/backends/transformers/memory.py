"""Puts a model and its memory of texts together: rows of keys and values, and states where it has them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from unisono.backends.base import BackendFacts
from unisono.backends.seams import SEAMS
from unisono.backends.transformers import model_config, torch_runtime
from unisono.backends.transformers.backend import RowBackend
from unisono.backends.transformers.direction import check_direction
from unisono.backends.transformers.failures import check_passes
from unisono.backends.transformers.key_value_cache import Pass, RowPool
from unisono.backends.transformers.model_shape import input_rows, output_rows
from unisono.backends.transformers.state_backend import Abilities, StateBackend
from unisono.backends.transformers.state_layer import StateLayer, make_layers
from unisono.backends.transformers.state_probe import PROBED, find_abilities
from unisono.backends.transformers.torch_runtime import RowForward


@dataclass(frozen=True, slots=True)
class CacheParts:
    """What of transformers a cache is made of."""

    cache: Callable[[list[Any]], Any]
    """Makes a cache of its layers."""
    empty: Callable[[], Any]
    """Makes what stands in it for a layer that remembers nothing."""


class BackendMaker:
    def __init__(self, model: Any, text: Any, parts: CacheParts, who: str) -> None:
        self._model, self._text, self._parts, self._who = model, text, parts, who
        self.has_states = model_config.has_states(type(model), text)

    def checked_row_backend(self, slots: int, context: int) -> RowBackend:
        """Raises a `ModelUnsupported` where the model does not read from left to right, token by token."""
        check_passes(self.row_backend(1, context), type(self._model).__name__, self._who)
        check_direction(self._read_alone, min(output_rows(self._model), input_rows(self._model)), self._who)
        return self.row_backend(slots, context)

    def row_backend(self, slots: int, context: int) -> RowBackend:
        forward, _ = self._forward(slots, context)
        return RowBackend(_facts(forward, slots, context), forward.pool, forward)

    def state_backend(self, slots: int, context: int, dtype: str) -> StateBackend:
        """Raises a `ModelUnsupported` where the model's state cannot be kept."""

        def make(abilities: Abilities, slots: int = 3, context: int = PROBED) -> StateBackend:
            forward, states = self._forward(slots, context)
            facts = replace(_facts(forward, slots, context), rewinds_anywhere=False)
            return StateBackend(facts, forward.pool, forward, states, abilities)

        rows = min(output_rows(self._model), input_rows(self._model))
        return make(find_abilities(make, rows, dtype, self._who), slots, context)

    def cache_bytes(self, slots: int, context: int, number_size: int) -> int:
        """The bytes of all slots' keys and values, and of the states that are kept of each."""
        if not self.has_states:
            return model_config.cache_numbers(self._text) * number_size * context * slots
        keys = model_config.cache_numbers(self._text) if self._forward(1, PROBED)[0].pool.layers else 0
        return (keys * number_size * context + SEAMS * self._state_bytes(number_size)) * slots

    def _read_alone(self, ids: list[list[int]]) -> Any:
        """The logits of texts of one length, by the model's own mask."""
        forward, _ = self._forward(1, PROBED)
        with forward.inference():
            return self._model(input_ids=torch_runtime.integers(ids, forward.device), use_cache=False).logits

    def _state_bytes(self, number_size: int) -> int:
        """The bytes of one slot's state, by a pass of a model without memory for its weights.

        A model whose code needs numbers to go on is followed as far as it goes: layers with states are alike.
        """
        forward, states = self._forward(1, PROBED)
        forward.pool.add()
        forward.pool.begin(Pass((0,), (0,), (1,)))
        with contextlib.suppress(Exception):
            forward(forward.pool.now, [[0]], 1)
        sizes = [_size(layer, number_size, forward.dtype) for layer in states]
        return max(sizes) * len(sizes)

    def _forward(self, slots: int, context: int) -> tuple[RowForward, list[StateLayer]]:
        pool = RowPool(slots, context, torch_runtime.integers)
        argument = model_config.memory_argument(type(self._model))
        layers, states = make_layers(pool, self._text, argument, torch_runtime.join, self._parts.empty)
        cache = self._parts.cache(layers) if layers else None
        return RowForward(self._model, self._text, pool, cache, self._who, states), states


def _facts(forward: RowForward, slots: int, context: int) -> BackendFacts:
    return BackendFacts(device=forward.device_name, rows=forward.rows, context=context, slots=slots)


def _size(layer: StateLayer, number_size: int, own: Any) -> int:
    tensors = [each for each in (*layer.conv_states.values(), *layer.recurrent_states.values()) if each is not None]
    return sum(each.numel() * (number_size if each.dtype == own else each.itemsize) for each in tensors)
