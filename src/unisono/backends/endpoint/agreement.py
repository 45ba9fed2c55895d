"""Whether a tokenizer given for an engine is the one that the engine's model has."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.errors import SpecError, shown
from unisono.vocab.tokenizer import Tokenizer

PLAIN = (
    "Hello  world,   it's   2024:  1 12 123 1234 12345 3.14159 0x1F 007\t\ttabs\n\n\n  four  lines \r\n\r\n"
    "    def f(x):\n        return x**2 != [] || {}->y;  // ok?!... --- ~~~ ``` <<>> \\\\\n"
    "I'll we've THEY'RE don't CamelCaseWords snake_case_words ÀÉÎÕÜ ñandú straße łódź\n"
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3001\u4e2d\u6587\u53e5\u5b50\u3002 \ud55c\uad6d\uc5b4 "
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0395\u03bb\u03bb\u03ac\u03b4\u03b1 "
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 "
    "\u0e44\u0e17\u0e22 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f "
    "\u00a0\u2003\u200b\u00ad\ufffd \u221a2\u2248\u2211 \u00bd <0x0A> [x] \u0120b  "
)
"""Every kind of trouble, except what normalizers change: an engine need not know them, as it is sent ids."""
TEXT = "<s> </s> <|im_start|>user<|im_end|> <|endoftext|> [INST] <start_of_turn> \u2581a " + PLAIN
"""For engines that can be told to read the spellings of control tokens as text."""


def check_agreement(member: str, address: str, tokenizer: Tokenizer, ids: object, text: str = TEXT) -> None:
    """Raise a `SpecError` unless an engine encodes a text, without BOS and control tokens, as the tokenizer does."""
    own = tokenizer.encode_prompt(text)[len(tokenizer.table.opening) :]
    if ids == own:
        return
    given = ids if isinstance(ids, list) else []
    place = next((n for n, (a, b) in enumerate(zip(own, given, strict=False)) if a != b), min(len(own), len(given)))
    raise SpecError(
        f"the tokenizer of member {member!r} is not that of the model at {address}: of a text with which it is tried, "
        f"the {place + 1}. token is {_told(own, place, tokenizer)} here and {_told(given, place, tokenizer)} there",
        hint="let its key tokenizer name the model that is served there, in the same revision",
    )


def _told(ids: Sequence[object], place: int, tokenizer: Tokenizer) -> str:
    if place >= len(ids):
        return "missing"
    token, texts = ids[place], tokenizer.table.texts
    text = f" ({shown(texts[token])})" if isinstance(token, int) and 0 <= token < len(texts) else ""
    return f"{shown(token)}{text}"
