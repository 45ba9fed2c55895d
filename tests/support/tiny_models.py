"""Random models of a few thousand weights, saved as folders that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from unisono.chat.messages import Prompt
from unisono.members import PreparedMember
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET

ROWS = 264
COMMON: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**COMMON),
    "gemma3": transformers.Gemma3TextConfig(
        **COMMON,
        head_dim=8,
        sliding_window=8,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "mistral": transformers.MistralConfig(**COMMON, sliding_window=8),
    "qwen2": transformers.Qwen2Config(**COMMON),
    "gpt2": transformers.GPT2Config(
        vocab_size=ROWS, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=256, eos_token_id=257
    ),
    "bloom": transformers.BloomConfig(
        vocab_size=ROWS, hidden_size=32, n_layer=2, n_head=4, bos_token_id=256, eos_token_id=257
    ),
}
"""`bloom` has no positions to pass, so its rows cannot be read at unequal lengths in one pass."""


def byte_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes and two control tokens."""
    raw = tokenizers.Tokenizer(models.BPE(vocab=dict(BYTE_LEVEL_ALPHABET), merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<s>", "</s>"])
    raw.add_tokens(["<think>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")


def save_model(folder: Path, model: transformers.PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_tiny(folder: Path, name: str) -> Path:
    """Save the random model of a configuration, the same each time."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for each in model.parameters():  # the usual start is so small that all tokens are alike
            each.copy_(torch.randn_like(each) * 0.3)
    return save_model(folder, model)


def generated_by(model: Any, member: PreparedMember, text: str, pieces: int) -> bytes:
    """What transformers' own `generate` writes after a text, of what a member can write: the oracle of law 1."""
    vocabulary = member.vocabulary
    ids_BT = torch.tensor([member.encoder.encode(Prompt(text=text))])
    whole = model.generate(
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        max_new_tokens=pieces,
        do_sample=False,
        eos_token_id=list(vocabulary.end_ids),
        suppress_tokens=list(vocabulary.excluded_ids),
    )[0, ids_BT.shape[1] :].tolist()
    return vocabulary.join(next((whole[:n] for n, i in enumerate(whole) if i in vocabulary.end_ids), whole))
