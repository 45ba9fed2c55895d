"""The llama.cpp backend agrees with llama.cpp, and says what is wrong with a file instead of crashing."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unisono.backends.base import Feed, LoadRequest, ModelSource
from unisono.config.demo import demo_path
from unisono.errors import DeviceError, ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported, SpecError
from unisono.testing import total_variation
from unisono.vocab.pieces import BYTE_LEVEL_ALPHABET, read_vocabulary

llama_cpp = pytest.importorskip("llama_cpp")
gguf = pytest.importorskip("gguf")
backend_module = pytest.importorskip("unisono.backends.llamacpp.loader")

from support.covering import ALL  # noqa: E402
from support.real_tokenizers import real  # noqa: E402
from support.tiny_gguf import tiny_tensors, write_tiny  # noqa: E402

SMOL, GEMMA = "smollm2-135m-instruct", "gemma3-270m"
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "Zur Begrüßung sagte er: „Schön, dass",
    "def fibonacci(n):\n    ",
    "東京は",
)
BYTE_TOKENS = [(f"<0x{byte:02X}>", 6) for byte in range(256)]


def loader(path: Path | str, **request: Any) -> Any:
    options = {key: request.pop(key) for key in list(request) if key not in LoadRequest.__dataclass_fields__}
    source = ModelSource("gguf", str(path))
    return backend_module.LlamaCppLoader(
        LoadRequest(**{"name": "m", "source": source, "threads": 2, "context": 512, "options": options, **request})
    )


def silent(fraction: float, words: str) -> None:
    pass


@pytest.fixture(scope="module")
def smol() -> Path:
    return demo_path(SMOL)


def write_gguf(
    path: Path, architecture: str, model: str | None, tokens: list[tuple[str, int]], **metadata: Any
) -> Path:
    """Write a small file: a vocabulary, and one tensor unless ``tensors=0``."""
    writer = gguf.GGUFWriter(path, architecture)
    tensors = metadata.pop("tensors", 1)
    if model is not None:
        writer.add_tokenizer_model(model)
        writer.add_token_list([text for text, _ in tokens])
        writer.add_token_types([kind for _, kind in tokens])
        writer.add_token_scores([0.0 - n for n in range(len(tokens))])
    for key, value in metadata.items():
        name = key.replace("__", ".")
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_string(name, value)
    if tensors:
        writer.add_tensor("token_embd.weight", np.zeros((len(tokens) or 1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.models
@pytest.mark.parametrize("name", [SMOL, GEMMA])
def test_greedy_decoding_is_llama_cpps_own_id_for_id(name: str) -> None:
    path, steps = demo_path(name), 24 if ALL else 12
    made = loader(path)
    tokenizer, backend = made.tokenizer(), made.load(silent)
    ours: list[list[int]] = []
    prompts = [tokenizer.encode_prompt(prompt) for prompt in PROMPTS]
    for prompt in prompts:
        slot, ids = backend.open(), list(prompt)
        while len(ids) < len(prompt) + steps:
            fed = prompt if len(ids) == len(prompt) else ids[-1:]
            ids.append(int(backend.advance([Feed(slot, fed)])[-1].argmax()))
        backend.close(slot)
        ours.append(ids[len(prompt) :])
    backend.unload()
    library = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
    theirs: list[list[int]] = []
    for text, prompt in zip(PROMPTS, prompts, strict=True):
        assert library.tokenize(text.encode(), add_bos=True, special=False) == prompt
        library.reset()
        generated = library.generate(prompt, temp=0.0, top_k=1)
        theirs.append([next(generated) for _ in range(steps)])
    library.close()
    assert ours == theirs


@pytest.mark.models
def test_a_prompt_longer_than_a_batch_gives_the_same_distributions(smol: Path) -> None:
    made = loader(smol, slots=2)
    ids = made.tokenizer().encode_prompt("All work and no play makes Jack a dull boy. " * 12)
    assert len(ids) > 100
    whole = made.load(silent)
    slot = whole.open()
    expected = whole.advance([Feed(slot, ids, len(ids))]).copy()
    whole.unload()
    parted = loader(smol, slots=2, batch_tokens=16).load(silent)
    slots = [parted.open(), parted.open()]
    got = parted.advance([Feed(slots[0], ids[:50], 3), Feed(slots[1], ids, len(ids))])
    # the order of rows is at stake: flash attention sums long blocks in another order than short ones
    apart = [total_variation(*rows) for rows in zip(got, np.concatenate([expected[47:50], expected]), strict=True)]
    assert max(apart) < 0.2
    parted.unload()


@pytest.mark.models
def test_a_failed_pass_leaves_the_slots_as_they_were(smol: Path) -> None:
    made = loader(smol, batch_tokens=8)
    ids = made.tokenizer().encode_prompt("The quick brown fox jumps over the lazy dog, and then it sleeps.")
    backend = made.load(silent)
    slot = backend.open()
    backend.advance([Feed(slot, ids[:4], 0)])
    library, calls = backend._library, []

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(library, name)

        def llama_decode(self, *arguments: Any) -> int:
            calls.append(1)
            return 1 if len(calls) == 2 else library.llama_decode(*arguments)

    backend._library = Failing()
    with pytest.raises(ModelError, match=r"member 'm': llama\.cpp could not compute .* \(status 1\)"):
        backend.advance([Feed(slot, [*ids, *ids])])
    backend._library = library
    assert len(calls) == 2
    read_on = backend.advance([Feed(slot, ids[4:8])]).copy()
    backend.rewind(slot, 0)
    backend.advance([Feed(slot, ids[:4], 0)])
    np.testing.assert_allclose(backend.advance([Feed(slot, ids[4:8])]), read_on, atol=0.05)
    backend.unload()


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """As in a terminal, even where these tests are run in the background and are not to hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.models
def test_ctrl_c_while_loading_stops_it_without_a_word(
    smol: Path, capfd: pytest.CaptureFixture[str], hears_ctrl_c: None
) -> None:
    made = loader(smol)
    seen: list[float] = []

    def interrupt(fraction: float, words: str) -> None:
        seen.append(fraction)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        made.load(interrupt)
    assert max(seen) < 0.9
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    backend = made.load(silent)
    backend.unload()
    assert capfd.readouterr() == ("", "")


@pytest.mark.models
def test_an_error_of_the_progress_callback_stops_loading(smol: Path) -> None:
    def fail(fraction: float, words: str) -> None:
        raise ZeroDivisionError("no terminal")

    with pytest.raises(ZeroDivisionError, match="no terminal"):
        loader(smol).load(fail)


@pytest.mark.models
def test_a_process_may_end_without_unloading(smol: Path) -> None:
    program = (
        "from unisono.backends.base import *\n"
        "from unisono.backends.registry import make_loader\n"
        f"made = make_loader('llamacpp', LoadRequest('m', ModelSource('gguf', {str(smol)!r}), context=64, threads=1))\n"
        "tokenizer = made.tokenizer()\n"
        "backend = made.load(lambda fraction, words: None)\n"
        "backend.advance([Feed(backend.open(), [1, 2, 3])])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.models
def test_facts_are_told_without_weights(smol: Path) -> None:
    facts = loader(smol, slots=2, context=None).facts()
    assert (facts.architecture, facts.rows, facts.context, facts.trained_context) == ("llama", 49152, 4096, 8192)
    assert facts.parameters == 134_515_008
    assert facts.cache_bytes == 2 * 4096 * 30 * 3 * 64 * 2 * 2
    assert facts.weight_bytes < smol.stat().st_size


@pytest.mark.models
def test_a_context_beyond_the_trained_one_is_refused(smol: Path) -> None:
    with pytest.raises(SpecError, match="member 'm': context is 9000, but the model was trained for 8192"):
        loader(smol, context=9000).load(silent)


@pytest.mark.models
def test_builds_with_amx_load_without_extra_buffer_types(smol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = loader(smol), []
    made.tokenizer()
    load = backend_module.library.llama_model_load_from_file
    for info, extra in ((b"CPU : AVX512 = 1 | AMX_INT8 = 1 | ", False), (b"CPU : AVX512 = 1 | ", True)):
        monkeypatch.setattr(backend_module.library, "llama_print_system_info", lambda info=info: info)
        monkeypatch.setattr(
            backend_module.library,
            "llama_model_load_from_file",
            lambda path, params: seen.append(params.use_extra_bufts) or load(path, params),
        )
        made.load(silent).unload()
        assert seen[-1] is extra


@pytest.mark.models
@pytest.mark.parametrize("name", [SMOL, GEMMA])
@pytest.mark.parametrize("text", ["a\x00b", " x", "x", "\n\n", "<|im_end|></s><eos>", "naïve 日本語 🤦🏽‍♀️", "", "    "])
def test_encoding_in_the_middle_of_a_text_is_exact(name: str, text: str) -> None:
    known = real("llamacpp", f"demo:{name}")
    tokenizer = known.tokenizer
    ids = tokenizer.encode(text)
    assert known.vocabulary.join(ids) == text.encode()
    assert all(tokenizer.table.kinds[token] != "control" for token in ids)


def sentencepiece(path: Path, extra: list[tuple[str, int]], bytes_too: bool = True) -> Any:
    tokens = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *(BYTE_TOKENS if bytes_too else []), *extra]
    write_gguf(path, "llama", "llama", tokens, tensors=0, tokenizer__ggml__add_bos_token=True)
    return loader(path).tokenizer()


def texts_of(tokenizer: Any, ids: list[int]) -> list[str]:
    return [tokenizer.table.texts[token] for token in ids]


def test_the_leading_space_of_a_vocabulary_stays_out_of_the_middle(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path / "v.gguf", [("▁a", 1), ("▁", 1), ("a", 1), ("b", 1)])
    assert texts_of(tokenizer, tokenizer.encode("ab")) == ["a", "b"]
    assert texts_of(tokenizer, tokenizer.encode(" ab")) == ["▁a", "b"]
    assert texts_of(tokenizer, tokenizer.encode("\na")) == ["<0x0A>", "a"]
    assert texts_of(tokenizer, tokenizer.encode_prompt("ab")) == ["<s>", "▁a", "b"]
    assert texts_of(tokenizer, tokenizer.encode_rendered("<s>ab</s>")) == ["<s>", "▁a", "b", "</s>"]


def test_a_vocabulary_without_byte_tokens_does_not_end_the_process(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path / "v.gguf", [("▁", 1), ("a", 1), ("\n", 1)], bytes_too=False)
    assert texts_of(tokenizer, tokenizer.encode("aéa\x00")) == ["a", "a"]


def test_a_control_token_that_llama_cpp_finds_in_plain_text_is_spelled(tmp_path: Path) -> None:
    tokens = [*((character, 1) for character in BYTE_LEVEL_ALPHABET), ("ab", 1), ("<|channel|>", 4), ("<b>", 4)]
    path = write_gguf(
        tmp_path / "v.gguf", "gpt2", "gpt2", tokens, tensors=0, tokenizer__ggml__merges=["a b"],
        tokenizer__ggml__pre="gpt-2",
    )  # fmt: skip
    tokenizer = loader(path).tokenizer()
    text = "ab<|channel|>ab<b><|channel|>"
    ids = tokenizer.encode(text)
    assert read_vocabulary(tokenizer.table, ()).join(ids) == text.encode()
    assert "<|channel|>" not in texts_of(tokenizer, ids)
    assert "<b>" in texts_of(tokenizer, ids)
    assert texts_of(tokenizer, tokenizer.encode_rendered("<|channel|>ab")) == ["<|channel|>", "ab"]


@pytest.mark.parametrize(
    ("architecture", "model", "metadata", "words"),
    [
        ("llama", "llama", {"tensors": 0}, "a vocabulary without weights"),
        ("bert", "bert", {"bert__attention__causal": False}, "it makes embeddings"),
        ("qwen2", "llama", {"qwen2__pooling_type": 3}, "it makes embeddings"),
        ("clip", None, {"general__type": "mmproj"}, "no model but 'mmproj'"),
        ("clip", None, {}, "it has no tokenizer"),
        ("llama", "bert", {"llama__block_count": 1}, "kind 'bert', whose tokens do not spell bytes"),
        ("t5", "t5", {"t5__block_count": 1}, "it has an encoder"),
        ("llama", "llama", {"llama__block_count": 0}, "how many layers"),
        ("zebra", "llama", {"zebra__block_count": 1}, "unknown model architecture"),
    ],
)
def test_files_that_hold_no_member_are_refused(
    tmp_path: Path, architecture: str, model: str | None, metadata: dict[str, Any], words: str
) -> None:
    tokens = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *BYTE_TOKENS, ("a", 1)]
    path = write_gguf(tmp_path / "odd.gguf", architecture, model, tokens, **metadata)
    with pytest.raises(ModelUnsupported, match=words) as raised:
        loader(path).load(silent)
    assert raised.value.message.startswith("member 'm': ")


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_a_file_without_its_layers_lacks_them(tmp_path: Path, layers: int) -> None:
    tokens = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *BYTE_TOKENS, ("a", 1)]
    path = write_gguf(tmp_path / "odd.gguf", "llama", "llama", tokens, llama__block_count=layers)
    for use in (lambda made: made.facts(), lambda made: made.load(silent)):
        with pytest.raises(ModelCorrupt, match=rf"member 'm': .*odd\.gguf lacks {layers} of the weights: blk\.0\."):
            use(loader(path))


@pytest.mark.parametrize("change", [{"pre": "llama-bpe"}, {"name": "phi-3"}, {"controls": ("<|x|>",)}])
def test_another_process_takes_no_tokenizer_of_a_file_that_was_replaced(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", tiny_tensors())
    tokenizer = loader(path).tokenizer()
    sent = pickle.dumps(tokenizer)
    assert pickle.loads(sent).encode("a cat's 1000") == tokenizer.encode("a cat's 1000")
    write_tiny(path, tiny_tensors(), **change)
    with pytest.raises(ModelError, match=r"tiny\.gguf is another file"):
        pickle.loads(sent)


@pytest.mark.models
@pytest.mark.parametrize("size", [3, 4, 20, 1_000, 500_000, 40_000_000])
def test_a_file_cut_short_is_corrupt(tmp_path: Path, smol: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    with smol.open("rb") as whole:
        path.write_bytes(whole.read(size))
    for use in (lambda made: made.tokenizer(), lambda made: made.load(silent)):
        with pytest.raises(ModelCorrupt, match=r"member 'm': .*cut"):
            use(loader(path))


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="member 'm': there is no file"):
        loader(tmp_path / "none.gguf").tokenizer()
    with pytest.raises(ModelNotFound, match="is not a file"):
        loader(tmp_path).load(silent)
    (tmp_path / "text.gguf").write_text("Once upon a time")
    with pytest.raises(ModelCorrupt, match="not a GGUF file"):
        loader(tmp_path / "text.gguf").facts()
    (tmp_path / "huge.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    with pytest.raises(ModelCorrupt, match="damaged or cut short"):
        loader(tmp_path / "huge.gguf").tokenizer()


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        ({"gpu_layer": 1}, "unknown option 'gpu_layer'; did you mean 'gpu_layers'"),
        ({"gpu_layers": True}, "option gpu_layers is true"),
        ({"gpu_layers": -1}, "option gpu_layers is -1"),
        ({"flash_attention": "yes"}, "option flash_attention is 'yes'"),
        ({"batch_tokens": 0}, "option batch_tokens is 0"),
        ({"cache_dtype": "int8"}, "option cache_dtype is 'int8'"),
        ({"cache_dtype": "q8_0", "flash_attention": False}, "needs flash attention"),
        ({"mmap": 1}, "option mmap is 1"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cpu", "gpu_layers": 3}, "gpu_layers is 3, but the member computes on the CPU"),
        ({"dtype": "float32"}, "number formats are its own"),
        ({"context": 0}, "context is 0"),
        ({"threads": -2}, "threads is -2"),
        ({"source": ModelSource("hub", "org/model")}, "reads GGUF files, not a hub"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_anything_is_read(
    request_of: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words) as raised:
        loader("/nowhere.gguf", **request_of)
    assert raised.value.message.startswith("member 'm': ")


@pytest.mark.skipif(llama_cpp.llama_supports_gpu_offload(), reason="this build computes on a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match="device is 'cuda'"):
        loader("/nowhere.gguf", device="cuda")
