"""The tokens of a GGUF file: a table of them, and what their types and scores do not say, or say wrongly.

Types are as the file says, but for what converters are known to have said wrongly. llama.cpp corrects a part of that
while it loads a file, by the texts of tokens, so that its own text ends where it should.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from unisono.backends.gguf import GgufFile
from unisono.backends.weight_files import listed
from unisono.errors import ModelCorrupt, ModelUnsupported
from unisono.vocab.pieces import BYTE_TOKEN, END_NAMES
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

SCORED, MERGING = ("llama", "t5"), ("gpt2", "gemma4")
"""Kinds of tokenizers that join tokens by the scores of the results, and by a list of merges."""
_SPECIALS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
USUAL = {"unknown": 0, "bos": 1, "eos": 2}
"""In llama.cpp, the ids of a SentencePiece tokenizer whose file names none."""
BYTE = 6
_KINDS: Mapping[int, Kind] = {1: "normal", 2: "control", 3: "control", 4: "added", 5: "unused", BYTE: "byte"}
"""By ``tokenizer.ggml.token_type``: normal, unknown, control, user-defined, unused, byte."""
AGAIN = "convert the model again, with a newer llama.cpp"
WRITTEN = ("normal", "byte", "added")
SUPPRESSED = "tokenizer.ggml.suppress_tokens"
_CONTROL = re.compile(r"<\|[^\s<>|]+\|>|<｜[^\s<>｜]+｜>")
"""Names that no ordinary token has. ``<|>`` is one of Haskell's."""
_BRACKETED = re.compile(r"<\S+>|\[\S+\]")
_ENDS = END_NAMES - {"</s>"}
"""``</s>`` is an HTML tag in Gemma's vocabulary."""


def read_table(file: GgufFile) -> TokenTable:
    """Read the token table of a GGUF file, except ``adds_bos``, which llama.cpp decides.

    Token kinds are as declared, matching the Hugging Face tokenizer, but for `settled_kinds`. llama.cpp changes some by
    name: Gemma's ``</s>``, an HTML tag, becomes a control token. Raises `ModelUnsupported` when the tokenizer is
    missing or its tokens do not spell bytes, and `ModelCorrupt` for an inconsistent table.
    """
    scheme, family = _scheme(file)
    codes, texts = read_tokens(file)
    _check_written(file, scheme, texts)
    kinds = settled_kinds(stated_kinds(codes), texts, scheme, named_ids(file, len(texts)))
    ids = {name: _special(file, name, kinds) for name in ("eot", "eom", *_SPECIALS.values())}
    ends = {ids[name] for name in ("eos", "eot", "eom")}
    return TokenTable(
        scheme=scheme,
        family=family,
        texts=tuple("" if kind == "unused" else text for text, kind in zip(texts, kinds, strict=True)),
        kinds=tuple(kinds),
        declared_end_ids=tuple(sorted(end for end in ends if end is not None)),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        chat_template=file.text("tokenizer.chat_template"),
        named_templates=_named_templates(file),
        special_texts={name: texts[token] for name, key in _SPECIALS.items() if (token := ids[key]) is not None},
    )


def read_tokens(file: GgufFile) -> tuple[list[int], list[str]]:
    """The type and the text of each token. Raises `ModelUnsupported` or `ModelCorrupt`."""
    tokens, types = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):
        raise ModelUnsupported(f"{file.path} names a tokenizer but holds no tokens", hint=AGAIN)
    codes = types.tolist() if isinstance(types, np.ndarray) else [1] * len(tokens)
    if len(codes) != len(tokens):
        raise ModelCorrupt(f"{file.path} has {len(tokens)} tokens but {len(codes)} token types", hint=AGAIN)
    try:
        return codes, [token.decode() for token in tokens]
    except UnicodeDecodeError as error:
        raise ModelCorrupt(f"{file.path} holds a token that is not UTF-8 ({error})", hint=AGAIN) from error


def named_ids(file: GgufFile, tokens: int) -> set[int]:
    """The ids that a file gives to BOS, ends, unknown and padding."""
    found = (_known(file, name, tokens) for name in ("eot", "eom", *_SPECIALS.values()))
    return {token for token in found if token is not None}


def _check_written(file: GgufFile, scheme: Scheme, texts: list[str]) -> None:
    """Refuse tokens that are written otherwise than by the file's kind of tokenizer, or that nothing merges."""
    model, merges = file.text("tokenizer.ggml.model"), file.metadata.get("tokenizer.ggml.merges")
    own, other, others = ("Ġ", "▁", "SentencePiece") if scheme == "byte-level" else ("▁", "Ġ", "byte-level BPE")
    if not any(own in text for text in texts) and any(text.startswith(other) for text in texts):
        raise ModelUnsupported(
            f"{file.path} says that its tokenizer is {model!r}, and its tokens are written as those of {others}",
            hint=AGAIN,
        )
    if model in MERGING and not isinstance(merges, list):
        raise ModelCorrupt(
            f"{file.path} has no merges (tokenizer.ggml.merges), by which its tokenizer, {model!r}, splits text",
            hint=AGAIN,
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


def _special(file: GgufFile, name: str, kinds: Sequence[Kind]) -> int | None:
    """The id that a file gives to a token, or the usual one where that is a control token."""
    token = _known(file, name, len(kinds))
    is_stated = f"tokenizer.ggml.{name}_token_id" in file.metadata
    return token if is_stated or token is None or kinds[token] == "control" else None


def _known(file: GgufFile, name: str, tokens: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    usual = USUAL.get(name) if file.text("tokenizer.ggml.model") == "llama" else None
    token = file.number(key) if key in file.metadata else usual
    return token if token is not None and 0 <= token < tokens else None


def token_warnings(file: GgufFile) -> list[str]:
    """What the types and the scores of a file's tokens do not say, or say wrongly."""
    if file.text("tokenizer.ggml.model") not in SCHEMES or "tokenizer.ggml.tokens" not in file.metadata:
        return []
    codes, texts = read_tokens(file)
    kinds, scores = stated_kinds(codes), file.metadata.get("tokenizer.ggml.scores")
    settled = settled_kinds(kinds, texts, _scheme(file)[0], named_ids(file, len(texts)))
    found = []
    if controls := miscalled(kinds, texts, settled):
        found.append(
            f"its file calls {listed(controls)} ordinary or unused (tokenizer.ggml.token_type): they are control "
            "tokens by their names, and taken for that"
        )
    if suppressed := [texts[i] for i in _listed_ids(file, SUPPRESSED, len(texts)) if settled[i] in WRITTEN]:
        found.append(
            f"its file asks that {listed(suppressed)} are never written ({SUPPRESSED}), which llama.cpp's own programs "
            "see to and an ensemble does not"
        )
    if file.text("tokenizer.ggml.model") in SCORED:
        longer = [i for i, kind in enumerate(kinds) if kind == "normal" and len(texts[i]) > 1]
        values = scores.tolist() if isinstance(scores, np.ndarray) and len(scores) == len(texts) else None
        if len(longer) > 1 and (values is None or len({values[i] for i in longer}) == 1):
            found.append(
                "its file has no scores of its tokens, or the same for all (tokenizer.ggml.scores), so text is "
                "probably split otherwise than in its training: convert the model again with a newer converter"
            )
    return found


def _listed_ids(file: GgufFile, key: str, tokens: int) -> list[int]:
    value = file.metadata.get(key)
    return [int(i) for i in value if 0 <= i < tokens] if isinstance(value, np.ndarray) else []


def stated_kinds(codes: Iterable[int]) -> list[Kind]:
    return [_KINDS.get(code, "normal") for code in codes]


def settled_kinds(kinds: Sequence[Kind], texts: Sequence[str], scheme: Scheme, named: Collection[int]) -> list[Kind]:
    """The kinds of tokens, of which ``named`` are the ids that the file calls BOS, an end, unknown or padding.

    A token is a control token where its text says so, and a byte where the file has a token for each and calls none of
    them so.
    """
    settled = list(kinds)
    for i, text in enumerate(texts):
        if text.startswith(("<", "[")):  # of hundreds of thousands, few do
            settled[i] = _settled(i, kinds[i], text, named)
    if scheme == "sentencepiece" and "byte" not in kinds:
        places = {text.upper(): i for i, text in enumerate(texts) if BYTE_TOKEN.fullmatch(text)}
        for i in places.values() if len(places) == 256 else ():
            settled[i] = "byte"
    return settled


def miscalled(kinds: Sequence[Kind], texts: Sequence[str], settled: Sequence[Kind]) -> list[str]:
    """The texts of tokens that are control tokens, and that the file calls ordinary or unused."""
    rows = zip(kinds, texts, settled, strict=True)
    return [text for kind, text, now in rows if kind in ("normal", "unused") and now == "control"]


def _settled(token: int, kind: Kind, text: str, named: Collection[int]) -> Kind:
    if kind in ("control", "byte"):
        return kind
    if text in _ENDS or (kind == "normal" and _CONTROL.fullmatch(text)):
        return "control"
    return "control" if token in named and _BRACKETED.fullmatch(text) else kind
