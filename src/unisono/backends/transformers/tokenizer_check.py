"""Whether the library's tokenizer is that of its `tokenizer.json`: releases of transformers rebuild some wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from unisono.backends.model_facts import check_ids
from unisono.backends.transformers.tokenizer import shaped
from unisono.errors import ModelUnsupported, shown
from unisono.user_files import DATA, read_bytes

PARTS = ("normalizer", "pre_tokenizer", "decoder")
RULES = ("ignore_merges", "byte_fallback", "fuse_unk", "unk_token")
"""How a tokenizer's model merges, beside its merges."""
SHAPE = "Ab  Cd\n\u00c9e \u2167 \ufb01"
"""A text in which what is added, lowered or composed shows."""

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
    def added(self) -> Mapping[str, int]:
        return {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items()}

    @property
    def rules(self) -> Mapping[str, Any]:
        return {rule: getattr(self._tokenizer.model, rule, None) for rule in RULES}

    @cached_property
    def _whole(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return content


def check_as_filed(
    file: Path, made: Mapping[str, Any], encode: Encode, library: str, who: str, *, is_split_anew: bool = False
) -> str:
    """Compare what a library made of a `tokenizer.json` with the file; return a warning where they differ in details.

    Empty where they do not. ``is_split_anew`` leaves out the pre_tokenizer, which the library was asked to change.
    Raises `ModelUnsupported` where tokens have other ids, or parts of another kind split or decode ordinary text
    otherwise, and `ModelCorrupt` for ids that no model has.
    """
    filed = json.loads(read_bytes(file, DATA))
    if is_split_anew:
        filed["pre_tokenizer"] = made["pre_tokenizer"]
    check_ids(_vocabulary(filed).values(), len(_vocabulary(filed)), f"{who}: its tokenizer")
    if (moved := _moved_added(filed, {**_vocabulary(made), **_added(made)})) is not None:
        raise _misread(file, library, who, moved)
    alike = all(filed.get(part) == made.get(part) for part in PARTS) and _rules(filed) == _rules(made)
    if alike and _vocabulary(filed) == _vocabulary(made):
        return ""
    sample = files("unisono").joinpath("ordinary.txt").read_text(encoding="utf-8")
    wanted_ids = encode(filed, sample)
    try:
        alike = wanted_ids == encode(made, sample)
    except Exception as error:  # the library raises plain Exception
        raise ModelUnsupported(
            f"{who}: {library} misreads {file.name}: what it makes of it cannot encode a text ({error})", hint=WAY_OUT
        ) from error
    if alike:
        return _shaped_otherwise(file, filed, made, library)
    if (moved := _moved(_vocabulary(filed), _vocabulary(made))) is not None:
        raise _misread(file, library, who, moved)
    for part in PARTS:
        wanted, found = (sorted(set(_kinds(content.get(part)))) for content in (filed, made))
        if wanted != found:
            raise ModelUnsupported(
                f"{who}: {library} misreads {file.name}: its {part} is {_listed(wanted)}, and the library makes it "
                f"{_listed(found)}",
                hint=WAY_OUT,
            )
    return f"{library} splits ordinary text otherwise than {file.name} says: upgrade transformers"


def _misread(file: Path, library: str, who: str, moved: tuple[str, int, int]) -> ModelUnsupported:
    return ModelUnsupported(
        f"{who}: {library} misreads {file.name}: the id of {shown(moved[0])} is {moved[1]}, and the library makes it "
        f"{moved[2]}",
        hint="its tokenizer's files may be of two models: keep those that belong to its weights",
    )


def _shaped_otherwise(file: Path, filed: Mapping[str, Any], made: Mapping[str, Any], library: str) -> str:
    """A warning where a text's beginning, case or composed characters become others: what is added, and lost."""
    wanted, found = (
        shaped(content.get("normalizer"), content.get("pre_tokenizer"), SHAPE) for content in (filed, made)
    )
    if wanted == found:
        return ""
    return (
        f"{library} reads a text otherwise than {file.name} says: {shown(SHAPE)} becomes {shown(found)}, and by the "
        f"file {shown(wanted)}; {WAY_OUT}"
    )


def _vocabulary(content: Mapping[str, Any]) -> Mapping[str, int]:
    """The ids of a model's own tokens; those of Unigram are their places in a list."""
    if isinstance(content, Made):
        return content.vocabulary
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, list):
        return {each[0]: place for place, each in enumerate(vocabulary)}
    return vocabulary if isinstance(vocabulary, Mapping) else {}


def _added(content: Mapping[str, Any]) -> Mapping[str, int]:
    """The ids of the tokens beside a model's own."""
    if isinstance(content, Made):
        return content.added
    return {token["content"]: token["id"] for token in content.get("added_tokens") or ()}


def _rules(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a model merges; what is off is as what is not said."""
    model = content.rules if isinstance(content, Made) else content.get("model")
    rules = model if isinstance(model, Mapping) else {}
    return {rule: rules[rule] for rule in RULES if rules.get(rule)}


def _moved_added(filed: Mapping[str, Any], made: Mapping[str, int]) -> tuple[str, int, int] | None:
    """An added token that has none of the ids that a file gives it: some files give one twice."""
    tokens = filed.get("added_tokens")
    said: dict[str, set[int]] = {}
    for token in tokens if isinstance(tokens, list) else ():
        said.setdefault(str(token["content"]), set()).add(token["id"])
    return next(
        ((text, min(ids), made[text]) for text, ids in said.items() if made.get(text, min(ids)) not in ids), None
    )


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
