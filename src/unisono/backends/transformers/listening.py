"""Listens to transformers while it loads something: its warnings, and the names that it skips without a word."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from unisono.backends.base import Progress
from unisono.backends.notices import Notices

OF_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)
"""Python's warnings that concern code, and no result."""

LEFT_OUT = "_adjust_missing_and_unexpected_keys"
"""The private function of transformers that leaves names out of its report."""


class _Handler(logging.Handler):
    def __init__(self, notices: Notices) -> None:
        super().__init__(logging.WARNING)
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        _said.add((record.name, record.getMessage()))
        self._notices.hear(record.getMessage())


_said: set[tuple[str, str]] = set()
"""By logger, what was heard of any model, and is not to be printed when a model is run."""


@contextlib.contextmanager
def heard(library: Any, notices: Notices, progress: Progress | None = None) -> Iterator[None]:
    """Take the library's warnings, and silence its progress bars and other logs. Its settings are restored."""
    notes, logger = library.utils.logging, logging.getLogger("transformers")
    verbosity, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    handlers, propagate = logger.handlers[:], logger.propagate

    def report(items: Sequence[Any], **_: Any) -> Iterator[Any]:
        for n, item in enumerate(items):
            if progress:
                progress(0.4 * n / len(items), "converting the weights")
            yield item

    if hasattr(notes.warning_once, "cache_clear"):  # what another model was warned of holds for this one, too
        notes.warning_once.cache_clear()
    notes.set_verbosity_warning()
    notes.disable_progress_bar()
    logger.handlers[:], logger.propagate = [_Handler(notices)], False
    bar = replaced(_gguf_reader(library), "tqdm", lambda _: report)
    try:
        with bar, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if not issubclass(warning.category, OF_PROGRAMMERS):
                notices.hear(str(warning.message))
    finally:
        logger.handlers[:] = [logging.NullHandler()]
        for name, words in _said:
            notes.warning_once(logging.getLogger(name), words)
        logger.handlers[:], logger.propagate = handlers, propagate
        notes.set_verbosity(verbosity)
        if bars:
            notes.enable_progress_bar()


def _gguf_reader(library: Any) -> ModuleType:
    """The library's reader of GGUF files. Where a program has used it before, the library has no such attribute."""
    return importlib.import_module(f"{library.__name__}.modeling_gguf_pytorch_utils")


@contextlib.contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Put what ``make`` makes of a function of the library in its place; nothing where there is no such function."""
    if (own := getattr(owner, name, None)) is None:
        yield
        return
    setattr(owner, name, make(own))
    try:
        yield
    finally:
        setattr(owner, name, own)


@contextlib.contextmanager
def without_adapters(library: Any) -> Iterator[None]:
    """Let transformers load what a folder has as its model, and not apply an adapter that lies beside it.

    Where peft is installed it would do so without a word, or load the base that the adapter names.
    """
    names = ("integrations.peft", "models.auto.auto_factory", "modeling_utils")
    with contextlib.ExitStack() as replacing:
        for name in names:
            module = importlib.import_module(f"{library.__name__}.{name}")
            replacing.enter_context(replaced(module, "is_peft_available", lambda own: lambda: False))
        yield


@dataclass
class Unreported:
    """What transformers knows of a loaded model and leaves out of its report."""

    ignored: set[str] = field(default_factory=set)
    """Missing names that match a pattern of the model's class."""
    failed: dict[str, str] = field(default_factory=dict)
    """Weights that could not be made of those in the files, and why."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """What it reports, of the model first."""
    deaf: str | None = None
    """The version of transformers, where it does not let these things be known."""


@contextlib.contextmanager
def unreported(library: Any) -> Iterator[Unreported]:
    """Collect what is left out of the reports on models that are loaded in this context."""
    found = Unreported()
    if not hasattr(library.PreTrainedModel, LEFT_OUT):
        found.deaf = f"transformers {library.__version__}"

    def noting(adjust: Any) -> Any:
        def adjusted(model: Any, info: Any, *more: Any) -> Any:
            before = set(getattr(info, "missing_keys", ()))
            found.failed.update(getattr(info, "conversion_errors", None) or {})
            result = adjust(model, info, *more)
            found.ignored.update(before.difference(getattr(info, "missing_keys", before)))
            if hasattr(info, "to_dict"):
                found.reports.append(info.to_dict())
            return result

        return adjusted

    with replaced(library.PreTrainedModel, LEFT_OUT, noting):
        yield found


@contextlib.contextmanager
def mapped_tensors(library: Any) -> Iterator[set[str]]:
    """Collect the names of GGUF tensors that transformers' older reader knows. It skips others without a word."""
    mapped = set[str]()

    def noting(mapping: Any) -> Any:
        def noted(*given: Any, **more: Any) -> Any:
            found = mapping(*given, **more)
            mapped.update(found)
            return found

        return noted

    with replaced(_gguf_reader(library), "get_gguf_hf_weights_map", noting):
        yield mapped
