"""Reads the head of a GGUF file: metadata, tensor shapes and token table.

``gguf.GGUFReader`` takes 15 seconds for 262,144 token texts, this 0.07. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unisono.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from unisono.vocab.tokenizer import Kind, Scheme, TokenTable

Value = bool | int | float | str | list[bytes] | np.ndarray[Any, Any]
"""A metadata value. Strings in arrays stay bytes: token texts need not be UTF-8."""

VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SPLIT_NAME = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    path: Path
    metadata: Mapping[str, Value]
    tensors: int
    """The number of tensors; 0 in a vocabulary-only file."""
    parameters: int
    data_bytes: int
    """Summed over all files of a split model."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """How many ids the embedding (``token_embd.weight``) and the output layer (``output.weight``) know."""

    @property
    def architecture(self) -> str:
        """The key prefix of the model's hyperparameters."""
        return self.text("general.architecture") or "unknown"

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def per_layer(self, key: str, layers: int) -> list[int] | None:
        """One number per layer, whether the file gives a scalar or an array."""
        value = self.metadata.get(key)
        if isinstance(value, np.ndarray):
            return [int(each) for each in value[:layers]]
        number = self.number(key)
        return None if number is None else [number] * layers


def read_gguf(path: Path) -> GgufFile:
    """Read the head of a GGUF file. Raises `ModelNotFound`, `ModelCorrupt` or `ModelUnsupported`."""
    if not path.is_file():
        problem = f"{path} is not a file" if path.exists() else f"there is no file {path}"
        raise ModelNotFound(problem, hint="give the path of a .gguf file")
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelCorrupt(f"{path} is not a GGUF file", hint="download or convert it again")
            with contextlib.closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:
                return _read_head(path, data)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    except (struct.error, UnicodeDecodeError, KeyError, OverflowError, EOFError) as error:
        raise ModelCorrupt(
            f"the head of {path} is damaged or cut short ({error})", hint="download or copy it again"
        ) from error


def _read_head(path: Path, data: mmap.mmap) -> GgufFile:
    (version,) = struct.unpack_from("<I", data, 4)
    if version not in VERSIONS:
        raise ModelUnsupported(
            f"{path} has version {version} of the GGUF format; versions {VERSIONS} can be read"
            if version < 1 << 16
            else f"{path} is a big-endian GGUF file",
            hint="convert the model again",
        )
    tensors, pairs = struct.unpack_from("<QQ", data, 8)
    reader = _Reader(data, 24)
    metadata: dict[str, Value] = {}
    for _ in range(pairs):
        key = reader.string().decode()
        metadata[key] = reader.value(reader.unpack("<I"))
    shapes = dict(reader.tensor_shape() for _ in range(tensors))
    parameters = sum(math.prod(shape) for shape in shapes.values())
    alignment = metadata.get("general.alignment", 32)
    step = alignment if isinstance(alignment, int) and alignment > 0 else 32
    own = max(0, len(data) - -(-reader.position // step) * step)
    rows = {name: shapes[name][-1] for name in ("token_embd.weight", "output.weight") if shapes.get(name)}
    return GgufFile(path, metadata, tensors, parameters, own + _other_parts(path), rows)


def _other_parts(path: Path) -> int:
    match = _SPLIT_NAME.fullmatch(path.name)
    others = path.parent.glob(f"{match[1]}-?????-of-{match[2]}.gguf") if match else ()
    return sum(other.stat().st_size for other in others if other.name != path.name)


class _Reader:
    """A cursor over the file's bytes. Raises when it reads past the end."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data = data
        self.position = position

    def unpack(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return value

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise EOFError(f"{size} bytes expected at {self.position}, the file has {len(self.data)}")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def string(self) -> bytes:
        return self.take(self.unpack("<Q"))

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string().decode("utf-8", "replace")
        if kind == _ARRAY:
            kind, size = self.unpack("<I"), self.unpack("<Q")
            if kind == _STRING:
                return self.strings(size)
            numbers = np.dtype("<" + _SCALARS[kind])
            return np.frombuffer(self.take(size * numbers.itemsize), numbers)
        value: bool | int | float = self.unpack("<" + _SCALARS[kind])
        return value

    def strings(self, size: int) -> list[bytes]:
        """The hot loop: a vocabulary has hundreds of thousands of strings."""
        unpack, data, position = struct.Struct("<Q").unpack_from, self.data, self.position
        found: list[bytes] = []
        for _ in range(size):
            start = position + 8
            position = start + unpack(data, position)[0]
            found.append(data[start:position])
        if position > len(data):
            raise EOFError("an array of strings does not end")
        self.position = position
        return found

    def tensor_shape(self) -> tuple[str, tuple[int, ...]]:
        name = self.string().decode()
        shape = tuple(self.unpack("<Q") for _ in range(self.unpack("<I")))
        self.position += struct.calcsize("<IQ")
        return name, shape


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
