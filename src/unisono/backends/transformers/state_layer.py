"""Recurrent and convolution states in a pass: one layer's, for the rows that are read.

Transformers' cache keeps one state a sequence, and writes over it. Here a slot's states are values that nobody changes:
a pass reads a copy of them, joined over its rows, and what it leaves is split into new ones. So keeping a state of
before costs no more than holding on to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unisono.backends.transformers.key_value_cache import RowLayer, RowPool
from unisono.backends.transformers.model_config import (
    FORGETFUL,
    HYBRID,
    STATES,
    layer_configs,
    layer_kinds,
    layer_windows,
)

Tensor = Any
Join = Callable[[list[Tensor]], Tensor]
"""Copies tensors into one, along their first axis."""
RWKV_STATES = 5
"""The tensors of RWKV's states: each holds a part of all layers' states."""


@dataclass(frozen=True, slots=True)
class LayerState:
    """One slot's state in one layer, each tensor with a first axis of 1. Empty before anything is read."""

    conv: dict[int, Tensor] = field(default_factory=dict)
    """The last inputs of each convolution."""
    recurrent: dict[int, Tensor] = field(default_factory=dict)


SlotState = tuple[LayerState, ...]
"""A slot's states in all layers that have one."""


class StateLayer:
    """One layer's states. Implements what transformers uses of `LinearAttentionCacheLayerMixin`."""

    is_compileable = False
    is_croppable = False
    supports_early_init = False
    record_past = False

    def __init__(self, join: Join, number_of_states: int = 1) -> None:
        self.number_of_states = number_of_states
        self._join = join
        self.load([LayerState()])

    def load(self, states: Sequence[LayerState]) -> None:
        """Begin a pass over rows in these states, which are all empty or all of one form."""
        first, places = states[0], range(self.number_of_states)
        self.conv_states: dict[int, Tensor | None] = dict.fromkeys(places)
        self.recurrent_states: dict[int, Tensor | None] = dict.fromkeys(places)
        self.has_previous_state = {place: place in first.conv or place in first.recurrent for place in places}
        for place in first.conv:
            self.conv_states[place] = self._join([state.conv[place] for state in states])
        for place in first.recurrent:
            self.recurrent_states[place] = self._join([state.recurrent[place] for state in states])

    def taken(self, rows: int) -> list[LayerState]:
        """The state of each row after the pass."""

        def split(states: dict[int, Tensor | None], row: int) -> dict[int, Tensor]:
            own = {place: state[row : row + 1] for place, state in states.items() if state is not None}
            return own if rows == 1 else {place: state.clone() for place, state in own.items()}  # frees the others

        return [LayerState(split(self.conv_states, row), split(self.recurrent_states, row)) for row in range(rows)]

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        """Append inputs ``[B, channels, T]``; return them after those of before, and keep the last ones."""
        before = self.conv_states[state_idx]
        kept = conv_states.shape[-1] if conv_kernel_size is None else conv_kernel_size
        if before is not None:
            kept = before.shape[-1]
        else:  # as if zeros had been read before
            missing = max(0, kept - conv_states.shape[-1])
            before = conv_states.new_zeros((*conv_states.shape[:-1], missing))
        whole = conv_states.new_empty((*conv_states.shape[:-1], before.shape[-1] + conv_states.shape[-1]))
        whole[..., : before.shape[-1]] = before
        whole[..., before.shape[-1] :] = conv_states
        self.conv_states[state_idx] = whole[..., -kept:].clone()
        self.has_previous_state[state_idx] = True
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states

    def get_max_length(self) -> int:
        return -1


class HybridLayer(StateLayer, RowLayer):
    """A layer with a state beside its keys and values."""

    def __init__(self, pool: RowPool, window: int | None, join: Join, number_of_states: int = 1) -> None:
        RowLayer.__init__(self, pool, window)
        StateLayer.__init__(self, join, number_of_states)


def make_layers(
    pool: RowPool, text: Any, memory: str | None, join: Join, empty: Callable[[], Any]
) -> tuple[list[Any], list[StateLayer]]:
    """Make what a model's cache consists of, layer by layer, and of it the layers with states.

    ``text`` is the model's configuration, ``memory`` the argument of its forward that takes the cache, and ``empty``
    makes what stands for a layer that remembers nothing.
    """
    if memory == "state":
        return [], [StateLayer(join, RWKV_STATES)]
    layers: list[Any] = []
    for kind, window, of_layer in zip(layer_kinds(text), layer_windows(text), layer_configs(text), strict=True):
        count = getattr(of_layer, "number_of_conv_states", 1)
        if kind in STATES:
            layers.append(StateLayer(join, count))
        elif kind in HYBRID:
            layers.append(HybridLayer(pool, window, join, count))
        else:
            layers.append(empty() if kind in FORGETFUL else RowLayer(pool, window))
    pool.layers = [layer for layer in layers if isinstance(layer, RowLayer)]
    return layers, [layer for layer in layers if isinstance(layer, StateLayer)]
