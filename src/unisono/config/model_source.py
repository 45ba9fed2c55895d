"""What a member's ``model`` is, and which backend reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from unisono.backends.base import ModelSource
from unisono.backends.endpoint.settings import RETRIES, TIMEOUT, EndpointSource
from unisono.backends.file_kinds import begins_as_gguf, refuse_other_kinds
from unisono.backends.registry import BACKENDS, BackendEntry, backend_entry, check_files, installed
from unisono.backends.weight_files import naming
from unisono.config.demo import PREFIX, demo_model, demo_path
from unisono.config.member import RAY, MemberSpec
from unisono.config.ray import RaySource, ray_source
from unisono.errors import BackendMissing, ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported, SpecError, nearest
from unisono.user_files import special

_MODELS = "give a GGUF file, a folder with a Hugging Face model, or a hub id"
OF_ENSEMBLES = (
    *("name", "weight", "temperature", "calibrate", "system", "prefix", "marks", "on_failure", "chat_template"),
    *("ray", "top", "timeout", "retries"),
)
"""Keys of a member that the actor which loads its model has no use for."""


def find_model(spec: MemberSpec, folder: Path, say: Callable[[float, str], None]) -> ModelSource:
    """Tell what a member's ``model`` is: a demo model, a GGUF file, a folder, or a hub id.

    Raises:
        ModelNotFound: it looks like a path, but nothing is there; or it is only one in the current folder.
        ModelError: it is a file, but no GGUF file.
    """
    if spec.url is not None:
        return _find_endpoint(spec, folder, say)
    if spec.ray is not None:
        return _find_actor(spec, folder)
    name = spec.model
    assert name is not None, "the weights are another member's"
    if name.startswith(PREFIX):
        with naming(f"member {spec.name!r}: "):
            model = demo_model(name.removeprefix(PREFIX))
            return ModelSource("gguf", str(demo_path(model.name, progress=say)), model.sha256)
    if name.startswith("fake:"):
        return ModelSource("fake", name.removeprefix("fake:"))
    try:
        path = folder / Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a user that is not there
        raise ModelNotFound(f"the model of member {spec.name!r}, {name!r}, cannot be looked up: {error}") from error
    if is_folder:
        return ModelSource("folder", str(path))
    if is_file:
        _check_gguf(spec.name, path)
        return ModelSource("gguf", str(path))
    _check_hub_id(spec.name, name, path, folder)
    return ModelSource("hub", name)


def find_adapter(spec: MemberSpec, folder: Path, backend: str) -> str | None:
    """The path of a member's adapter, for the backend that has its model. Raises a `UnisonoError`."""
    if spec.adapter is None:
        return None
    subject, kind = f"the adapter of member {spec.name!r}, {spec.adapter!r},", BACKENDS[backend].adapts
    if not kind:
        raise SpecError(
            f"{subject} is for weights that are loaded here, and the backend {backend!r} has none",
            hint="merge it into the weights, or choose the backend transformers or llamacpp",
        )
    if spec.adapter.startswith("fake:"):
        if backend != "fake":
            raise ModelUnsupported(
                f"{subject} is a fake, and the backend {backend!r} has models", hint=f"give {kind}, by its path"
            )
        return spec.adapter.removeprefix("fake:")
    try:
        path = folder / Path(spec.adapter).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelNotFound(f"{subject} cannot be looked up: {error}") from error
    if not is_folder and not is_file:
        raise ModelNotFound(
            f"{subject} is not at {str(path)!r}", hint="relative paths are taken from the folder of the ensemble file"
        )
    if is_file is not (backend == "llamacpp"):
        raise ModelUnsupported(
            f"{subject} is {'a file' if is_file else 'a folder'}; for the backend {backend!r} an adapter is {kind}",
            hint="choose the backend transformers for PEFT's folders, llamacpp for GGUF files, or convert it "
            "(llama.cpp: convert_lora_to_gguf.py)",
        )
    return str(path)


def _check_gguf(member: str, path: Path) -> None:
    """Raise a `ModelError` where a file does not begin as GGUF files do."""
    try:
        if begins_as_gguf(path):
            return
    except OSError as error:
        words = f"the model of member {member!r}, {str(path)!r}, cannot be read: {error.strerror}"
        raise ModelError(words, hint="check the file") from error
    with naming(f"member {member!r}: "):
        refuse_other_kinds(path, "gguf")
    raise ModelCorrupt(f"the model of member {member!r}, {str(path)!r}, is not a GGUF file", hint=_MODELS)


def _check_hub_id(member: str, name: str, path: Path, folder: Path) -> None:
    """Raise a `ModelError` where a model that is neither file nor folder seems to be meant as one."""
    subject = f"the model of member {member!r}"
    if path.exists():
        kind = special(path.stat()) or "neither file nor folder"
        raise ModelUnsupported(f"{subject}, {str(path)!r}, is {kind}", hint=_MODELS)
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFound(
            f"{subject}, {str(path)!r}, does not exist",
            hint="relative paths are taken from the folder of the ensemble file; demo models are written demo:NAME",
        )
    if os.path.exists(name):  # transformers would read it in place of the hub's model
        raise ModelNotFound(
            f"{subject}, {name!r}, is not in {str(folder)!r}, but is in the current folder",
            hint="relative paths are taken from the folder of the ensemble file: write the path as seen from there. "
            "For the hub's model of that name, run unisono in another folder",
        )


def _find_endpoint(spec: MemberSpec, folder: Path, say: Callable[[float, str], None]) -> EndpointSource:
    tokenizer, reader = None, ""
    if spec.tokenizer is not None:
        its = MemberSpec(name=spec.name, model=spec.tokenizer)
        with naming("the tokenizer: "):
            tokenizer = find_model(its, folder, say)
            reader = choose_backend(its, tokenizer).name
            check_files(reader, spec.name, tokenizer)
    return EndpointSource(
        kind="endpoint",
        location=str(spec.url),
        api_key_env=spec.api_key_env,
        served_model=spec.served_model,
        tokenizer=tokenizer,
        tokenizer_backend=reader,
        top=spec.top,
        timeout=TIMEOUT if spec.timeout is None else spec.timeout,
        retries=RETRIES if spec.retries is None else spec.retries,
        wait=spec.wait,
    )


def _find_actor(spec: MemberSpec, folder: Path) -> RaySource:
    assert spec.ray is not None
    return ray_source(
        spec.ray,
        spec.model_dump_json(exclude=set(OF_ENSEMBLES), exclude_defaults=True),
        folder,
        top=spec.top,
        timeout=TIMEOUT if spec.timeout is None else spec.timeout,
        retries=RETRIES if spec.retries is None else spec.retries,
    )


def adapter_is_file(adapter: str | None, folder: Path) -> bool | None:
    """Whether an adapter is a file, or a folder; ``None`` where there is none, or it cannot be looked up."""
    if adapter is None or adapter.startswith("fake:"):
        return None
    try:
        path = folder / Path(adapter).expanduser()
        return True if path.is_file() else False if path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def choose_backend(spec: MemberSpec, source: ModelSource, is_file: bool | None = None) -> BackendEntry:
    """Return the backend that a member names, or the first that reads its model, knows its keys and is installed.

    ``is_file`` is whether adapters on its model are files (`adapter_is_file`): other forms are for other backends.

    Raises:
        SpecError: the named backend cannot read this kind of model, or does not know a key or an option.
        BackendMissing: none that could is installed.
    """
    keys = {key for key in ("dtype", "device", "context", "threads") if getattr(spec, key) is not None}
    if spec.ray is not None:  # the actor chooses, of what is installed on its node
        return backend_entry(RAY)
    if spec.backend is not None:
        entry = backend_entry(spec.backend)
        _check_fit(spec, entry, source, keys)
        return entry
    able = [
        entry
        for entry in BACKENDS.values()
        if source.kind in entry.reads and keys <= entry.keys and set(spec.options) <= entry.options
    ]
    adapting = [entry for entry in able if is_file is None or (entry.adapts and is_file is (entry.name == "llamacpp"))]
    able = adapting or able  # find_adapter says what is wrong
    for entry in able:
        if installed(entry):
            return entry
    if able:
        raise BackendMissing(
            f"member {spec.name!r} needs one of the backends {', '.join(entry.name for entry in able)}, "
            "and none of them is installed",
            hint=f"install one: {able[0].install}",
        )
    readers = [entry for entry in BACKENDS.values() if source.kind in entry.reads]
    _check_fit(spec, readers[0], source, keys)
    return readers[0]


def _check_fit(spec: MemberSpec, entry: BackendEntry, source: ModelSource, keys: set[str]) -> None:
    if source.kind not in entry.reads:
        able = [other.name for other in BACKENDS.values() if source.kind in other.reads]
        kind = {
            "hub": "a hub id",
            "folder": "a folder",
            "gguf": "a GGUF file",
            "fake": "a fake",
            "endpoint": "an address",
            "ray": "what an actor loads",
        }[source.kind]
        raise SpecError(
            f"the backend {entry.name!r} of member {spec.name!r} cannot read {kind} ({spec.home!r})",
            hint=f"use backend: {' or '.join(able)}",
        )
    for key in sorted(keys - entry.keys):
        raise SpecError(
            f"the backend {entry.name!r} of member {spec.name!r} has no use for the key {key!r}",
            hint=f"leave it out, or use a backend that knows it; {entry.name} knows: {', '.join(sorted(entry.keys))}",
        )
    for key in sorted(set(spec.options) - entry.options):
        raise SpecError(
            f"the backend {entry.name!r} of member {spec.name!r} has no option {key!r}{nearest(key, entry.options)}",
            hint=f"its options: {', '.join(sorted(entry.options)) or 'none'}",
        )
