"""The demo models, loaded once for all tests that need them."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support.command_line import Run, Shown
from support.covering import ALL
from support.demo import demo_spec
from support.kept_models import keep_what_is_read

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("UNISONO_SELF_CHECK", "off")
os.environ.setdefault("UNISONO_TRIAL_LOAD", "off")
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
"""No certificates, as every server here is ours and speaks plain HTTP: each new client of httpx would read all of the
system's, for 25 ms."""

settings.register_profile("unisono", derandomize=not ALL)
settings.load_profile("unisono")
"""The same examples each time: what fails is the change's fault. ``UNISONO_TEST_ALL=1`` draws others."""


def _take_a_core() -> None:
    """Let each of several workers, and what it starts, compute on a core of its own: threads of two models that share
    cores wait for one another.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", ""), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    if not worker or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    share = cores[int(worker.removeprefix("gw")) :: int(count)]
    if share:
        os.sched_setaffinity(0, share)


_take_a_core()

PAIR = ("smol", "gemma")
TOKENIZERS = ("test_pieces_real.py", "test_hf_tokenizer.py")
"""Files that read nothing but real tokenizers."""
LONG = ("models", "tokenizers", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reads real tokenizers, and put files whose tests take long first, as nobody then waits for the last."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: the address in its name is another in each process: give it an id")
        names = getattr(getattr(item, "function", None), "__code__", None)
        if item.path.name in TOKENIZERS or (names is not None and "real" in names.co_names):
            item.add_marker(pytest.mark.tokenizers)
    long = {item.path for item in items if any(item.get_closest_marker(name) for name in LONG)}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Let collections of garbage leave out the modules of libraries and tests: all of torch, again for every model."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Collect garbage after each file: what it leaves open is its own fault, and not that of a later one."""
    yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _kept() -> Iterator[None]:
    """Tests share what is read of demo models."""
    with pytest.MonkeyPatch.context() as patch:
        keep_what_is_read(patch)
        yield


@pytest.fixture(scope="session")
def load_demo() -> Iterator[Callable[..., Any]]:
    """Load an ensemble of demo models; the last one of each backend stays in memory."""
    from unisono.ensemble import Ensemble

    loaded: dict[str, tuple[str, Any]] = {}  # by backend: two in float32 would take gigabytes more

    def load(*names: str, backend: str, batch: int = 8, **keys: object) -> Any:
        key = repr((names or PAIR, batch, keys))
        if loaded.get(backend, ("", None))[0] != key:
            if backend in loaded:
                loaded.pop(backend)[1].close()
                gc.collect()
            loaded[backend] = key, Ensemble.load(demo_spec(*names, backend=backend, **keys), batch=batch)
        return loaded[backend][1]

    yield load
    for _, ensemble in loaded.values():
        ensemble.close()


@pytest.fixture
def duo(tmp_path: Path) -> Iterator[Path]:
    from unisono.backends.fake.backend import FAKE_MODELS
    from unisono.testing import fake_member

    fake_member("a", [" the", "Hello"], seed=1)
    fake_member("b", [" the", " Hel"], seed=2, family="sentencepiece")
    path = tmp_path / "duo.yaml"
    path.write_text("members:\n  - {name: a, model: 'fake:a'}\n  - {name: b, model: 'fake:b'}\n")
    yield path
    FAKE_MODELS.clear()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object, stdin: bytes = b"") -> Shown:
        monkeypatch.setattr(sys, "argv", ["unisono", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        from unisono.cli.main import main

        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Shown(code, *capfd.readouterr())

    return call
