"""API keys: read from a file, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from unisono.errors import SpecError

LEAST = 16
"""Characters of a key: shorter ones can be guessed."""


class Keys:
    """The keys that open a server."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def admit(self, authorization: bytes | None) -> bool:
        """Whether the value of an Authorization header is ``Bearer`` and one of the keys.

        It takes the same time whichever key it resembles, and however much.
        """
        scheme, _, key = (authorization or b"").partition(b" ")
        given = _digest(key.strip())
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == b"bearer"


def read_keys(path: Path) -> Keys:
    """Read a file of keys: one a line; empty lines, and those that begin with ``#``, are left out.

    Raises:
        SpecError: it cannot be read, has no key, or one that is too short or has blanks; no key is shown.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text"
        raise SpecError(
            f"cannot read the key file {str(path)!r}: {why}", hint="name a file with a key a line"
        ) from None
    keys = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < LEAST or not key.isascii() or not key.isprintable() or " " in key:
            raise SpecError(
                f"line {number} of the key file {str(path)!r} is no key",
                hint=f"a key has {LEAST} visible ASCII characters or more, such as `openssl rand -hex 24` prints",
            )
        keys.append(key)
    if not keys:
        raise SpecError(f"the key file {str(path)!r} has no key", hint="write one a line")
    return Keys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
