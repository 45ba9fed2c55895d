"""Tries a model's file in another process before it is read in this one: llama.cpp ends the process over some.

Where a file contradicts itself, or what llama.cpp expects of its architecture, an assertion calls ``abort``, which
nothing can catch. The other process reads the vocabulary, encodes a text, and plans what would be computed without
having the weights, which takes about a second. That a file is fine is kept in the cache, by its head and the library;
a refusal is not, as its cause may be gone the next time. ``UNISONO_TRIAL_LOAD=off`` leaves the trial out.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from unisono.backends.gguf import GgufFile
from unisono.cache import cache_root, replace_file
from unisono.errors import CacheError, ModelUnsupported
from unisono.user_files import SETTINGS, open_plain, read_bytes

SWITCH = "UNISONO_TRIAL_LOAD"
FORMAT = 2
"""Increment when the same file could fare otherwise."""
FINE = {"ended": ""}
"""What is kept of a file that llama.cpp reads."""
FAULTS = {int(each) for each in signal.Signals if each.name in ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")}
"""What ends a process over a file. Other signals come from elsewhere, such as a system without memory."""
PATIENCE = 120.0
"""Seconds, on a machine however busy; who takes longer has met no assertion."""
TEXT = "a A\n\t\x01\u00e9\u20ac\U0001f600"
_CHILD = """
import os, sys
path, *sys.path[:] = sys.argv[1:]
from unisono.backends.llamacpp import loader, trial
trial.plan(loader.library, path)
os._exit(0)
"""
"""Ends at once: a library that crashes while it is taken down, as some do of GPUs, says nothing of the file."""
_REASON = re.compile(rb"([A-Z_]*ASSERT\w*\(.*\)[^\r\n]{0,40}failed|what\(\):[^\r\n]*|terminate called[^\r\n]*)")


def check_survives(library: Any, version: str, file: GgufFile) -> None:
    """Raise a `ModelUnsupported` where llama.cpp, of this ``version``, ends the process over a file."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false"):
        return
    if not any(name == "no_alloc" for name, _ in library.llama_model_params._fields_):
        return  # of older releases, which cannot plan without weights
    entry = cache_root() / "trials" / f"{_key(library, version, file)}.json"
    if _is_kept(entry):
        return
    reason = _try(file.path)
    if reason:
        raise ModelUnsupported(
            f"llama.cpp ends the process over {file.path}: {reason}",
            hint="its head contradicts itself, or what this llama.cpp knows of its architecture: convert the model "
            "again, upgrade llama-cpp-python, or set backend: transformers. If the file is sound, and something else "
            f"ended the trial, {SWITCH}=off loads it all the same",
        )
    if reason is not None:
        _keep(entry)


def plan(library: Any, path: str) -> None:
    """Read a model without its weights, and let llama.cpp plan a pass of it: what the other process does."""
    params = library.llama_model_default_params()
    no_devices = (ctypes.c_void_p * 1)(None)
    params.devices = ctypes.cast(no_devices, ctypes.c_void_p)
    params.no_alloc, params.n_gpu_layers, params.use_extra_bufts = True, 0, False
    for name, value in (("load_mode", 0), ("use_mmap", False)):
        if hasattr(params, name):
            setattr(params, name, value)
    model = library.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return  # an error, which the loader meets and tells
    text = TEXT.encode()
    ids = (ctypes.c_int32 * (2 * len(text)))()
    library.llama_tokenize(library.llama_model_get_vocab(model), text, len(text), ids, len(ids), False, False)
    params = library.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 256, 64, 64, 1
    params.swa_full = True
    library.llama_init_from_model(model, params)


def _try(path: Path) -> str | None:
    """Why the other process ended, empty where it did not; ``None`` where nothing can be said."""
    environment = {**os.environ, SWITCH: "off", "GGML_NO_BACKTRACE": "1", "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, str(path), *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if -ended.returncode in FAULTS:
        found = _REASON.findall(ended.stderr)
        words = found[-1].decode("utf-8", "replace") if found else signal.Signals(-ended.returncode).name
        return words.removeprefix("what():").strip()
    return "" if ended.returncode == 0 else None


def _key(library: Any, version: str, file: GgufFile) -> str:
    """By the bytes before the weights, which are all that is read, and by the library's version and file."""
    digest = hashlib.sha256(repr((FORMAT, version, _library_file(library), len(file.parts))).encode())
    for part in file.parts:
        ends = [place.offset for place in file.places.values() if place.path == part]
        with open_plain(part) as opened:
            digest.update(opened.read(min(ends, default=-1)))
    return digest.hexdigest()[:32]


def _library_file(library: Any) -> tuple[str, int, int]:
    """The path, size and time of the file that is loaded: one version is built in many ways."""
    path = str(library._lib._name)
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return path, found.st_size, found.st_mtime_ns
    return path, 0, 0


def _is_kept(entry: Path) -> bool:
    try:
        return bool(json.loads(read_bytes(entry, SETTINGS)) == FINE)
    except (OSError, ValueError, RecursionError):
        return False


def _keep(entry: Path) -> None:
    def write(path: Path) -> None:
        path.write_text(json.dumps(FINE), "utf-8")

    with contextlib.suppress(CacheError):  # it is tried again
        replace_file(entry, write, "the result of a trial")
