"""Several texts at once: many requests, or many texts of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from unisono.engine.engine import Engine
from unisono.engine.request import Request
from unisono.engine.sequence import TextSequence
from unisono.errors import CapacityError, SpecError, UnisonoError, shown
from unisono.records import Generation

MOST_CONTINUATIONS = 10_000


def write_batch(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[Request, Generation | UnisonoError]]:
    """Write many texts, as many at once as there are slots for; see `Ensemble.generate_batch`."""
    waiting = iter(requests)
    writing: dict[TextSequence, Request] = {}
    request: Request | None = None  # one that is taken from the iterable and does not fit yet
    more = True
    try:
        while True:
            while more and engine.free:
                request = request or next(waiting, None)
                if request is None:
                    more = False
                    break
                try:
                    writing[add(engine, request)] = request
                except CapacityError:
                    if not writing:
                        raise
                    break  # a beam waits for more slots
                except UnisonoError as error:
                    yield request, error
                request = None
            if not writing:
                if more:
                    raise CapacityError(
                        "all slots are taken by other texts", hint="end those, or load with a larger batch"
                    )
                return
            engine.step()
            for text in [text for text in writing if text.finish is not None]:
                yield writing.pop(text), text.generation()
    finally:
        for text in writing:
            engine.drop(text)


def write_continuations(engine: Engine, n: int, request: Request) -> list[Generation]:
    """Draw several texts of one prompt, which is read once; see `Ensemble.continuations`."""
    method = request.method or engine.method
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MOST_CONTINUATIONS:
        raise SpecError(
            f"n is {shown(n)}: it must be a whole number from 1 to {MOST_CONTINUATIONS:,}",
            hint="it counts the texts to draw",
        )
    if n > 1 and method.draw.is_greedy:
        raise SpecError(
            f"n is {n}, but nothing is drawn: all {n} texts would be the same",
            hint="a beam finds one text: leave n out"
            if method.draw.beam_width > 1
            else "give a temperature above 0, such as 0.7",
        )
    generations = _write_wave(engine, n, request)
    first = generations[0].seed or 0
    while len(generations) < n:  # a further wave begins behind the last seed
        method = method.but(draw=replace(method.draw, seed=(first + len(generations)) % 2**64))
        generations += _write_wave(engine, n - len(generations), replace(request, method=method))
    return generations


def _write_wave(engine: Engine, n: int, request: Request) -> list[Generation]:
    """As many of ``n`` texts of one prompt as there are slots for."""
    texts = [add(engine, request)]
    try:
        count = min(n, engine.free + 1)
        texts.extend(engine.add_again(texts[0], (texts[0].seed + more) % 2**64) for more in range(1, count))
        while any(text.finish is None for text in texts):
            engine.step()
    finally:
        for text in texts:
            engine.drop(text)
    return [text.generation() for text in texts]


def add(engine: Engine, request: Request) -> TextSequence:
    """Take up the text that a request asks for. Raises what `Engine.add` does, and a `SpecError` for wrong types."""
    return engine.begin(engine.prepare(request))
