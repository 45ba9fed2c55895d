"""The facade: load an ensemble, let it write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

from unisono.build import Prepared, prepare
from unisono.constraint import Constraint
from unisono.conversation import Tool
from unisono.engine.engine import Engine
from unisono.engine.method import Method, Speculation, check_off
from unisono.engine.text import Text
from unisono.errors import NoRoom, SpecError, UnisonoError, shown
from unisono.fusion.combine import Combine
from unisono.fusion.draw import Draw
from unisono.fusion.gate import Gate
from unisono.members import Report, silent
from unisono.request import DEFAULT_LIMITS, Request, check_request
from unisono.spec import EnsembleSpec, load_spec
from unisono.stream import Stream
from unisono.types import Generation, Limits, Message, Prompt
from unisono.vocab.call_form import CallForm

MOST_CONTINUATIONS = 10_000


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

    def call_form(self, lead: str | None = None) -> CallForm:
        """How texts write calls of tools, see `Prepared.call_form`; `find_calls` and `CallFinder` find them."""
        return self.prepared.call_form(lead)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        tools: Sequence[Tool] | None = None,
        max_new_tokens: int = DEFAULT_LIMITS.max_new_tokens,
        stop: str | Sequence[str] = (),
        trace: bool = False,
        lead: str | None = None,
        combine: Combine | str | Mapping[str, Any] | None = None,
        gate: Gate | str | Mapping[str, Any] | None = None,
        speculate: Speculation | str | Mapping[str, Any] | Literal[False] | None = None,
        draw: Draw | str | float | Mapping[str, Any] | None = None,
        spelling: Literal["piecewise", "canonical"] | None = None,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
    ) -> Generation:
        """Write one text.

        Args:
            prompt: raw text to continue, without a chat template. Either this or ``messages``.
            messages: a conversation to answer; each member reads it through its own chat template.
            tools: what the answer to messages may call; `call_form` tells how it does.
            max_new_tokens: pieces to choose at most.
            stop: the text ends before the first of these strings that is completed.
            trace: keep a `StepRecord` of every step.
            lead: the member whose distribution the gate looks at. ``None``, here and below: as the spec says.
            combine: how distributions become one, as `Combine.parse` reads it: ``"geometric"`` …
            gate: when the others are asked, as `Gate.parse` reads it: ``"always"``, ``"confidence:0.5"`` …
            speculate: who drafts, as `Speculation.parse` reads it; ``"off"`` or ``False`` for nobody.
            draw: how a piece is chosen, as `Draw.parse` reads it: ``"greedy"``, ``0.7``, ``"one-member"`` …
            spelling: as which ids members read what was written.
            constraint: what the text has to be, as `Constraint.parse` reads it: ``"json_object"``,
                ``{"json_schema": {…}}``, ``{"regex": "…"}``, ``{"lark": "…"}``.

        Raises:
            PromptError: the prompt is empty, too long, or cannot be represented by a member.
            SpecError: an argument is wrong, or the constraint cannot be kept.
            BackendMissing: there is a constraint, and llguidance is not installed.
            NoRoom: other texts, such as open streams, hold too many slots.
        """
        stream = self.stream(
            prompt,
            messages=messages,
            tools=tools,
            max_new_tokens=max_new_tokens,
            stop=stop,
            trace=trace,
            lead=lead,
            combine=combine,
            gate=gate,
            speculate=speculate,
            draw=draw,
            spelling=spelling,
            constraint=constraint,
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
        tools: Sequence[Tool] | None = None,
        max_new_tokens: int = DEFAULT_LIMITS.max_new_tokens,
        stop: str | Sequence[str] = (),
        trace: bool = False,
        lead: str | None = None,
        combine: Combine | str | Mapping[str, Any] | None = None,
        gate: Gate | str | Mapping[str, Any] | None = None,
        speculate: Speculation | str | Mapping[str, Any] | Literal[False] | None = None,
        draw: Draw | str | float | Mapping[str, Any] | None = None,
        spelling: Literal["piecewise", "canonical"] | None = None,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
    ) -> Stream:
        """Write one text and hand it out as it grows; the arguments are those of `generate`."""
        limits = Limits(max_new_tokens, stop)
        check_off(speculate, self.members)
        method = self.method.but(
            lead=lead, combine=combine, gate=gate, speculate=speculate, draw=draw, spelling=spelling
        )
        text = self._engine.add(
            Prompt(prompt, messages, tools), limits, method=method, trace=trace, constraint=constraint
        )
        return Stream(self._engine, text)

    def continuations(
        self,
        n: int,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        tools: Sequence[Tool] | None = None,
        max_new_tokens: int = DEFAULT_LIMITS.max_new_tokens,
        stop: str | Sequence[str] = (),
        trace: bool = False,
        lead: str | None = None,
        combine: Combine | str | Mapping[str, Any] | None = None,
        gate: Gate | str | Mapping[str, Any] | None = None,
        speculate: Speculation | str | Mapping[str, Any] | Literal[False] | None = None,
        draw: Draw | str | float | Mapping[str, Any] | None = None,
        spelling: Literal["piecewise", "canonical"] | None = None,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
    ) -> list[Generation]:
        """Draw several texts that go on from one prompt, which is read once.

        The first has the draw's seed, or one that is chosen for it, the next that and 1, and so on: each can
        be written again alone.

        Args:
            n: how many; as many are written at once as the ensemble was loaded for.
            prompt: as in `generate`, like all that follows, here for each text.
            messages: a conversation to answer.
            tools: what its answer may call.
            max_new_tokens: pieces to choose at most.
            stop: where a text ends.
            trace: whether to keep every step.
            lead: the member whose distribution the gate looks at.
            combine: how distributions become one.
            gate: when the others are asked.
            speculate: who drafts.
            draw: how a piece is chosen; something has to be drawn.
            spelling: as which ids members read what was written.
            constraint: what each text has to be.

        Raises:
            PromptError: the prompt is empty, too long, or cannot be represented by a member.
            SpecError: an argument is wrong, or nothing is drawn, so that all would be the same.
            NoRoom: other texts, such as open streams, hold all slots.
        """
        check_off(speculate, self.members)
        method = self.method.but(
            lead=lead, combine=combine, gate=gate, speculate=speculate, draw=draw, spelling=spelling
        )
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
        generations: list[Generation] = []
        while len(generations) < n:
            if generations:  # a further wave begins behind the last seed
                seed = (cast(int, generations[0].seed) + len(generations)) % 2**64
                method = method.but(draw=replace(method.draw, seed=seed))
            request = Request(
                "", Prompt(prompt, messages, tools), Limits(max_new_tokens, stop), trace, method, constraint
            )
            generations += self._wave(n - len(generations), request)
        return generations

    def _wave(self, n: int, request: Request) -> list[Generation]:
        """As many of ``n`` texts of one prompt as there are slots for."""
        texts = [self._add(request)]
        try:
            count = min(n, self._engine.free + 1)
            texts.extend(self._engine.add_again(texts[0], (texts[0].seed + more) % 2**64) for more in range(1, count))
            while any(text.finish is None for text in texts):
                self._engine.step()
        finally:
            for text in texts:
                self._engine.drop(text)
        return [text.generation() for text in texts]

    def generate_batch(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Generation | UnisonoError]]:
        """Write many texts, as many at once as the ensemble was loaded for.

        Yields each request with its result as soon as it has ended, so not always in their order. One
        that cannot be written comes back with its error; the others go on. Requests are taken from
        the iterable only when there is room for them.
        """
        waiting = iter(requests)
        writing: dict[Text, Request] = {}
        request: Request | None = None  # one that is taken from the iterable and does not fit yet
        more = True
        try:
            while True:
                while more and self._engine.free:
                    request = request or next(waiting, None)
                    if request is None:
                        more = False
                        break
                    try:
                        writing[self._add(request)] = request
                    except NoRoom:
                        if not writing:
                            raise
                        break  # a beam waits for more slots
                    except UnisonoError as error:
                        yield request, error
                    request = None
                if not writing:
                    if more:
                        raise NoRoom(
                            "all slots are taken by other texts", hint="end those, or load with a larger batch"
                        )
                    return
                self._engine.step()
                for text in [text for text in writing if text.finish is not None]:
                    yield writing.pop(text), text.generation()
        finally:
            for text in writing:
                self._engine.drop(text)

    def _add(self, request: Request) -> Text:
        check_request(request)
        return self._engine.add(
            request.prompt,
            request.limits,
            method=request.method,
            trace=request.trace,
            constraint=request.constraint,
        )

    def close(self) -> None:
        """Unload all members. Idempotent."""
        self._engine.close()
