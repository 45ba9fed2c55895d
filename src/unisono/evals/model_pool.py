"""Loaded models, and the systems that use them."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from unisono.build import Prepared, prepare
from unisono.chat.messages import Prompt
from unisono.config.ensemble import EnsembleSpec
from unisono.engine.client import Client
from unisono.engine.engine import Engine
from unisono.engine.reading import Reading
from unisono.engine.request import Ended, Failed, GenerationRequest
from unisono.engine.scheduler import RequestId
from unisono.errors import CapacityError, ModelError, UnisonoError
from unisono.evals.records import System
from unisono.loaded_models import LoadedModels, load_models
from unisono.members import Report, silent
from unisono.records import Generation, Limits, Score

log = logging.getLogger(__name__)

QUESTIONS = 8
"""Minimum number of questions that every system answers, and that are written, before the next ones begin."""
MOST_CHOICES = 8
"""Minimum number of texts scored at once: the choices of two questions mostly, or of one and a kept prompt."""


class ModelPool:
    """Members that are loaded once and answer for many systems. Not thread-safe.

    A prompt's shared prefix is not read again, whichever system asks, until `forget`. Times therefore exclude the
    reading of prompts.
    """

    def __init__(self, spec: EnsembleSpec, *, batch: int = 1, report: Report = silent) -> None:
        """Read everything but the weights, so that systems can be checked first. Raises as `build.prepare`."""
        choices = -(-MOST_CHOICES // spec.vocabulary.slots)  # preparing counts the cuts of each text in
        self.prepared = prepare(spec.measured(), batch=max(batch, choices), report=report)
        self.batch = batch
        self._models: LoadedModels | None = None
        self._engines: dict[str, Engine] = {}
        self._readings: dict[tuple[str, ...], tuple[list[System], Reading]] = {}

    def load_weights(self, report: Report = silent) -> None:
        self._models = load_models([self.prepared], report, keep_prefixes=True)

    @property
    def models(self) -> LoadedModels:
        """The loaded models. Raises `RuntimeError` before `load_weights`."""
        if self._models is None:
            raise RuntimeError("the weights are not loaded")
        return self._models

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.spec.name for member in self.prepared.members)

    @property
    def question_batch(self) -> int:
        """Questions that every system answers before the next ones: at least `batch`."""
        return max(QUESTIONS, self.batch)

    def member(self, name: str) -> System:
        return System(name, (name,), self.prepared.alone(name).spec.method)

    def check(self, system: System) -> None:
        """Raise a `SpecError` for a system that these members cannot form."""
        system.method.check(self._prepared(system).weights)

    def generate(self, system: System, asked: Sequence[tuple[Prompt, Limits]]) -> list[Generation | UnisonoError]:
        """Write one text per prompt, several at once, with their first choices; errors stand in place of failed texts.

        ``seconds.total`` of a text is its share, by pieces, of the time since its batch's prompts were read.
        """
        client = Client.of(self._engine(system))
        results: dict[int, Generation | UnisonoError] = {}
        waiting = deque(enumerate(asked))
        while waiting:
            writing: dict[RequestId, int] = {}
            try:
                while waiting and len(writing) < self.batch:
                    index, (prompt, limits) = waiting[0]
                    try:
                        request = GenerationRequest("", prompt, limits, method=system.method, first_choices=True)
                        writing[_begin(client, request)] = index
                    except Exception as error:
                        if isinstance(error, CapacityError) and writing:
                            break  # a beam waits for more slots
                        results[index] = _as_ours(error)
                    waiting.popleft()
                results |= _finish(client, writing)
            finally:
                for request_id in writing:
                    client.cancel(request_id)
        return [results[index] for index in range(len(asked))]

    def score(self, system: System, asked: Sequence[tuple[Prompt, str]]) -> list[Score | UnisonoError]:
        """Score texts that follow prompts; a shared prompt is read once. Errors stand in place of failed scores.

        ``seconds`` of a score is its share of the time of its passes.
        """
        engine = self._engine(system)
        results: list[Score | UnisonoError] = []
        for _, group in itertools.groupby(asked, key=lambda each: each[0]):
            texts = list(group)
            size = engine.texts_at_once(system.method)
            for start in range(0, len(texts), size):
                results += _score(engine, texts[start : start + size], system)
        return results

    def score_all(
        self, systems: Sequence[System], asked: Sequence[tuple[Prompt, str]]
    ) -> list[list[Score | UnisonoError]]:
        """What `score` gives of each system, from one reading of each member (`unisono.engine.reading`).

        Where that is not possible, or fails, each prompt is read by itself, and then each system.
        """
        are_read_apart = self._is_truncated or any(system.method.vocabulary.is_bytes for system in systems)
        if not are_read_apart:
            try:
                return [list(scores) for scores in self._reading(systems).score(asked)]
            except Exception as error:
                log.debug("a reading of %d texts failed: %s", len(asked), error)
        groups = [list(group) for _, group in itertools.groupby(asked, key=lambda each: id(each[0]))]
        if len(groups) == 1 or are_read_apart:
            return [self.score(system, asked) for system in systems]
        found = [self.score_all(systems, group) for group in groups]
        return [[score for its in found for score in its[place]] for place in range(len(systems))]

    def forget(self) -> None:
        """Drop the prefix cache, so that nothing depends on earlier questions."""
        if self._models is not None:
            self._models.forget_prefixes()

    def close(self) -> None:
        if self._models is not None:
            self._models.unload()

    def _engine(self, system: System) -> Engine:
        key = json.dumps([system.members, system.weights, system.reshaped])
        if key not in self._engines:
            self._engines[key] = self.models.engine(self._prepared(system))
        return self._engines[key]

    @property
    def _is_truncated(self) -> bool:
        return any(member.facts.truncated for member in self.prepared.members)

    def _reading(self, systems: Sequence[System]) -> Reading:
        names, systems = tuple(system.name for system in systems), list(systems)
        if names not in self._readings or self._readings[names][0] != systems:
            settings = [self._engine(system).setting(system.method) for system in systems]
            self._readings[names] = systems, Reading(settings)
        return self._readings[names][1]

    def _prepared(self, system: System) -> Prepared:
        prepared = self.prepared.alone(system.members[0]) if system.is_member else self.prepared
        if system.weights is None and system.reshaped is None:
            return prepared
        keys = {name: dict(keys) for name, keys in (system.reshaped or {}).items()}
        for name, weight in (system.weights or {}).items():
            keys.setdefault(name, {})["weight"] = weight
        return prepared.reshaped(keys)


def _begin(client: Client, request: GenerationRequest) -> RequestId:
    """Begin a text and read its prompt at once, so that the next text finds their common prefix."""
    request_id = client.start(request)
    try:
        client.service.prefill(request_id)
    except Exception:
        client.cancel(request_id)
        raise
    return request_id


def _finish(client: Client, writing: Mapping[RequestId, int]) -> dict[int, Generation | UnisonoError]:
    """Write texts to their ends. The time is divided among them by their pieces."""
    results: dict[int, Generation | UnisonoError] = {}
    began = time.perf_counter()
    while len(results) < len(writing):
        for event in client.receive([each for each, index in writing.items() if index not in results]):
            if isinstance(event, Ended):
                results[writing[event.request_id]] = event.generation
            elif isinstance(event, Failed):
                results[writing[event.request_id]] = _as_ours(event.error)
    seconds = time.perf_counter() - began
    written = [each for each in results.values() if isinstance(each, Generation)]
    pieces = sum(len(each.steps or ()) for each in written)
    for index, each in results.items():
        if isinstance(each, Generation):
            part = len(each.steps or ()) / pieces if pieces else 1 / len(written)
            results[index] = replace(each, seconds=replace(each.seconds, total=part * seconds))
    return results


def _score(engine: Engine, asked: Sequence[tuple[Prompt, str]], system: System) -> list[Score | UnisonoError]:
    try:
        scores = engine.score(asked, method=system.method)
        return [replace(score, seconds=score.seconds / len(asked)) for score in scores]
    except UnisonoError as error:
        if len(asked) == 1:
            return [error]
        return [score for each in asked for score in _score(engine, [each], system)]
    except Exception as error:  # a model fails
        return [_as_ours(error)] * len(asked)


def _as_ours(error: Exception) -> UnisonoError:
    if isinstance(error, UnisonoError):
        return error
    return ModelError(f"a model failed: {type(error).__name__}: {error}", hint="a smaller batch takes less memory")
