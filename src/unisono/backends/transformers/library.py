"""The one file that imports transformers. It registers our caches and our attention with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers as _transformers
import transformers.modeling_gguf_pytorch_utils
from transformers import cache_utils as _cache_utils
from transformers.cache_utils import Cache, CacheLayerMixin

from unisono.backends.transformers import torch_runtime
from unisono.backends.transformers.key_value_cache import RowLayer
from unisono.backends.transformers.memory import CacheParts
from unisono.backends.transformers.state_layer import HybridLayer, StateLayer

library: Any = _transformers
"""Untyped, because its own annotations are incomplete."""
cache_utils: Any = _cache_utils
CacheLayerMixin.register(RowLayer)
if hasattr(cache_utils, "LinearAttentionCacheLayerMixin"):  # older releases have no states in the cache
    cache_utils.LinearAttentionCacheLayerMixin.register(StateLayer)
    cache_utils.LinearAttentionAndFullAttentionLayer.register(HybridLayer)
CACHE_PARTS = CacheParts(lambda layers: Cache(layers=layers), getattr(cache_utils, "DummyLayer", lambda: None))
SHARING = "unisono_sdpa"
library.AttentionInterface.register(
    SHARING, partial(torch_runtime.attend_sharing, plain=library.AttentionInterface()["sdpa"])
)
library.AttentionMaskInterface.register(SHARING, library.AttentionMaskInterface()["sdpa"])
