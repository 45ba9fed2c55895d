"""Spares transformers the vocabulary of a GGUF file, which its reader takes apart string by string."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import sys
from collections.abc import Iterator
from typing import Any

from unisono.backends.transformers.listening import replaced

STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by its kind (the GGUF specification)."""
FEW = 4096
"""Items of an array that is taken apart as always: no number of layers or heads is larger."""


@contextlib.contextmanager
def without_long_arrays() -> Iterator[None]:
    """Let gguf's reader give one and the same item, the first, as often as an array of more than `FEW` is long.

    Such arrays hold a vocabulary, of which a configuration and weights have the size alone.
    """
    if importlib.util.find_spec("gguf") is None:  # transformers says so itself
        yield
        return
    with replaced(importlib.import_module("gguf"), "GGUFReader", _shortened):
        yield


def _shortened(reader: Any) -> Any:
    class ShortReader(reader):  # type: ignore[misc]
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            """The size, the parts, which of them are items, and the kinds."""
            whole = super()._get_field_parts
            order = "<" if (sys.byteorder == "little") == (self.byte_order == "I") else ">"
            if raw_type != ARRAY:
                return whole(orig_offs, raw_type)
            kind, count = struct.unpack_from(f"{order}IQ", self.data, orig_offs)
            if count <= FEW or not (kind in SIZES or kind == STRING):
                return whole(orig_offs, raw_type)
            first = orig_offs + 12
            _, parts, [place], types = whole(first, kind)
            size = count * SIZES[kind] if kind in SIZES else self._size_of_strings(first, count, order)
            head = [self._get(orig_offs, "u4"), self._get(orig_offs + 4, "u8")]
            array = type(types[0])(ARRAY)
            return 12 + size, head + parts, [len(head) + place] * count, [array, *types]

        def _size_of_strings(self, begin: int, count: int, order: str) -> int:
            data, read, place = memoryview(self.data), struct.Struct(f"{order}Q").unpack_from, begin
            for _ in range(count):
                place += 8 + read(data, place)[0]
            return place - begin

    return ShortReader
