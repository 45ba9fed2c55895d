"""Converts a GGUF file for transformers, once, into the user's cache: configuration, tokenizer and weights.

llama.cpp is the reference for these files. The tokenizer follows it where transformers' conversion differs: it splits
digits by the file's ``pre``, and matches user-defined tokens (Gemma's runs of spaces) first and whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unisono.backends.base import ModelSource, Progress
from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_parts import check_layers, read_gguf, refuse_other_kinds_of_model
from unisono.backends.gguf_tokens import read_table
from unisono.backends.transformers.failures import LLAMACPP_HINT
from unisono.backends.transformers.gguf_config import check_stated
from unisono.backends.transformers.tokenizer import JsonTokenizer
from unisono.backends.weight_files import naming
from unisono.cache import build_sealed, cache_root, require_space
from unisono.errors import ModelCorrupt, ModelUnsupported
from unisono.user_files import open_plain
from unisono.vocab.tokenizer import TokenTable

FORMAT = 7
"""Increment when the result of a conversion changes, or how it is kept.

Those of format 1 were not checked for missing weights, those of format 2 had not all that the file says of positions,
those of format 3 had no seal, those of format 4 lacked numbers of the file, those of format 5 took control tokens for
text where the file did, those of format 6 had another base of positions than llama.cpp where the file says none.
"""
CONTENT = "content.json"
ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
SPARE_BYTES = 64_000_000

WriteWeights = Callable[[Any, str, Path, Progress], None]
"""Writes weights, for a configuration and a dtype, to a folder that transformers can load."""

# What llama.cpp (src/llama-vocab.cpp) splits a text by before merging, by ``tokenizer.ggml.pre``.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
)
_QWEN2 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_TEKKEN = _WORD % ("", "") + rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
_GPT4O = _WORD % (_SUFFIX, _SUFFIX) + rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _TAIL
)
_SPLITS = {
    "gpt-2 phi-2 jina-es jina-de gigachat roberta-bpe mpt olmo jais": (_GPT2,),
    "starcoder refact command-r smollm codeshell exaone minerva-7b": (r"\p{N}", _GPT2),
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe": (_LLAMA3,),
    "qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan": (_QWEN2,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "tekken": (_TEKKEN,),
    "gpt-4o llama4": (_GPT4O,),
    "deepseek-v3": (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3),
}
SPLITS = {name: splits for names, splits in _SPLITS.items() for name in names.split()}
_PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")
IGNORES_MERGES = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
)
"""Vocabularies that keep a whole word that is a token, without merging."""


class Conversion:
    """A GGUF file and its converted parts.

    Cache entries are keyed by the file's SHA-256. The weights have one entry per dtype, separate from the configuration
    and the tokenizer, so `doctor` converts no weights.
    """

    def __init__(
        self, source: ModelSource, read_config: Callable[[], dict[str, Any]], write_weights: WriteWeights, member: str
    ) -> None:
        self.path = source.path
        self._sha256 = source.sha256
        self._read_config = read_config
        self._write_weights = write_weights
        self._member = member

    def tokenizer(self) -> JsonTokenizer:
        """The tokenizer, with the table read from the GGUF file."""
        file = self.file
        with naming(f"member {self._member!r}: "):
            table = read_table(file)
            table = replace(table, adds_bos=adds_bos(file), strips=strips_of(file, table))
            content = self._json("tokenizer", lambda: gguf_tokenizer_json(file, table))
        return JsonTokenizer(table, content, table.opening)

    def config(self) -> dict[str, Any]:
        _ = self.file  # its error names damage better than the library's
        return self._json("config", self._read_config)

    def weights(self, config: Any, dtype: str, progress: Progress) -> Path:
        """The folder of the weights in a dtype. Raises a `CacheError` when the disk lacks room."""
        entry = self._entry(dtype)

        def build(target: Path) -> None:
            size = self.file.parameters * ITEM_SIZES[dtype] + SPARE_BYTES
            require_space(entry.parent, size, self._what("weights"))
            progress(0.0, f"converting {self.path.name} once, for this and later runs")
            self._write_weights(config, dtype, target, progress)

        return build_sealed(entry, build, self._what("weights"), self._key(dtype))

    @cached_property
    def file(self) -> GgufFile:
        with naming(f"member {self._member!r}: "):
            file = read_gguf(self.path)
            if len(file.parts) > 1:
                raise ModelUnsupported(
                    f"{self.path} is the first of {len(file.parts)} parts of a model, and transformers reads one file",
                    hint=f"{LLAMACPP_HINT}, or join the parts: llama-gguf-split --merge {self.path.name} whole.gguf",
                )
            refuse_other_kinds_of_model(file)
            check_layers(file)
            check_stated(file)
        return file

    def _json(self, part: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:

        def build(target: Path) -> None:
            (target / CONTENT).write_text(json.dumps(make(), ensure_ascii=False), "utf-8")

        entry = build_sealed(self._entry(part), build, self._what(part), self._key(part))
        content: dict[str, Any] = json.loads((entry / CONTENT).read_text("utf-8"))
        return content

    def _what(self, part: str) -> str:
        return f"the converted {part} of {self.path.name}"

    def _entry(self, name: str) -> Path:
        return cache_root() / "transformers" / f"{self._sum[:32]}-v{FORMAT}" / name

    def _key(self, name: str) -> str:
        return f"{self._sum} {FORMAT} {name}"

    @cached_property
    def _sum(self) -> str:
        if self._sha256 is not None:
            return self._sha256
        with open_plain(self.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def strips_of(file: GgufFile, table: TokenTable) -> dict[int, tuple[bool, bool]]:
    """The tokens that take in the white space behind them: llama.cpp knows them by the model's name."""
    name = (file.text("general.name") or "").lower()
    if "phi-3" not in name and "phi3" not in name:
        return {}
    pairs = enumerate(zip(table.texts, table.kinds, strict=True))
    taking = {i for i, (text, kind) in pairs if kind in ("control", "added") and text not in _PHI3_KEEPS}
    return dict.fromkeys(taking, (False, True))


def gguf_tokenizer_json(file: GgufFile, table: TokenTable) -> dict[str, Any]:
    """Build a `tokenizer.json` that splits and merges as llama.cpp does, or raise `ModelUnsupported`."""
    build = _byte_level if table.scheme == "byte-level" else _sentencepiece
    if table.family == "Unigram":
        raise ModelUnsupported(
            f"{file.path} has a Unigram vocabulary, which is read from GGUF files by llama.cpp only", hint=LLAMACPP_HINT
        )
    added = [
        {"id": i, "content": text, "single_word": False, "normalized": False, "special": kind == "control"}
        | dict(zip(("lstrip", "rstrip"), table.strips.get(i, (False, False)), strict=True))
        for i, (text, kind) in enumerate(zip(table.texts, table.kinds, strict=True))
        if kind in ("control", "added") and text
    ]
    return {"version": "1.0", "added_tokens": added, **build(file, table)}


def _byte_level(file: GgufFile, table: TokenTable) -> dict[str, Any]:
    pre = file.text("tokenizer.ggml.pre") or "default"
    if pre not in SPLITS:
        raise ModelUnsupported(
            f"{file.path} splits text in a way that is not known here: tokenizer.ggml.pre is {pre!r}",
            hint=LLAMACPP_HINT,
        )
    vocab = {text: i for i, text in enumerate(table.texts) if table.kinds[i] != "unused"}
    merges = file.metadata.get("tokenizer.ggml.merges")
    pairs = (merge.decode().split(" ") for merge in (merges if isinstance(merges, list) else ()))
    known = [pair for pair in pairs if _known(pair, vocab)]
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False} for split in SPLITS[pre]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": known, "ignore_merges": pre in IGNORES_MERGES},
    }


def _sentencepiece(file: GgufFile, table: TokenTable) -> dict[str, Any]:
    scores = file.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(table.texts):
        raise ModelCorrupt(f"{file.path} has no score for each of its tokens", hint="download the file again")
    vocab = {text: i for i, text in enumerate(table.texts) if table.kinds[i] != "unused"}
    mergeable = {text: i for text, i in vocab.items() if table.kinds[i] == "normal"}
    prefixed = file.metadata.get("tokenizer.ggml.add_space_prefix", True)
    prepend = [{"type": "Prepend", "prepend": "▁"}] if prefixed else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "decoder": {"type": "Sequence", "decoders": [*decoders, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": _merges(mergeable, scores.tolist()),
            "unk_token": table.special_texts.get("unk_token"),
            "fuse_unk": True,
            "byte_fallback": "byte" in table.kinds,
        },
    }


def _merges(vocab: dict[str, int], scores: Sequence[float]) -> list[list[str]]:
    """Recover SentencePiece's merges: every pair of tokens that joins to a token, best score first."""
    ranked = []
    for text, i in vocab.items():
        for left, right in ((text[:cut], text[cut:]) for cut in range(1, len(text))):
            if left in vocab and right in vocab:
                ranked.append((-scores[i], i, vocab[left], vocab[right], left, right))
    return [[left, right] for *_, left, right in sorted(ranked)]


def _known(pair: list[str], vocab: dict[str, int]) -> bool:
    return len(pair) == 2 and "".join(pair) in vocab and all(part in vocab for part in pair)


def adds_bos(file: GgufFile) -> bool:
    """Whether llama.cpp adds the BOS: as the file says, else by the kind of vocabulary."""
    declared = file.metadata.get("tokenizer.ggml.add_bos_token")
    if isinstance(declared, bool):
        return declared
    return file.text("tokenizer.ggml.model") == "llama" or file.text("tokenizer.ggml.pre") in IGNORES_MERGES
