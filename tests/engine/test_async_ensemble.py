"""The facade for asyncio: concurrent requests get what each gets alone, and what is cancelled frees its slots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from support.fakes import PROMPTS, make_fakes
from unisono.async_ensemble import AsyncEnsemble
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.chat.messages import Prompt
from unisono.ensemble import Ensemble
from unisono.errors import SpecError

SPEC = {"members": [{"name": name, "model": f"fake:{name}"} for name in ("a", "b")]}


@pytest.fixture(autouse=True)
def fakes() -> Iterator[None]:
    make_fakes()
    yield
    FAKE_MODELS.clear()


def test_concurrent_requests_get_what_each_gets_alone() -> None:
    wanted: list[dict[str, Any]] = [
        {"prompt": PROMPTS[place % len(PROMPTS)], "temperature": 0.8 * (place % 2), "seed": place, "max_new_tokens": 12}
        for place in range(20)
    ]

    async def all_at_once() -> list[bytes]:
        async with await AsyncEnsemble.load(SPEC, batch=4) as pair:
            assert pair.members == ("a", "b")
            return [text.data for text in await asyncio.gather(*(pair.generate(**each) for each in wanted))]

    with Ensemble.load(SPEC) as pair:
        alone = [pair.generate(**each).data for each in wanted]
    assert asyncio.run(all_at_once()) == alone


def test_several_texts_and_streams() -> None:
    async def main() -> None:
        async with await AsyncEnsemble.load(SPEC, batch=4) as pair:
            three = await pair.generate("Hello", n=3, temperature=1, seed=5, max_new_tokens=6)
            assert [text.seed for text in three] == [5, 6, 7]
            parts = [part async for part in pair.stream("Hello", max_new_tokens=9)]
            assert "".join(parts) == (await pair.generate(Prompt(text="Hello"), max_new_tokens=9)).text

    asyncio.run(main())


def test_a_cancelled_task_frees_its_slots_and_a_stream_that_is_left_too() -> None:
    async def main() -> None:
        async with await AsyncEnsemble.load(SPEC, batch=1) as pair:
            task = asyncio.create_task(pair.generate("Hello", max_new_tokens=100_000))
            waiting = asyncio.create_task(pair.generate("Hello", max_new_tokens=100_000))
            await asyncio.sleep(0.05)
            for each in (waiting, task):
                each.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await each
            stream = pair.stream("Hello", max_new_tokens=100_000)
            assert await anext(stream)
            await stream.aclose()
            async with asyncio.timeout(20):
                assert (await pair.generate("Hello", max_new_tokens=3)).usage.pieces == 3

    asyncio.run(main())


def test_errors_reach_their_own_caller() -> None:
    async def main() -> None:
        async with await AsyncEnsemble.load(SPEC, batch=2) as pair:
            with pytest.raises(SpecError, match="unknown option 'temprature'"):
                await pair.generate("Hello", temprature=1)  # type: ignore[call-overload]
            with pytest.raises(SpecError, match="slots for 3 texts"):
                await pair.generate("Hello", n=3, temperature=1)
            backend = pair._ensemble._engine.members[1].backend
            advance = backend.advance

            def failing(feeds: Any) -> Any:
                if any(len(feed.ids) > 30 for feed in feeds):
                    raise RuntimeError("out of memory")
                return advance(feeds)

            backend.advance = failing  # type: ignore[method-assign]
            good, bad = pair.generate("Hello", max_new_tokens=5), pair.generate("Sofia " * 40)
            results = await asyncio.gather(good, bad, return_exceptions=True)
            assert not isinstance(results[0], BaseException)
            assert isinstance(results[1], RuntimeError)
            assert "member 'b'" in results[1].__notes__[0]

    asyncio.run(main())


def test_closing_ends_what_is_being_generated() -> None:
    async def main() -> None:
        pair = await AsyncEnsemble.load(SPEC, batch=1)
        tasks = [asyncio.create_task(pair.generate("Hello", max_new_tokens=100_000)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await pair.close()
        await pair.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, RuntimeError) and "closed" in str(result) for result in results)
        with pytest.raises(RuntimeError, match="closed"):
            await pair.generate("Hello")

    asyncio.run(main())
