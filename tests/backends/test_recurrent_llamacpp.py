"""Recurrent and hybrid models on llama.cpp: tiny ones of transformers, written as GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from support.recurrent_gguf import ROWS, write_recurrent  # noqa: E402
from support.recurrent_models import check_gated, save_recurrent, try_slots  # noqa: E402
from unisono.backends.base import Feed, LoadRequest, ModelSource  # noqa: E402
from unisono.backends.llamacpp import loader  # noqa: E402
from unisono.backends.llamacpp.loader import LlamaCppLoader  # noqa: E402
from unisono.backends.llamacpp.state_model import StateLlamaCppBackend  # noqa: E402
from unisono.backends.seams import SEAMS  # noqa: E402
from unisono.chat.messages import Prompt  # noqa: E402
from unisono.ensemble import Ensemble  # noqa: E402
from unisono.errors import ModelError, ModelUnsupported  # noqa: E402
from unisono.testing import ContractCase, alone, check_backend_contract, total_variation  # noqa: E402

KINDS = ("Mamba", "LFM2")
RNG = np.random.default_rng(3)
IDS = tuple(tuple(int(i) for i in RNG.integers(0, 256, length)) for length in (11, 23, 7, 40))
TEXTS = ("The sea is 12 blue and wide. The sea is 12", "Hello", "A prompt of more words than those", "Hello, you")
PIECES = 20
OPTIONS: dict[str, Any] = {"cache_dtype": "f32"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A kind's GGUF file, and its model in transformers."""
    found: dict[str, tuple[Path, Any]] = {}

    def save(kind: str) -> tuple[Path, Any]:
        if kind not in found:
            folder = tmp_path_factory.mktemp("model")
            model = save_recurrent(folder, kind)
            found[kind] = write_recurrent(folder / "tiny.gguf", model), model
        return found[kind]

    return save


def loader_of(file: Path, slots: int = 4) -> LlamaCppLoader:
    source = ModelSource("gguf", str(file))
    return LlamaCppLoader(LoadRequest("m", source, device="cpu", context=128, threads=1, slots=slots, options=OPTIONS))


def load(file: Path) -> StateLlamaCppBackend:
    backend = loader_of(file).load(lambda fraction, words: None)
    assert isinstance(backend, StateLlamaCppBackend)
    return backend


def ensemble_of(files: list[Path]) -> Ensemble:
    common = {"backend": "llamacpp", "device": "cpu", "threads": 1, "context": 128, "options": OPTIONS}
    members = [{"name": name, "model": str(file), **common} for name, file in zip("abc", files, strict=False)]
    return Ensemble.load({"members": members}, batch=4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_refused_before_weights_are_loaded(
    saved: Callable[[str], tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(LlamaCppLoader, "_adapter_doubts", [])  # it may be one that fits
    source = ModelSource("gguf", str(saved(kind)[0]))
    with pytest.raises(ModelUnsupported, match="has a running state, and its members cannot have adapters"):
        LlamaCppLoader(LoadRequest("m", source, device="cpu", adapters=("x.gguf",))).tokenizer()


@pytest.mark.parametrize("kind", KINDS)
def test_the_contract_of_the_waist_is_kept(saved: Callable[[str], tuple[Path, Any]], kind: str) -> None:
    check_backend_contract(load(saved(kind)[0]), ContractCase(IDS, tolerance=1e-3))


@pytest.mark.parametrize("kind", KINDS)
def test_any_rewinds_and_copies_leave_what_a_fresh_slot_gives(
    saved: Callable[[str], tuple[Path, Any]], kind: str
) -> None:
    backend = load(saved(kind)[0])
    for _ in try_slots(backend, turns=400, tolerance=1e-3):
        assert all(memory.kept < SEAMS for memory in backend._memories.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_distributions_are_those_of_transformers(saved: Callable[[str], tuple[Path, Any]], kind: str) -> None:
    file, model = saved(kind)
    backend = load(file)
    for ids in IDS:
        with torch.no_grad():
            wanted_NV = model(torch.tensor([ids])).logits[0, :, :ROWS].numpy()
        for row_V, wanted_V in zip(alone(backend, ids, len(ids)), wanted_NV, strict=True):
            assert total_variation(row_V, wanted_V) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_texts_alone_at_once_and_drafted_are_greedy_ones(saved: Callable[[str], tuple[Path, Any]], kind: str) -> None:
    """The oracle reads each text anew for each token."""
    with ensemble_of([saved(kind)[0]]) as ensemble:
        member = ensemble.prepared.members[0]
        vocabulary, backend = member.vocabulary, load(saved(kind)[0])

        def greedy(text: str) -> bytes:
            ids = list(member.encoder.encode(Prompt(text=text)))
            start = len(ids)
            while len(ids) < start + PIECES:
                logits_V = alone(backend, ids)[0].copy()
                logits_V[list(vocabulary.excluded_ids)] = -np.inf
                if (token := int(logits_V.argmax())) in vocabulary.end_ids:
                    break
                ids.append(token)
            return vocabulary.join(ids[start:])

        expected = [greedy(text) for text in TEXTS]
        assert [ensemble.generate(text, max_new_tokens=PIECES).data for text in TEXTS] == expected
        for speculate in (None, "ngram:4"):
            texts = ensemble.generate(list(TEXTS), max_new_tokens=PIECES, speculate=speculate)
            assert [each.data for each in texts] == expected


@pytest.mark.parametrize("gate", ["always", "confidence:0.3", "every:3"])
def test_gated_and_drafted_texts_are_those_of_the_plain_loop(
    saved: Callable[[str], tuple[Path, Any]], gate: str
) -> None:
    with ensemble_of([saved(kind)[0] for kind in KINDS]) as ensemble:
        assert len(list(check_gated(ensemble, TEXTS, gate, PIECES))) == 3


def test_a_failed_pass_leaves_the_slot_as_it_was(
    saved: Callable[[str], tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp cannot undo a state that has read a part of a block."""
    backend, text = load(saved("LFM2")[0]), IDS[3]
    slot = backend.open()
    backend.advance([Feed(slot, text[:20])])
    backend.advance([Feed(slot, text[20:22])])
    decode = backend._decode

    def fails_afterwards(size: int, wanted: int) -> Any:
        decode(size, wanted)
        raise ModelError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(backend, "_decode", fails_afterwards)
        with pytest.raises(ModelError, match="broken"):
            backend.advance([Feed(slot, text[22:30])])
    found_NV = backend.advance([Feed(slot, text[22:])]).copy()
    assert total_variation(found_NV[0], alone(backend, text)[0]) < 1e-3


def test_the_facts_count_the_states_that_are_kept(saved: Callable[[str], tuple[Path, Any]]) -> None:
    """LFM2: two of four layers keep two inputs of a convolution each, the others keys and values of 256 tokens."""
    keys = 2 * 2 * 2 * 8 * 256
    assert loader_of(saved("LFM2")[0], slots=3).facts().cache_bytes == 3 * 4 * (keys + SEAMS * 2 * 2 * 32)
    assert loader_of(saved("Mamba")[0], slots=3).facts().cache_bytes == 3 * 4 * SEAMS * 2 * (64 * 8 + 64 * 3)


@pytest.mark.parametrize(
    ("missing", "words"), [("llama_state_seq_set_data_ext", "cannot copy"), (None, "sliding windows")]
)
def test_a_state_that_cannot_be_copied_is_refused_by_name(
    saved: Callable[[str], tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch, missing: str | None, words: str
) -> None:
    if missing:
        monkeypatch.delattr(loader.library, missing)
    else:
        monkeypatch.setattr(loader.library, "llama_model_n_swa", lambda model: 8)
    with pytest.raises(ModelUnsupported, match=rf"member 'm': .*tiny.gguf \(lfm2\) cannot be a member: .*{words}"):
        loader_of(saved("LFM2")[0]).facts()
