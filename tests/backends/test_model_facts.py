"""Whatever numbers a model's files hold: they are a model's, or refused by name before anything is made of them."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tiny_gguf import tiny_tensors, write_tiny
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.bounded_files import check_values
from unisono.backends.file_kinds import check_json
from unisono.backends.gguf_parts import check_layers, read_gguf
from unisono.backends.gguf_tokens import read_table
from unisono.backends.model_facts import (
    CONFIG,
    GGUF,
    check_config,
    check_gguf,
    check_ids,
    check_layers_held,
    check_shapes,
    check_tokenizer,
)
from unisono.backends.transformers.model_folder import check_folder
from unisono.backends.weight_files import check_safetensors, check_shards
from unisono.errors import ModelCorrupt, ModelError, ModelNotFound

SECOND, LITTLE = 2.0, 60_000_000
ANY = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 264,
    "eos_token_id": [1, 2],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


def refused(call: Callable[[], object], memory: int = LITTLE) -> str:
    """The words of a refusal, which took little time and memory."""
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        call()
    taken, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < SECOND
    assert peak < memory
    return caught.value.message


def judged(call: Callable[[], object]) -> None:
    """A call comes back soon, with a result or a refusal."""
    began = time.perf_counter()
    with contextlib.suppress(ModelError):
        call()
    assert time.perf_counter() - began < SECOND


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", "2"),
        ("num_hidden_layers", True),
        ("vocab_size", 2**50),
        ("hidden_size", 0),
        ("head_dim", -8),
        ("max_position_embeddings", -5),
        ("num_key_value_heads", 3),
        ("num_attention_heads", 0),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("rope_theta", 0),
        ("eos_token_id", list(range(10**6))),
        ("eos_token_id", 2**40),
        ("pad_token_id", -9),
        ("sliding_window", -1),
        ("num_experts_per_tok", 9),
        ("intermediate_size", [16, 10**9]),
    ],
)
@pytest.mark.parametrize("where", [None, "text_config", "rope_parameters"])
def test_a_number_beyond_any_model_is_refused_by_its_key(key: str, value: object, where: str | None) -> None:
    config = GOOD | {"num_local_experts": 8}
    changed = config | {key: value} if where is None else config | {where: config | {key: value}}
    if where == "rope_parameters" and key in ("num_key_value_heads", "num_experts_per_tok"):
        return  # these are held against one another in what describes a model only
    words = refused(lambda: check_config(changed, "tiny/config.json"))
    assert words.startswith("tiny/config.json")
    assert key in words


def test_what_models_have_is_let_through() -> None:
    check_config(GOOD, "tiny")
    check_config(GOOD | {"num_key_value_heads": None, "sliding_window": None, "pad_token_id": -1}, "tiny")
    check_config(GOOD | {"num_key_value_heads": [2, None], "intermediate_size": [64, 0]}, "tiny")
    check_config(
        GOOD | {"vision_config": {"hidden_size": 0, "vocab_size": 0}, "time_step_limit": [0, float("inf")]}, "tiny"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_configurations_of_all_kinds_of_models_are_let_through() -> None:
    transformers = pytest.importorskip("transformers")
    kinds = list(transformers.MODEL_FOR_CAUSAL_LM_MAPPING)
    made = 0
    for kind in kinds:
        try:
            config = kind()
        except Exception:  # a few have no defaults that the library itself accepts
            continue
        check_config(config.to_dict(), kind.__name__)
        check_config(config.get_text_config(decoder=True).to_dict(), kind.__name__)
        made += 1
    assert made > 100


numbers = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.none()
    | st.booleans()
    | st.text(max_size=5)
)
anything = st.recursive(
    numbers,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from([*CONFIG, "text_config", "vision_config", "rope_parameters"]), inner, max_size=4
        )
    ),
)


NAMED = [*(f"llama.{key}" for key in GGUF), "general.alignment", "tokenizer.ggml.eos_token_id"]
arrays = st.lists(st.integers(-9, 2**40), max_size=5).map(np.array) | st.just(np.ones(30_000_000))


@ANY
@given(st.dictionaries(st.sampled_from([*CONFIG, "text_config"]), anything, max_size=6))
def test_any_configuration_is_judged(config: dict[str, Any]) -> None:
    judged(lambda: check_config(GOOD | config, "tiny"))


@ANY
@given(st.dictionaries(st.sampled_from(NAMED), anything | arrays | st.lists(st.binary(), max_size=3), max_size=6))
def test_any_metadata_are_judged(metadata: dict[str, Any]) -> None:
    metadata["tokenizer.ggml.tokens"] = [b"a", b"b"]
    judged(lambda: check_gguf(Path("tiny.gguf"), "llama", metadata))


def test_ids_are_near_the_number_of_tokens() -> None:
    check_ids(range(300), 300, "the tokenizer")
    check_ids([0, 128_255], 32_000, "the tokenizer")
    for token in (-5, 2**31, 3_000_000):
        assert f"{token:,}" in refused(lambda token=token: check_ids([0, token], 300, "the tokenizer"))


def test_a_token_given_twice_is_refused_where_llama_cpp_would_end_the_process() -> None:
    tokens = [b"a", b"", b"", b"b"]
    check_gguf(Path("tiny.gguf"), "llama", {"tokenizer.ggml.tokens": tokens})
    assert "'a' twice" in refused(lambda: check_gguf(Path("t"), "llama", {"tokenizer.ggml.tokens": [*tokens, b"a"]}))


def head(tensors: int = 0, pairs: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + body


def text(words: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(words) if length is None else length) + words


ABSURD_HEADS = {
    "tensors": head(tensors=2**60),
    "keys": head(pairs=2**60),
    "the length of a key": head(pairs=1, body=text(b"k", 2**60)),
    "the length of a text": head(pairs=1, body=text(b"k") + struct.pack("<I", 8) + text(b"v", 2**60)),
    "a text of a sparse file": head(pairs=1, body=text(b"k") + struct.pack("<I", 8) + text(b"v", 10**12)),
    "the length of an array": head(pairs=1, body=text(b"k") + struct.pack("<IIQ", 9, 4, 2**60)),
    "an array of texts": head(pairs=1, body=text(b"k") + struct.pack("<IIQ", 9, 8, 2**60)),
    "many empty texts": head(pairs=1, body=text(b"k") + struct.pack("<IIQ", 9, 8, 10**7)),
    "a text in an array": head(pairs=1, body=text(b"k") + struct.pack("<IIQ", 9, 8, 1) + text(b"", 10**12)),
    "arrays in an array": head(pairs=1, body=text(b"k") + struct.pack("<IIQ", 9, 9, 5)),
    "an unknown kind": head(pairs=1, body=text(b"k") + struct.pack("<I", 99)),
    "dimensions": head(tensors=1, body=text(b"t") + struct.pack("<I", 500_000)),
    "a shape that overflows": head(tensors=1, body=text(b"t") + struct.pack("<IQQQQIQ", 4, *[2**63] * 4, 0, 0)),
    "a shape of an unknown format": head(tensors=1, body=text(b"t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 99, 0)),
    "an offset": head(tensors=1, body=text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 2**63)),
}


@pytest.mark.parametrize("kind", ABSURD_HEADS)
@pytest.mark.parametrize("size", [0, 2 * 10**12])
def test_an_absurd_head_of_gguf_is_refused_in_little_memory(tmp_path: Path, kind: str, size: int) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(ABSURD_HEADS[kind])
    os.truncate(path, size or path.stat().st_size + 8)  # nothing but a hole: the disk has no such room
    assert str(path) in refused(lambda: read_gguf(path))


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", tiny_tensors()).read_bytes()


@ANY
@given(st.lists(st.tuples(st.integers(0, 9_000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_any_damage_of_a_gguf_head_is_refused_or_harmless(
    tmp_path: Path, gguf_bytes: bytes, damage: list[tuple[int, bytes]]
) -> None:
    data = bytearray(gguf_bytes)
    for place, other in damage:
        data[place : place + len(other)] = other
    (path := tmp_path / "odd.gguf").write_bytes(data)

    def read() -> None:
        file = read_gguf(path)
        check_layers(file)
        read_table(file)

    judged(read)


def safetensors(header: object, size: int = 8) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + bytes(size)


def entry(begin: object, end: object, shape: object = (1,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


fields = st.sampled_from(["dtype", "shape", "data_offsets"])
ABSURD_HEADERS = {
    "a length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "nested": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "many values": safetensors(b'{"a":[' + b"0," * 5_000_000 + b"0]}"),
    "overlapping": safetensors({"a": entry(0, 4), "b": entry(0, 4), "c": entry(4, 8)}),
    "a gap": safetensors({"a": entry(0, 2, (1,), "F16"), "b": entry(4, 8)}),
    "outside": safetensors({"a": entry(0, 2**40, (2**38,))}),
    "backwards": safetensors({"a": entry(8, 4)}),
    "a negative shape": safetensors({"a": entry(0, 8, (-2, -1))}),
    "a broken shape": safetensors({"a": entry(0, 8, (2.0,))}),
    "offsets of text": safetensors({"a": entry("0", "8", (2,))}),
    "no object": safetensors([]),
    "an entry of nothing": safetensors({"a": None}),
}


@pytest.mark.parametrize("kind", ABSURD_HEADERS)
def test_an_absurd_header_of_safetensors_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(ABSURD_HEADERS[kind])
    assert str(path) in refused(lambda: check_safetensors(path))


@ANY
@given(
    st.dictionaries(st.text(max_size=3), st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), anything))
)
def test_any_header_of_safetensors_is_judged(tmp_path: Path, header: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header))
    judged(lambda: check_safetensors(path))


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/passwd", "a/../../x", "nul\0", ".."])
def test_an_index_names_files_of_its_own_folder(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    assert "no file of its own folder" in refused(lambda: check_shards(index))


def test_json_of_any_size_or_depth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content in (b'{"a":' * 100_000, b'{"a":[' + b"0," * 2_000_000 + b"0]}", b"\xff\xfe{\0}\0", b"\0" * 9):
        path.write_bytes(content)
        assert str(path) in refused(lambda: check_json(path))
    os.truncate(path, 500_000_000)
    assert "at most" in refused(lambda: check_json(path))
    (tmp_path / "tokenizer.json").write_bytes(b'{"merges":[' + b'"a b",' * 10**7 + b'"a b"]}')
    assert "values" in refused(lambda: check_values(tmp_path / "tokenizer.json"), 200_000_000)


NAMES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors",
    "x.py",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_or_a_loop_in_a_model_s_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    request = LoadRequest(name="odd", source=ModelSource("folder", str(tmp_path)), slots=1)
    os.mkfifo(tmp_path / name)
    words = refused(lambda: check_folder(request))
    assert words.startswith("member 'odd'")
    assert "config.json" in words if name == "config.json" else f"{name} is a pipe" in words
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    if name in ("config.json", "tokenizer.json"):
        with pytest.raises(ModelNotFound, match=name.partition(".")[0]):
            check_folder(request)


@pytest.mark.parametrize("token", [-5, 2**31, 2**40, "7", 1.5, None])
@pytest.mark.parametrize("added", [False, True])
def test_an_id_that_no_model_has_is_refused_unread(tmp_path: Path, token: object, added: bool) -> None:
    path = tmp_path / "tokenizer.json"
    given = [{"id": token, "content": "<odd>"}] if added else []
    path.write_text(json.dumps({"model": {"vocab": {"a": 0} if added else {"a": token}}, "added_tokens": given}))
    if isinstance(token, int | float):
        assert str(token) in refused(lambda: check_values(path)).replace(",", "")
    with pytest.raises(ModelCorrupt, match=r"<odd>" if added else "'a'"):
        check_tokenizer(json.loads(path.read_text()), path)


def test_a_token_of_digits_is_no_odd_id(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": {":12345678": 0, ": -": 1}}}))
    check_values(path)


def test_a_weight_far_larger_than_in_its_file_is_refused() -> None:
    held = {"embed": (264, 32), "packed": (64, 8)}
    check_shapes({"embed": (264, 32), "packed": (64, 64), "other": (10**6, 10**6)}, held, "tiny")
    assert "embed is 264 × 1,000,000" in refused(lambda: check_shapes({"embed": (264, 10**6)}, held, "tiny"))


def test_layers_of_which_the_files_hold_few_are_refused() -> None:
    names = [f"model.layers.{layer}.mlp.weight" for layer in range(3)]
    check_layers_held(4, names, "tiny")
    check_layers_held(900, ["other.weight"], "tiny")
    assert "900 layers" in refused(lambda: check_layers_held(900, names, "tiny"))


def test_refusals_name_the_bound() -> None:
    with pytest.raises(ModelCorrupt, match=r"hidden_size is 0: it has to be a whole number from 1 to 1,000,000"):
        check_config(GOOD | {"hidden_size": 0}, "tiny")
    with pytest.raises(ModelCorrupt, match=r"rope_theta is 0: it has to be a number above 0 to"):
        check_config(GOOD | {"rope_theta": 0}, "tiny")
