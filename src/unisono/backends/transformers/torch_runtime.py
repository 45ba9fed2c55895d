"""Devices, dtypes and the forward pass: what this package does with torch. `onednn` takes torch from here."""

from __future__ import annotations

import contextlib
import gc
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch as torch

from unisono.backends.base import Array, LoadRequest
from unisono.backends.threads import within_quota
from unisono.backends.transformers import model_config
from unisono.backends.transformers.failures import out_of_memory_told
from unisono.backends.transformers.key_value_cache import Pass, RowPool
from unisono.backends.transformers.model_shape import output_rows
from unisono.backends.transformers.state_layer import StateLayer
from unisono.errors import DeviceError, SpecError

SHARING_QUERIES = 16
"""The most queries per sequence for which `attend_sharing` is faster at every head shape; see benchmarks/README.md."""


def find_device(request: LoadRequest) -> torch.device:
    """The requested device, or the best available. Raises `SpecError` or `DeviceError`."""
    named = request.device or "auto"
    there = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    there += ["mps"] if torch.backends.mps.is_available() else []
    there += ["cpu"]
    if named == "auto":
        return torch.device(there[0])
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", named):
        raise SpecError(
            f"member {request.name!r}: device is {named!r}", hint="choose one of: auto, cpu, cuda, cuda:N, mps"
        )
    device = "cuda:0" if named == "cuda" else named
    if device not in there:
        raise DeviceError(
            f"member {request.name!r} asks for the device {named!r}, which is not here",
            hint=f"there are: {', '.join(there)}",
        )
    return torch.device(device)


def find_dtype(named: str | None, device: torch.device, own: object, spread: bool) -> torch.dtype:
    """Choose the dtype; ``own`` is None for a quantised file, ``spread`` means several devices."""
    if named not in (None, "auto"):
        return getattr(torch, str(named))  # type: ignore[no-any-return]
    on_host = device.type == "cpu" and not spread
    if on_host and (named is None or own is None):
        return torch.float32
    return torch.bfloat16 if own is None else own if isinstance(own, torch.dtype) else torch.float32


SHAPES = "meta"
"""Torch's device of tensors without values."""


def shape_only() -> contextlib.AbstractContextManager[Any]:
    """Models built in this context allocate no memory for weights."""
    return torch.device(SHAPES)


def without_values(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Tensors that have a shape alone."""
    with shape_only():
        return {name: torch.empty(shape) for name, shape in shapes.items()}


def use_threads(asked: int | None) -> None:
    if threads(asked) != torch.get_num_threads():
        torch.set_num_threads(threads(asked))


def threads(asked: int | None) -> int:
    """The requested number, else torch's default within the CPU quota."""
    return asked or within_quota(torch.get_num_threads())


def save_weights(model: Any, file: Path) -> None:
    """Write weights as safetensors, each tied tensor once."""
    tensors = {each.data_ptr(): (name, each) for name, each in reversed(list(model.state_dict().items()))}
    named = {name: each.contiguous() for name, each in tensors.values()}
    safetensors.torch.save_file(named, file, metadata={"format": "pt"})


class RowForward:
    def __init__(
        self, model: Any, text: Any, pool: RowPool, cache: Any, who: str, states: Sequence[StateLayer] = ()
    ) -> None:
        """``cache`` is the transformers cache object that holds the pool's layers and ``states``."""
        self.rows = output_rows(model)
        self.device = model.get_input_embeddings().weight.device
        devices = sorted({str(each.device) for each in model.parameters()})
        self.device_name = "+".join(devices)
        self.dtype = model.dtype
        self.pool = pool
        self._model = model
        self._cache = cache
        self._kinds = sorted(set(model_config.layer_kinds(text)))
        model_config.check_cache(type(model), who)
        self._states = states
        parameters = inspect.signature(model.forward).parameters
        self._memory = model_config.memory_argument(type(model))
        self._placed = "position_ids" in parameters and not _has_fixed_masks(model)
        # Whether rows of unequal length can share a pass.
        self.ragged = self._placed and not states
        self._keeps = "logits_to_keep" in parameters
        self._additive = model.config._attn_implementation == "eager"
        self._who = who

    def __call__(self, step: Pass, ids_BT: list[list[int]], keep: int) -> Any:
        """Return logits ``[B, keep, V]`` of the last ``keep`` queries."""
        inputs: dict[str, Any] = {"input_ids": integers(ids_BT, self.device)}
        if self._placed:
            inputs["position_ids"] = positions_BT = integers(step.positions(), self.device)
            if not step.uniform and self.pool.layers:
                inputs["attention_mask"] = self._masks(positions_BT)
        if self._keeps:
            inputs["logits_to_keep"] = keep
        with self.inference():
            if self._memory == "state":
                return self._read_with_state(inputs)[:, -keep:]
            return self._model(**inputs, **{str(self._memory): self._cache}, use_cache=True).logits[:, -keep:]

    def by_itself(self, blocks_NT: Sequence[Sequence[int]]) -> Any:
        """Return the last logits ``[N, V]`` of blocks of one text, read with the model's own memory."""
        given: dict[str, Any] = {}
        rows: list[torch.Tensor] = []
        start = 0
        with self.inference():
            for ids in blocks_NT:
                if self._placed:
                    given["position_ids"] = integers([range(start, start + len(ids))], self.device)
                output = self._model(input_ids=integers([ids], self.device), use_cache=True, **given)
                given[str(self._memory)] = getattr(output, str(self._memory))
                rows.append(output.logits[0, -1:])
                start += len(ids)
        return self.finish(rows)

    def finish(self, parts: Sequence[torch.Tensor]) -> Array:
        """Join logits ``[n, V]`` into one float32 array: numpy on the host, torch elsewhere."""
        with self.inference():
            if not parts:
                joined = torch.zeros((0, self.rows), device=self.device)
            else:
                joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
            joined = joined.float()
        return joined.numpy() if joined.device.type == "cpu" else joined

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """A context that may write the cache's tensors. Raises `DeviceError` when memory runs out."""
        with torch.inference_mode(), out_of_memory_told(self._who, self.device_name):
            yield

    def unload(self) -> None:
        del self._model, self._cache, self.pool, self._states
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _read_with_state(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Run a model that takes all its states as one list of tensors, and returns it."""
        [layer] = self._states
        given = list(layer.recurrent_states.values()) if layer.has_previous_state[0] else None
        output = self._model(**inputs, state=given, use_cache=True)
        layer.recurrent_states = dict(enumerate(output.state))
        logits: torch.Tensor = output.logits
        return logits

    def _masks(self, positions_BT: torch.Tensor) -> Any:
        """The attention mask for rows of unequal length: one, or one per kind of layer."""
        if self._states:  # nothing is padded, so that layers with states need none
            sliding = {layer.is_sliding for layer in self.pool.layers}
            masks = {
                ("sliding_attention" if each else "full_attention"): self._mask(positions_BT, each) for each in sliding
            }
            return masks | dict.fromkeys(model_config.STATES)
        masks = {kind: self._mask(positions_BT, kind == "sliding_attention") for kind in self._kinds}
        return masks if len(masks) > 1 else masks[self._kinds[0]]

    def _mask(self, positions_BT: torch.Tensor, sliding: bool) -> torch.Tensor:
        layer = next(layer for layer in self.pool.layers if layer.is_sliding is sliding)
        places_S = torch.arange(layer.first, self.pool.now.end, device=positions_BT.device)
        queries = positions_BT[:, None, :, None]
        seen = places_S <= queries
        if layer.window is not None:
            seen &= places_S > queries - layer.window
        if not self._additive:
            return seen
        dtype = self._model.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def attend_sharing(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    plain: Callable[..., tuple[torch.Tensor, None]],
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' sdpa attention without copying shared keys and values per head.

    Under a mask transformers repeats them whenever a sequence has two queries, which is common in an ensemble. Here the
    queries of the ``g`` heads that share keys are stacked, as if they belonged to one head.

    The query is ``[B, H, T, dim]``, key and value are ``[B, H / g, S, dim]``, the mask is ``[B, 1, T, S]`` or ``None``
    for plain causal order, and ``scaling`` applies before the softmax. ``plain``, transformers' own function, handles
    all other cases. Returns ``[B, T, H, dim]``, and ``None`` for the weights.
    """
    shared: int = getattr(module, "num_key_value_groups", 1)
    batch, heads, width, _ = query.shape
    ours = shared > 1 and 1 < width <= SHARING_QUERIES and attention_mask is not None and attention_mask.shape[1] == 1
    if not ours or any(options.get(name) is not None for name in ("softcap", "position_bias", "cache")):
        return plain(module, query, key, value, attention_mask, scaling=scaling, **options)
    joined = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, heads // shared, shared * width, query.shape[-1]),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, shared, 1),  # type: ignore[union-attr]
        scale=scaling,
    )
    return joined.reshape(batch, heads, width, value.shape[-1]).transpose(1, 2).contiguous(), None


def _has_fixed_masks(model: Any) -> bool:
    """Whether layers keep a mask of their own (GPT-Neo's local attention), which takes all rows for equally long."""
    return any(each.dtype == torch.bool and each.dim() == 4 and each.shape[-1] > 1 for each in model.buffers())


def join(tensors: list[torch.Tensor], axis: int = 0) -> torch.Tensor:
    """A new tensor of others, along an axis."""
    return torch.cat(tensors, axis)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the host."""
    return safetensors.torch.load_file(file)


def integers(numbers: Sequence[Sequence[int]], device: Any) -> torch.Tensor:
    tensor = torch.tensor(numbers, dtype=torch.long)
    return tensor if device.type == "cpu" else tensor.to(device, non_blocking=True)
