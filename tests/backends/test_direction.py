"""Models that read a text in both directions are refused: they make embeddings, or fill in gaps, and write noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_models import COMMON, ROWS, byte_tokenizer, save_tiny  # noqa: E402
from unisono.backends.transformers.direction import check_direction, check_direction_said  # noqa: E402
from unisono.build import prepare  # noqa: E402
from unisono.config.ensemble import load_spec  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelUnsupported  # noqa: E402

BERT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "embedding_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}


def spec_of(folder: Path) -> Any:
    return load_spec({"members": [{"name": "m", "model": str(folder), "backend": "transformers"}]})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama", {"is_causal": False}),
        ("qwen2", {"is_causal": False}),
        ("gemma3", {"use_bidirectional_attention": True}),
    ],
)
def test_a_configuration_that_says_so_is_refused_before_the_weights_are_read(
    tmp_path: Path, name: str, said: dict[str, Any]
) -> None:
    config = json.loads((save_tiny(tmp_path, name) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | said))
    [key] = said
    with pytest.raises(ModelUnsupported, match=f"reads a text in both directions \\({key}: "):
        prepare(spec_of(tmp_path))


def test_all_is_said_in_words() -> None:
    config = transformers.LlamaConfig(**COMMON, use_bidirectional_attention="all")
    with pytest.raises(ModelUnsupported, match="use_bidirectional_attention: all"):
        check_direction_said(config, "m")


@pytest.mark.parametrize("said", [{"use_bidirectional_attention": "vision"}, {"use_bidirectional_attention": None}, {}])
def test_what_concerns_images_alone_is_no_obstacle(said: dict[str, Any]) -> None:
    check_direction_said(transformers.LlamaConfig(**COMMON, is_causal=True, **said), "m")


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Electra"])
@pytest.mark.parametrize("decodes", [False, True])
def test_an_encoder_with_the_head_of_a_language_model_is_refused_unless_it_decodes(
    tmp_path: Path, name: str, decodes: bool
) -> None:
    torch.manual_seed(7)
    config = getattr(transformers, f"{name}Config")(**BERT, is_decoder=decodes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(torch.randn_like(each) * 0.3)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    if decodes:
        with Ensemble.load(spec_of(tmp_path)) as alone:
            assert alone.generate("Hi", max_new_tokens=2).usage.pieces
        return
    with pytest.raises(ModelUnsupported, match="reads a text in both directions"):
        Ensemble.load(spec_of(tmp_path))


def test_rounding_is_no_look_ahead_and_a_model_that_cannot_be_read_is_judged_elsewhere() -> None:
    logits = torch.linspace(-5, 5, 60).reshape(2, 3, 10).clone()
    logits[1] = logits[0] * (1 + 1e-4)
    check_direction(lambda _: logits, ROWS, "m")

    def broken(_: list[list[int]]) -> Any:
        raise TypeError("no such argument")

    check_direction(broken, ROWS, "m")
    logits[1, 1] += 1
    with pytest.raises(ModelUnsupported):
        check_direction(lambda _: logits, ROWS, "m")
