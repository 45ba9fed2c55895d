"""Whether the library's tokenizer is that of its `tokenizer.json`: releases of transformers rebuild some wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from unisono.errors import ModelUnsupported
from unisono.user_files import DATA, read_bytes

PARTS = ("normalizer", "pre_tokenizer", "decoder")

Encode = Callable[[Mapping[str, Any], str], list[int]]
"""Encodes a text by the content of a `tokenizer.json`, without what is added to it or lost."""


WAY_OUT = "upgrade transformers, or make tokenizer_class PreTrainedTokenizerFast in tokenizer_config.json"


class Made(Mapping[str, Any]):
    """What the `tokenizers` library made of a file, in the form of one.

    All of it is written out, which takes a second for 262,144 tokens, where more than `PARTS` is asked for.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getitem__(self, key: str) -> Any:
        if key not in PARTS:
            return self._whole[key]
        part = getattr(self._tokenizer, key)
        return None if part is None else json.loads(part.__getstate__())

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)

    @cached_property
    def _whole(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return content


def check_as_filed(file: Path, made: Mapping[str, Any], encode: Encode, library: str, who: str) -> str | None:
    """Compare what a library made of a `tokenizer.json` with the file; return a warning where they differ in details.

    Raises `ModelUnsupported` where parts of another kind split or decode ordinary text otherwise.
    """
    filed = json.loads(read_bytes(file, DATA))
    if all(filed.get(part) == made.get(part) for part in PARTS):
        return None
    sample = files("unisono").joinpath("ordinary.txt").read_text(encoding="utf-8")
    if encode(filed, sample) == encode(made, sample):
        return None
    for part in PARTS:
        wanted, found = (sorted(set(_kinds(content.get(part)))) for content in (filed, made))
        if wanted != found:
            raise ModelUnsupported(
                f"{who}: {library} misreads {file.name}: its {part} is {_listed(wanted)}, and the library makes it "
                f"{_listed(found)}",
                hint=WAY_OUT,
            )
    return f"{library} splits ordinary text otherwise than {file.name} says: upgrade transformers"


def _kinds(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        yield from [str(part.get("type"))] if part.get("type") != "Sequence" else []
        for key in ("normalizers", "pretokenizers", "decoders"):
            for inner in part.get(key) or ():
                yield from _kinds(inner)


def _listed(kinds: list[str]) -> str:
    return " and ".join(kinds) or "none"
