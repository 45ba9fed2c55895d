"""The backends' names, model sources and install commands. Imports none of their libraries."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from unisono.backends.base import Loader, LoadRequest, ModelSource
from unisono.backends.options import LlamaCppOptions, TransformersOptions, VllmOptions
from unisono.backends.threads import bounded_spin
from unisono.errors import BackendMissing, SpecError, nearest


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """A backend's description, available without importing its library."""

    name: str
    module: str
    loader: str
    libraries: tuple[str, ...]
    reads: frozenset[str]
    keys: frozenset[str]
    """Member keys that this backend supports beyond the common ones."""
    options: frozenset[str]
    """Supported keys of a member's ``options``."""
    spins: int | None = None
    """OpenMP spin rounds on few cores; fewer would slow an idle machine."""
    looks: str | None = None
    """What looks whether a model's files are there, ``MODULE:FUNCTION``, without the libraries."""
    looks_at_adapter: str | None = None
    """What looks at an adapter's files alone, ``MODULE:FUNCTION``, without the libraries."""
    adapts: str = ""
    """What its adapters are, in words; nothing where it has none."""
    is_choice: bool = True
    """Whether a file names it; otherwise it follows from another key."""

    @property
    def install(self) -> str:
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
            looks_at_adapter="unisono.backends.llamacpp.adapter_file:check_file",
            adapts="a GGUF file",
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
            looks_at_adapter="unisono.backends.transformers.adapter_files:check_adapter",
            adapts="a folder with adapter_config.json",
            spins=4000,
            looks="unisono.backends.transformers.model_folder:check_there",
        ),
        BackendEntry(
            name="vllm",
            module="unisono.backends.vllm.loader",
            loader="VllmLoader",
            libraries=("transformers", "torch"),  # vLLM itself may be in an environment of its own
            reads=frozenset({"hub", "folder"}),
            keys=frozenset({"dtype", "context", "threads"}),
            options=frozenset(VllmOptions.model_fields),
            looks="unisono.backends.transformers.model_folder:check_there",
        ),
        BackendEntry(
            name="endpoint",
            module="unisono.backends.endpoint.loader",
            loader="EndpointLoader",
            libraries=("httpx2",),
            reads=frozenset({"endpoint"}),
            keys=frozenset({"context"}),
            options=frozenset(),
        ),
        BackendEntry(
            name="ray",
            module="unisono.ray.loader",
            loader="RayLoader",
            libraries=("ray",),
            reads=frozenset({"ray"}),
            keys=frozenset(),
            options=frozenset(),
            is_choice=False,
        ),
        BackendEntry(
            name="fake",
            module="unisono.backends.fake.backend",
            loader="FakeLoader",
            libraries=(),
            reads=frozenset({"fake"}),
            keys=frozenset({"context"}),
            options=frozenset(),
            adapts="a name",
            is_choice=False,
        ),
    )
}
"""In order of preference."""
CHOICES = tuple(name for name, entry in BACKENDS.items() if entry.is_choice)


def backend_entry(name: str) -> BackendEntry:
    """Return a backend's entry. Raises a `SpecError` for an unknown name."""
    if name not in BACKENDS:
        raise SpecError(
            f"unknown backend {name!r}{nearest(name, CHOICES)}",
            hint=f"choose one of: {', '.join(CHOICES)}",
        )
    return BACKENDS[name]


def installed(entry: BackendEntry) -> bool:
    """Whether the backend's libraries are installed. Imports nothing."""
    return not _missing(entry)


def _missing(entry: BackendEntry) -> list[str]:
    return [library for library in entry.libraries if importlib.util.find_spec(library) is None]


def check_files(name: str, member: str, source: ModelSource) -> None:
    """Look whether what a backend is to read is there at all: its libraries take seconds to import.

    Raises a `ModelError` that names the member.
    """
    if (looks := BACKENDS[name].looks) is not None:
        _function(looks)(member, source)


def check_adapter_files(name: str, member: str, path: str) -> None:
    """Look whether an adapter is one and whole, before its model is read, which may take long.

    Raises a `ModelError` that names the member.
    """
    if (looks := BACKENDS[name].looks_at_adapter) is not None:
        _function(looks)(Path(path), f"member {member!r}")


def _function(place: str) -> Callable[..., None]:
    module, _, function = place.partition(":")
    return cast(Callable[..., None], getattr(importlib.import_module(module), function))


def make_loader(name: str, request: LoadRequest) -> Loader:
    """Import a backend and create its loader. Raises `BackendMissing` when its library is not installed."""
    entry = backend_entry(name)
    if missing := _missing(entry):
        raise BackendMissing(
            f"member {request.name!r} needs the backend {name!r}, but {', '.join(missing)} is not installed",
            hint=f"install it: {entry.install}",
        )
    with bounded_spin(None if entry.module in sys.modules else entry.spins):
        module = importlib.import_module(entry.module)
    return cast(Loader, getattr(module, entry.loader)(request))
