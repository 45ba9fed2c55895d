"""Loads a model into an engine of vLLM: in this process where that is the model's own, else in one that it starts.

The vocabulary, and what is known of a model before its weights, is read by the transformers backend: vLLM reads the
same files.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from unisono.backends.base import Backend, Loader, LoadRequest, ModelFacts, Progress
from unisono.backends.options import VllmOptions
from unisono.backends.registry import make_loader
from unisono.backends.vllm.backend import VllmBackend
from unisono.backends.vllm.core import Core
from unisono.backends.vllm.versions import check_version
from unisono.errors import BackendMissing, ModelError, UnisonoError
from unisono.vocab.tokenizer import Tokenizer

OWN = ("python", "revision", "trust_remote_code")
"""Options that are not handed on as they are."""
CACHE_BYTES = 4 << 30
"""The most memory for keys and values on a processor, unless one text needs more or the options say so."""
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""What vLLM is told by its environment, where that says nothing else. Nothing is reported to anybody."""


class VllmLoader:
    def __init__(self, request: LoadRequest) -> None:
        self._request = request
        self._options = VllmOptions.read(request)

    def tokenizer(self) -> Tokenizer:
        return self._files.tokenizer()

    def facts(self) -> ModelFacts:
        own = self._own_facts
        return replace(own, context=self.context, device="vllm", threads=None)

    def load(self, progress: Progress) -> Backend:
        if self._request.alone and self._options.python is None:
            return self._load_here(progress)
        if importlib.util.find_spec("httpx2") is None:
            raise BackendMissing(
                f"member {self._request.name!r}: httpx2 is not installed, by which its process is asked",
                hint="install it: pip install 'unisono[vllm]'",
            )
        process = importlib.import_module("unisono.backends.vllm.process")
        return cast(Backend, process.start_backend(self._request, self._options, self.facts(), progress))

    @property
    def context(self) -> int:
        """Tokens that a text may hold: vLLM wants room for the token that it chooses."""
        own, asked = self._own_facts, self._request.context
        limit = own.trained_context or own.context
        return max(1, min(asked or limit - 1, limit - 1))

    @cached_property
    def _files(self) -> Loader:
        options: dict[str, object] = {"trust_remote_code": self._options.trust_remote_code}
        if self._options.revision is not None:
            options["revision"] = self._options.revision
        dtype = self._request.dtype or "auto"
        return make_loader("transformers", replace(self._request, dtype=dtype, device="cpu", options=options))

    @cached_property
    def _own_facts(self) -> ModelFacts:
        return self._files.facts()

    def _load_here(self, progress: Progress) -> VllmBackend:
        request = self._request
        who = f"member {request.name!r} ({request.source.location})"
        number = check_version(who)
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if request.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(request.threads)
        progress(0.05, f"starting vLLM {number}")
        facts = self.facts()
        try:
            local_core = importlib.import_module("unisono.backends.vllm.local_core")
            core: Core = local_core.LocalCore(self._arguments(facts), self.context)
            importlib.import_module("unisono.backends.transformers.torch_runtime").use_threads(request.threads)
        except UnisonoError:
            raise
        except Exception as error:
            raise ModelError(
                f"vLLM cannot load the model of {who}: {_words(error)}",
                hint="its options are handed on as they are; less memory is taken by a smaller context or max_num_seqs",
            ) from error
        if core.board.width != facts.rows:
            core.shut_down()
            raise ModelError(f"vLLM gives rows of {core.board.width} numbers of {who}, whose files say {facts.rows}")
        progress(1.0, "loaded")
        return VllmBackend(request.name, core, request.slots, _warnings(request, core, facts))

    def _arguments(self, facts: ModelFacts) -> dict[str, object]:
        request, options = self._request, self._options
        slots = options.max_num_seqs or request.slots
        given: dict[str, Any] = options.model_dump(exclude_none=True, exclude=set(OWN))
        return {
            "model": request.source.location,
            "dtype": request.dtype or "auto",
            "max_model_len": self.context + 1,
            "max_num_seqs": slots,
            "enable_prefix_caching": True,
            "skip_tokenizer_init": True,
            "disable_log_stats": True,
            "revision": options.revision,
            "trust_remote_code": options.trust_remote_code,
            "memory_without_accelerator": _cache_bytes(facts, request.slots, slots),
            **given,
        }


def _cache_bytes(facts: ModelFacts, slots: int, sessions: int) -> int:
    """Memory for keys and values on a processor: for all sessions, within bounds, and for one text in any case."""
    one = facts.cache_bytes // slots + 1
    return max(2 * one, min(sessions * one, CACHE_BYTES)) + (1 << 20)


def _warnings(request: LoadRequest, core: Core, facts: ModelFacts) -> tuple[str, ...]:
    if core.sessions >= request.slots:
        return ()
    return (
        f"its engine holds {core.sessions} texts at once, and up to {request.slots} are written: it reads texts again "
        "when they take turns; raise its option max_num_seqs, or write fewer at once",
    )


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
