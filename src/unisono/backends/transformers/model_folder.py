"""Checks a model's folder before anything of it is read: its configuration, its tokenizer, its templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisono.backends import bounded_files, file_kinds, weight_files
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.model_facts import check_config, check_tokenizer
from unisono.backends.transformers.weight_folder import ADAPTER, adapter_alone
from unisono.errors import ModelNotFound, ModelUnsupported
from unisono.user_files import DOCUMENT, read_text

TOKENIZER_FILES = ("tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "*.model", "*.model.v*", "*.tiktoken")
SETTINGS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"),
    "chat_template.json",
)
WHOLE_TOKENIZER = "tokenizer.json"
GENERATION, ADDED, TOKENIZER = "generation_config.json", "added_tokens.json", "tokenizer_config.json"
JINJA = "chat_template.jinja"
TEMPLATE, MORE_TEMPLATES = "chat_template.json", "additional_chat_templates"
PARTS = ("tekken.json", "vocab.json", "merges.txt", "vocab.txt", "*.tiktoken", "*.model", "*.model.v*")
"""What a tokenizer is read from where there is no `tokenizer.json`. Other files of a folder nobody reads."""


def check_there(member: str, source: ModelSource) -> None:
    """Look whether a folder has a configuration and a tokenizer, whatever they hold. Raises `ModelNotFound`."""
    if source.kind != "folder":
        return
    folder, who = source.path, f"member {member!r}: "
    if not folder.is_dir():
        raise ModelNotFound(f"{who}there is no folder {folder}", hint="check the path")
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER).is_file():
            raise adapter_alone(folder, who)
        raise ModelNotFound(
            f"{who}{folder} holds no config.json, so it is no model of transformers",
            hint="give the folder that `save_pretrained` or `hf download` wrote, or a .gguf file",
        )
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZER_FILES):
        raise ModelNotFound(
            f"{who}{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})",
            hint="copy the tokenizer's files into the folder",
        )


def check_folder(request: LoadRequest) -> None:
    """Check the configuration and the tokenizer of a folder. Raises `ModelNotFound` or `ModelCorrupt`."""
    check_there(request.name, request.source)
    folder, who = request.source.path, f"member {request.name!r}: "
    with weight_files.naming(who):
        bounded_files.refuse_specials(folder)
        stated = file_kinds.check_json(folder / "config.json")
        check_config(stated, folder / "config.json")
        refuse_mlx(stated, folder)
        if (folder / GENERATION).is_file():
            check_config(file_kinds.check_json(folder / GENERATION), folder / GENERATION)
        tokenizer = (WHOLE_TOKENIZER,) if (folder / WHOLE_TOKENIZER).is_file() else PARTS
        patterns = (*SETTINGS, *tokenizer)
        file_kinds.check_texts(file for pattern in patterns for file in sorted(folder.glob(pattern)))
        if (folder / WHOLE_TOKENIZER).is_file():
            bounded_files.check_values(folder / WHOLE_TOKENIZER)
        if (folder / ADDED).is_file():
            check_tokenizer({"model": {"vocab": file_kinds.check_json(folder / ADDED)}}, folder / ADDED)
        if (folder / TOKENIZER).is_file():
            decoder = file_kinds.check_json(folder / TOKENIZER).get("added_tokens_decoder")
            ids = (
                {token: int(token[:20]) for token in decoder if token.isdecimal()} if isinstance(decoder, dict) else {}
            )
            check_tokenizer({"model": {"vocab": ids}}, folder / TOKENIZER)
        templates = [*sorted(folder.glob("*.jinja")), *sorted(folder.glob(f"{MORE_TEMPLATES}/*.jinja"))]
        file_kinds.check_texts(file for file in templates if file.stat().st_size)  # an empty one is none


def refuse_mlx(stated: Mapping[str, Any], where: object) -> None:
    """Raise a `ModelUnsupported` for weights that MLX has quantised: it names no method, and packs them its own way."""
    for key in ("quantization", "quantization_config"):
        told = stated.get(key)
        if isinstance(told, Mapping) and "quant_method" not in told and {"group_size", "bits"} <= told.keys():
            raise ModelUnsupported(
                f"{where} holds weights in the format of MLX ({key} in config.json), which transformers does not read",
                hint="take the model that was quantised, or a GGUF file of it",
            )


def template_in(file: Path) -> object:
    """What a `chat_template.json` holds, a template, or several by name, or a `chat_template.jinja`."""
    if file.suffix == ".jinja":
        return read_text(file, DOCUMENT) or None
    return file_kinds.check_json(file).get("chat_template")
