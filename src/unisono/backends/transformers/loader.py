"""Loads models with transformers and torch: hub ids, folders, and GGUF files (converted once).

Torch's thread count is process-wide: the last member with ``threads`` sets it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from unisono.backends.base import LoadRequest, ModelFacts, Progress
from unisono.backends.notices import TRANSFORMERS_NOISE, Notices, gguf_warnings
from unisono.backends.options import TransformersOptions
from unisono.backends.threads import told
from unisono.backends.transformers import model_config, model_shape, onednn, torch_runtime
from unisono.backends.transformers.adapter_files import AdapterFiles, check_bases, check_made_for, read_adapter
from unisono.backends.transformers.adapters import Adapters
from unisono.backends.transformers.backend import RowBackend
from unisono.backends.transformers.completeness import load_whole, unread
from unisono.backends.transformers.gguf_config import POSITIONS
from unisono.backends.transformers.library import CACHE_PARTS, SHARING, library
from unisono.backends.transformers.listening import heard, mapped_tensors
from unisono.backends.transformers.memory import BackendMaker
from unisono.backends.transformers.model_files import NOTICES, ModelFiles
from unisono.backends.transformers.quick_gguf import without_long_arrays
from unisono.backends.transformers.weight_folder import Shapes, check_rows, look_at
from unisono.backends.transformers.weight_heads import REMOTE, Heads, look_at_heads
from unisono.errors import ModelUnsupported
from unisono.vocab.tokenizer import Tokenizer


class TransformersLoader:
    """Loads one member's model.

    ``dtype`` defaults to float32 on a CPU. Elsewhere, and for ``auto``, it is the model's own; for a GGUF file, float32
    on a CPU, else bfloat16.
    """

    def __init__(self, request: LoadRequest) -> None:
        self.request = request
        self.options = TransformersOptions.read(request)
        self.device = torch_runtime.find_device(request)
        self.files = ModelFiles(request, self.options, str(self.device), self._write_gguf_weights)
        self.who = self.files.who
        self._weight_notices = Notices(TRANSFORMERS_NOISE)

    def tokenizer(self) -> Tokenizer:
        for adapter in self.request.adapters:  # before anything is read that takes long
            check_made_for(Path(adapter), self.files.names, self.who)
        return self.files.tokenizer

    def facts(self) -> ModelFacts:
        heads = self._heads
        model = heads.model
        with self.files.heard(), self.files.errors_told(), torch_runtime.shape_only():
            if model is None:
                model = library.AutoModelForCausalLM.from_config(
                    self.files.config, trust_remote_code=self.options.trust_remote_code
                )
            maker = BackendMaker(model, self.files.text, CACHE_PARTS, self.who)
            cache_bytes = maker.cache_bytes(self.request.slots, self.files.context, self._dtype.itemsize)
            doubts = [words for its in self._read_adapters(model).values() for words in its.warnings]
        if self.request.source.kind == "folder":
            check_rows(self.request.source.path, model_shape.vocabulary_rows(model), self.who)
            model_config.check_weight_shapes(model, self.request.source.path, self.who)
        parameters = sum(each.numel() for each in model.parameters())
        return ModelFacts(
            architecture=type(model).__name__,
            rows=model_shape.output_rows(model),
            input_rows=model_shape.input_rows(model),
            parameters=parameters,
            context=self.files.context,
            trained_context=model_config.trained_context(self.files.text),
            weight_bytes=parameters * self._dtype.itemsize,
            cache_bytes=cache_bytes,
            dtype=self._dtype_name,
            device=str(self.device),
            threads=self._threads_told,
            tied=bool(getattr(self.files.config, "tie_word_embeddings", False)),
            warnings=(*heads.warnings, *self.files.notices.told(), *doubts),
            unchecked=heads.unchecked,
            revision=getattr(self.files.config, "_commit_hash", None) if self.request.source.kind == "hub" else None,
        )

    def model(self, progress: Progress) -> Any:
        """The library's own model, as it is before anything is done for speed: what can be trained."""
        with heard(library, self._weight_notices), self.files.errors_told():
            progress(0.0, "reading the configuration")
            place = self.files.place
            if self.request.source.kind == "folder":
                self._look_at_folder(self._weight_notices)
            if self.files.gguf:
                converted = self.files.gguf.weights(self.files.config, self._dtype_name, progress)
                place = str(converted)
                self._weight_notices.hear_all(json.loads((converted / NOTICES).read_text("utf-8")))
            progress(0.5 if self.files.gguf else 0.05, "loading the weights")
            return self._load_weights(place)

    def load(self, progress: Progress) -> RowBackend:
        torch_runtime.use_threads(self.request.threads)
        model = self.model(progress)
        with heard(library, self._weight_notices), self.files.errors_told():
            adapters = self._read_adapters(model)
            for files in adapters.values():
                check_bases(model, files, torch_runtime.read_tensors)
            if self.options.pack_weights and self.device.type == "cpu" and self.options.device_map is None:
                progress(0.9, "packing the weights")
                onednn.pack_linear_layers(model)
            backend = self._make_backend(model, progress)
            if adapters:
                progress(0.97, "adding the adapters")
                read = torch_runtime.read_tensors
                backend.with_adapters(Adapters(model, adapters, read, torch_runtime.join), self.who)
            progress(1.0, "loaded")
        already = (*self.files.notices.told(), *vars(self).get("_heads", Heads()).warnings)
        told = tuple(each for each in self._weight_notices.told() if each not in already)
        backend.facts = replace(backend.facts, warnings=told)
        return backend

    def _read_adapters(self, model: Any) -> dict[str, AdapterFiles]:
        """The adapters that slots may have, by their names. Raises a `ModelError` for one that does not fit."""
        if self.request.adapters and BackendMaker(model, self.files.text, CACHE_PARTS, self.who).has_states:
            raise ModelUnsupported(
                f"{self.who} keeps a running state, and its members cannot have adapters",
                hint="merge the adapter into the weights (peft: merge_and_unload, save_pretrained)",
            )
        return {
            adapter: read_adapter(Path(adapter), model, self.files.names, self.who) for adapter in self.request.adapters
        }

    def _make_backend(self, model: Any, progress: Progress) -> RowBackend:
        maker = BackendMaker(model, self.files.text, CACHE_PARTS, self.who)
        if not maker.has_states:
            return maker.checked_row_backend(self.request.slots, self.files.context)
        progress(0.95, "trying how its state can be kept")
        return maker.state_backend(self.request.slots, self.files.context, self._dtype_name)

    @cached_property
    def _heads(self) -> Heads:
        """What the files of the weights show. The vocabulary can be looked at without them."""
        if self.files.gguf:
            return Heads(warnings=tuple(gguf_warnings(self.files.gguf.file)))
        if self.request.source.kind == "hub":
            return Heads(unchecked=(REMOTE,))
        return look_at_heads(
            self.request, self.files.config, self.who, partial(self._look_at_folder, chunks=1), self._load_heads
        )

    def _look_at_folder(self, notices: Notices, chunks: int | None = None) -> Shapes:
        return look_at(
            self.request,
            self.files.config,
            notices,
            allow_pickle=self.options.allow_pickle,
            chunks=chunks,
        )

    def _load_heads(self, shapes: Shapes, notices: Notices) -> tuple[Any, list[str]]:
        known, config = self.files.known, self.files.config
        if known is None:
            raise ValueError("its model brings its own code")
        if known.config_class == getattr(config, "sub_configs", {}).get("text_config"):
            config = config.get_text_config()  # as the library's automatic class does
        tensors = torch_runtime.without_values(shapes)
        with heard(library, notices):
            return self._load_whole(
                None, known, config=config, dtype=self._dtype, state_dict=tensors, device_map=torch_runtime.SHAPES
            )

    @cached_property
    def _dtype(self) -> Any:
        own = (
            None
            if self.files.gguf
            else getattr(self.files.text, "dtype", None) or getattr(self.files.config, "dtype", None) or ""
        )
        return torch_runtime.find_dtype(self.request.dtype, self.device, own, self.options.device_map is not None)

    @property
    def _dtype_name(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def _threads_told(self) -> str | None:
        asked = self.request.threads
        return told(torch_runtime.threads(asked), asked=asked is not None) if self.device.type == "cpu" else None

    def _load_weights(self, place: str) -> Any:
        wanted = {"use_safetensors": None if self.options.allow_pickle else True} | (
            {} if self.files.gguf else self.files.hub_options
        )
        wanted["generation_config"] = library.GenerationConfig()  # the library refuses some of what files say there
        device_map = self.options.device_map or ({"": str(self.device)} if self.device.type != "cpu" else None)
        if device_map is not None:
            wanted["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
        if self.options.attention:
            wanted["attn_implementation"] = self.options.attention
        model, warnings = self._load_whole(place, config=self.files.config, dtype=self._dtype, **wanted)
        self._weight_notices.hear_all(warnings)
        if self.options.attention is None and device_map is None and model_shape.may_share_keys(model):
            model.set_attn_implementation(SHARING)
        return model.eval()

    def _load_whole(self, place: Any, known: Any = None, **wanted: Any) -> tuple[Any, list[str]]:
        return load_whole(library, known or library.AutoModelForCausalLM, place, self.who, **wanted)

    def _write_gguf_weights(self, config: Any, dtype: str, folder: Path, progress: Progress) -> None:
        """Convert a GGUF file's weights; transformers' `save_pretrained` refuses a model read from GGUF."""
        assert self.files.gguf is not None
        path, notices = self.request.source.path, Notices(TRANSFORMERS_NOISE)
        hearing = heard(library, notices, progress)
        with hearing, self.files.errors_told(), without_long_arrays(), mapped_tensors(library) as mapped:
            model, warnings = self._load_whole(path.parent, gguf_file=path.name, config=config, dtype=dtype)
        not_mapped = set(self.files.gguf.file.shapes).difference(mapped, POSITIONS) if mapped else ()
        notices.hear_all(warnings or unread(not_mapped))
        folder.mkdir(exist_ok=True)
        config.save_pretrained(folder)
        torch_runtime.save_weights(model, folder / "model.safetensors")
        (folder / NOTICES).write_text(json.dumps(notices.told()), "utf-8")
