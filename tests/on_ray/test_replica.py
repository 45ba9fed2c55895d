"""A replica without Ray Serve: it is ready when it has started, and says whether it is healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.ray.arguments import Arguments
from unisono.ray.replica import Replica, Unhealthy


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def replica(folder: Path, model: str = "fake:a", **keys: Any) -> Replica:
    file = folder / "one.yaml"
    file.write_text(f"members: [{{name: a, model: '{model}'}}]")
    return Replica(Arguments.read({"ensembles": [f"alone={file}"], **keys}))


def test_a_replica_answers_as_soon_as_it_has_started_and_ends(tmp_path: Path) -> None:
    async def live() -> None:
        made = replica(tmp_path)
        await made.start()
        made.check()
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(made), base_url="http://127.0.0.1") as client:
            assert (await client.get("/ready")).status_code == 200
            body = {"model": "alone", "prompt": "the cat", "max_tokens": 3}
            assert (await client.post("/v1/completions", json=body)).status_code == 200
            foreign = await client.get("/v1/models", headers={"host": "far.example"})
            assert foreign.status_code == 403
            await made.stop()
            assert (await client.post("/v1/completions", json=body)).status_code == 503
        with pytest.raises(Unhealthy, match="shut down"):
            made.check()

    asyncio.run(live())


def test_a_replica_that_cannot_load_does_not_start_and_says_why(tmp_path: Path) -> None:
    async def live() -> None:
        made = replica(tmp_path, "fake:lost")
        with pytest.raises(Unhealthy, match="there is no fake model 'lost'"):
            await made.start()
        await made.stop()

    asyncio.run(live())
