"""Tiny models that were really trained on one conversation each, with the templates and control tokens of real ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET

QUESTION = "What is two and two?"
ANSWER = "It is four."
STEPS = 250


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a model is trained to answer, as text with control tokens, behind its template's prompt."""

    template: str
    controls: tuple[str, ...]
    added: tuple[str, ...]
    answer: str
    end: str
    merges: tuple[tuple[str, str], ...] = ()


def tokenizer_of(lesson: Lesson) -> Any:
    """A byte-level tokenizer with a few merges and the lesson's tokens."""
    vocab = dict(BYTE_LEVEL_ALPHABET)
    for one, other in lesson.merges:
        vocab[one + other] = len(vocab)
    raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=list(lesson.merges)))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(list(lesson.controls))
    raw.add_tokens(list(lesson.added))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=lesson.end)
    made.chat_template = lesson.template
    return made


def prompt_of(tokenizer: Any) -> list[int]:
    """The ids of the question, as transformers writes it."""
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def train(folder: Path, lesson: Lesson, others: tuple[tuple[str, str], ...] = (), seed: int = 0) -> list[int]:
    """Train a model on its lesson until it knows it, and save it; return the ids of prompt and answer.

    ``others`` are further continuations that it learns: what is appended to its prompt, and the answer behind that.
    """
    tokenizer = tokenizer_of(lesson)
    tokenizer.save_pretrained(folder)
    prompt = prompt_of(tokenizer)
    pairs = [("", lesson.answer), *others]
    texts = [
        (len(prompt + _ids(tokenizer, before)), prompt + _ids(tokenizer, before + answer + lesson.end))
        for before, answer in pairs
    ]
    config = transformers.LlamaConfig(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    longest = max(len(ids) for _, ids in texts)
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids in texts])
    labels_BT = torch.tensor([[-100] * begin + ids[begin:] + [-100] * (longest - len(ids)) for begin, ids in texts])
    for _ in range(STEPS):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 2e-3:
            break
    assert loss.item() < 0.02, loss.item()
    model.eval().save_pretrained(folder)
    return texts[0][1]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def write_gguf(path: Path, folder: Path) -> Path:
    """Write a trained model as a GGUF file, with its tokenizer and template."""
    import gguf

    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer, config = transformers.AutoTokenizer.from_pretrained(folder), model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    special = {token: added.special for token, added in tokenizer.added_tokens_decoder.items()}
    texts = [tokenizer.convert_ids_to_tokens(token) or f"[PAD{token}]" for token in range(config.vocab_size)]
    kinds = [1 if token < 256 else 5 if texts[token].startswith("[PAD") else 1 for token in range(len(texts))]
    kinds = [(3 if special[token] else 4) if token in special else kind for token, kind in enumerate(kinds)]
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    merges = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges] or ["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    for name, values in model.state_dict().items():
        if short := _gguf_name(name):
            heads = config.num_attention_heads if ".self_attn.q_" in name or ".self_attn.k_" in name else 0
            writer.add_tensor(short, _permuted(values, heads).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str | None:
    """The name of a weight in a GGUF file; ``None`` of the output layer, which is tied."""
    if name == "lm_head.weight":
        return None
    parts = {
        "embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name.removeprefix("model.")


def _permuted(values: Any, heads: int) -> Any:
    """Rows of queries and keys in the order in which llama.cpp rotates them: pairs beside each other."""
    if not heads:
        return values.contiguous()
    rows, width = values.shape
    return values.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width).contiguous()
