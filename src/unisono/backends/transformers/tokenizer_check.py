"""Whether the library's tokenizer is that of its `tokenizer.json`: releases of transformers rebuild some wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from unisono.errors import ModelUnsupported
from unisono.user_files import DATA, read_bytes

PARTS = ("normalizer", "pre_tokenizer", "decoder")

Encode = Callable[[Mapping[str, Any], str], list[int]]
"""Encodes a text by the content of a `tokenizer.json`, without what is added to it or lost."""


WAY_OUT = "upgrade transformers, or make tokenizer_class PreTrainedTokenizerFast in tokenizer_config.json"


def check_as_filed(file: Path, made: Mapping[str, Any], encode: Encode, library: str, who: str) -> str | None:
    """Compare what a library made of a `tokenizer.json` with the file; return a warning where they differ in details.

    Raises `ModelUnsupported` where parts of another kind split or decode ordinary text otherwise.
    """
    filed = json.loads(read_bytes(file, DATA))
    if all(filed.get(part) == made.get(part) for part in PARTS):
        return None
    sample = files("unisono").joinpath("ordinary.txt").read_text(encoding="utf-8")
    wanted_ids = encode(filed, sample)
    try:
        if wanted_ids == encode(made, sample):
            return None
    except Exception as error:  # the library raises plain Exception
        raise ModelUnsupported(
            f"{who}: {library} misreads {file.name}: what it makes of it cannot encode a text ({error})", hint=WAY_OUT
        ) from error
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
