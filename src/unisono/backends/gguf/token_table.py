"""The token table of a GGUF file: the same for every backend that reads the file."""

from __future__ import annotations

import numpy as np

from unisono.backends.gguf.file import GgufFile
from unisono.errors import ModelCorrupt, ModelUnsupported
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

SCHEMES: dict[str, tuple[Scheme, str]] = {
    "gpt2": ("byte-level", "byte-level BPE"),
    "llama": ("sentencepiece", "SentencePiece BPE"),
    "gemma4": ("sentencepiece", "SentencePiece BPE"),
    "t5": ("sentencepiece", "Unigram"),
}
"""By ``tokenizer.ggml.model``."""

RAW_MERGES = frozenset({"gemma4", "sarvam-moe"})
"""Values of ``tokenizer.ggml.pre`` for which llama.cpp runs BPE on text with ``▁`` and ``<0xNN>``
instead of GPT-2's alphabet, whatever the model's name (``byte_encode = false`` in llama-vocab.cpp)."""

_KINDS: dict[int, Kind] = {1: "normal", 2: "control", 3: "control", 4: "added", 5: "unused", 6: "byte"}
"""By ``tokenizer.ggml.token_type``: normal, unknown, control, user-defined, unused, byte."""

_SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read_table(file: GgufFile) -> TokenTable:
    """Read the token table of a GGUF file, all but whether BOS is added, which llama.cpp decides.

    The kinds are those the file declares. llama.cpp changes some by the token's name when it loads
    a vocabulary (Gemma's ``</s>``, an HTML tag there, becomes a control token); the Hugging Face
    tokenizer of the same model does not, and the same model has to have the same pieces.

    Raises:
        ModelUnsupported: there is no tokenizer, or one whose tokens do not spell bytes.
        ModelCorrupt: the table contradicts itself.
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
    ends = [file.number(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return TokenTable(
        scheme=scheme,
        family=family,
        texts=tuple("" if kind == "unused" else text for text, kind in zip(texts, kinds, strict=True)),
        kinds=tuple(kinds),
        declared_end_ids=tuple(sorted({end for end in ends if end is not None and end < len(texts)})),
        bos_id=_known(file, "bos", len(texts)),
        eos_id=_known(file, "eos", len(texts)),
        chat_template=file.text("tokenizer.chat_template"),
        special_texts={
            name: texts[token]
            for name, key in _SPECIALS.items()
            if (token := _known(file, key, len(texts))) is not None
        },
    )


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
    if file.text("tokenizer.ggml.pre") in RAW_MERGES:
        return SCHEMES["gemma4"]
    return SCHEMES[model]


def _known(file: GgufFile, name: str, tokens: int) -> int | None:
    token = file.number(f"tokenizer.ggml.{name}_token_id")
    return token if token is not None and token < tokens else None
