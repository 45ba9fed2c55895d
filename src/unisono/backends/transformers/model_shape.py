"""What a model of transformers shows without a pass: the rows of its vocabulary, and how its code attends."""

from __future__ import annotations

import inspect
import re
from typing import Any


def output_rows(model: Any) -> int:
    head = model.get_output_embeddings()
    return int(head.weight.shape[0] if head is not None else model.config.get_text_config(decoder=True).vocab_size)


def input_rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def vocabulary_rows(model: Any) -> dict[str, int]:
    """The rows of the embedding and of the output layer, by the names of their weights."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [each.weight for each in layers if each is not None]
    return {
        name: int(each.shape[0])
        for name, each in model.named_parameters(remove_duplicate=False)
        if any(each is weight for weight in weights)
    }


def may_share_keys(model: Any) -> bool:
    """Whether a model uses sdpa and none of its code depends on the attention's name."""
    files = {inspect.getmodule(type(module)) for module in model.modules()}
    own = [file for file in files if file is not None and not file.__name__.startswith("torch.")]
    try:
        code = "".join(map(inspect.getsource, own))
    except (OSError, TypeError):
        return False
    compares = re.search(r"_attn_implementation\"?\)?\s*(==|!=|in\b|not in\b)", code)
    return model.config._attn_implementation == "sdpa" and compares is None
