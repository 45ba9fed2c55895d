"""Applies adapters: each row of a pass has its own, or none; all are two products a layer (docs/adr/0029)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unisono.backends.transformers.adapter_files import AdapterFiles, kind_of
from unisono.backends.weight_files import listed
from unisono.errors import ModelCorrupt, ModelUnsupported

Tensor = Any
ReadTensors = Callable[[Path], Mapping[str, Tensor]]
_ROUTED = re.compile(r"\.experts\.\d+\.")
"""Layers that see those ids of a pass that are sent to them, in an order of their own."""


class Adapters:
    """The adapters of one model. `begin` says whose rows a pass has."""

    def __init__(self, model: Any, found: Mapping[str, AdapterFiles], read: ReadTensors, join: Callable[..., Tensor]):
        """Hook the layers that any adapter changes; ``join(tensors, axis)`` concatenates them.

        Raises a `ModelCorrupt` for numbers that are none.
        """
        self._names = list(found)
        self._rows: tuple[int | None, ...] = ()
        self._width = 1
        self._trial: dict[str, tuple[int, ...]] | None = None
        self.mixed = True
        """Whether rows of one pass may have different ones; otherwise a pass is of one."""
        self._masks: dict[tuple[Any, ...], Tensor] = {}
        self._layers: dict[str, _Layer] = {}
        parts: dict[str, list[tuple[int, Tensor, Tensor]]] = {}
        for number, files in enumerate(found.values()):
            tensors = read(files.weights)
            for layer, scale in files.scales.items():
                a_ri, b_or = (tensors[f"base_model.model.{layer}.lora_{half}.weight"].float() for half in "AB")
                b_or = b_or * scale
                if not all(bool(each.isfinite().all()) for each in (a_ri, b_or)):
                    raise ModelCorrupt(
                        f"{files.who} has numbers that are none at {layer}, or that its scale of {scale:g} makes so",
                        hint="train it again, or see to lora_alpha",
                    )
                parts.setdefault(layer, []).append((number, a_ri, b_or))
        for name, its in parts.items():
            module = model.get_submodule(name)
            device = module.weight.device
            self._layers[name] = added = _Layer(
                name,
                ranks=tuple((number, a_ri.shape[0]) for number, a_ri, _ in its),
                a_ri=join([a_ri for _, a_ri, _ in its], 0).to(device),
                b_or=join([b_or for _, _, b_or in its], 1).to(device),
            )
            module.register_forward_hook(partial(self._add, added))

    def try_out(self, run: Callable[[Sequence[str | None]], int], slots: int, who: str) -> None:
        """See what reaches the layers: ``run`` makes a pass of rows with these adapters, and returns their width.

        Raises a `ModelUnsupported` where the model never calls layers of a kind, whose adapter would change nothing.
        """
        rows = (self._names[0], None)[:slots]
        self._trial = trial = dict[str, tuple[int, ...]]()
        try:
            width = run(rows)
        finally:
            self._trial = None
        called = {kind_of(name) for name in trial}
        if passed_over := sorted({kind_of(name) for name in self._layers} - called):
            raise ModelUnsupported(
                f"{who} does not call the layers {listed(passed_over)}, which adapters change: they would be "
                "passed over without a word",
                hint="merge the adapter into the weights (peft: merge_and_unload, save_pretrained)",
            )
        self.mixed = not any(_ROUTED.search(name) for name in trial) and all(
            (len(shape) == 3 and shape[0] == len(rows)) or (len(shape) == 2 and shape[0] == len(rows) * width)
            for shape in trial.values()
        )

    def begin(self, adapters: Sequence[str | None], width: int) -> None:
        """Say which adapter each row of the next pass has, and how many ids each row reads."""
        self._width = width
        rows = tuple(None if name is None else self._names.index(name) for name in adapters)
        if rows != self._rows:
            self._rows = rows
            self._masks.clear()

    def _add(self, layer: _Layer, module: Any, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        if self._trial is not None:
            self._trial[layer.name] = tuple(given[0].shape)
            return result
        kinds = {number for number in self._rows if layer.has(number)}
        if not kinds:
            return result
        x = given[0].to(layer.a_ri.dtype)
        if len(kinds) == 1 and len(set(self._rows)) == 1:
            [number] = kinds
            first, last = layer.span(number)
            more = (x @ layer.a_ri[first:last].T) @ layer.b_or[:, first:last].T
        else:
            rows, is_flat = len(self._rows), x.ndim == 2
            if x.ndim not in (2, 3) or x.shape[0] != (rows * self._width if is_flat else rows):
                raise ModelUnsupported(
                    f"the layers of {type(module).__name__} do not see the rows of a pass, of which each may have "
                    "another adapter",
                    hint="load the model once for each of them: give each member the key model",
                )
            mask = self._mask(layer, x)
            if is_flat:  # the ids of each row, one row below the other
                mask = mask.expand(-1, self._width, -1).reshape(x.shape[0], -1)
            more = ((x @ layer.a_ri.T) * mask) @ layer.b_or.T
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

    def __init__(self, name: str, ranks: tuple[tuple[int, int], ...], a_ri: Tensor, b_or: Tensor) -> None:
        self.name, self.ranks, self.a_ri, self.b_or = name, ranks, a_ri, b_or
        self._spans: dict[int | None, tuple[int, int]] = {}
        start = 0
        for number, rank in ranks:
            self._spans[number] = start, start + rank
            start += rank

    def has(self, number: int | None) -> bool:
        return number in self._spans

    def span(self, number: int | None) -> tuple[int, int]:
        return self._spans[number]
