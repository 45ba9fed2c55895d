"""The llama.cpp backend: GGUF files through the low-level interface of llama-cpp-python."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from unisono.backends.base import BackendFacts, LoadRequest, ModelFacts, Progress
from unisono.backends.gguf import GgufFile
from unisono.backends.gguf_parts import check_layers, read_gguf, unsupported
from unisono.backends.gguf_stated import unread_by_llamacpp
from unisono.backends.gguf_tokens import read_table
from unisono.backends.llamacpp import log
from unisono.backends.llamacpp.adapter_file import check_adapter
from unisono.backends.llamacpp.adapters import AdaptedLlamaCppBackend, load_adapter
from unisono.backends.llamacpp.facts import (
    cache_bytes_a_token,
    choose_device,
    fingerprint,
    refuse_other_models,
    state_bytes,
    trained_context,
)
from unisono.backends.llamacpp.library import VERSION, library, load_model, set_where_known
from unisono.backends.llamacpp.model import LlamaCppBackend, Loaded, output_rows
from unisono.backends.llamacpp.state_model import StateLlamaCppBackend
from unisono.backends.llamacpp.tokenizer import LlamaCppTokenizer
from unisono.backends.llamacpp.trial import check_survives
from unisono.backends.notices import LLAMACPP_NOISE, Notices, gguf_warnings
from unisono.backends.options import CACHE_TYPES, LlamaCppOptions
from unisono.backends.seams import SEAMS
from unisono.backends.threads import free_threads, told
from unisono.errors import DeviceError, ModelError, SpecError, UnisonoError
from unisono.vocab.tokenizer import TokenTable

DEFAULT_CONTEXT = 4096
"""Tokens per slot by default. A cache for the full trained context can need more memory than the weights."""

_CACHE_STEP = 256  # llama.cpp makes a slot's cache of a multiple of this many tokens


class LlamaCppLoader:
    def __init__(self, request: LoadRequest) -> None:
        if request.source.kind != "gguf":
            raise SpecError(
                f"member {request.name!r}: llamacpp reads GGUF files, not a {request.source.kind}",
                hint="give the path of a .gguf file, or choose another backend",
            )
        if request.dtype is not None:
            raise SpecError(
                f"member {request.name!r}: dtype is {request.dtype!r}, but a GGUF file's number formats are its own",
                hint="leave dtype out, or take a file with another quantisation",
            )
        self._request = request
        self._options = LlamaCppOptions.read(request)
        self._device = choose_device(request, self._options, library)
        self._vocabulary_notices, self._weight_notices = Notices(LLAMACPP_NOISE), Notices(LLAMACPP_NOISE)

    def tokenizer(self) -> LlamaCppTokenizer:
        with self._named():
            _ = self._adapter_doubts
        return self._tokenizer

    def facts(self) -> ModelFacts:
        with self._named():
            file, context = self._file, self._slot_context
            refuse_other_models(file)
            check_layers(file)
            doubts = self._adapter_doubts
            _ = self._tokenizer  # whose warnings belong to the facts
            tokens = file.metadata.get("tokenizer.ggml.tokens")
            padded = -(-context // _CACHE_STEP) * _CACHE_STEP
            keys = round(cache_bytes_a_token(file, self._options) * padded)
            return ModelFacts(
                architecture=file.architecture,
                rows=len(tokens) if isinstance(tokens, list) else 0,
                parameters=file.parameters or None,
                context=context,
                trained_context=trained_context(file),
                weight_bytes=file.data_bytes,
                cache_bytes=(keys + SEAMS * state_bytes(file)) * self._request.slots,
                dtype=_weight_format(file),
                device=self._device.name,
                threads=self._threads_told,
                tied="output.weight" not in file.shapes,
                warnings=(*gguf_warnings(file), *unread_by_llamacpp(file), *self._vocabulary_notices.told(), *doubts),
            )

    def load(self, progress: Progress) -> LlamaCppBackend:
        """Load the weights and create the cache. Ctrl-C frees everything loaded so far."""
        with self._named():
            refuse_other_models(self._file)
            self.tokenizer()  # refuses what the weights need not be read for
            check_layers(self._file)
            with log.heard(self._weight_notices):
                loaded = Loaded(library, self._load_model(lambda done: progress(0.95 * done, "reading the weights")))
                # Before the context is made, which makes room for what they compute.
                adapters = {path: self._load_adapter(path, loaded) for path in self._request.adapters}
                progress(0.95, "making the cache")
                backend = self._make_backend(loaded, adapters)
        progress(1.0, "loaded")
        return backend

    @cached_property
    def _file(self) -> GgufFile:
        return read_gguf(self._request.source.path)

    @cached_property
    def _tokenizer(self) -> LlamaCppTokenizer:
        with self._named():
            file = self._file
            table = read_table(file)  # first: some vocabularies that it refuses end the process in llama.cpp
            if self._request.source.sha256 is None:  # the models of the demo are known to load
                check_survives(library, VERSION, file)
            params = library.llama_model_default_params()
            params.vocab_only = True
            with log.heard(self._vocabulary_notices):
                model = load_model(file, params)
            try:
                _refuse_other_memories(model, file)
                if self._request.adapters and _has_state(model):
                    raise unsupported(file, "it has a running state, and its members cannot have adapters")
            except ModelError:
                library.llama_model_free(model)
                raise
            return LlamaCppTokenizer(library, model, table, partial(_tokenizer_of, file.path, table, fingerprint(file)))

    @property
    def _slot_context(self) -> int:
        trained, asked = trained_context(self._file), self._request.context
        if asked is None:
            return min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        if trained is not None and asked > trained:
            raise SpecError(
                f"context is {asked}, but the model was trained for {trained} tokens",
                hint=f"set context to {trained} or less",
            )
        return asked

    @property
    def _threads(self) -> int:
        return self._request.threads or free_threads()

    @property
    def _threads_told(self) -> str:
        # Without OpenMP, llama.cpp's own barriers spin without bound (ggml-cpu.c, ggml_barrier).
        openmp = b"OPENMP = 1" in library.llama_print_system_info()
        return told(self._threads, asked=self._request.threads is not None, openmp=openmp)

    def _load_model(self, report: Callable[[float], None]) -> int:
        device, options = self._device, self._options
        params = library.llama_model_default_params()
        params.n_gpu_layers = device.layers
        if device.layers == 0:
            params.devices = ctypes.cast(_NO_DEVICES, ctypes.c_void_p)
        if device.index is not None:
            params.split_mode, params.main_gpu = library.LLAMA_SPLIT_MODE_NONE, device.index
        if options.mmap is not None:
            set_where_known(params, "use_mmap", options.mmap)
            set_where_known(params, "load_mode", int(options.mmap))
        # Builds with AMX kernels were seen to end the process in the first decode. In the sources of
        # llama.cpp (ggml-cpu/amx/amx.cpp, ggml-cpu/traits.cpp) a kernel of AMX runs only for a tensor
        # that lies in AMX's own "extra" buffer type, so without extra buffer types none ever runs.
        if b"AMX" in library.llama_print_system_info():
            params.use_extra_bufts = False
        return load_model(self._file, params, report)

    @cached_property
    def _adapter_doubts(self) -> list[str]:
        """What is to be warned of. Raises a `ModelError` for an adapter that does not fit."""
        return [words for path in self._request.adapters for words in check_adapter(Path(path), self._file)]

    def _load_adapter(self, path: str, loaded: Loaded) -> Any:
        log.clear()
        return load_adapter(library, path, loaded.model, log.last_errors)

    def _make_backend(self, loaded: Loaded, adapters: Mapping[str, Any]) -> LlamaCppBackend:
        request, options, context = self._request, self._options, self._slot_context
        rows = library.llama_vocab_n_tokens(library.llama_model_get_vocab(loaded.model))
        params = library.llama_context_default_params()
        params.n_ctx = -(-context // _CACHE_STEP) * _CACHE_STEP * request.slots
        params.n_seq_max = request.slots
        params.n_batch = params.n_ubatch = options.batch_tokens
        set_where_known(params, "n_outputs_max", output_rows(rows, request.slots, options.batch_tokens))
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = -1 if options.flash_attention == "auto" else int(options.flash_attention)
        params.type_k = params.type_v = CACHE_TYPES[options.cache_dtype][0]
        params.offload_kqv = params.op_offload = self._device.layers != 0
        params.no_perf = True
        # Sliding-window layers keep every position: otherwise a slot could not be rewound past the window.
        params.swa_full = True
        # One cache per slot: the contents of other slots affect neither its room nor its sums.
        params.kv_unified = False
        log.clear()
        handle = library.llama_init_from_model(loaded.model, params)
        if not handle:
            raise DeviceError(
                f"llama.cpp could not make a cache of {request.slots} × {context} tokens: {log.last_errors()}",
                hint="lower context, the number of prompts at once, or set cache_dtype: q8_0 with flash_attention",
            )
        loaded.contexts.append(handle)
        if not library.llama_get_memory(handle):
            raise unsupported(self._file, "it keeps no memory of what it has read")
        already = self._vocabulary_notices.told()
        warnings = tuple(each for each in self._weight_notices.told() if each not in already)
        facts = BackendFacts(
            device=self._device.name,
            rows=rows,
            context=context,
            slots=request.slots,
            neighbours=True,
            warnings=warnings,
            rewinds_anywhere=not _has_state(loaded.model),
        )
        kind = StateLlamaCppBackend if _has_state(loaded.model) else LlamaCppBackend
        if adapters:
            return AdaptedLlamaCppBackend(library, request.name, loaded, facts, log.last_errors, adapters=adapters)
        return kind(library, request.name, loaded, facts, log.last_errors)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        prefix = f"member {self._request.name!r}: "
        try:
            yield
        except UnisonoError as error:
            if error.message.startswith(prefix):
                raise
            raise type(error)(prefix + error.message, hint=error.hint) from error


def _tokenizer_of(path: Path, table: TokenTable, known_as: bytes) -> LlamaCppTokenizer:
    """The tokenizer of a file that has been checked, in another process. Raises a `ModelError`."""
    file = read_gguf(path)
    if fingerprint(file) != known_as:
        raise ModelError(f"{path} is another file than when it was loaded", hint="restart what has loaded it")
    params = library.llama_model_default_params()
    params.vocab_only = True
    return LlamaCppTokenizer(library, load_model(file, params), table)


_NO_DEVICES = (ctypes.c_void_p * 1)(None)
"""An empty list of GPUs. Without it, a build with GPU support offloads work on its own."""


def _has_state(model: int) -> bool:
    return bool(library.llama_model_is_recurrent(model) or library.llama_model_is_hybrid(model))


def _refuse_other_memories(model: int, file: GgufFile) -> None:
    """Reject models whose memory can neither be rewound nor kept, or that do not generate left to right."""
    if _has_state(model):
        if not hasattr(library, "llama_state_seq_set_data_ext"):
            raise unsupported(file, "its memory is a running state, which this llama-cpp-python cannot copy")
        if library.llama_model_n_swa(model):
            raise unsupported(file, "it has sliding windows beside a running state; a copy would lack tokens")
    if library.llama_model_is_diffusion(model):
        raise unsupported(file, "it does not write from left to right")
    if library.llama_model_has_encoder(model) or not library.llama_model_has_decoder(model):
        raise unsupported(file, "it has an encoder")


def _weight_format(file: GgufFile) -> str:
    number = file.number("general.file_type")
    name = None if number is None else library.llama_ftype_name(number)
    return name.decode() if name else "unknown"
