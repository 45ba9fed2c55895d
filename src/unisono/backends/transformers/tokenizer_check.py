"""Whether the library's tokenizer is that of its `tokenizer.json`: releases of transformers rebuild some wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from unisono.errors import ModelUnsupported, shown
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
    def vocabulary(self) -> Mapping[str, int]:
        ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=False)
        return ids

    @cached_property
    def _whole(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return content


def check_as_filed(
    file: Path, made: Mapping[str, Any], encode: Encode, library: str, who: str, *, is_split_anew: bool = False
) -> str:
    """Compare what a library made of a `tokenizer.json` with the file; return a warning where they differ in details.

    Empty where they do not. ``is_split_anew`` leaves out the pre_tokenizer, which the library was asked to change.
    Raises `ModelUnsupported` where parts of another kind split or decode ordinary text otherwise.
    """
    filed = json.loads(read_bytes(file, DATA))
    if is_split_anew:
        filed["pre_tokenizer"] = made["pre_tokenizer"]
    if all(filed.get(part) == made.get(part) for part in PARTS) and _vocabulary(filed) == _vocabulary(made):
        return ""
    sample = files("unisono").joinpath("ordinary.txt").read_text(encoding="utf-8")
    wanted_ids = encode(filed, sample)
    try:
        if wanted_ids == encode(made, sample):
            return ""
    except Exception as error:  # the library raises plain Exception
        raise ModelUnsupported(
            f"{who}: {library} misreads {file.name}: what it makes of it cannot encode a text ({error})", hint=WAY_OUT
        ) from error
    moved = _moved(_vocabulary(filed), _vocabulary(made))
    if moved is not None:
        raise ModelUnsupported(
            f"{who}: {library} misreads {file.name}: the id of {shown(moved[0])} is {moved[1]}, and the library makes "
            f"it {moved[2]}",
            hint="its tokenizer's files may be of two models: keep those that belong to its weights",
        )
    for part in PARTS:
        wanted, found = (sorted(set(_kinds(content.get(part)))) for content in (filed, made))
        if wanted != found:
            raise ModelUnsupported(
                f"{who}: {library} misreads {file.name}: its {part} is {_listed(wanted)}, and the library makes it "
                f"{_listed(found)}",
                hint=WAY_OUT,
            )
    return f"{library} splits ordinary text otherwise than {file.name} says: upgrade transformers"


def _vocabulary(content: Mapping[str, Any]) -> Mapping[str, int]:
    """The ids of a model's own tokens; those of Unigram are their places in a list."""
    if isinstance(content, Made):
        return content.vocabulary
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, list):
        return {each[0]: place for place, each in enumerate(vocabulary)}
    return vocabulary if isinstance(vocabulary, Mapping) else {}


def _moved(filed: Mapping[str, int], made: Mapping[str, int]) -> tuple[str, int, int] | None:
    """A token that has another id in a second vocabulary."""
    return next(((text, i, made[text]) for text, i in filed.items() if made.get(text, i) != i), None)


def _kinds(part: Any) -> Iterator[str]:
    if isinstance(part, Mapping):
        yield from [str(part.get("type"))] if part.get("type") != "Sequence" else []
        for key in ("normalizers", "pretokenizers", "decoders"):
            for inner in part.get(key) or ():
                yield from _kinds(inner)


def _listed(kinds: list[str]) -> str:
    return " and ".join(kinds) or "none"
