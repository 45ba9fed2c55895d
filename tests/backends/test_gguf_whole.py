"""GGUF files through both backends: all weights or none, parts, and warnings that reach the user."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

from support.tiny_gguf import LAYERS, tiny_tensors, write_parts, write_tiny
from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.backends.llamacpp import log
from unisono.backends.notices import LLAMACPP_NOISE, Notices
from unisono.backends.registry import make_loader
from unisono.build import prepare
from unisono.config.demo import demo_path
from unisono.config.ensemble import load_spec
from unisono.diagnosis import diagnose
from unisono.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from unisono.loaded_models import load_models

BACKENDS = ("llamacpp", "transformers")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNISONO_CACHE", str(folder))
    return folder


def loader(path: Path, backend: str) -> Any:
    return make_loader(backend, LoadRequest("m", ModelSource("gguf", str(path)), device="cpu", context=64, threads=1))


def load(path: Path, backend: str) -> Any:
    return loader(path, backend).load(lambda fraction, words: None)


def without(*names: str) -> dict[str, Any]:
    return {name: values for name, values in tiny_tensors().items() if not name.startswith(names)}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_file_is_loaded_and_gives_no_warning(tmp_path: Path, backend: str) -> None:
    path = write_tiny(tmp_path / "whole.gguf", tiny_tensors())
    made = loader(path, backend)
    made.tokenizer()
    assert made.facts().warnings == ()
    for _ in range(2):  # converted, and from the cache
        loaded = load(path, backend)
        assert loaded.facts.warnings == ()
        assert loaded.advance([Feed(loaded.open(), [1, 2])]).shape == (1, loaded.facts.rows)
        loaded.unload()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("blk.1.", r"lacks 9 of the weights: blk\.1\.attn_k\.weight, "),
        (f"blk.{LAYERS - 1}.", r"lacks 9 of the weights: blk\.2\."),
        ("blk.0.ffn_up", r"ffn_up|mlp\.up_proj"),
        ("blk.2.attn_norm", r"lacks 1 of the weights: blk\.2\.attn_norm\.weight"),
        ("output_norm", r"output_norm|model\.norm"),
        ("token_embd", r"token_embd"),
    ],
)
def test_a_file_that_lacks_weights_is_refused_and_nothing_is_kept(
    tmp_path: Path, cache: Path, backend: str, gone: str, words: str
) -> None:
    path = write_tiny(tmp_path / "lacking.gguf", without(gone))
    for _ in range(2):
        with pytest.raises(ModelCorrupt, match=words) as caught:
            load(path, backend)
        assert "lacking.gguf" in caught.value.message
        assert "again" in str(caught.value.hint)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "output_norm.weight"])
def test_a_weight_of_another_shape_is_refused(tmp_path: Path, cache: Path, backend: str, name: str) -> None:
    tensors = tiny_tensors()
    tensors[name] = tensors[name][:-2].copy()
    with pytest.raises(ModelCorrupt, match=r"wrong shape|other shapes"):
        load(write_tiny(tmp_path / "odd.gguf", tensors), backend)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_norm.weight", "blk.2.ffn_down.weight"])
def test_whole_numbers_as_weights_are_refused(tmp_path: Path, backend: str, name: str) -> None:
    """llama.cpp ends the process over them."""
    tensors = tiny_tensors()
    tensors[name] = (100 * tensors[name]).astype("int32")
    with pytest.raises(ModelCorrupt, match=f"holds whole numbers as weights, 1 of the weights: {name}"):
        load(write_tiny(tmp_path / "odd.gguf", tensors), backend)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("blk.1.attn_norm.weight", "float16"), ("output_norm.weight", "float16"), ("blk.2.ffn_down.weight", "float64")],
)
def test_formats_that_llama_cpp_has_no_kernels_for_are_refused(tmp_path: Path, name: str, dtype: str) -> None:
    """It ends the process in the first pass. transformers reads half precision."""
    tensors = tiny_tensors()
    tensors[name] = tensors[name].astype(dtype)
    path = write_tiny(tmp_path / "odd.gguf", tensors)
    with pytest.raises(ModelUnsupported, match=f"does not compute with, 1 of the weights: {name}"):
        load(path, "llamacpp")
    if dtype == "float16":
        load(path, "transformers")


@pytest.mark.parametrize("kind", ["dynamic", "odd"])
def test_a_scaling_of_positions_that_llama_cpp_does_not_know_is_refused(tmp_path: Path, kind: str) -> None:
    """It ends the process while it loads."""
    path = write_tiny(tmp_path / "odd.gguf", tiny_tensors(), rope__scaling__type=kind, rope__scaling__factor=4.0)
    with pytest.raises(ModelUnsupported, match=r"rope\.scaling\.type is '.*', which llama.cpp does not know"):
        load(path, "llamacpp")
    known = write_tiny(tmp_path / "known.gguf", tiny_tensors(), rope__scaling__type="linear", rope__scaling__factor=4.0)
    load(known, "llamacpp").unload()


@pytest.mark.parametrize("name", ["blk.7.ffn_up.weight", "vision.patch.weight", "rope_other.weight"])
def test_weights_that_transformers_does_not_read_are_said_each_time(tmp_path: Path, name: str) -> None:
    tensors = tiny_tensors()
    path = write_tiny(tmp_path / "more.gguf", {**tensors, name: tensors["output_norm.weight"]})
    for _ in range(2):
        [warning] = load(path, "transformers").facts.warnings
        assert warning == f"its files hold weights that are not read, 1 of the weights: {name}"


def test_the_parts_of_a_model_are_the_model(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)
    whole = write_tiny(tmp_path / "whole.gguf", tiny_tensors())
    expected, found = load(whole, "llamacpp"), load(parts[0], "llamacpp")
    rows = [each.advance([Feed(each.open(), [1, 2, 3])]).copy() for each in (expected, found)]
    assert (rows[0] == rows[1]).all()
    assert loader(parts[0], "llamacpp").facts().parameters == loader(whole, "llamacpp").facts().parameters
    with pytest.raises(ModelUnsupported, match="first of 3 parts") as caught:
        load(parts[0], "transformers")
    assert "llamacpp" in str(caught.value.hint)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_that_are_not_the_model_are_named(tmp_path: Path, backend: str) -> None:
    parts = write_parts(tmp_path)
    for use in (lambda made: made.tokenizer(), lambda made: made.load(lambda fraction, words: None)):
        with pytest.raises(ModelUnsupported, match="part 2 of 3") as caught:
            use(loader(parts[1], backend))
        assert caught.value.hint == "give the first, tiny-00001-of-00003.gguf"
    parts[2].unlink()
    with pytest.raises(ModelNotFound, match=f"part 3 of 3 of the model is missing: .*{parts[2].name}"):
        loader(parts[0], backend).tokenizer()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_without_a_pre_tokenizer_is_warned_of_once_at_load_and_in_doctor(
    tmp_path: Path, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny(tmp_path / "old.gguf", tiny_tensors(), pre=None)
    spec = tmp_path / "spec.yaml"
    members = [{"name": name, "model": "old.gguf", "backend": backend} for name in ("a",)]
    spec.write_text(json.dumps({"members": members}))
    prepared = prepare(load_spec(spec))
    told = [warning for warning in diagnose(prepared).warnings if "tokenizer.ggml.pre" in warning]
    assert len(told) == 1
    assert told[0].startswith("a: its file names no pre-tokenizer")
    assert told[0][3:] in diagnose(prepared).members[0].facts.warnings
    with caplog.at_level(logging.WARNING, "unisono"), load_models([prepared]):
        pass
    assert [record.getMessage() for record in caplog.records if "tokenizer.ggml.pre" in record.getMessage()] == [
        f"member 'a': {told[0][3:]}"
    ]


def test_continued_lines_of_the_log_are_one_warning_and_an_end_of_another_name_is_none() -> None:
    notices = Notices(LLAMACPP_NOISE)
    with log.heard(notices):
        log.keep(log.WARNING, "load: a bad tensor")
        log.keep(log.CONTINUED, ", blk.1")
        log.keep(log.CONTINUED, ", it is\n")
        log.keep(log.WARNING, "load: special_eos_id is not in special_eog_ids - the config may be incorrect\n")
        log.keep(log.WARNING, "load: without an end")
    assert notices.told() == ("a bad tensor, blk.1, it is", "without an end")


@pytest.mark.models
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_demo_model_without_a_layer_is_refused(tmp_path: Path, cache: Path, backend: str) -> None:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(demo_path("smollm2-135m-instruct"))
    path = tmp_path / "lacking.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.17."):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelCorrupt, match=r"lacks 9 of the weights: blk\.17\.attn_k\.weight"):
        load(path, backend)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("39K", False),
        ("40K", False),
        ("0.04M", False),
        ("8x7B", False),
        ("30B-A3B", False),
        ("41K", True),
        ("1B", True),
    ],
)
def test_a_file_that_holds_fewer_parameters_than_its_label_says_is_said(tmp_path: Path, label: str, said: bool) -> None:
    """As of a layer that was pruned from the file and its metadata alike; the tiny model has 39,200."""
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors(), general__size_label=label)
    for backend in BACKENDS:
        found = [words for words in loader(path, backend).facts().warnings if f"the model has {label}" in words]
        assert len(found) == said
