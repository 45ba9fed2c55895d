"""The names of the backends, what each reads, and what to install for it. Imports none of their libraries."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import cast

from unisono.backends.base import Loader, LoadRequest
from unisono.backends.options import LlamaCppOptions, TransformersOptions
from unisono.backends.threads import bounded_spin
from unisono.errors import BackendMissing, SpecError, nearest


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One backend, before its library is imported."""

    name: str
    module: str
    loader: str
    """The name of the `Loader` class in the module."""
    libraries: tuple[str, ...]
    """Modules that have to be importable."""
    reads: frozenset[str]
    """Kinds of `ModelSource` it can read."""
    keys: frozenset[str]
    """Optional keys of a member, besides the common ones, that mean something to it."""
    options: frozenset[str]
    """Keys that a member's ``options`` may hold."""
    spins: int | None = None
    """Rounds that its waiting threads spin on few cores: where fewer would make it slower on an idle machine."""

    @property
    def install(self) -> str:
        """The command that installs its libraries."""
        return f"pip install 'unisono[{self.name}]'"


BACKENDS: dict[str, BackendEntry] = {
    entry.name: entry
    for entry in (
        BackendEntry(
            name="llamacpp",
            module="unisono.backends.llamacpp.loader",
            loader="LlamaCppLoader",
            libraries=("llama_cpp",),
            reads=frozenset({"gguf"}),
            keys=frozenset({"device", "context", "threads"}),
            options=frozenset(LlamaCppOptions.model_fields),
            spins=400,
        ),
        BackendEntry(
            name="transformers",
            module="unisono.backends.transformers.loader",
            loader="TransformersLoader",
            libraries=("transformers", "torch"),
            reads=frozenset({"hub", "folder", "gguf"}),
            keys=frozenset({"dtype", "device", "context", "threads"}),
            options=frozenset(TransformersOptions.model_fields),
            spins=4000,
        ),
        BackendEntry(
            name="fake",
            module="unisono.backends.fake.backend",
            loader="FakeLoader",
            libraries=(),
            reads=frozenset({"fake"}),
            keys=frozenset({"context"}),
            options=frozenset(),
        ),
    )
}
"""In order of preference for a model that several can read."""


def backend_entry(name: str) -> BackendEntry:
    """Return the entry of a backend. Raises a `SpecError` where there is none of that name."""
    if name not in BACKENDS:
        raise SpecError(
            f"unknown backend {name!r}{nearest(name, BACKENDS)}",
            hint=f"choose one of: {', '.join(BACKENDS)}",
        )
    return BACKENDS[name]


def installed(entry: BackendEntry) -> bool:
    """Whether the backend's libraries can be imported. Imports nothing."""
    return not _missing(entry)


def _missing(entry: BackendEntry) -> list[str]:
    return [library for library in entry.libraries if importlib.util.find_spec(library) is None]


def make_loader(name: str, request: LoadRequest) -> Loader:
    """Import a backend and give it a request. Raises a `BackendMissing` where its library is not installed."""
    entry = backend_entry(name)
    if missing := _missing(entry):
        raise BackendMissing(
            f"member {request.name!r} needs the backend {name!r}, but {', '.join(missing)} is not installed",
            hint=f"install it: {entry.install}",
        )
    with bounded_spin(None if entry.module in sys.modules else entry.spins):
        module = importlib.import_module(entry.module)
    return cast(Loader, getattr(module, entry.loader)(request))
