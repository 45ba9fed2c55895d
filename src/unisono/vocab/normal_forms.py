"""The forms in which a tokenizer may read a text in place of the text's own: Unicode's, and lower case.

A model was trained on what its tokenizer made of texts, so prompts are read in its form. What members write together is
read as it is, byte for byte.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Literal

from unisono.vocab.pieces import Vocabulary
from unisono.vocab.tokenizer import Tokenizer

NormalForm = Literal["NFC", "NFKC", "NFD", "NFKD"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("NFC", "NFKC", "NFD", "NFKD")
CAPITALS = "ABC"
WHITE = b" \t\n\r\v\f"
"""What tokenizers may take away of a template's text beside special tokens, or read as spaces."""


def is_own_form(data: bytes, text: str, apart: bytes = b" ") -> bool:
    """Whether bytes are a text as a tokenizer reads it, but for the white space ``apart``."""
    found = data.translate(None, apart)
    return any(found == form.encode().translate(None, apart) for form in own_forms(text))


def own_forms(text: str) -> Iterator[str]:
    """The text, its normal forms, without accents, and all in lower case, as tokenizers read them."""
    yield text
    normal = [unicodedata.normalize(form, text) for form in NORMAL_FORMS]
    yield from normal
    bare = "".join(letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")
    yield bare
    yield from map(lowered, (text, *normal, bare))


def lowered(text: str) -> str:
    """A text in lower case letter by letter, as tokenizers do it: Python has another sigma at a word's end."""
    return "".join(map(str.lower, text))


def is_uncased(tokenizer: Tokenizer, vocabulary: Vocabulary) -> bool:
    """Whether a tokenizer reads capital letters as small ones."""
    return vocabulary.join(tokenizer.encode_prompt(CAPITALS)).strip() == CAPITALS.lower().encode()


def taken_away(tokenizer: Tokenizer, vocabulary: Vocabulary) -> tuple[str, ...]:
    """What a tokenizer takes away of a text that its vocabulary could have, in words."""
    probes = (("accents", "\u00e9", (b"e",)), ("line breaks", "a\nb", (b"ab", b"a b")))
    return tuple(what for what, text, bare in probes if vocabulary.join(tokenizer.encode_prompt(text)).strip() in bare)
