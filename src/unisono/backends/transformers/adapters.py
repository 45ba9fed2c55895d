"""Applies adapters: each row of a pass has its own, or none; all are two products a layer (docs/adr/0029)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unisono.backends.transformers.adapter_files import AdapterFiles
from unisono.errors import ModelCorrupt, ModelUnsupported

Tensor = Any
ReadTensors = Callable[[Path], Mapping[str, Tensor]]


class Adapters:
    """The adapters of one model. `begin` says whose rows a pass has."""

    def __init__(self, model: Any, found: Mapping[str, AdapterFiles], read: ReadTensors, join: Callable[..., Tensor]):
        """Hook the layers that any adapter changes; ``join(tensors, axis)`` concatenates them.

        Raises a `ModelCorrupt` for numbers that are none.
        """
        self._names = list(found)
        self._rows: tuple[int | None, ...] = ()
        self._masks: dict[tuple[Any, ...], Tensor] = {}
        parts: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
        for number, files in enumerate(found.values()):
            tensors = read(files.weights)
            for layer, scale in files.scales.items():
                a_ri, b_or = (tensors[f"base_model.model.{layer}.lora_{half}.weight"].float() for half in "AB")
                if not all(math.isfinite(float(each.abs().sum())) for each in (a_ri, b_or)):
                    raise ModelCorrupt(f"{files.who} has numbers that are none at {layer}", hint="train it again")
                parts.setdefault(layer, []).append((number, a_ri, b_or * scale))
        for name, its in parts.items():
            module = model.get_submodule(name)
            device = module.weight.device
            its_layer = _Layer(
                ranks=tuple((number, a_ri.shape[0]) for number, a_ri, _ in its),
                a_ri=join([a_ri for _, a_ri, _ in its], 0).to(device),
                b_or=join([b_or for _, _, b_or in its], 1).to(device),
            )
            module.register_forward_hook(partial(self._add, its_layer))

    def begin(self, adapters: Sequence[str | None]) -> None:
        """Say which adapter each row of the next pass has."""
        rows = tuple(None if name is None else self._names.index(name) for name in adapters)
        if rows != self._rows:
            self._rows = rows
            self._masks.clear()

    def _add(self, layer: _Layer, module: Any, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        kinds = {number for number in self._rows if layer.has(number)}
        if not kinds:
            return result
        x = given[0].to(layer.a_ri.dtype)
        if len(kinds) == 1 and len(set(self._rows)) == 1:
            [number] = kinds
            first, last = layer.span(number)
            more = (x @ layer.a_ri[first:last].T) @ layer.b_or[:, first:last].T
        else:
            if x.ndim != 3 or x.shape[0] != len(self._rows):
                raise ModelUnsupported(
                    f"the layers of {type(module).__name__} do not see the rows of a pass, of which each may have "
                    "another adapter",
                    hint="load the model once for each of them: give each member the key model",
                )
            more = ((x @ layer.a_ri.T) * self._mask(layer, x)) @ layer.b_or.T
        return (result + more).to(result.dtype)

    def _mask(self, layer: _Layer, x: Tensor) -> Tensor:
        """``[B, 1, R]``: 1 where a rank is of the row's own adapter."""
        key = layer.ranks, x.device
        if key not in self._masks:
            owners = [number for number, rank in layer.ranks for _ in range(rank)]
            rows = [[[float(owner == row) for owner in owners]] for row in self._rows]
            self._masks[key] = x.new_tensor(rows)
        return self._masks[key]


class _Layer:
    """What adapters have for one layer: A below one another, B side by side."""

    def __init__(self, ranks: tuple[tuple[int, int], ...], a_ri: Tensor, b_or: Tensor) -> None:
        self.ranks, self.a_ri, self.b_or = ranks, a_ri, b_or
        self._spans: dict[int | None, tuple[int, int]] = {}
        start = 0
        for number, rank in ranks:
            self._spans[number] = start, start + rank
            start += rank

    def has(self, number: int | None) -> bool:
        return number in self._spans

    def span(self, number: int | None) -> tuple[int, int]:
        return self._spans[number]
