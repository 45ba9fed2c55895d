"""What a config.json says in vain is said: keys that no class reads, and keys that contradict one another."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_models import COMMON, save_tiny  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.backends.transformers.stated import unread  # noqa: E402
from unisono.backends.transformers.tokenizer_settings import bos_in_vain, bos_twice, empty_template  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402

CAUSAL = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "GraniteForCausalLM"}
KINDS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "gemma": transformers.GemmaConfig,
    "gemma2": transformers.Gemma2Config,
    "gemma3": transformers.Gemma3TextConfig,
    "granite": transformers.GraniteConfig,
    "stablelm": transformers.StableLmConfig,
    "gpt_neox": transformers.GPTNeoXConfig,
    "phi3": transformers.Phi3Config,
}
YARN = {"rope_type": "yarn", "factor": 4.0}
TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
SLIDING, FULL = "sliding_attention", "full_attention"


def found(kind: str, **stated: Any) -> list[str]:
    made = KINDS[kind](**copy.deepcopy({**COMMON, **stated}))
    used = f"{kind.capitalize()}ForCausalLM"
    return list(unread({"model_type": kind, **COMMON, **stated}, made, used, CAUSAL))


@pytest.mark.parametrize(
    ("kind", "stated", "words"),
    [
        ("llama", {"sliding_window": 8}, "sliding_window 8, which transformers' LlamaConfig does not read"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30"),
        ("llama", {"logits_scaling": 8.0}, "logits_scaling 8"),
        ("qwen2", {"sliding_window": 8, "max_window_layers": 0}, "and not use_sliding_window, without which"),
        (
            "llama",
            {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 9.0}},
            r"rope_theta 5.* and rope_parameters.rope_theta 9.*made with rope_theta 9",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_scaling.type 'linear' and rope_parameters.rope_type 'default'",
        ),
        ("llama", {"architectures": ["Qwen3ForCausalLM"]}, "names the architecture Qwen3ForCausalLM, and model_type"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5.* the part that rotates is 1"),
        ("gpt_neox", {"partial_rotary_factor": 0.25, "rope_pct": 0.5}, "rope_pct 0.5.* the part that rotates is 0.25"),
        ("llama", {"use_parallel_residual": True}, "use_parallel_residual true"),
        ("llama", {"hidden_activation": "gelu"}, "hidden_activation 'gelu'.*; its hidden_act is 'silu'"),
        ("gemma3", {"hidden_act": "gelu"}, "hidden_act 'gelu'.*; its hidden_activation is 'gelu_pytorch_tanh'"),
        ("llama", {"layer_norm_eps": 0.1}, "layer_norm_eps 0.1.*; its rms_norm_eps is 1e-06"),
        ("llama", {"layer_types": [SLIDING, FULL, FULL]}, f"layer_types .*; all of its layers have {FULL}"),
        ("mistral", {"layer_types": [SLIDING, FULL, FULL]}, f"layer_types .*; all of its layers have {SLIDING}"),
        (
            "qwen2",
            {"sliding_window": 8, "use_sliding_window": True},
            "gives the window to no layer: those from max_window_layers on have it, 28 of 3",
        ),
        (
            "gemma3",
            {"rope_theta": 5.0, "rope_parameters": {FULL: {"rope_theta": 9.0}, SLIDING: {"rope_theta": 7.0}}},
            r"rope_theta 5\.0; its positions are made with rope_theta 9\.0 and 7\.0",
        ),
        ("llama", {"rope_scaling": YARN}, "does not say original_max_position_embeddings: .* takes .*, 128, for it"),
        (
            "llama",
            {
                "rope_scaling": {**YARN, "original_max_position_embeddings": 32},
                "original_max_position_embeddings": 64,
            },
            "_embeddings 64 and rope_scaling.original_max_position_embeddings 32; .* with original_max_.* 64",
        ),
    ],
    ids=str,
)
def test_what_is_said_in_vain_is_a_warning(kind: str, stated: dict[str, Any], words: str) -> None:
    [warning] = found(kind, **stated)
    assert re.search(words, warning)


@pytest.mark.parametrize(
    ("kind", "stated"),
    [
        ("llama", {}),
        ("llama", {"sliding_window": None, "logit_scale": 1.0, "final_logit_softcapping": None}),
        ("llama", {"sliding_window": 4096}),  # no text is so long
        ("llama", {"rope_theta": 9.0}),
        ("llama", {"rope_theta": 9.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}}),
        ("llama", {"architectures": ["LlamaForCausalLM"]}),
        ("llama", {"architectures": ["LLaMAForCausalLM"]}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False}),
        ("gemma3", {"sliding_window": 8, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 8}),
        ("llama", {"partial_rotary_factor": 1.0}),
        ("llama", {"hidden_act": "gelu", "hidden_activation": "relu"}),  # its own key is there
        ("gemma3", {"hidden_act": "gelu_new"}),  # another name of the same
        ("gemma", {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu"}),
        ("stablelm", {"partial_rotary_factor": 0.5, "use_parallel_residual": True}),
        ("gpt_neox", {"rotary_pct": 0.5}),
        ("llama", {"layer_types": [FULL, FULL, FULL]}),
        ("mistral", {"layer_types": [SLIDING] * 3}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "layer_types": [FULL] * 3}),
        ("gemma3", {"rope_theta": 5.0, "rope_local_base_freq": 7.0}),
        ("gemma3", {"rope_theta": 5.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("llama", {"rope_scaling": YARN, "original_max_position_embeddings": 32}),
        ("llama", {"original_max_position_embeddings": 32}),  # nothing is scaled
        ("phi3", {"original_max_position_embeddings": 64}),
        ("granite", {"logits_scaling": 8.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    ],
    ids=str,
)
def test_what_is_read_or_changes_nothing_is_none(kind: str, stated: dict[str, Any]) -> None:
    assert found(kind, **stated) == []


def loader(folder: Path) -> TransformersLoader:
    return TransformersLoader(
        LoadRequest(name="m", source=ModelSource("folder", str(folder)), device="cpu", context=64)
    )


def change(folder: Path, **keys: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder


def test_it_is_told_at_load(tmp_path: Path) -> None:
    folder = change(save_tiny(tmp_path, "llama"), sliding_window=8)
    assert [each for each in loader(folder).facts().warnings if "sliding_window 8" in each]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("llama", {"sliding_window": 8}),
        ("llama", {"sliding_window": 8, "layer_types": [SLIDING] * 3}),
        ("llama", {"sliding_window": 8, "layer_types": [SLIDING, FULL, SLIDING]}),
        ("llama", {"attention_chunk_size": 8}),
        ("mistral", {"layer_types": [FULL, SLIDING, FULL]}),
        ("mistral", {"layer_types": [FULL] * 3}),
    ],
    ids=str,
)
def test_a_window_that_no_code_reads_cuts_no_memory(tmp_path: Path, kind: str, keys: dict[str, Any]) -> None:
    """What is read by and by is what the model makes of the whole text without a cache."""
    folder, ids = change(save_tiny(tmp_path, kind), **keys), [(7 * n) % 250 for n in range(40)]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    backend = loader(folder).load(lambda fraction, words: None)
    slot, found = backend.open(), []
    for start, end in ((0, 12), (12, 13), (13, 30), (30, 40)):
        found.append(np.array(backend.advance([Feed(slot, ids[start:end], end - start)])))
    assert abs(np.concatenate(found) - wanted).max() < 1e-3 * wanted.std()


@pytest.mark.parametrize(
    ("kind", "keys"),
    [("qwen2", {"layer_types": [SLIDING, FULL, FULL]}), ("gemma3", {"sliding_window": None})],
    ids=str,
)
def test_windows_of_no_length_are_refused_by_name(tmp_path: Path, kind: str, keys: dict[str, Any]) -> None:
    folder = change(save_tiny(tmp_path, kind), **keys)
    with pytest.raises(ModelUnsupported, match=r"sliding windows \(layer_types\), and does not say how long") as caught:
        loader(folder).facts()
    assert "use_sliding_window" in str(caught.value.hint)


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_weights_that_mlx_has_quantised_are_refused_as_such(tmp_path: Path, key: str) -> None:
    folder = change(save_tiny(tmp_path, "llama"), **{key: {"group_size": 64, "bits": 4}})
    with pytest.raises(ModelUnsupported, match="in the format of MLX"):
        loader(folder).facts()


def test_a_class_of_another_tokenizer_is_named_as_the_cause(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "BertTokenizer"}))
    with pytest.raises(ModelUnsupported, match="cannot encode a text") as caught:
        loader(folder).tokenizer()
    assert "tokenizer_class" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("wants", "bos", "adds", "said"),
    [
        (True, 256, False, "add_bos_token true, and transformers adds none"),
        (False, 256, True, "add_bos_token false, and transformers adds one"),
        (True, 256, True, ""),
        (False, 256, False, ""),
        (None, 256, False, ""),
        (True, None, False, ""),
    ],
    ids=str,
)
def test_a_bos_that_is_asked_for_in_vain_is_said(wants: object, bos: int | None, adds: bool, said: str) -> None:
    found = bos_in_vain({} if wants is None else {"add_bos_token": wants}, bos, adds=adds)
    assert said in found
    assert bool(said) is bool(found)


def test_two_bos_before_a_raw_prompt_are_said() -> None:
    assert "begins raw prompts with 2 BOS" in bos_twice([5, 5, 7], 5)
    assert not bos_twice([5, 7, 7], 5)
    assert not bos_twice([], None)


@pytest.mark.parametrize(
    ("stated", "content", "is_said"),
    [
        ({"chat_template": "x"}, "", True),
        ({"chat_template": "x"}, "y", False),
        ({"chat_template": "x"}, None, False),
        ({}, "", False),
    ],
    ids=str,
)
def test_an_empty_template_that_hides_another_is_named(
    tmp_path: Path, stated: dict[str, Any], content: str | None, is_said: bool
) -> None:
    file = tmp_path / "chat_template.jinja"
    if content is not None:
        file.write_text(content)
    found = empty_template(stated, None if content is None else str(file))
    assert ("its chat_template.jinja is empty" in found) is bool(found) is is_said


@pytest.mark.parametrize(
    ("stated", "content", "is_said"),
    [("a", "b", True), ("a", "a\n", False), ("a", None, False), (None, "b", False), ("a", "", False)],
    ids=str,
)
def test_two_templates_that_differ_are_named(
    tmp_path: Path, stated: str | None, content: str | None, is_said: bool
) -> None:
    folder = settings_of(save_tiny(tmp_path, "llama"), chat_template=stated)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if content is not None:
        (folder / "chat_template.jinja").write_text(content)
    its = loader(folder)
    its.tokenizer()
    assert any("has another chat template than chat_template.jinja" in each for each in told(its)) is is_said


@pytest.mark.parametrize(
    ("mapped", "words"),
    [
        ({"eos_token": "<think>"}, "special_tokens_map.json says eos_token '<think>': transformers takes '</s>'"),
        ({"bos_token": {"content": "</s>"}}, "its special_tokens_map.json says bos_token '</s>'"),
        ({"eos_token": "</s>", "bos_token": {"content": "<s>"}, "pad_token": "</s>"}, ""),
        ({"eos_token": "<|im_end|>"}, ""),  # which ends texts by its name
        ({}, ""),
    ],
    ids=str,
)
def test_special_tokens_that_two_files_name_differently_are_said(
    tmp_path: Path, mapped: dict[str, Any], words: str
) -> None:
    folder = settings_of(save_tiny(tmp_path, "llama"), added_tokens_decoder={"257": {"content": "</s>", **TOKEN}})
    (folder / "special_tokens_map.json").write_text(json.dumps(mapped))
    its = loader(folder)
    its.tokenizer()
    assert len(told(its)) == bool(words)
    assert all(words in each for each in told(its))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"added_tokens_decoder": {"5": {"content": "</s>", **TOKEN}}}, "the id of '</s>' is 5 by .*, and 257 by its"),
        ({"added_tokens_decoder": {"257": {"content": "</s>", **TOKEN}}}, ""),
        ({"added_tokens_decoder": {"259": {"content": "<new>", **TOKEN}}}, ""),
        ({"eos_token": "<|im_end|>"}, "has no token '<|im_end|>', which its settings name as eos_token"),
        ({"bos_token": "<start>"}, "has no token '<start>', which its settings name as bos_token: .* the id 259"),
        ({"pad_token": "<pad>"}, ""),  # nothing is padded
    ],
    ids=str,
)
def test_tokens_that_settings_name_otherwise_than_the_tokenizer_are_said(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    its = loader(settings_of(save_tiny(tmp_path, "llama"), **keys))
    its.tokenizer()
    assert len(told(its)) == bool(words)
    assert all(re.search(words, each) for each in told(its))


def test_an_id_that_the_library_makes_another_is_refused(tmp_path: Path) -> None:
    folder = settings_of(save_tiny(tmp_path, "llama"), added_tokens_decoder={"5": {"content": "<new>", **TOKEN}})
    with pytest.raises(
        ModelUnsupported, match=r"the id of '<new>' is 5 by .*, and transformers .* makes it 259"
    ) as caught:
        loader(folder).tokenizer()
    assert "all of one model" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("stated", "ends"),
    [
        ({"eos_token_id": 100, "text_config": {"model_type": "llama"}}, {100, 257}),
        ({"text_config": {"eos_token_id": 101}}, {101, 257}),
        ({"eos_token_id": [100], "text_config": {"eos_token_id": 101}}, {100, 257}),
    ],
    ids=str,
)
def test_the_end_is_that_of_the_whole_configuration_or_of_its_part_for_text(
    tmp_path: Path, stated: dict[str, Any], ends: set[int]
) -> None:
    folder = save_tiny(tmp_path, "llama")
    (folder / "generation_config.json").unlink()
    file = folder / "config.json"
    kept = json.loads(file.read_text())
    del kept["eos_token_id"]
    file.write_text(json.dumps(kept | stated))
    assert set(loader(folder).tokenizer().table.declared_end_ids) == ends


def settings_of(folder: Path, **keys: Any) -> Path:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder


def told(its: TransformersLoader) -> tuple[str, ...]:
    return its.files.notices.told()


def test_loading_names_an_empty_template(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    settings = folder / "tokenizer_config.json"
    stated = json.loads(settings.read_text()) if settings.is_file() else {}
    settings.write_text(json.dumps(stated | {"chat_template": "{{ messages[0].content }}"}))
    (folder / "chat_template.jinja").write_text("")
    its = loader(folder)
    assert its.tokenizer().table.chat_template is None
    assert any("chat_template.jinja is empty" in each for each in its.facts().warnings)
