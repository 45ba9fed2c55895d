"""The facade: load an ensemble, let it write."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from unisono.build import Prepared, Report, prepare, silent
from unisono.engine.engine import Engine
from unisono.engine.method import Method, Speculation, check_off
from unisono.engine.text import Text
from unisono.errors import SpecError, UnisonoError, shown
from unisono.fusion.gate import Gate
from unisono.spec import EnsembleSpec, load_spec
from unisono.types import Generation, Limits, Message, Prompt, StepRecord

DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Request:
    """One of several texts that are written as a batch."""

    id: str
    """Comes back with the result."""
    prompt: Prompt
    limits: Limits = DEFAULT_LIMITS
    trace: bool = False
    method: Method | None = None
    """How this one is written, as ``ensemble.method.but(gate="first:8")`` says it; ``None`` for as the
    ensemble writes, which is `Ensemble.method`."""


class Stream:
    """A text while it is being written: iterate to receive it as whole characters.

    After the last one, `generation` is there. Closing it, or leaving a ``with``, gives the text up.
    """

    def __init__(self, engine: Engine, text: Text) -> None:
        """Begin to write ``text``, which ``engine`` has taken up."""
        self._text = text
        self._parts = engine.run(text)
        self._engine = engine
        weakref.finalize(self, engine.drop, text)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def generation(self) -> Generation:
        """The finished record. Raises `RuntimeError` while the text is being written."""
        return self._text.generation()

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The trace so far; empty when none was asked for."""
        return tuple(self._text.steps or ())

    def close(self) -> None:
        """Stop writing and free the text's slots. Idempotent."""
        self._parts.close()  # type: ignore[attr-defined]  # run is a generator function
        self._engine.drop(self._text)


class Ensemble:
    """Several models that write one text together. Not thread-safe.

    Example::

        with Ensemble.load("duo.yaml") as duo:
            print(duo.generate(messages=[{"role": "user", "content": "Why is the sky blue?"}]).text)
    """

    def __init__(self, prepared: Prepared, engine: Engine) -> None:
        """Join what was prepared with what was loaded; most callers want `load`."""
        self.prepared = prepared
        self._engine = engine

    @classmethod
    def load(
        cls,
        spec: str | Path | Mapping[str, Any] | EnsembleSpec,
        *,
        batch: int = 1,
        report: Report = silent,
    ) -> Ensemble:
        """Load an ensemble.

        Args:
            spec: the path of an ensemble file, or its content as a mapping.
            batch: how many texts can be written at once; memory for so many is set aside.
            report: called with (member, fraction done, words) while things load.

        Raises:
            UnisonoError: of the kind that fits, saying which member, what is wrong and the way out.
        """
        prepared = prepare(load_spec(spec), batch=batch, report=report)
        return cls(prepared, prepared.load(report))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members that vote, in order."""
        return tuple(member.name for member in self._engine.members)

    @property
    def context(self) -> int:
        """The smallest of the members' contexts, in tokens."""
        return self._engine.context

    @property
    def method(self) -> Method:
        """How a text is written that asks for nothing else."""
        return self._engine.method

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        max_new_tokens: int = DEFAULT_LIMITS.max_new_tokens,
        stop: str | Sequence[str] = (),
        trace: bool = False,
        lead: str | None = None,
        gate: Gate | str | Mapping[str, Any] | None = None,
        speculate: Speculation | str | Mapping[str, Any] | Literal[False] | None = None,
    ) -> Generation:
        """Write one text.

        Args:
            prompt: raw text to continue, without a chat template. Either this or ``messages``.
            messages: a conversation to answer; each member reads it through its own chat template.
            max_new_tokens: pieces to choose at most.
            stop: the text ends before the first of these strings that is completed.
            trace: keep a `StepRecord` of every step.
            lead: the member whose distribution the gate looks at. ``None``, here and below: as the spec says.
            gate: when the others are asked, as `Gate.parse` reads it: ``"always"``, ``"confidence:0.5"`` …
            speculate: who drafts, as `Speculation.parse` reads it; ``"off"`` or ``False`` for nobody.

        Raises:
            PromptError: the prompt is empty, too long, or cannot be represented by a member.
            SpecError: an argument is wrong.
        """
        stream = self.stream(
            prompt,
            messages=messages,
            max_new_tokens=max_new_tokens,
            stop=stop,
            trace=trace,
            lead=lead,
            gate=gate,
            speculate=speculate,
        )
        with stream:
            for _ in stream:
                pass
            return stream.generation

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        max_new_tokens: int = DEFAULT_LIMITS.max_new_tokens,
        stop: str | Sequence[str] = (),
        trace: bool = False,
        lead: str | None = None,
        gate: Gate | str | Mapping[str, Any] | None = None,
        speculate: Speculation | str | Mapping[str, Any] | Literal[False] | None = None,
    ) -> Stream:
        """Write one text and hand it out as it grows; the arguments are those of `generate`."""
        limits = Limits(max_new_tokens, stop)
        check_off(speculate, self.members)
        method = self.method.but(lead=lead, gate=gate, speculate=speculate)
        return Stream(self._engine, self._engine.add(Prompt(prompt, messages), limits, method=method, trace=trace))

    def generate_batch(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Generation | UnisonoError]]:
        """Write many texts, as many at once as the ensemble was loaded for.

        Yields each request with its result as soon as it has ended, so not always in their order. One
        that cannot be written comes back with its error; the others go on. Requests are taken from
        the iterable only when there is room for them.
        """
        waiting = iter(requests)
        writing: dict[Text, Request] = {}
        more = True
        try:
            while True:
                while more and len(self._engine.active) < self._engine.slots:
                    request = next(waiting, None)
                    if request is None:
                        more = False
                        break
                    try:
                        _check(request)
                        text = self._engine.add(
                            request.prompt, request.limits, method=request.method, trace=request.trace
                        )
                        writing[text] = request
                    except UnisonoError as error:
                        yield request, error
                if not writing:
                    if more:
                        raise RuntimeError("all slots are taken by other texts: end those, or load with a larger batch")
                    return
                self._engine.step()
                for text in [text for text in writing if text.finish is not None]:
                    yield writing.pop(text), text.generation()
        finally:
            for text in writing:
                self._engine.drop(text)

    def close(self) -> None:
        """Unload all members. Idempotent."""
        self._engine.close()


def _check(request: Request) -> None:
    """Refuse fields of the wrong type before they reach the engine. Raises a `SpecError`."""
    if not isinstance(request.prompt, Prompt):
        raise SpecError(
            f"the prompt of a request is {shown(request.prompt)}, not a Prompt", hint='write Prompt(text="…")'
        )
    if not isinstance(request.limits, Limits):
        raise SpecError(
            f"the limits of a request are {shown(request.limits)}, not Limits", hint="write Limits(max_new_tokens=64)"
        )
    if not isinstance(request.method, Method | None):
        raise SpecError(
            f"the method of a request is {shown(request.method)}, not a Method",
            hint='make one: ensemble.method.but(gate="first:8")',
        )
