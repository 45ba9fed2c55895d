"""Every backend keeps the contract of the waist."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.covering import ALL
from unisono.backends.base import Backend, LoadRequest, ModelSource, Truncation
from unisono.backends.registry import BACKENDS, installed, make_loader
from unisono.config.demo import demo_path
from unisono.testing import BACKEND_CONTRACT, ContractCase, check_backend_contract, check_unload, fake_member

LONG = "The ship sailed north, and nobody on board knew what the captain had written in the log. " * 40
LONG_TOKENS, PAST_WINDOW = (160, 600) if ALL else (60, 60)
"""Of an additional text: Gemma's is longer than its sliding window."""
WINDOW = None if ALL else 16
"""In place of Gemma's own of 512, past which `test_copies` reads."""
TEXTS = (
    "The capital of France is Paris, and its river is called the",
    "Une phrase française: «où est-ce que l’été commence?» 日本語の文",
    "def add(a, b):\n    return",
)


@dataclass(frozen=True)
class Subject:
    """A backend under contract; nothing is loaded before a test asks for it."""

    backend: str
    source: Callable[[], ModelSource]
    tolerance: float
    long_tokens: int = 0
    """Tokens of an additional long text: more than the model's sliding window."""
    window: int | None = None
    """In place of the model's own sliding window."""

    def load(self, folder: Path) -> tuple[Backend, ContractCase]:
        source = self.source()
        if self.window is not None and self.backend == "llamacpp":
            source = with_window(source.path, folder / "narrow.gguf", self.window)
        loader: Any = make_loader(self.backend, LoadRequest(name="subject", source=source, context=1024, slots=4))
        if self.window is not None and self.backend == "transformers":
            loader.files.gguf.config = lambda own=loader.files.gguf.config: {**own(), "sliding_window": self.window}
        tokenizer = loader.tokenizer()
        texts = [tuple(tokenizer.encode_prompt(text)) for text in TEXTS]
        if self.long_tokens:
            texts.append(tuple(tokenizer.encode_prompt(LONG))[: self.long_tokens])
        return loader.load(lambda fraction, words: None), ContractCase(tuple(texts), self.tolerance)


def with_window(path: Path, target: Path, window: int) -> ModelSource:
    """Gemma's file, but for how far back some layers look."""
    data = bytearray(path.read_bytes())
    key = b"gemma3.attention.sliding_window"
    place = data.index(key) + len(key) + 4  # the number's type stands before it
    assert struct.unpack_from("<I", data, place) == (512,)
    struct.pack_into("<I", data, place, window)
    target.write_bytes(data)
    return ModelSource("gguf", str(target))


def demo(name: str) -> Callable[[], ModelSource]:
    return lambda: ModelSource("gguf", str(demo_path(name)))


def fake(family: str, top: Truncation | None = None) -> Callable[[], ModelSource]:
    def source() -> ModelSource:
        fake_member(f"contract-{family}", [" the", "Paris"], family=family).top = top
        return ModelSource("fake", f"contract-{family}")

    return source


def subject(name: str, made: Subject, *, models: bool = True) -> object:
    """One row of `SUBJECTS`; it is skipped where the backend's library is not installed."""
    marks = [pytest.mark.models] if models else []
    if not installed(BACKENDS[made.backend]):
        marks.append(pytest.mark.skip(reason=f"the library of {made.backend} is not installed"))
    return pytest.param(made, id=name, marks=marks)


# llama.cpp rounds activations to eight bits, and for some formats of weights it has kernels that sum in
# another order when more tokens are read at once; a sum that falls on the other side of a rounding then
# moves the distribution. SmolLM2's Q4_1 has one kernel: its rows were equal to the bit, but for blocks of
# hundreds of tokens (0.045), which flash attention tiles. Gemma's Q5_0, Q8_0 and Q4_K have several (0.106).
# The tolerances are about twice that.
SUBJECTS = [
    subject("fake-byte-level", Subject("fake", fake("byte-level"), tolerance=0.0), models=False),
    subject("fake-sentencepiece", Subject("fake", fake("sentencepiece"), tolerance=0.0), models=False),
    subject("fake-truncated", Subject("fake", fake("byte-level", Truncation(5, 60, 8)), tolerance=0.0), models=False),
    subject(
        "llamacpp-smollm2", Subject("llamacpp", demo("smollm2-135m-instruct"), tolerance=0.1, long_tokens=LONG_TOKENS)
    ),
    subject(
        "llamacpp-gemma3",
        Subject("llamacpp", demo("gemma3-270m"), tolerance=0.2, long_tokens=PAST_WINDOW, window=WINDOW),
    ),
    # torch sums in another order when a batch has another shape: float32 rounding, nothing more.
    subject(
        "transformers-smollm2", Subject("transformers", demo("smollm2-135m-instruct"), 1e-4, long_tokens=LONG_TOKENS)
    ),
    subject(
        "transformers-gemma3",
        Subject("transformers", demo("gemma3-270m"), 1e-4, long_tokens=PAST_WINDOW, window=WINDOW),
    ),
]


@pytest.fixture(scope="module", params=SUBJECTS)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Backend, ContractCase]]:
    backend, case = request.param.load(tmp_path_factory.mktemp("model"))
    yield backend, case
    check_unload(backend)


@pytest.mark.parametrize("rule", BACKEND_CONTRACT)
def test_every_backend_keeps_the_rule(loaded: tuple[Backend, ContractCase], rule: str) -> None:
    BACKEND_CONTRACT[rule](*loaded)


def test_the_whole_contract_is_one_call(tmp_path: Path) -> None:
    made = Subject("fake", fake("byte-level"), tolerance=0.0)
    check_backend_contract(*made.load(tmp_path))
