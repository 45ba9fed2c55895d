"""What of the demo models is read for every test alike, kept for a whole run: their sums, and their tokenizers.

To check the pair's sums takes half a second, to read its vocabularies two, by transformers five. A test that is about
this reading has a cache of its own (``UNISONO_CACHE``), or copies of the files, and nothing is kept for it.
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from unisono.config import demo


def keep_what_is_read(patch: pytest.MonkeyPatch) -> None:
    """Let the sums and the tokenizers of demo models be made once for each file as it is."""
    sums: dict[object, str] = {}
    keepers = [_keep_llamacpp, _keep_transformers]
    check = demo._checked_sum

    def checked_sum(model: demo.DemoModel, path: Path, report: demo.Progress) -> str:
        while keepers:  # at the first demo model of this run
            with contextlib.suppress(ImportError):
                keepers.pop()(patch)
        key = _state_of(path)
        if key is None:
            return check(model, path, report)
        if key not in sums:
            sums[key] = check(model, path, report)
        return sums[key]

    patch.setattr(demo, "_checked_sum", checked_sum)


def _state_of(path: Path) -> object:
    """What changes with a demo model's file; ``None`` where the test is about its reading, or it is another file."""
    if "UNISONO_CACHE" in os.environ or path.name not in _NAMES:
        return None
    with contextlib.suppress(OSError):
        stat = path.stat()
        return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns
    return None


_NAMES = {Path(inside).name for model in demo.DEMO_MODELS.values() for _, inside in model.parts}


def _keep_llamacpp(patch: pytest.MonkeyPatch) -> None:
    from unisono.backends.llamacpp.loader import LlamaCppLoader

    made: dict[object, Any] = {}
    make: Any = LlamaCppLoader.__dict__["_tokenizer"].func

    def tokenizer(loader: Any) -> Any:
        key = None if loader._request.adapters else _state_of(Path(loader._request.source.path))
        if key is None:
            return make(loader)
        if key not in made:
            made[key] = make(loader), loader._vocabulary_notices
        found, loader._vocabulary_notices = made[key]
        return found

    kept = cached_property(tokenizer)
    kept.__set_name__(LlamaCppLoader, "_tokenizer")
    patch.setattr(LlamaCppLoader, "_tokenizer", kept)


def _keep_transformers(patch: pytest.MonkeyPatch) -> None:
    from unisono.backends.transformers.gguf_conversion import Conversion

    made: dict[object, Any] = {}
    make = Conversion.tokenizer

    def tokenizer(conversion: Conversion) -> Any:
        key = _state_of(Path(conversion.path))
        if key is None:
            return make(conversion)
        if key not in made:
            made[key] = make(conversion)
        return made[key]

    patch.setattr(Conversion, "tokenizer", tokenizer)
