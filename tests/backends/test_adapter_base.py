"""Whether an adapter is of a model, by what both are called."""

from __future__ import annotations

import pytest

from unisono.backends.adapter_base import check_base, plain
from unisono.errors import ModelUnsupported


def found(base: object, *names: str) -> str:
    try:
        return "doubted" if check_base(base, names, "m: the adapter 'a'", "write null") else "let in"
    except ModelUnsupported:
        return "refused"


@pytest.mark.parametrize(
    ("base", "name", "what"),
    [
        (None, "some-base", "let in"),
        ("", "some-base", "let in"),
        ("Someone/Some_Base", "some-base", "let in"),
        ("/data/some-base/", "some-base", "let in"),
        ("org/Phi-3.5-mini", "phi-3.5-mini-Q4_K_M.gguf", "let in"),
        ("org/SmolLM2-135M-Instruct", "Smollm2 135M Instruct", "let in"),
        ("/x/models--org--Some-Base/snapshots/0f3a", "some-base", "let in"),
        ("unsloth/Qwen2.5-0.5B-Instruct-unsloth-bnb-4bit", "Qwen2.5-0.5B-Instruct", "let in"),
        ("unsloth/llama-3-8b-bnb-4bit", "Meta-Llama-3-8B", "let in"),
        ("TheBloke/Some_Base-GPTQ-Int4", "some-base.Q4_K_M.gguf", "let in"),
        ("org/Some-Base-FP8", "some-base-awq", "let in"),
        ("org/Qwen2.5-0.5B-Instruct-bnb-4bit", "Qwen2.5-1.5B-Instruct", "refused"),
        (f"org/some-base{'-q1_4bit' * 5_000}", "some-base", "refused"),
        ("org/Phi-3.5", "Phi-35", "refused"),
        ("org/Qwen2-5B", "Qwen-25B", "refused"),
        ("模型甲", "模型乙", "refused"),
        ("模型甲", "模型甲", "let in"),
        ("---", "...", "refused"),
        ("---", "some-base", "refused"),
        (7, "some-base", "refused"),
        ("/a/final", "/b/final", "doubted"),
        ("/a/final", "some-base", "doubted"),
        ("org/some-base", "checkpoint-500", "doubted"),
        ("out/checkpoint-500", "checkpoint-500", "doubted"),
        ("my_final_model_v2", "some-base", "refused"),
        ("final_model_v2", "some-base", "doubted"),
        (f"final{'1' * 50_000}x", "some-base", "refused"),
    ],
)
def test_the_same_name_is_let_in_another_refused_and_one_that_says_nothing_doubted(
    base: object, name: str, what: str
) -> None:
    assert found(base, name) == what


def test_any_name_of_the_model_will_do() -> None:
    assert found("org/some-base", "final", "some-base") == "let in"
    assert found("org/some-base") == "doubted"


@pytest.mark.parametrize(
    ("base", "model"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", "llama-3.2-3b-instruct"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "qwen3-8b"),
        ("unsloth/Qwen3-8B-UD-Q4_K_XL.gguf", "qwen3-8b"),
        ("Qwen3-8B-UD-Q4_K_XL-00001-of-00002.gguf", "qwen3-8b"),
        ("TheBloke/Phi-3.5-mini-GPTQ-Int4", "phi-3.5-mini"),
        ("org/Some-Base-FP8-dynamic", "some-base"),
    ],
)
def test_names_with_hyphens_and_with_spaces_are_one(base: str, model: str) -> None:
    """GGUF files are named inside with spaces, each word with a capital."""
    spaced = base.rpartition("/")[2].replace("-", " ").title()
    assert plain(base) == plain(spaced) == plain(f" {spaced.replace(' ', '  ')} ") == plain(model)


def test_a_long_name_of_formats_takes_no_time() -> None:
    assert plain(f"base{'_q1' * 20_000}") != "base"
