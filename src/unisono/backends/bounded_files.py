"""What of a model's folder libraries are let read: files, of sizes and shapes that models have."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from unisono.backends.model_facts import check_tokenizer
from unisono.backends.normalizers import MOST, grows, growth_of
from unisono.errors import ModelCorrupt, ModelError, ModelUnsupported
from unisono.user_files import RepeatedKeyError, read_bytes, short_float, special, unique_keys

LONGEST_HEADER = 100_000_000
"""Of a safetensors file, in bytes: the library's own limit."""
MOST_IN_HEADER, MOST_IN_SETTINGS, MOST_IN_TOKENIZER = 4_000_000, 500_000, 8_000_000
"""Values in JSON."""
LONGEST_HEAD = 256_000_000
"""Of a GGUF file, in bytes; vocabularies of 262,144 tokens take 15 million."""
MOST_TENSORS, MOST_PAIRS, MOST_TEXTS, MOST_DIMENSIONS = 100_000, 100_000, 4_000_000, 4
LARGEST = 1 << 48
"""Elements of a tensor."""
HOLLOW = 64
"""Which part of a file has to have been written at least; file systems that compress take less for a file of zeros."""
_AGAIN = "download it again"


def refuse_specials(folder: Path) -> None:
    """Raise `ModelUnsupported` for a pipe, a device or a socket in a model's folder: who opens one may wait forever."""
    for place in (folder, folder / "additional_chat_templates"):
        for entry in sorted(os.scandir(place), key=lambda each: each.name) if place.is_dir() else ():
            with contextlib.suppress(OSError):  # a link that leads nowhere is found missing when it is read
                if kind := special(entry.stat()):
                    raise ModelUnsupported(f"{entry.path} is {kind}, not a file", hint="put the file itself there")


def refuse_hollow(path: Path) -> None:
    """Raise `ModelCorrupt` for a file of which next to nothing was ever written: it may have any size, and is read."""
    found = path.stat()
    held = getattr(found, "st_blocks", 0) * 512  # 0 where the file system does not say
    if 0 < held < found.st_size // HOLLOW - (1 << 20):
        raise ModelCorrupt(
            f"{path} has {found.st_size:,} bytes, of which {held:,} were ever written", hint="download or copy it again"
        )


def check_values(path: Path) -> None:
    """Raise `ModelCorrupt` for a tokenizer that no model has: parsed, it would take all the memory."""
    try:
        data = read_bytes(path, LONGEST_HEADER)
        if (values := data.count(b",") + 1) > MOST_IN_TOKENIZER:
            raise ValueError(f"it has about {values:,} values, and at most {MOST_IN_TOKENIZER:,} are read")
        grown = grows(data)
        if grown is None or _ODD_ID.search(data):  # a text may look so
            content = parse_json(data, MOST_IN_TOKENIZER)
            check_tokenizer(content, path)
            grown = growth_of(content) if isinstance(content, dict) else 1.0
        if grown > MOST:
            raise ValueError(f"its normalizer may make a text {grown:,.0f} times as long")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", hint="check the file") from error
    except ValueError as error:
        raise ModelCorrupt(f"{path} is no tokenizer's ({error})", hint=_AGAIN) from error


_ODD_ID = re.compile(rb":\s*(?:-|\d{8}|\d+[.eE])|\[{64}")
"""What no id of a token is, and nesting; whole files of a tokenizer are parsed only where they hold it."""


def parse_json(data: bytes, most: int, *, once: bool = False) -> Any:
    """Parse JSON of at most ``most`` values; ``once``: no key is given twice. Raises a `ValueError`."""
    values = data.count(b",") + 1
    if values > most:
        raise ValueError(f"it has about {values:,} values, and at most {most:,} are read")
    hook = unique_keys if once else None
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=hook, parse_float=short_float)
    except RepeatedKeyError as error:
        raise ValueError(f"it names {error.key} twice") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_counts(tensors: int, keys: int) -> None:
    """Raise an `EOFError` for a GGUF file that would have more than any model."""
    for number, most, what in ((tensors, MOST_TENSORS, "tensors"), (keys, MOST_PAIRS, "keys")):
        if number > most:
            raise EOFError(f"it would have {number:,} {what}, and at most {most:,} are read")
