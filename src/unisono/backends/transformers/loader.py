"""Loads models with transformers and torch: hub ids, folders, and GGUF files (converted once).

This is the only file that imports transformers, and `torch_runtime` the only one that imports torch. Torch's thread
count is process-wide: the last member with ``threads`` sets it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import transformers as _transformers
import transformers.modeling_gguf_pytorch_utils
from transformers import cache_utils as _cache_utils
from transformers.cache_utils import Cache, CacheLayerMixin

from unisono.backends.base import LoadRequest, ModelFacts, Progress
from unisono.backends.model_facts import check_config
from unisono.backends.notices import TRANSFORMERS_NOISE, Notices, gguf_warnings
from unisono.backends.options import TransformersOptions
from unisono.backends.threads import told
from unisono.backends.transformers import model_config, model_shape, torch_runtime
from unisono.backends.transformers.adapter_files import AdapterFiles, check_bases, check_made_for, read_adapter
from unisono.backends.transformers.adapters import Adapters
from unisono.backends.transformers.backend import RowBackend
from unisono.backends.transformers.completeness import load_whole, unread
from unisono.backends.transformers.failures import loading_errors_told
from unisono.backends.transformers.gguf_config import POSITIONS, completed
from unisono.backends.transformers.gguf_conversion import Conversion
from unisono.backends.transformers.key_value_cache import RowLayer
from unisono.backends.transformers.listening import heard, mapped_tensors
from unisono.backends.transformers.memory import BackendMaker, CacheParts
from unisono.backends.transformers.quick_gguf import without_long_arrays
from unisono.backends.transformers.state_layer import HybridLayer, StateLayer
from unisono.backends.transformers.stated import unread as unread_keys
from unisono.backends.transformers.tokenizer import encode_exactly, read_tokenizer
from unisono.backends.transformers.tokenizer_check import Made, check_as_filed
from unisono.backends.transformers.weight_folder import Shapes, check_rows, look_at
from unisono.backends.transformers.weight_heads import REMOTE, Heads, look_at_heads
from unisono.backends.weight_files import check_json, naming
from unisono.errors import ModelUnsupported
from unisono.vocab.tokenizer import Tokenizer

library: Any = _transformers
"""Untyped, because its own annotations are incomplete."""
cache_utils: Any = _cache_utils
CacheLayerMixin.register(RowLayer)
if hasattr(cache_utils, "LinearAttentionCacheLayerMixin"):  # older releases have no states in the cache
    cache_utils.LinearAttentionCacheLayerMixin.register(StateLayer)
    cache_utils.LinearAttentionAndFullAttentionLayer.register(HybridLayer)
CACHE_PARTS = CacheParts(lambda layers: Cache(layers=layers), getattr(cache_utils, "DummyLayer", lambda: None))
NOTICES = "unisono_warnings.json"
"""Where the warnings of a conversion are kept."""
SHARING = "unisono_sdpa"
library.AttentionInterface.register(
    SHARING, partial(torch_runtime.attend_sharing, plain=library.AttentionInterface()["sdpa"])
)
library.AttentionMaskInterface.register(SHARING, library.AttentionMaskInterface()["sdpa"])


class TransformersLoader:
    """Loads one member's model.

    ``dtype`` defaults to float32 on a CPU. Elsewhere, and for ``auto``, it is the model's own; for a GGUF file, float32
    on a CPU, else bfloat16.
    """

    def __init__(self, request: LoadRequest) -> None:
        self.request = request
        self.options = TransformersOptions.read(request)
        self.device = torch_runtime.find_device(request)
        self.who = f"member {request.name!r} ({request.source.location})"
        self.gguf: Conversion | None = None
        self._notices, self._weight_notices = Notices(TRANSFORMERS_NOISE), Notices(TRANSFORMERS_NOISE)
        if request.source.kind == "gguf":
            self.gguf = Conversion(request.source, self._read_gguf_config, self._write_gguf_weights, request.name)

    def tokenizer(self) -> Tokenizer:
        for adapter in self.request.adapters:  # before anything is read that takes long
            check_made_for(Path(adapter), self._names, self.who)
        return self._tokenizer

    def facts(self) -> ModelFacts:
        heads = self._heads
        model = heads.model
        with self._heard(), self._errors(), torch_runtime.shape_only():
            if model is None:
                model = library.AutoModelForCausalLM.from_config(
                    self._config, trust_remote_code=self.options.trust_remote_code
                )
            maker = BackendMaker(model, self._text, CACHE_PARTS, self.who)
            cache_bytes = maker.cache_bytes(self.request.slots, self.context, self._dtype.itemsize)
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
            context=self.context,
            trained_context=model_config.trained_context(self._text),
            weight_bytes=parameters * self._dtype.itemsize,
            cache_bytes=cache_bytes,
            dtype=self._dtype_name,
            device=str(self.device),
            threads=self._threads_told,
            tied=bool(getattr(self._config, "tie_word_embeddings", False)),
            warnings=(*heads.warnings, *self._notices.told(), *doubts),
            unchecked=heads.unchecked,
            revision=getattr(self._config, "_commit_hash", None) if self.request.source.kind == "hub" else None,
        )

    def model(self, progress: Progress) -> Any:
        """The library's own model, as it is before anything is done for speed: what can be trained."""
        with heard(library, self._weight_notices), self._errors():
            progress(0.0, "reading the configuration")
            place = self._place
            if self.request.source.kind == "folder":
                self._look_at_folder(self._weight_notices)
            if self.gguf:
                converted = self.gguf.weights(self._config, self._dtype_name, progress)
                place = str(converted)
                self._weight_notices.hear_all(json.loads((converted / NOTICES).read_text("utf-8")))
            progress(0.5 if self.gguf else 0.05, "loading the weights")
            return self._load_weights(place)

    def load(self, progress: Progress) -> RowBackend:
        torch_runtime.use_threads(self.request.threads)
        model = self.model(progress)
        with heard(library, self._weight_notices), self._errors():
            adapters = self._read_adapters(model)
            for files in adapters.values():
                check_bases(model, files, torch_runtime.read_tensors)
            if self.options.pack_weights and self.device.type == "cpu" and self.options.device_map is None:
                progress(0.9, "packing the weights")
                torch_runtime.pack_linear_layers(model)
            backend = self._make_backend(model, progress)
            if adapters:
                progress(0.97, "adding the adapters")
                read = torch_runtime.read_tensors
                backend.with_adapters(Adapters(model, adapters, read, torch_runtime.join), self.who)
            progress(1.0, "loaded")
        already = (*self._notices.told(), *vars(self).get("_heads", Heads()).warnings)
        told = tuple(each for each in self._weight_notices.told() if each not in already)
        backend.facts = replace(backend.facts, warnings=told)
        return backend

    def _read_adapters(self, model: Any) -> dict[str, AdapterFiles]:
        """The adapters that slots may have, by their names. Raises a `ModelError` for one that does not fit."""
        if self.request.adapters and BackendMaker(model, self._text, CACHE_PARTS, self.who).has_states:
            raise ModelUnsupported(
                f"{self.who} keeps a running state, and its members cannot have adapters",
                hint="merge the adapter into the weights (peft: merge_and_unload, save_pretrained)",
            )
        return {adapter: read_adapter(Path(adapter), model, self._names, self.who) for adapter in self.request.adapters}

    @property
    def _names(self) -> list[str]:
        """What the model is called: by where it is, and by what its files say."""
        path = self.request.source.path
        names: list[str | None] = [self.request.source.location]
        if self.request.source.kind == "folder":
            names = [path.resolve().name, getattr(self._config, "_name_or_path", "")]
            if path.parent.name == "snapshots":  # of the hub's cache, where folders are named by their commits
                names.append(path.parent.parent.name.split("--")[-1])
        elif self.gguf:
            names += [self.gguf.file.text(f"general.{key}") for key in ("name", "basename")]
        return [name for name in names if name]

    def _make_backend(self, model: Any, progress: Progress) -> RowBackend:
        maker = BackendMaker(model, self._text, CACHE_PARTS, self.who)
        if not maker.has_states:
            return maker.checked_row_backend(self.request.slots, self.context)
        progress(0.95, "trying how its state can be kept")
        return maker.state_backend(self.request.slots, self.context, self._dtype_name)

    @cached_property
    def _heads(self) -> Heads:
        """What the files of the weights show. The vocabulary can be looked at without them."""
        if self.gguf:
            return Heads(warnings=tuple(gguf_warnings(self.gguf.file)))
        if self.request.source.kind == "hub":
            return Heads(unchecked=(REMOTE,))
        return look_at_heads(
            self.request, self._config, self.who, partial(self._look_at_folder, chunks=1), self._load_heads
        )

    def _look_at_folder(self, notices: Notices, chunks: int | None = None) -> Shapes:
        return look_at(
            self.request,
            self._config,
            notices,
            allow_pickle=self.options.allow_pickle,
            chunks=chunks,
        )

    def _load_heads(self, shapes: Shapes, notices: Notices) -> tuple[Any, list[str]]:
        known, config = self._known, self._config
        if known is None:
            raise ValueError("its model brings its own code")
        if known.config_class == getattr(config, "sub_configs", {}).get("text_config"):
            config = config.get_text_config()  # as the library's automatic class does
        tensors = torch_runtime.without_values(shapes)
        with heard(library, notices):
            return self._load_whole(
                None, known, config=config, dtype=self._dtype, state_dict=tensors, device_map=torch_runtime.SHAPES
            )

    @property
    def context(self) -> int:
        return model_config.context_of(self._text, self.request.context)

    @cached_property
    def _place(self) -> str:
        if self.request.source.kind == "folder":
            model_config.check_folder(self.request)
        elif self.request.source.kind == "hub":
            with self._heard(), self._errors():
                stated, _ = library.PreTrainedConfig.get_config_dict(self.request.source.location, **self._hub_options)
                check_config(stated, self.who)
                model_config.refuse_mlx(stated, self.who)
        return self.request.source.location

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self.gguf:
            return self.gguf.tokenizer()
        with self._heard(), self._errors():
            fix = self.options.fix_mistral_regex
            corrected = {} if fix is None else {"fix_mistral_regex": fix}
            tokenizer = library.AutoTokenizer.from_pretrained(self._place, **self._hub_options, **corrected)
            self._check_as_filed(tokenizer, is_split_anew=bool(fix))
            if getattr(tokenizer, "split_special_tokens", False):
                self._notices.hear(model_config.SPLITS)
            beside = self._file(model_config.TEMPLATE)  # of models that also see: their processor reads it
            template = None if beside is None else model_config.template_in(Path(beside))
            made = read_tokenizer(tokenizer, self._generation_ends(), self.who, template)
            settings = self._file(model_config.TOKENIZER)
            stated = {} if settings is None else check_json(Path(settings))
            self._notices.hear(model_config.bos_in_vain(stated, made.table.bos_id, adds=made.table.adds_bos))
            if getattr(tokenizer, "chat_template", None) == "":
                self._notices.hear(model_config.empty_template(stated, self._file(model_config.JINJA)))
            return made

    def _file(self, name: str) -> str | None:
        """The path of one of the model's files, wherever the model is; ``None`` where there is none."""
        found: str | None = library.utils.cached_file(
            self._place,
            name,
            revision=self.options.revision,
            local_files_only=self.options.local_files_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return found

    def _check_as_filed(self, tokenizer: Any, *, is_split_anew: bool) -> None:
        file = self._file("tokenizer.json")
        made = getattr(tokenizer, "backend_tokenizer", None)
        if file is not None and made is not None:
            version = f"transformers {library.__version__}"
            self._notices.hear(
                check_as_filed(Path(file), Made(made), encode_exactly, version, self.who, is_split_anew=is_split_anew)
            )

    @cached_property
    def _config(self) -> Any:
        if self.gguf:
            raw = self.gguf.config()
            self._notices.hear_all(raw.pop(NOTICES))
            config = library.AutoConfig.for_model(**raw)
            config.architectures = raw.get("architectures")
        else:
            with self._heard(), self._errors():
                config = library.AutoConfig.from_pretrained(self._place, **self._hub_options)
        with self._errors():
            model_config.check_made_of(config, self.request, self.who)
        model_config.without_useless_padding(config)
        model_config.without_habits(config, self.options.attention)
        if not self._runs_its_code(config):
            known = library.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
            with self._errors():
                model_config.check_language_model(config, known, self.who)
            self._notices.hear(model_config.code_not_run(config, known))
        if not self.gguf:
            self._notices.hear_all(self._unread(config))
        return config

    def _unread(self, config: Any) -> list[str]:
        """What its config.json says in vain."""
        stated, _ = library.PreTrainedConfig.get_config_dict(self._place, **self._hub_options)
        if self._runs_its_code(config):
            return []
        mapped = library.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        causal = {name for names in mapped for name in ([names] if isinstance(names, str) else names)}
        used = getattr(library.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "__name__", "")
        return list(unread_keys(stated, config, used, causal))

    def _runs_its_code(self, config: Any) -> bool:
        return self.options.trust_remote_code and model_config.code_of(config) is not None

    @property
    def _known(self) -> Any:
        """The library's class of the model; ``None`` where the model brings its own."""
        config = self._config
        return None if self._runs_its_code(config) else library.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)

    @cached_property
    def _text(self) -> Any:
        return self._config.get_text_config(decoder=True)

    @cached_property
    def _dtype(self) -> Any:
        own = None if self.gguf else getattr(self._text, "dtype", None) or getattr(self._config, "dtype", None) or ""
        return torch_runtime.find_dtype(self.request.dtype, self.device, own, self.options.device_map is not None)

    @property
    def _dtype_name(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    @property
    def _threads_told(self) -> str | None:
        asked = self.request.threads
        return told(torch_runtime.threads(asked), asked=asked is not None) if self.device.type == "cpu" else None

    @property
    def _hub_options(self) -> dict[str, Any]:
        return {
            "revision": self.options.revision or "main",
            "trust_remote_code": self.options.trust_remote_code,
            "local_files_only": self.options.local_files_only,
        }

    def _heard(self) -> contextlib.AbstractContextManager[None]:
        return heard(library, self._notices)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return loading_errors_told(self.who, self.request.source.location, str(self.device))

    def _load_weights(self, place: str) -> Any:
        wanted = {"use_safetensors": None if self.options.allow_pickle else True} | (
            {} if self.gguf else self._hub_options
        )
        device_map = self.options.device_map or ({"": str(self.device)} if self.device.type != "cpu" else None)
        if device_map is not None:
            wanted["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
        if self.options.attention:
            wanted["attn_implementation"] = self.options.attention
        model, warnings = self._load_whole(place, config=self._config, dtype=self._dtype, **wanted)
        self._weight_notices.hear_all(warnings)
        if self.options.attention is None and device_map is None and model_shape.may_share_keys(model):
            model.set_attn_implementation(SHARING)
        return model.eval()

    def _load_whole(self, place: Any, known: Any = None, **wanted: Any) -> tuple[Any, list[str]]:
        return load_whole(library, known or library.AutoModelForCausalLM, place, self.who, **wanted)

    def _generation_ends(self) -> list[int]:
        """The end ids in the model's files. Defaults of the configuration's class are ignored."""
        declared, options = None, dict(self._hub_options)
        with contextlib.suppress(OSError):  # most base models have no such file
            del options["trust_remote_code"]
            generation = library.GenerationConfig.from_pretrained(self._place, **options)
            declared = generation.eos_token_id
            self._notices.hear(model_config.not_applied(generation.to_diff_dict()))
        if declared is None:
            stated, _ = library.PreTrainedConfig.get_config_dict(self._place, **self._hub_options)
            declared = (stated.get("text_config") or stated).get("eos_token_id")
        return [] if declared is None else [declared] if isinstance(declared, int) else list(declared)

    def _read_gguf_config(self) -> dict[str, Any]:
        assert self.gguf is not None
        path, notices = self.request.source.path, Notices(TRANSFORMERS_NOISE)
        with heard(library, notices), self._errors(), without_long_arrays():
            config: dict[str, Any] = library.AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()
            with naming(f"member {self.request.name!r}: "):
                config = completed(config, self.gguf.file)
        return config | {NOTICES: list(notices.told())}

    def _write_gguf_weights(self, config: Any, dtype: str, folder: Path, progress: Progress) -> None:
        """Convert a GGUF file's weights; transformers' `save_pretrained` refuses a model read from GGUF."""
        assert self.gguf is not None
        path, notices = self.request.source.path, Notices(TRANSFORMERS_NOISE)
        hearing = heard(library, notices, progress)
        with hearing, self._errors(), without_long_arrays(), mapped_tensors(library) as mapped:
            model, warnings = self._load_whole(path.parent, gguf_file=path.name, config=config, dtype=dtype)
        not_mapped = set(self.gguf.file.shapes).difference(mapped, POSITIONS) if mapped else ()
        notices.hear_all(warnings or unread(not_mapped))
        folder.mkdir(exist_ok=True)
        config.save_pretrained(folder)
        torch_runtime.save_weights(model, folder / "model.safetensors")
        (folder / NOTICES).write_text(json.dumps(notices.told()), "utf-8")
