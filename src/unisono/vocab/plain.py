"""Plain text stays plain: what a user typed never becomes a control token."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping

Encode = Callable[[str], list[int]]


def encode_plain(text: str, controls: Mapping[int, str], first: Encode, rest: Encode) -> list[int]:
    """Encode text with a library that takes some control tokens out of it all the same.

    A Unigram model lists them among its ordinary pieces; llama.cpp declares some user-defined by their
    names. Where that happens, the text is cut after the first character of the token's name, and the
    parts are encoded one by one. A token that cannot be cut is left out: the ids are then not exact,
    which the caller finds out by joining their pieces.

    Args:
        text: what to encode.
        controls: the control tokens' texts by id, without the unknown token.
        first: encodes the beginning of the text.
        rest: encodes what stands in the middle of a text.
    """
    ids = first(text)
    spelled = controls.keys() & set(ids)
    if not spelled:
        return ids
    names = "|".join(re.escape(controls[token]) for token in sorted(spelled))
    cuts = [match.start() + 1 for match in re.finditer(f"(?={names})", text)]
    if not cuts or cuts == [len(text)]:
        return [token for token in ids if token not in spelled]
    bounds = [0, *cuts, len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    encoded = encode_plain(parts[0], controls, first, rest)
    for part in parts[1:]:
        encoded += encode_plain(part, controls, rest, rest)
    return encoded
