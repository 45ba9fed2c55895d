"""Linear layers on oneDNN, for CPUs where its packed weights are faster than torch's own; see docs/adr/0005."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Iterator
from typing import Any

from unisono.backends.transformers.torch_runtime import torch

log = logging.getLogger(__name__)

PACKED_DTYPES = (torch.float32, torch.bfloat16)
PACKED_FOR = 8
"""The row count passed to oneDNN. From 2 up it picks the same layout, which suits any number."""


def pack_linear_layers(model: Any) -> int:
    """Replace a model's linear layers by oneDNN's on an x86-64 CPU; return their number.

    oneDNN reads packed weights once for up to about 16 rows, where torch's default (MKL) rereads them every few rows;
    see docs/adr/0005. A packed matrix replaces the original. A matrix shared with another module (usually the
    embedding) stays, so nothing is in memory twice. Subclasses of `torch.nn.Linear` are left alone, as is the whole
    model when oneDNN is missing or fails.
    """
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or platform.machine().lower() not in ("x86_64", "amd64"):
        return 0
    changed: list[torch.nn.Linear] = []
    try:
        holders = Counter(id(each) for module in model.modules() for each in module._parameters.values())
        for layer in _plain_linear_layers(model):
            changed.append(layer)
            with torch.no_grad():
                if holders[id(layer.weight)] == 1:
                    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, PACKED_FOR)
                    layer.weight = torch.nn.Parameter(packed, requires_grad=False)
            layer.__class__ = OneDnnLinear
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=False)
    except Exception as error:  # the operations are private to torch, and a model may compute with a layer's weights
        log.debug("the weights stay unpacked: %s", error)
        for layer in changed:
            _unpack(layer)
        return 0
    _leave_the_file(model)
    return len(changed)


class OneDnnLinear(torch.nn.Linear):
    """A linear layer on oneDNN. Its weight is dense, or packed and opaque to all but `to_dense`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


def _plain_linear_layers(model: Any) -> Iterator[torch.nn.Linear]:
    for module in model.modules():
        if type(module) is not torch.nn.Linear or "forward" in vars(module):
            continue
        weight = module.weight
        ordinary = type(weight) is torch.nn.Parameter and weight.layout == torch.strided and weight.device.type == "cpu"
        if ordinary and weight.dtype in PACKED_DTYPES and weight.numel():
            yield module


def _leave_the_file(model: Any) -> None:
    """Copy tensors out of the mapped weights file to free it. Torch cannot resize mapped memory."""
    for each in (*model.parameters(), *model.buffers()):  # a tied one comes once
        if each.layout == torch.strided and not each.untyped_storage().resizable():
            each.data = each.data.clone()


def _unpack(layer: torch.nn.Linear) -> None:
    if layer.weight.is_mkldnn:
        layer.weight = torch.nn.Parameter(layer.weight.to_dense(), requires_grad=False)
    layer.__class__ = torch.nn.Linear
