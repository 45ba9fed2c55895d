"""The demo models, loaded once for all tests that need them."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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

EXAMPLE = Path(__file__).parent.parent / "examples" / "duo.yaml"


def demo_member(name: str, backend: str, /, **keys: object) -> dict[str, Any]:
    """A member of the example's spec, through a backend of choice."""
    from unisono.config.ensemble import load_spec

    member = next(member for member in load_spec(EXAMPLE).members if member.name == name)
    given: dict[str, Any] = member.model_dump(exclude_defaults=True)
    return {**given, "backend": backend, **keys}


def demo_spec(*names: str, backend: str, **keys: object) -> dict[str, Any]:
    """The example's spec, or some members of it, through a backend of choice."""
    return {"members": [demo_member(name, backend, **keys) for name in names or ("smol", "gemma")]}


@pytest.fixture(scope="session")
def load_demo() -> Iterator[Callable[..., Any]]:
    """Load an ensemble of demo models; only the last one asked for stays in memory."""
    from unisono.ensemble import Ensemble

    loaded: dict[str, Any] = {}

    def load(*names: str, backend: str, batch: int = 8, **keys: object) -> Any:
        key = repr((names, backend, batch, keys))
        if key not in loaded:
            for ensemble in loaded.values():
                ensemble.close()
            loaded.clear()
            gc.collect()
            loaded[key] = Ensemble.load(demo_spec(*names, backend=backend, **keys), batch=batch)
        return loaded[key]

    yield load
    for ensemble in loaded.values():
        ensemble.close()


def written(engine: Any, prompts: Sequence[Any], pieces: int, size: int, method: Any = None) -> list[Any]:
    """Let an engine write all prompts, ``size`` at a time, a new one joining whenever one ends."""
    from unisono.records import Limits

    texts: list[Any] = []
    waiting = list(prompts)
    while waiting or engine.active:
        while waiting and len(engine.active) < size:
            texts.append(engine.add(waiting.pop(0), Limits(pieces), method=method, trace=True))
        engine.step()
    return texts
