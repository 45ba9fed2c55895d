"""Tiny recurrent models of transformers as GGUF files for llama.cpp, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from support.tiny_gguf import TOKENS

ROWS = len(TOKENS)
MAMBA = {
    "norm": "attn_norm",
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d": "ssm_conv1d",
    "mixer.x_proj": "ssm_x",
    "mixer.dt_proj": "ssm_dt",
    "mixer.out_proj": "ssm_out",
}
LFM2 = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "conv.conv": "shortconv.conv",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
}


def write_recurrent(path: Path, model: Any) -> Path:
    """Write a Mamba or LFM2 model of transformers whose first rows are the tokens of `tiny_gguf`."""
    config, kind = model.config, {"mamba": "mamba", "lfm2": "lfm2"}[model.config.model_type]
    writer = gguf.GGUFWriter(path, kind)
    _add_facts(writer, config)
    tensors = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    if kind == "mamba":
        _add_mamba_facts(writer, config)
        _add_tensors(writer, tensors, "backbone.layers", MAMBA)
        for layer in range(config.num_hidden_layers):
            mixer = f"backbone.layers.{layer}.mixer"
            writer.add_tensor(f"blk.{layer}.ssm_a", -np.exp(tensors[f"{mixer}.A_log"]))
            writer.add_tensor(f"blk.{layer}.ssm_d", tensors[f"{mixer}.D"])
        names = ("backbone.embeddings.weight", "backbone.norm_f.weight", "output_norm.weight")
    else:
        _add_lfm2_facts(writer, config, tensors["model.layers.0.feed_forward.w1.weight"].shape[0])
        _add_tensors(writer, tensors, "model.layers", LFM2)
        names = ("model.embed_tokens.weight", "model.embedding_norm.weight", "token_embd_norm.weight")
    writer.add_tensor("token_embd.weight", np.ascontiguousarray(tensors[names[0]][:ROWS]))
    writer.add_tensor(names[2], tensors[names[1]])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, tensors: dict[str, Any], layers: str, names: dict[str, str]) -> None:
    for name, values in tensors.items():
        if not name.startswith(layers):
            continue
        layer, _, rest = name.removeprefix(f"{layers}.").partition(".")
        part, _, end = rest.rpartition(".")
        if part in names:
            values = values.squeeze(1) if values.ndim == 3 else values  # a convolution of each channel
            writer.add_tensor(f"blk.{layer}.{names[part]}.{end}", np.ascontiguousarray(values))


def _add_facts(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_layer_norm_rms_eps(getattr(config, "norm_eps", None) or config.layer_norm_epsilon)
    writer.add_vocab_size(ROWS)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * 256 + [3, 3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)


def _add_mamba_facts(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(config.intermediate_size)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(config.time_step_rank)


def _add_lfm2_facts(writer: gguf.GGUFWriter, config: Any, inner: int) -> None:
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.num_attention_heads)
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_shortconv_l_cache(config.conv_L_cache)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
