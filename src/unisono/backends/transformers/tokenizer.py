"""Hugging Face tokenizers: the token table of a `tokenizer.json`, and encoding."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import tokenizers

from unisono.backends.transformers.json_content import (
    lossless,
    read_json_table,
    unknown_ids,
    with_settled_controls,
    without_dropout,
)
from unisono.backends.transformers.native_tokenizer import read_native
from unisono.errors import ModelCorrupt, ModelError, ModelUnsupported, PromptError, shown
from unisono.vocab.spelling import encode_plain
from unisono.vocab.tokenizer import Tokenizer, TokenTable

PANIC = "PanicException"
"""What the library raises where it breaks off in its own code: no `Exception`."""
_SOME = 100
"""Control tokens that are tried: of more, the rest is as they are."""
WORDS = 200
"""Characters of the library's words that are told."""
_AGAIN = "download its files again"


class JsonTokenizer:
    """Encodes with the `tokenizers` library, from a `tokenizer.json`."""

    def __init__(self, table: TokenTable, content: Mapping[str, Any], opening: Iterable[int] = ()) -> None:
        """``content`` is the parsed `tokenizer.json`. Its post-processor is ignored: ``opening`` begins a prompt."""
        self.table = table
        self._opening = list(opening)
        self._content = with_settled_controls(table, content)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return JsonTokenizer, (self.table, self._content, self._opening)

    def without_added(self, rows: int) -> JsonTokenizer:
        """The tokenizer without the added tokens of the ids ``rows`` and up; see `unisono.vocab.bounded`."""
        kept = [token for token in self._content["added_tokens"] if token["id"] < rows]
        return JsonTokenizer(self.table, self._content | {"added_tokens": kept}, self._opening)

    def encode(self, text: str) -> list[int]:
        return encode_plain(text, self._controls, self._encode_middle, self._encode_middle)

    def encode_prompt(self, text: str) -> list[int]:
        return self._opening + encode_plain(text, self._controls, self._encode_whole, self._encode_middle)

    def encode_rendered(self, text: str) -> list[int]:
        return self._locked(self._whole, text, controls=True)

    def _encode_whole(self, text: str) -> list[int]:
        return self._locked(self._whole, text)

    def _encode_middle(self, text: str) -> list[int]:
        return self._locked(self._middle, text)

    def _locked(self, tokenizer: tokenizers.Tokenizer, text: str, *, controls: bool = False) -> list[int]:
        """Encode in one thread at a time: whether control tokens are recognised is a state of the library's object."""
        with self._lock:
            return _encode(tokenizer, text, controls)

    @cached_property
    def _controls(self) -> dict[int, str]:
        unknown = unknown_ids(self._content["model"])
        kinds = zip(self.table.texts, self.table.kinds, strict=True)
        return {i: text for i, (text, kind) in enumerate(kinds) if kind == "control" and i not in unknown}

    @cached_property
    def _whole(self) -> tokenizers.Tokenizer:
        return _build(self._content)

    @cached_property
    def _middle(self) -> tokenizers.Tokenizer:
        exact = lossless(self._content)
        return self._whole if exact == self._content else _build(exact)


def read_tokenizer(tokenizer: Any, end_ids: Iterable[int], who: str, template: object = None) -> Tokenizer:
    """Read a `PreTrainedTokenizerBase`. Raises `ModelUnsupported` when its tokens do not spell bytes.

    ``template`` is the chat template of a model whose tokenizer has none.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    names = getattr(tokenizer, "special_tokens_map", {})
    facts: dict[str, Any] = {
        "declared_end_ids": tuple(sorted({*end_ids, *([] if eos is None else [eos])})),
        "bos_id": bos,
        "eos_id": eos,
        "special_texts": {name: str(text) for name, text in names.items() if not isinstance(text, list | tuple)},
    }
    template = getattr(tokenizer, "chat_template", None) or template
    facts["chat_template"] = default_template(template)
    facts["named_templates"] = named_templates(template, who)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return read_native(tokenizer, facts, who)
    content = json.loads(backend.to_str())
    try:
        opening = opening_of(_ids(tokenizer, "a", True), _ids(tokenizer, "a", False))
    except BaseException as error:
        if not is_panic(error):
            raise
        raise ModelCorrupt(f"{who}: its tokenizer cannot encode: {_said(error)}", hint=_AGAIN) from error
    facts |= {"adds_bos": bos is not None and bos in opening}
    try:
        table = read_json_table(content, tokenizer.all_special_ids, **facts)
    except ModelError as error:
        raise type(error)(f"{who}: {error.message}", hint=error.hint) from error
    if beyond := [each for each in opening if each >= len(table.texts)]:
        raise ModelCorrupt(f"{who}: its tokenizer begins a text with the id {beyond[0]:,}, of no token", hint=_AGAIN)
    made = JsonTokenizer(table, content, opening)
    _check_found(made, content, who)
    return made


def _check_found(tokenizer: JsonTokenizer, content: Mapping[str, Any], who: str) -> None:
    """Refuse a control token that the library finds in some places only: it is looked for in normalised text.

    Where a normalizer writes a space before every text, such a token is found behind spaces alone.
    """
    kinds = tokenizer.table.kinds
    added = content.get("added_tokens") or ()
    normalized = [token for token in added if token.get("normalized") and kinds[token["id"]] == "control"]
    for token in normalized[:_SOME] if content.get("normalizer") else ():
        texts = [f"a\n{token['content']}\nb", *([] if token.get("single_word") else [f"a{token['content']}b"])]
        if any(token["id"] not in tokenizer.encode_rendered(text) for text in texts):
            raise ModelUnsupported(
                f"{who}: the library reads its control token {shown(token['content'])} as text in most places, "
                "because tokenizer.json has it looked for in text that was normalised",
                hint=f'make it "normalized": false for {token["content"]} in added_tokens of tokenizer.json',
            )


def encode_exactly(content: Mapping[str, Any], text: str) -> list[int]:
    """Encode by a parsed `tokenizer.json`, without what it adds to a text or loses of it."""
    bare = {"truncation": None, "padding": None, "post_processor": None, "model": without_dropout(content["model"])}
    return _encode(_build(lossless({"added_tokens": [], **content, **bare})), text, controls=False)


def shaped(normalizer: object, pre_tokenizer: object, text: str) -> str:
    """What is left of a text, before it is merged, by these parts of a `tokenizer.json`."""
    parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "added_tokens": []}
    made = _build({"version": "1.0", **parts, "model": {"type": "BPE", "vocab": {}, "merges": []}})
    normal = text if made.normalizer is None else made.normalizer.normalize_str(text)
    split = [(normal, None)] if made.pre_tokenizer is None else made.pre_tokenizer.pre_tokenize_str(normal)
    return "".join(part for part, _ in split)


def opening_of(whole: list[int], body: list[int]) -> list[int]:
    """The ids that a tokenizer adds before a text; ``body`` is the same text without additions."""
    for start in range(len(whole) - len(body) + 1):
        if whole[start : start + len(body)] == body:
            return whole[:start]
    return []


def default_template(template: object) -> str | None:
    """The template itself, or the default one of several named templates."""
    if isinstance(template, Mapping):
        template = template.get("default")
    return template if isinstance(template, str) else None


def named_templates(template: object, who: str) -> dict[str, str]:
    """Several templates by their names; none where there is one. Raises `ModelCorrupt` where one is no text."""
    named = dict(template) if isinstance(template, Mapping) else {}
    for name, text in named.items():
        if not isinstance(text, str):
            raise ModelCorrupt(f"{who}: its chat template {shown(name)} is {shown(text)}, not text", hint=_AGAIN)
    return named


def is_panic(error: BaseException) -> bool:
    """Whether an error is a `PANIC`, whose class has no public name."""
    return type(error).__name__ == PANIC


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:WORDS]


def _build(content: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    except BaseException as error:  # the library raises plain Exception, and breaks off
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelCorrupt(f"the tokenizer cannot be built: {error}", hint="download its files again") from error


def _encode(tokenizer: tokenizers.Tokenizer, text: str, controls: bool) -> list[int]:
    tokenizer.encode_special_tokens = not controls
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:  # such as an expression that goes back too often
        if not is_panic(error):
            raise
        raise PromptError(
            f"the tokenizer cannot encode this text: {_said(error)}", hint="write another text, or use another model"
        ) from error
    return ids


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])
