"""What a config.json says in vain is said: keys that no class reads, and keys that contradict one another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

from support.tiny_models import COMMON, save_tiny  # noqa: E402
from unisono.backends.base import LoadRequest, ModelSource  # noqa: E402
from unisono.backends.transformers.loader import TransformersLoader  # noqa: E402
from unisono.backends.transformers.model_config import bos_in_vain, empty_template  # noqa: E402
from unisono.backends.transformers.stated import unread  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402

CAUSAL = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM", "GraniteForCausalLM"}
KINDS = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "gemma3": transformers.Gemma3TextConfig,
    "granite": transformers.GraniteConfig,
}


def found(kind: str, **stated: Any) -> list[str]:
    made = KINDS[kind](**{**COMMON, **stated})
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


def test_loading_names_an_empty_template(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "llama")
    settings = folder / "tokenizer_config.json"
    stated = json.loads(settings.read_text()) if settings.is_file() else {}
    settings.write_text(json.dumps(stated | {"chat_template": "{{ messages[0].content }}"}))
    (folder / "chat_template.jinja").write_text("")
    its = loader(folder)
    assert its.tokenizer().table.chat_template is None
    assert any("chat_template.jinja is empty" in each for each in its.facts().warnings)
