"""Encode text for one member, exactly: in its tokenizer's own form, or spelled out where that loses something."""

from __future__ import annotations

from unisono.errors import PromptError
from unisono.vocab.normal_forms import is_own_form
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Tokenizer


class TextEncoder:
    """Encodes what a member reads without a template."""

    def __init__(self, name: str, tokenizer: Tokenizer, speller: Speller) -> None:
        """Bind a member's parts; ``name`` is for errors."""
        self.name = name
        self.tokenizer = tokenizer
        self.speller = speller

    def encode_text(self, text: str) -> list[int]:
        """Encode plain text in the tokenizer's own form, without the member's system text or prefix."""
        check_encodable(text)
        ids = self.tokenizer.encode_prompt(text)
        if is_own_form(self.speller.vocabulary.join(ids), text):
            return ids
        opening = ids[:1] if ids and ids[0] == self.tokenizer.table.bos_id else []
        return [*opening, *self.spell_text(text)]

    def opened(self, ids: list[int]) -> list[int]:
        """The ids of a text behind the member's BOS or, where it has none, behind an END, as evaluations read them."""
        bos, vocabulary = self.tokenizer.table.bos_id, self.speller.vocabulary
        return ids if ids[:1] == [bos] else [*sorted(vocabulary.end_ids)[:1], *ids]

    def spell_text(self, text: str) -> list[int]:
        """The ids of text within a prompt, exact byte for byte."""
        data = text.encode()
        ids = self.speller.own_encoding(data) or self.speller.longest_match(data)
        if ids is None:
            missing = sorted(set(data) & self.speller.vocabulary.missing_bytes)
            raise PromptError(
                f"member {self.name!r} cannot represent the prompt: its vocabulary has no token for the bytes "
                + ", ".join(f"{byte:02X}" for byte in missing),
                hint="remove those characters from the prompt, or use another model",
            )
        return list(ids)


def check_encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the prompt has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start + 1}",
            hint="such text is not Unicode and no tokenizer can read it; repair its encoding",
        ) from error
