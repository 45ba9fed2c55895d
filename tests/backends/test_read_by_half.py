"""What a model's files say and would be read by half: scales of quantised weights, and a generation config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from support.tiny_models import save_tiny  # noqa: E402
from unisono.backends.transformers.completeness import _SCALES  # noqa: E402
from unisono.backends.transformers.model_config import not_applied  # noqa: E402
from unisono.build import prepare  # noqa: E402
from unisono.config.ensemble import load_spec  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET  # noqa: E402
from unisono.vocab.tokenizer import TokenTable  # noqa: E402


def facts_of(folder: Path) -> Any:
    spec = {"members": [{"name": "m", "model": str(folder), "backend": "transformers"}]}
    return prepare(load_spec(spec)).members[0].facts


@pytest.mark.parametrize("suffix", ["weight_scale_inv", "weight_scale", "scale_weight"])
def test_scales_that_nothing_reads_are_a_refusal(tmp_path: Path, suffix: str) -> None:
    file = save_tiny(tmp_path, "llama") / "model.safetensors"
    weights = load_file(file)
    for name in [name for name in weights if name.endswith("proj.weight")]:
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        weights[name.removesuffix("weight") + suffix] = torch.ones(1, 1)
    save_file(weights, file, metadata={"format": "pt"})
    [warning] = facts_of(tmp_path).warnings
    assert "its weights cannot be loaded: holds scales of quantised weights" in warning
    with pytest.raises(ModelUnsupported, match="holds scales of quantised weights") as caught:
        Ensemble.load({"members": [{"name": "m", "model": str(tmp_path), "backend": "transformers"}]})
    assert "quantization_config" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("model.layers.0.mlp.up_proj.weight_scale_2", True),
        ("model.layers.0.mlp.up_proj.weight.absmax", True),
        ("model.layers.0.self_attn.k_scale", False),
        ("model.layers.0.self_attn.input_scale", False),
        ("model.layers.0.self_attn.q_proj.weight", False),
    ],
)
def test_only_scales_of_weights_count(name: str, scales: bool) -> None:
    assert (_SCALES.search(name) is not None) is scales


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"repetition_penalty": 1.1}, "repetition_penalty 1.1"),
        ({"suppress_tokens": [5, 6]}, "suppress_tokens [5, 6]"),
        ({"no_repeat_ngram_size": 3, "num_beams": 4}, "num_beams 4, no_repeat_ngram_size 3"),
        ({"forced_bos_token_id": 0}, "forced_bos_token_id 0"),
        ({"stop_strings": ["END"]}, 'stop_strings ["END"]'),
        ({"guidance_scale": 1.5, "token_healing": True}, "guidance_scale 1.5, token_healing true"),
        ({"dola_layers": "high"}, "dola_layers 'high'"),
    ],
)
def test_what_a_generation_config_asks_for_in_vain_is_told(stated: dict[str, Any], told: str) -> None:
    assert f"asks for {told}, which" in not_applied({"eos_token_id": 2, **stated})


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"temperature": 0.7, "top_p": 0.8, "do_sample": True, "max_length": 99},
        {"guidance_scale": 1.0, "token_healing": False, "watermarking_config": None},
        {"repetition_penalty": 1.0, "num_beams": 1, "suppress_tokens": None, "bad_words_ids": [], "min_length": 0},
    ],
)
def test_how_pieces_are_drawn_is_for_the_file_to_say(stated: dict[str, Any]) -> None:
    assert not_applied(stated) == ""


@pytest.mark.parametrize(
    ("stated", "is_said"),
    [
        ({"suppress_tokens": [260, 261]}, False),  # as of Gemma 4: an image, a sound
        ({"begin_suppress_tokens": [260], "bad_words_ids": [[5, 261]]}, False),
        ({"suppress_tokens": [260, 5]}, True),
        ({"bad_words_ids": [[260], [5, 6]]}, True),
        ({"suppress_tokens": [257]}, True),  # an end
        ({"suppress_tokens": [258]}, True),  # of its template: it may be a mark
    ],
    ids=str,
)
def test_what_is_never_written_need_not_be_suppressed(stated: dict[str, Any], is_said: bool) -> None:
    names = ["<s>", "</s>", "<|think|>", "</think>", "<image|>", "<audio|>"]
    texts, kinds = (*BYTE_LEVEL_ALPHABET, *names), ("normal",) * 256 + ("control",) * len(names)
    table = TokenTable("byte-level", "", texts, kinds, (257,), chat_template="<|think|>{{ x }}")
    assert table.never_written == {256, 259, 260, 261}
    assert bool(not_applied(stated, table.never_written)) is is_said


@pytest.mark.parametrize("kind", ["su", "mrope", "weird"])
def test_an_unknown_scaling_of_positions_is_named(tmp_path: Path, kind: str) -> None:
    config = json.loads((save_tiny(tmp_path, "llama") / "config.json").read_text())
    config.pop("rope_parameters", None)
    scaling = {
        "type": kind,
        "factor": 4.0,
        "mrope_section": [1, 1, 2],
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": scaling}))
    with pytest.raises(ModelUnsupported, match=f"scales its positions by '{kind}' \\(rope_scaling\\)"):
        facts_of(tmp_path)


def test_it_is_told_of_a_model_once(tmp_path: Path) -> None:
    save_tiny(tmp_path, "llama")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 257, "repetition_penalty": 1.05}))
    [warning] = facts_of(tmp_path).warnings
    assert "repetition_penalty 1.05" in warning


@pytest.mark.parametrize(
    "stated", [{"num_return_sequences": 3}, {"cache_implementation": "new"}, {"eos_token_id": 257.0}], ids=str
)
def test_what_the_library_refuses_of_a_generation_config_is_no_obstacle(tmp_path: Path, stated: dict[str, Any]) -> None:
    save_tiny(tmp_path, "llama")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 257, **stated}))
    with Ensemble.load({"members": [{"name": "m", "model": str(tmp_path), "backend": "transformers"}]}) as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=2).text


def test_how_its_author_ran_a_model_is_no_part_of_it(tmp_path: Path) -> None:
    """Kernels that are not here, and what is returned in which form."""
    config = json.loads((save_tiny(tmp_path, "llama") / "config.json").read_text())
    habits = {"_attn_implementation": "flash_attention_2", "return_dict": False, "use_cache": False}
    (tmp_path / "config.json").write_text(json.dumps(config | habits))
    with Ensemble.load({"members": [{"name": "m", "model": str(tmp_path), "backend": "transformers"}]}) as ensemble:
        assert ensemble.generate("Hello", max_new_tokens=2).text


@pytest.mark.parametrize("named", [{"architectures": ["LlamaForCausalLMEagle3"]}, {"draft_vocab_size": 100}], ids=str)
def test_what_drafts_for_another_model_is_refused_as_that(tmp_path: Path, named: dict[str, Any]) -> None:
    config = json.loads((save_tiny(tmp_path, "llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | named))
    with pytest.raises(ModelUnsupported, match="which drafts tokens for another model"):
        facts_of(tmp_path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_names_that_a_wrapper_wrote_are_named(tmp_path: Path, prefix: str) -> None:
    file = save_tiny(tmp_path, "llama") / "model.safetensors"
    save_file({prefix + name: weight for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})
    [warning] = facts_of(tmp_path).warnings
    assert f"its files hold them with '{prefix}' before their names" in warning
