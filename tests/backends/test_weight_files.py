"""What a model's files are, whether they are whole and all there: said before any weight is read."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.backends import weight_files
from unisono.backends.base import LoadRequest, ModelSource
from unisono.backends.bounded_files import parse_json
from unisono.backends.file_kinds import refuse_other_kinds
from unisono.backends.gguf import _BLOCKS
from unisono.backends.gguf_parts import check_layers, read_gguf, unlike_others
from unisono.backends.transformers.model_folder import check_folder
from unisono.backends.transformers.weight_folder import check_weights
from unisono.backends.weight_files import check_safetensors, check_shards
from unisono.config.member import MemberSpec
from unisono.config.model_source import find_model
from unisono.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 123456\n"


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0]}))


def zipped(path: Path, inner: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(inner, b"0" * 90)


OTHERS: list[tuple[Callable[[Path], object], type[ModelError], str, str]] = [
    (lambda path: path.write_text(POINTER), ModelCorrupt, "is a Git LFS pointer", "git lfs pull"),
    (lambda path: path.write_bytes(b""), ModelCorrupt, "is empty", "again"),
    (lambda path: path.write_text("<!DOCTYPE html>\n<html>Sign in"), ModelCorrupt, "is a web page", "address"),
    (lambda path: path.write_text("\n  <html><body>404"), ModelCorrupt, "is a web page", "address"),
    (lambda path: path.write_text('{"error": "Repository not found"}'), ModelCorrupt, "is JSON text", "again"),
    (lambda path: zipped(path, "weights.gguf"), ModelUnsupported, "is a zip archive", "unpack"),
    (lambda path: path.write_bytes(b"\x1f\x8b\x08" + b"0" * 80), ModelUnsupported, "is a gzip archive", "unpack"),
    (lambda path: zipped(path, "archive/data.pkl"), ModelUnsupported, "is a pickle", "GGUF or safetensors"),
    (pickled, ModelUnsupported, "is a pickle", "GGUF or safetensors"),
    (lambda path: path.write_bytes(b"tjgg" + b"0" * 80), ModelUnsupported, "the format before GGUF", "as GGUF"),
]


@pytest.mark.parametrize(("write", "error", "words", "way_out"), OTHERS, ids=[words for _, _, words, _ in OTHERS])
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_a_file_of_another_kind_is_named_for_what_it_is(
    tmp_path: Path, write: Callable[[Path], object], error: type[ModelError], words: str, way_out: str, kind: str
) -> None:
    path = tmp_path / f"model.{kind}"
    write(path)
    with pytest.raises(error, match=words) as caught:
        refuse_other_kinds(path, kind)
    assert str(path) in caught.value.message
    assert way_out in str(caught.value.hint)
    if kind == "gguf":
        with pytest.raises(error, match=words) as named:
            find_model(MemberSpec(name="m", model=str(path)), tmp_path, lambda fraction, words: None)
        assert named.value.message.startswith("member 'm': ")


def test_weights_of_the_other_format_are_named(tmp_path: Path) -> None:
    gguf, other = tmp_path / "a.safetensors", tmp_path / "a.gguf"
    gguf.write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 16)
    with pytest.raises(ModelUnsupported, match="is a GGUF file"):
        check_safetensors(gguf)
    safetensors(other, {"a": [2, 2]})
    with pytest.raises(ModelUnsupported, match="is a safetensors file"):
        read_gguf(other)


def safetensors(path: Path, shapes: dict[str, list[int]], missing: int = 0, **odd: Any) -> Path:
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for each in shape:
            size *= each
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size], **odd}
        end += size
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(end - missing))
    return path


def test_a_safetensors_file_has_the_bytes_that_its_head_names(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert check_safetensors(safetensors(path, {"a": [2, 3], "b": [4]})) == {"a": (2, 3), "b": (4,)}
    for missing, words in ((1, "cut short"), (30, "cut short"), (-5, "damaged")):
        with pytest.raises(ModelCorrupt, match=words):
            check_safetensors(safetensors(path, {"a": [2, 3], "b": [4]}, missing))
    whole = safetensors(path, {"a": [2, 3]}).read_bytes()
    for length in (5, 8, 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelCorrupt, match="cut short"):
            check_safetensors(path)
    with pytest.raises(ModelCorrupt, match=r"F32 \[3, 3\] of a do not fit its 24 bytes"):
        check_safetensors(safetensors(path, {"a": [2, 3]}, shape=[3, 3]))
    path.write_bytes(struct.pack("<Q", 40) + b"x" * 40)
    with pytest.raises(ModelCorrupt, match="damaged"):
        check_safetensors(path)


def test_a_head_is_parsed_once_while_its_file_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(
        weight_files, "parse_json", lambda data, *rest, **more: parsed.append(data) or parse_json(data, *rest, **more)
    )
    path = safetensors(tmp_path / "model.safetensors", {"a": [2, 3]})
    for _ in range(3):
        assert check_safetensors(path) == weight_files.shapes(path) == {"a": (2, 3)}
    assert len(parsed) == 1
    for shape in ([3, 2], [6, 1]):  # of the same size, written in its place
        assert check_safetensors(safetensors(path, {"a": shape})) == weight_files.shapes(path) == {"a": tuple(shape)}
    safetensors(tmp_path / "other.safetensors", {"b": [2, 3]}).rename(path)
    assert weight_files.formats(path) == {"b": "F32"}


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x15B, 0x227B, 0x8B1F, 0x207B])
def test_a_safetensors_file_is_none_of_the_kinds_that_its_length_looks_like(tmp_path: Path, length: int) -> None:
    path = safetensors(tmp_path / "model.safetensors", {"a": [2, 3]})
    head = path.read_bytes()[8:-24].ljust(length)
    path.write_bytes(struct.pack("<Q", length) + head + bytes(24))
    assert check_safetensors(path) == {"a": (2, 3)}


def shards(folder: Path) -> Path:
    names = {f"layer.{n}.weight": f"model-{n + 1:05}-of-00003.safetensors" for n in range(3)}
    for name, file in names.items():
        safetensors(folder / file, {name: [2, 2]})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": names}))
    return index


@pytest.mark.parametrize(
    "name", ["mtp.fc.weight", "model.mtp.layers.0.norm.weight", "h.0.rotary_emb.inv_freq", "lm_head.weight"]
)
def test_an_index_may_name_what_no_model_needs(tmp_path: Path, name: str) -> None:
    index = shards(tmp_path)
    told = json.loads(index.read_text())
    told["weight_map"][name] = "model-00003-of-00003.safetensors"
    index.write_text(json.dumps(told))
    assert name not in check_shards(index)


def test_the_parts_that_an_index_names_are_there_and_hold_what_it_says(tmp_path: Path) -> None:
    index = shards(tmp_path)
    assert len(check_shards(index)) == 3
    safetensors(tmp_path / "model-00002-of-00003.safetensors", {"other": [1]})
    with pytest.raises(ModelCorrupt, match=r"lack 1 of the weights: layer\.1\.weight"):
        check_shards(index)
    (tmp_path / "model-00002-of-00003.safetensors").write_text(POINTER)
    with pytest.raises(ModelCorrupt, match=r"00002.*Git LFS pointer"):
        check_shards(index)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"part 2 of 3 of the weights is missing: .*model-00002-of-00003"):
        check_shards(index)
    index.write_text("[]")
    with pytest.raises(ModelCorrupt, match="not an index"):
        check_shards(index)


def request_of(folder: Path) -> LoadRequest:
    return LoadRequest(name="m", source=ModelSource("folder", str(folder)))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_texts_of_a_folder_that_are_none_are_named(tmp_path: Path, file: str) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    check_folder(request_of(tmp_path))
    for text, words in ((POINTER, "is a Git LFS pointer"), ("", "is empty"), ("<html>", "is a web page")):
        (tmp_path / file).write_text(text)
        with pytest.raises(ModelCorrupt, match=f"member 'm': .*{file} {words}"):
            check_folder(request_of(tmp_path))


def test_weights_of_a_folder_are_found_as_transformers_finds_them(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no weights"):
        check_weights(request_of(tmp_path), allow_pickle=False)
    safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": [2]})
    with pytest.raises(ModelNotFound, match=r"neither model\.safetensors nor .*index"):
        check_weights(request_of(tmp_path), allow_pickle=False)
    (tmp_path / "consolidated.safetensors").write_text(POINTER)
    safetensors(tmp_path / "model.safetensors", {"a": [2]})
    check_weights(request_of(tmp_path), allow_pickle=False)
    (tmp_path / "model.safetensors").write_text(POINTER)
    with pytest.raises(ModelCorrupt, match=r"member 'm': .*model\.safetensors is a Git LFS pointer"):
        check_weights(request_of(tmp_path), allow_pickle=False)


gguf = pytest.importorskip("gguf")
LAYER = {"attn_q.weight": (4, 4), "attn_q.bias": (4,), "ffn_up.weight": (4, 8), "attn_norm.weight": (4,)}


def tensors(layers: int, *without: str) -> dict[str, tuple[int, ...]]:
    names = {"token_embd.weight": (8, 4)}
    names |= {f"blk.{n}.{rest}": shape for n in range(layers) for rest, shape in LAYER.items()}
    return {name: shape for name, shape in names.items() if name not in without}


def write(path: Path, shapes: dict[str, tuple[int, ...]], layers: int = 3, **keys: int) -> Path:
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    for key, value in keys.items():
        (writer.add_uint16 if key in ("no", "count") else writer.add_int32)(f"split.{key.replace('_', '.')}", value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sizes_of_tensor_types_are_those_of_ggml() -> None:
    theirs = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert all(theirs[kind] == size for kind, size in _BLOCKS.items())


def test_a_gguf_file_holds_its_tensors_to_the_last_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", tensors(3))
    whole = path.read_bytes()
    assert read_gguf(path).parameters == 32 + 3 * (16 + 4 + 32 + 4)
    for cut in (20, 100, 300):
        path.write_bytes(whole[:-cut])
        with pytest.raises(ModelCorrupt, match=r"cut short: its tensors need [\d,]+ bytes, it has"):
            read_gguf(path)


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (["token_embd.weight"], r"lacks 1 of the weights: token_embd\.weight"),
        (["blk.1.attn_q.bias"], r"lacks 1 of the weights: blk\.1\.attn_q\.bias"),
        (["blk.0.attn_norm.weight", "blk.2.attn_norm.weight"], r"lacks 2 of the weights: blk\.0\.attn_norm"),
        ([f"blk.2.{rest}" for rest in LAYER], r"lacks 4 of the weights: blk\.2\.attn_norm\.weight, "),
        ([name for name in tensors(3) if name.startswith("blk")], r"lacks 3 of the weights: blk\.0\.\*"),
    ],
)
def test_weights_that_a_gguf_file_lacks_are_named(tmp_path: Path, without: list[str], words: str) -> None:
    check_layers(read_gguf(write(tmp_path / "whole.gguf", tensors(3))))
    with pytest.raises(ModelCorrupt, match=words) as caught:
        check_layers(read_gguf(write(tmp_path / "a.gguf", tensors(3, *without))))
    assert caught.value.hint


def test_layers_of_several_kinds_lack_nothing(tmp_path: Path) -> None:
    """A dense layer among layers of experts; a layer whose matrix is perhaps another's is only suspected."""
    experts = {f"blk.{n}.ffn_gate_exps.weight": (4, 8) for n in (1, 2)}
    dense = tensors(3, "blk.1.ffn_up.weight", "blk.2.ffn_up.weight")
    file = read_gguf(write(tmp_path / "a.gguf", {**dense, **experts}))
    check_layers(file)
    assert unlike_others(file) == []
    file = read_gguf(write(tmp_path / "b.gguf", tensors(3, "blk.1.ffn_up.weight")))
    check_layers(file)
    assert unlike_others(file) == ["blk.1.ffn_up.weight"]


@pytest.mark.parametrize(
    ("more", "without", "lists"),
    [
        ({}, ["blk.1.attn_q.bias", "blk.1.attn_norm.weight"], {"attention.head_count": [2, 0, 2]}),
        ({}, ["blk.1.ffn_up.weight"], {"feed_forward_length": [8, 0, 8]}),
        (
            {},
            [f"blk.1.{rest}" for rest in LAYER],
            {"attention.head_count": [2, 0, 2], "feed_forward_length": [8, 0, 8]},
        ),
        ({"blk.1.attn_k.bias": (4,)}, [], {}),
        ({"blk.0.attn_q.scale": (1,), "blk.2.ffn_up.input_scale": (1,)}, [], {}),
        ({"blk.1.attn_sinks.weight": (2,)}, [], {}),
        ({"blk.0.attn_v.weight": (4, 4), "blk.2.attn_v.weight": (4, 4)}, [], {}),
    ],
)
def test_layers_that_differ_by_design_lack_nothing(
    tmp_path: Path, more: dict[str, tuple[int, ...]], without: list[str], lists: dict[str, list[int]]
) -> None:
    file = read_gguf(write(tmp_path / "a.gguf", {**tensors(3, *without), **more}))
    lists_read = {f"llama.{key}": np.array(value, np.uint32) for key, value in lists.items()}
    file = replace(file, metadata={**file.metadata, **lists_read})
    check_layers(file)
    assert unlike_others(file) == []


def test_files_of_a_folder_that_nobody_reads_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("trainer_state.json", "results.json", "merges.txt", "tokenizer.model"):
        (tmp_path / name).write_text(POINTER if name.endswith(("model", "state.json")) else "")
    (tmp_path / "chat_template.jinja").write_text("")
    request = LoadRequest(name="m", source=ModelSource("folder", str(tmp_path)))
    check_folder(request)
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        before = (tmp_path / name).read_text() if (tmp_path / name).exists() else None
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(ModelCorrupt, match="LFS"):
            check_folder(request)
        (tmp_path / name).unlink() if before is None else (tmp_path / name).write_text(before)


def split(folder: Path, count: int = 3) -> list[Path]:
    names = tensors(3)
    paths = [folder / f"big-{n + 1:05}-of-{count:05}.gguf" for n in range(count)]
    for n, path in enumerate(paths):
        own = {name: shape for place, (name, shape) in enumerate(names.items()) if place % count == n}
        write(path, own, no=n, count=count, tensors_count=len(names))
    return paths


def test_a_split_model_is_all_its_parts(tmp_path: Path) -> None:
    paths = split(tmp_path)
    whole = read_gguf(write(tmp_path / "whole.gguf", tensors(3)))
    file = read_gguf(paths[0])
    assert file.parts == tuple(paths)
    assert (file.parameters, file.tensors) == (whole.parameters, whole.tensors)
    check_layers(file)


@pytest.mark.parametrize("number", [2, 3])
def test_a_later_part_names_the_first(tmp_path: Path, number: int) -> None:
    paths = split(tmp_path)
    with pytest.raises(ModelUnsupported, match=f"is part {number} of 3 of a model") as caught:
        read_gguf(paths[number - 1])
    assert caught.value.hint == "give the first, big-00001-of-00003.gguf"


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda paths: paths[1].unlink(), ModelNotFound, "part 2 of 3 of the model is missing: .*big-00002-of-00003"),
        (lambda paths: paths[2].unlink(), ModelNotFound, "part 3 of 3 of the model is missing"),
        (lambda paths: paths[2].write_bytes(paths[2].read_bytes()[:-40]), ModelCorrupt, "00003-of-00003.gguf is cut"),
        (lambda paths: paths[1].write_text(POINTER), ModelCorrupt, "00002-of-00003.gguf is a Git LFS pointer"),
        (lambda paths: paths[2].write_bytes(paths[1].read_bytes()), ModelCorrupt, "does not say that it is part 3"),
        (
            lambda paths: write(paths[2], {"odd": (4,)}, no=2, count=3, tensors_count=13),
            ModelCorrupt,
            "hold 10 different tensors, and should hold 13",
        ),
    ],
)
def test_parts_that_do_not_make_a_model_are_named(
    tmp_path: Path, damage: Callable[[list[Path]], object], error: type[ModelError], words: str
) -> None:
    paths = split(tmp_path)
    damage(paths)
    with pytest.raises(error, match=words):
        read_gguf(paths[0])


def test_a_first_part_under_another_name_is_refused(tmp_path: Path) -> None:
    path = split(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelUnsupported, match="part 1 of 3 of a model, and its name does not say so"):
        read_gguf(path)
