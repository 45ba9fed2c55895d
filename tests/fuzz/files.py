"""Strategies of what authors of models and ensemble files write: files beside sound ones, or in their place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from fuzz.case import FOLDERS, GGUF, Case, Part
from fuzz.heads import gguf_bytes, read_gguf, read_safetensors, safetensors_bytes
from fuzz.mutations import Draw, as_bytes, as_json, mutated_bytes, mutated_json, mutated_text, words
from support.reasoners import TEMPLATE
from support.thinkers import IN_CHANNELS, IN_PARTS
from support.tool_templates import LISTED, TAGGED, WRAPPED
from unisono.backends import model_facts

SPEC, MODEL, CACHE = "spec.yaml", "model", "cache"
WEIGHTS = "model.safetensors"
BACKENDS = ("transformers", "llamacpp")
CONFIG_KEYS = (*model_facts.CONFIG, *words("config"))
GGUF_KEYS = (*(f"llama.{key}" for key in model_facts.GGUF), *words("gguf"))
TEMPLATES = (TEMPLATE, TAGGED, LISTED, WRAPPED, IN_CHANNELS, IN_PARTS)
YAMLS = (
    """members:
- {name: a, model: ./model, threads: 1}
- &b {name: b, share_weights_with: a, system: 'Short.'}
combine: mean
lead: a
gate: {kind: confidence, threshold: 0.7, boundary: true}
speculate: a
""",
    """members:
  - name: a
    model: ./model
    context: 64
    weight: 2
    chat_template: |-
      {{ messages }}
sampling: {temperature: 0.7, top_k: 3, seed: 7}
constraint: {regex: '[a-z]+'}
reasoning: off
""",
    """members:
- {name: a, model: ./model}
- {name: b, model: ./model, weight: -0.5, marks: {reasoning_begin: {reads: x}}}
combine: {kind: contrastive, alpha: 0.1}
speculate: {drafter: ngram, length: 4}
""",
)
DOCTOR, WITH_WEIGHTS = ("doctor", SPEC), ("doctor", SPEC, "--weights")
RUN = ("run", SPEC, "Hello", "--raw", "--max-new-tokens", "4", "--quiet")


def spec(model: str, **keys: object) -> Part:
    member = {"name": "a", "model": f"./{model}", "threads": 1, **keys}
    return SPEC, json.dumps({"members": [member]}).encode()


def of_folder(target: str, base: str, parts: Sequence[Part], command: tuple[str, ...] = WITH_WEIGHTS) -> Case:
    return Case(target, (base, *command), (spec(MODEL), *((f"{MODEL}/{name}", data) for name, data in parts)))


def of_gguf(target: str, parts: Sequence[Part], backend: str, command: tuple[str, ...] = WITH_WEIGHTS) -> Case:
    return Case(target, ("gguf", *command), (spec(f"{MODEL}/{GGUF}", backend=backend), *parts))


class Files:
    """Strategies by target, of the sound models in a folder."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._head, self._tensors = read_gguf(models / "gguf" / GGUF)
        self.targets: dict[str, st.SearchStrategy[Case]] = {
            "config": self._settings("config", ("config.json", "config.json", "generation_config.json"), CONFIG_KEYS),
            "tokenizer": self._settings("tokenizer", ("tokenizer.json", "tokenizer_config.json"), words("tokenizer")),
            "weights": self._weights(),
            "adapter": self._adapters(),
            "template": self._templates(),
            "gguf": self._ggufs(),
            "yaml": self._yamls(),
        }

    def cache_target(self, entries: dict[str, bytes]) -> st.SearchStrategy[Case]:
        """Of what a sound model leaves in the cache, by name."""

        @st.composite
        def cases(draw: Draw) -> Case:
            name = draw(st.sampled_from(sorted(entries)))
            if name.endswith(".json") and draw(st.booleans()):
                data: bytes | None = as_json(draw(mutated_json(json.loads(entries[name]))))
            else:
                data = draw(mutated_bytes(entries[name]) | st.none())
            return of_gguf("cache", [(f"{CACHE}/{name}", data)], BACKENDS[0], RUN)

        return cases()

    def _json(self, base: str, name: str) -> Any:
        path = self._models / base / name
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    def _settings(self, target: str, names: Sequence[str], keys: Sequence[str]) -> st.SearchStrategy[Case]:
        @st.composite
        def cases(draw: Draw) -> Case:
            base, name = draw(st.sampled_from(FOLDERS)), draw(st.sampled_from(names))
            more = words("settings") if name == "tokenizer_config.json" else keys
            data = as_json(draw(mutated_json(self._json(base, name), more)))
            if draw(st.integers(0, 9)) == 0:
                data = draw(mutated_bytes(data))
            return of_folder(target, base, [(name, data)], draw(st.sampled_from((DOCTOR, WITH_WEIGHTS))))

        return cases()

    def _weights(self) -> st.SearchStrategy[Case]:
        @st.composite
        def cases(draw: Draw) -> Case:
            base = draw(st.sampled_from(FOLDERS))
            header, data = read_safetensors(self._models / base / WEIGHTS)
            if draw(st.booleans()):
                made = safetensors_bytes(draw(mutated_json(header, words("weights"))), data)
            else:
                made = draw(mutated_bytes(safetensors_bytes(header, data), 3_000))
            return of_folder("weights", base, [(WEIGHTS, made)])

        return cases()

    def _adapters(self) -> st.SearchStrategy[Case]:
        settings = {"peft_type": "LORA", "base_model_name_or_path": "x", "r": 2, "target_modules": ["q_proj"]}

        @st.composite
        def cases(draw: Draw) -> Case:
            parts: list[Part] = [("adapter_config.json", as_json(draw(mutated_json(settings))))]
            sound = safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
            name = draw(
                st.sampled_from(("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin", "x.pt"))
            )
            parts.append((name, draw(mutated_bytes(sound))))
            if draw(st.booleans()):
                parts.append((WEIGHTS, None))
            return of_folder("adapter", "llama", parts)

        return cases()

    def _templates(self) -> st.SearchStrategy[Case]:
        @st.composite
        def cases(draw: Draw) -> Case:
            text = draw(mutated_text(draw(st.sampled_from(TEMPLATES)), words("template")))
            match draw(st.sampled_from(("file", "settings", "named", "gguf"))):
                case "file":
                    return of_folder("template", "llama", [("chat_template.jinja", as_bytes(text))], DOCTOR)
                case "gguf":
                    metadata = self._head["metadata"] | {"tokenizer.chat_template": [8, text]}
                    made = gguf_bytes(self._head | {"metadata": metadata}, self._tensors)
                    backend = draw(st.sampled_from(BACKENDS))
                    return of_gguf("template", [(f"{MODEL}/{GGUF}", made)], backend, DOCTOR)
                case kind:
                    given = text if kind == "settings" else [{"name": "default", "template": text}] * 2
                    settings = self._json("llama", "tokenizer_config.json") | {"chat_template": given}
                    return of_folder("template", "llama", [("tokenizer_config.json", as_json(settings))], DOCTOR)

        return cases()

    def _ggufs(self) -> st.SearchStrategy[Case]:
        sound = gguf_bytes(self._head, self._tensors)
        end = len(sound) - len(self._tensors)

        @st.composite
        def cases(draw: Draw) -> Case:
            if draw(st.integers(0, 2)):
                made = gguf_bytes(draw(mutated_json(self._head, GGUF_KEYS)), self._tensors)
            else:
                made = draw(mutated_bytes(sound, end))
            return of_gguf("gguf", [(f"{MODEL}/{GGUF}", made)], draw(st.sampled_from(BACKENDS)))

        return cases()

    def _yamls(self) -> st.SearchStrategy[Case]:
        @st.composite
        def cases(draw: Draw) -> Case:
            text = draw(st.sampled_from(YAMLS))
            if draw(st.booleans()):
                text = json.dumps(draw(mutated_json(yaml.safe_load(text), words("spec"))))
            data = as_bytes(draw(mutated_text(text, words("yaml"))) if draw(st.integers(0, 3)) else text)
            return Case("yaml", ("llama", *DOCTOR), ((SPEC, data),))

        return cases()
