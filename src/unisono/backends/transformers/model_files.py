"""What a model's files say before its weights are read: its configuration, its tokenizer, and where they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from unisono.backends.base import LoadRequest
from unisono.backends.file_kinds import check_json
from unisono.backends.model_facts import check_config
from unisono.backends.notices import TRANSFORMERS_NOISE, Notices
from unisono.backends.options import TransformersOptions
from unisono.backends.transformers import model_config, model_folder, tokenizer_settings
from unisono.backends.transformers.failures import loading_errors_told
from unisono.backends.transformers.gguf_config import completed
from unisono.backends.transformers.gguf_conversion import Conversion, WriteWeights
from unisono.backends.transformers.library import library
from unisono.backends.transformers.listening import heard
from unisono.backends.transformers.quick_gguf import without_long_arrays
from unisono.backends.transformers.stated import unread as unread_keys
from unisono.backends.transformers.tokenizer import encode_exactly, read_tokenizer
from unisono.backends.transformers.tokenizer_check import Made, check_as_filed
from unisono.backends.weight_files import naming
from unisono.user_files import DATA, read_bytes
from unisono.vocab.tokenizer import Tokenizer, TokenTable

NOTICES = "unisono_warnings.json"
"""Where the warnings of a conversion are kept."""


class ModelFiles:
    """The files of one member's model, each read once, and the notices of what may be wrong with them."""

    def __init__(
        self, request: LoadRequest, options: TransformersOptions, device: str, write_weights: WriteWeights
    ) -> None:
        self.request = request
        self.options = options
        self.who = f"member {request.name!r} ({request.source.location})"
        self.notices = Notices(TRANSFORMERS_NOISE)
        self.gguf: Conversion | None = None
        self._device = device
        if request.source.kind == "gguf":
            self.gguf = Conversion(request.source, self._read_gguf_config, write_weights, request.name)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        if self.gguf:
            return self.gguf.tokenizer()
        with self.heard(), self.errors_told():
            fix = self.options.fix_mistral_regex
            corrected = {} if fix is None else {"fix_mistral_regex": fix}
            tokenizer = library.AutoTokenizer.from_pretrained(self.place, **self.hub_options, **corrected)
            self._check_as_filed(tokenizer, is_split_anew=bool(fix))
            if getattr(tokenizer, "split_special_tokens", False):
                self.notices.hear(tokenizer_settings.SPLITS)
            beside = self._file(model_folder.TEMPLATE)  # of models that also see: their processor reads it
            if beside is None and getattr(tokenizer, "chat_template", None) is None:  # mistral-common reads none
                beside = self._file(model_folder.JINJA)
            template = None if beside is None else model_folder.template_in(Path(beside))
            ends, asked = self._generation()
            made = read_tokenizer(tokenizer, ends, self.who, template)
            never = made.table.never_written if asked.keys() & {*model_config.SUPPRESSING} else frozenset()
            self.notices.hear(model_config.not_applied(asked, never))
            self.notices.hear(tokenizer_settings.bos_twice(made.encode_prompt(""), made.table.bos_id))
            self.notices.hear_all(self._settings_in_vain(made.table, getattr(tokenizer, "chat_template", None)))
            return made

    def _settings_in_vain(self, table: TokenTable, template: object) -> Iterator[str]:
        """What the files beside the tokenizer say in vain; ``template`` is the one that the library has."""
        stated, mapped = (self._json(name) for name in (model_folder.TOKENIZER, tokenizer_settings.SPECIALS))
        yield tokenizer_settings.bos_in_vain(stated, table.bos_id, adds=table.adds_bos)
        yield from tokenizer_settings.other_specials(stated, mapped, table)
        place = self._file(model_folder.JINJA)
        yield tokenizer_settings.empty_template(stated, place) if template == "" else ""
        yield tokenizer_settings.other_template(stated, place, template)

    @cached_property
    def config(self) -> Any:
        if self.gguf:
            raw = self.gguf.config()
            self.notices.hear_all(raw.pop(NOTICES))
            config = library.AutoConfig.for_model(**raw)
            config.architectures = raw.get("architectures")
        else:
            with self.heard(), self.errors_told():
                config = library.AutoConfig.from_pretrained(self.place, **self.hub_options)
        with self.errors_told():
            model_config.check_made_of(config, self.request, self.who)
        model_config.without_useless_padding(config)
        model_config.without_habits(config, self.options.attention)
        if not self._runs_its_code(config):
            known = library.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
            with self.errors_told():
                model_config.check_language_model(config, known, self.who)
            self.notices.hear(model_config.code_not_run(config, known))
        if not self.gguf:
            self.notices.hear_all(self._unread(config))
        return config

    @cached_property
    def text(self) -> Any:
        return self.config.get_text_config(decoder=True)

    @property
    def known(self) -> Any:
        """The library's class of the model; ``None`` where the model brings its own."""
        config = self.config
        return None if self._runs_its_code(config) else library.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)

    @property
    def context(self) -> int:
        return model_config.context_of(self.text, self.request.context)

    @property
    def names(self) -> list[str]:
        """What the model is called: by where it is, and by what its files say."""
        path = self.request.source.path
        names: list[str | None] = [self.request.source.location]
        if self.request.source.kind == "folder":
            names = [path.resolve().name, getattr(self.config, "_name_or_path", "")]
            if path.parent.name == "snapshots":  # of the hub's cache, where folders are named by their commits
                names.append(path.parent.parent.name.split("--")[-1])
        elif self.gguf:
            names += [self.gguf.file.text(f"general.{key}") for key in ("name", "basename")]
        return [name for name in names if name]

    @cached_property
    def place(self) -> str:
        if self.request.source.kind == "folder":
            model_folder.check_folder(self.request)
        elif self.request.source.kind == "hub":
            with self.heard(), self.errors_told():
                stated, _ = library.PreTrainedConfig.get_config_dict(self.request.source.location, **self.hub_options)
                check_config(stated, self.who)
                model_folder.refuse_mlx(stated, self.who)
        return self.request.source.location

    @property
    def hub_options(self) -> dict[str, Any]:
        return {
            "revision": self.options.revision or "main",
            "trust_remote_code": self.options.trust_remote_code,
            "local_files_only": self.options.local_files_only,
        }

    def heard(self) -> contextlib.AbstractContextManager[None]:
        return heard(library, self.notices)

    def errors_told(self) -> contextlib.AbstractContextManager[None]:
        return loading_errors_told(self.who, self.request.source.location, self._device)

    def _file(self, name: str) -> str | None:
        """The path of one of the model's files, wherever the model is; ``None`` where there is none."""
        found: str | None = library.utils.cached_file(
            self.place,
            name,
            revision=self.options.revision,
            local_files_only=self.options.local_files_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return found

    def _json(self, name: str) -> Mapping[str, Any]:
        """What one of the model's files holds; nothing where there is none."""
        file = self._file(name)
        return {} if file is None else check_json(Path(file))

    def _check_as_filed(self, tokenizer: Any, *, is_split_anew: bool) -> None:
        """Hold what the library made against the `tokenizer.json`, and against the settings beside it."""
        file, made = self._file("tokenizer.json"), getattr(tokenizer, "backend_tokenizer", None)
        if made is None:
            return
        version = f"transformers {library.__version__}"
        if file is not None:
            self.notices.hear(
                check_as_filed(Path(file), Made(made), encode_exactly, version, self.who, is_split_anew=is_split_anew)
            )
        ids = tokenizer_settings.stated_ids(self._json(model_folder.TOKENIZER), self._json(model_folder.ADDED))
        named = {key: getattr(tokenizer, key, None) for key in tokenizer_settings.NAMED}
        filed = b"" if file is None else read_bytes(Path(file), DATA)
        self.notices.hear_all(
            tokenizer_settings.named_otherwise(ids, named, filed, made.token_to_id, version, self.who)
        )

    def _generation(self) -> tuple[list[int], Mapping[str, Any]]:
        """The end ids in the model's files, and what else its generation config says.

        Defaults of the configuration's class are ignored, and so is what the library refuses of how pieces are chosen.
        """
        asked = self._json(model_folder.GENERATION)  # most base models have none
        declared = asked.get("eos_token_id")
        if declared is None:
            stated, _ = library.PreTrainedConfig.get_config_dict(self.place, **self.hub_options)
            parts = (stated, stated.get("text_config") or {})  # in the library's order
            declared = next((part["eos_token_id"] for part in parts if part.get("eos_token_id") is not None), None)
        several = declared if isinstance(declared, list) else [] if declared is None else [declared]
        return [int(each) for each in several], asked

    def _unread(self, config: Any) -> list[str]:
        """What its config.json says in vain."""
        stated, _ = library.PreTrainedConfig.get_config_dict(self.place, **self.hub_options)
        if self._runs_its_code(config):
            return []
        mapped = library.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        causal = {name for names in mapped for name in ([names] if isinstance(names, str) else names)}
        used = getattr(library.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), "__name__", "")
        return list(unread_keys(stated, config, used, causal))

    def _runs_its_code(self, config: Any) -> bool:
        return self.options.trust_remote_code and model_config.code_of(config) is not None

    def _read_gguf_config(self) -> dict[str, Any]:
        assert self.gguf is not None
        path, notices = self.request.source.path, Notices(TRANSFORMERS_NOISE)
        with heard(library, notices), self.errors_told(), without_long_arrays():
            config: dict[str, Any] = library.AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()
            with naming(f"member {self.request.name!r}: "):
                config = completed(config, self.gguf.file)
        return config | {NOTICES: list(notices.told())}
