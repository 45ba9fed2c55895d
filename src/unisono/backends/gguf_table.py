"""Reads the token table of a GGUF file: texts, kinds, ends and chat templates."""

from __future__ import annotations

import numpy as np

from unisono.backends.gguf import GgufFile
from unisono.errors import ModelCorrupt, ModelUnsupported
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

SCHEMES: dict[str, tuple[Scheme, str]] = {
    "gpt2": ("byte-level", "byte-level BPE"),
    "llama": ("sentencepiece", "SentencePiece BPE"),
    "gemma4": ("sentencepiece", "SentencePiece BPE"),
    "t5": ("sentencepiece", "Unigram"),
}

RAW_MERGES = frozenset({"gemma4", "sarvam-moe"})
"""Values of ``tokenizer.ggml.pre`` for which llama.cpp runs BPE on text with ``▁`` and ``<0xNN>`` instead of GPT-2's
alphabet, whatever the model's name (``byte_encode = false`` in llama-vocab.cpp)."""

_KINDS: dict[int, Kind] = {1: "normal", 2: "control", 3: "control", 4: "added", 5: "unused", 6: "byte"}
"""By ``tokenizer.ggml.token_type``: normal, unknown, control, user-defined, unused, byte."""

_SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_table(file: GgufFile) -> TokenTable:
    """Read the token table of a GGUF file, except ``adds_bos``, which llama.cpp decides.

    Token kinds are as declared, matching the Hugging Face tokenizer. llama.cpp changes some by name: Gemma's ``</s>``,
    an HTML tag, becomes a control token. Raises `ModelUnsupported` when the tokenizer is missing or its tokens do not
    spell bytes, and `ModelCorrupt` for an inconsistent table.
    """
    scheme, family = _scheme(file)
    tokens, types = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):
        raise ModelUnsupported(f"{file.path} names a tokenizer but holds no tokens")
    codes = types.tolist() if isinstance(types, np.ndarray) else [1] * len(tokens)
    if len(codes) != len(tokens):
        raise ModelCorrupt(f"{file.path} has {len(tokens)} tokens but {len(codes)} token types")
    try:
        texts = [token.decode() for token in tokens]
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{file.path} holds a token that is not UTF-8 ({error})") from error
    kinds = [_KINDS.get(code, "normal") for code in codes]
    ends = {_known(file, name, len(texts)) for name in ("eos", "eot", "eom")} - {None}
    return TokenTable(
        scheme=scheme,
        family=family,
        texts=tuple("" if kind == "unused" else text for text, kind in zip(texts, kinds, strict=True)),
        kinds=tuple(kinds),
        declared_end_ids=tuple(sorted(end for end in ends if end is not None)),
        bos_id=_known(file, "bos", len(texts)),
        eos_id=_known(file, "eos", len(texts)),
        chat_template=file.text("tokenizer.chat_template"),
        named_templates=_named_templates(file),
        special_texts={
            name: texts[token]
            for name, key in _SPECIALS.items()
            if (token := _known(file, key, len(texts))) is not None
        },
    )


def _named_templates(file: GgufFile) -> dict[str, str]:
    """The templates of a file that has several: ``tokenizer.chat_template`` is the default one."""
    key = "tokenizer.chat_template"
    named = {name.removeprefix(f"{key}."): file.text(name) for name in file.metadata if name.startswith(f"{key}.")}
    found = {name: text for name, text in ({"default": file.text(key)} | named).items() if text is not None}
    return found if named else {}


def _scheme(file: GgufFile) -> tuple[Scheme, str]:
    model = file.text("tokenizer.ggml.model")
    if model is None or model in ("none", "no_vocab"):
        raise ModelUnsupported(
            f"{file.path} holds no tokenizer; it is not a language model ({file.architecture})",
            hint="give the GGUF file of a text-generation model",
        )
    if model not in SCHEMES:
        raise ModelUnsupported(
            f"{file.path} has a tokenizer of the kind {model!r}, whose tokens do not spell bytes",
            hint=f"kinds that do: {', '.join(SCHEMES)}",
        )
    return SCHEMES["gemma4" if file.text("tokenizer.ggml.pre") in RAW_MERGES else model]


def _known(file: GgufFile, name: str, tokens: int) -> int | None:
    token = file.number(f"tokenizer.ggml.{name}_token_id")
    return token if token is not None and 0 <= token < tokens else None
