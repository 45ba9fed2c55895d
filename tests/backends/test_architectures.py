"""Kinds of architectures, tiny and random: each member alone is its own `generate`, or is refused by name.

Drafts, batches of unequal texts and a text begun again are where a cache that is wrongly rewound would show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.recurrent_models import BODY, IDS, config_of  # noqa: E402
from support.tiny_models import generated_by, save_model  # noqa: E402
from unisono.backends.base import LoadRequest, ModelSource  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402

OLD: dict[str, Any] = IDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
WRITING: dict[str, tuple[str, dict[str, Any]]] = {
    "layers that differ in their heads": (
        "Gemma4TextConfig",
        BODY
        | {
            "head_dim": 8,
            "sliding_window": 8,
            "vocab_size_per_layer_input": 264,
            "hidden_size_per_layer_input": 8,
        },
    ),
    "a mask of its own": (
        "GPTNeoConfig",
        IDS
        | {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 128,
        },
    ),
    "experts and sinks": (
        "GptOssConfig",
        BODY | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 16},
    ),
    "latent attention": (
        "DeepseekV3Config",
        BODY
        | {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "layers that are run again": (
        "HrmTextConfig",
        BODY | {"num_hidden_layers": 2, "num_key_value_heads": 4, "prefix_lm": False},
    ),
    "ALiBi": ("MptConfig", {"vocab_size": 264, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "xLSTMConfig": ("recurrent state", IDS | {"hidden_size": 32, "num_heads": 4, "num_blocks": 2}),
    "RecurrentGemmaConfig": ("recurrent state", BODY | {"lru_width": 32, "attention_window_size": 8}),
    "MiniMaxConfig": ("linear_attention", BODY | {"head_dim": 8, "num_local_experts": 2}),
    "Llama4TextConfig": (
        "chunked_attention",
        BODY | {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2},
    ),
    "HrmTextConfig": ("prompt in both directions", BODY | {"num_key_value_heads": 4}),
    "MptConfig": ("prompt in both directions", IDS | {"attn_config": {"prefix_lm": True}}),
    "OpenAIGPTConfig": ("keeps no keys and values", OLD),
    "XLNetConfig": ("keeps no keys and values", IDS | {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
}
LONG = "The sea is 12 blue and wide. The sea is 12"
TEXTS = (LONG, "Hello", "A somewhat longer prompt of more words than those")
PIECES = 20


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", WRITING)
def test_a_member_alone_is_its_own_generate(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config_of(*WRITING[kind])).float().eval()
    with torch.no_grad():
        for each in model.parameters():  # the usual start is so small that all tokens are alike
            each.copy_(torch.randn_like(each) * 0.3 if each.dim() > 1 else each)
    save_model(tmp_path, model)
    plain = {"backend": "transformers", "device": "cpu", "threads": 1, "options": {"pack_weights": False}}
    with Ensemble.load({"members": [{"name": "m", "model": str(tmp_path), **plain}]}, batch=3) as ensemble:
        member = ensemble.prepared.members[0]
        expected = [generated_by(model, member, text, PIECES) for text in TEXTS]
        assert [each.data for each in ensemble.generate(list(TEXTS), max_new_tokens=PIECES)] == expected
        for speculate in (None, "ngram:4"):
            for _ in range(2):
                assert ensemble.generate(LONG, max_new_tokens=PIECES, speculate=speculate).data == expected[0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_neither_be_rewound_nor_kept_is_refused_by_name(tmp_path: Path, name: str) -> None:
    words, keys = REFUSED[name]
    config_of(name, keys).save_pretrained(tmp_path)
    request = LoadRequest(name="m", source=ModelSource("folder", str(tmp_path)), device="cpu")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnsupported, match=rf"member 'm' .*{words}"):
        TransformersLoader(request).facts()


class Talking(torch.nn.Module):
    """Part of a model whose code wants more than tokens."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise KeyError("pixel_values")


def test_a_model_whose_first_pass_fails_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = IDS | {"hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 48, "num_hidden_layers": 2}
    cases = {  # by what is wrong: it keeps keys of a prompt of its own; its code fails
        "CpmAntForCausalLM": (config_of("CpmAntConfig", prompts), "RuntimeError: The size of tensor"),
        "LlamaForCausalLM": (transformers.LlamaConfig(**BODY), "KeyError: 'pixel_values'"),
        "Qwen2ForCausalLM": (transformers.Qwen2Config(**BODY), "KeyError: 'pixel_values'"),
    }
    monkeypatch.setattr(transformers.models.llama.modeling_llama, "LlamaMLP", lambda config: Talking())
    monkeypatch.setattr(transformers.models.qwen2.modeling_qwen2, "Qwen2MLP", lambda *_: Talking())
    for name, (config, words) in cases.items():
        folder = tmp_path / name
        save_model(folder, transformers.AutoModelForCausalLM.from_config(config))
        for options in ({}, {"pack_weights": False}):
            member = {"name": "m", "model": str(folder), "device": "cpu", "threads": 1, "options": options}
            with pytest.raises(ModelUnsupported, match=f"member 'm' .* is a {name}, .*{words}") as caught:
                Ensemble.load({"members": [member]})
            assert "decoder-only" in str(caught.value.hint)


def test_a_context_of_one_token_is_enough_for_a_first_pass(tmp_path: Path) -> None:
    save_model(tmp_path, transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**BODY)))
    for context in (1, 2, 3):
        request = LoadRequest(name="m", source=ModelSource("folder", str(tmp_path)), device="cpu", context=context)
        TransformersLoader(request).load(lambda *_: None).unload()
