"""A GGUF file as transformers needs it: converted once, kept in the user's cache.

Three entries for a file, each keyed by its SHA-256, so that `doctor` never converts weights: the
configuration, the tokenizer, and for each dtype the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unisono.backends.base import ModelSource, Progress
from unisono.backends.gguf import GgufFile, read_gguf, read_table
from unisono.backends.transformers.gguf_model import adds_bos, gguf_tokenizer_json
from unisono.backends.transformers.tokenizer import JsonTokenizer
from unisono.cache import build_once, cache_root, require_space

FORMAT = 1
"""Raised whenever a conversion would come out otherwise than before."""
ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
SPARE_BYTES = 64_000_000

WriteWeights = Callable[[Any, str, Path, Progress], None]
"""Reads the weights with a configuration and a dtype, and writes a folder that transformers loads."""


class Conversion:
    """One GGUF file and what has been made of it."""

    def __init__(
        self, source: ModelSource, read_config: Callable[[], dict[str, Any]], write_weights: WriteWeights
    ) -> None:
        self.path = source.path
        self._sha256 = source.sha256
        self._read_config = read_config
        self._write_weights = write_weights

    def tokenizer(self) -> JsonTokenizer:
        """The tokenizer, its table read from the file itself."""
        table = replace(read_table(self.file), adds_bos=adds_bos(self.file))
        content = self._json("tokenizer", lambda: gguf_tokenizer_json(self.file, table))
        return JsonTokenizer(table, content, table.opening)

    def config(self) -> dict[str, Any]:
        """The model's configuration, as a ``config.json`` holds it."""
        assert self.file  # its error tells of damage better than the library's
        return self._json("config", self._read_config)

    def weights(self, config: Any, dtype: str, progress: Progress) -> Path:
        """The folder of the weights in a dtype.

        Raises:
            CacheError: there is no room for them.
        """
        entry = self._entry(dtype)

        def build(target: Path) -> None:
            size = self.file.parameters * ITEM_SIZES[dtype] + SPARE_BYTES
            require_space(entry.parent, size, self._what("weights"))
            progress(0.0, f"converting {self.path.name} once, for this and later runs")
            self._write_weights(config, dtype, target, progress)

        return build_once(entry, build, self._what("weights"))

    @cached_property
    def file(self) -> GgufFile:
        return read_gguf(self.path)

    def _json(self, part: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The content of an entry that is JSON."""

        def build(target: Path) -> None:
            target.write_text(json.dumps(make(), ensure_ascii=False), "utf-8")

        entry = build_once(self._entry(f"{part}.json"), build, self._what(part))
        content: dict[str, Any] = json.loads(entry.read_text("utf-8"))
        return content

    def _what(self, part: str) -> str:
        return f"the converted {part} of {self.path.name}"

    def _entry(self, name: str) -> Path:
        if self._sha256 is None:
            with self.path.open("rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cache_root() / "transformers" / f"{self._sha256[:32]}-v{FORMAT}" / name
