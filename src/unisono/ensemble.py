"""The facade: load an ensemble, let it write and score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from unisono.batch import write_batch, write_continuations
from unisono.build import Prepared, prepare
from unisono.chat.call_form import CallForm
from unisono.chat.messages import Message, Prompt, Tool
from unisono.config.combine import Combine
from unisono.config.constraint import Constraint
from unisono.config.ensemble import EnsembleSpec, load_spec
from unisono.config.gate import Gate
from unisono.config.method import Method, Speculation, check_off
from unisono.config.sampling import Sampling
from unisono.engine.engine import Engine
from unisono.engine.request import DEFAULT_LIMITS, Request
from unisono.errors import UnisonoError
from unisono.members import Report, silent
from unisono.records import Generation, Limits, Score
from unisono.stream import Stream


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
        draw: Sampling | str | float | Mapping[str, Any] | None = None,
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
            draw: how a piece is chosen, as `Sampling.parse` reads it: ``"greedy"``, ``0.7``, ``"one-member"`` …
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
        draw: Sampling | str | float | Mapping[str, Any] | None = None,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
    ) -> Stream:
        """Write one text and hand it out as it grows; the arguments are those of `generate`."""
        limits = Limits(max_new_tokens, stop)
        check_off(speculate, self.members)
        method = self.method.but(lead=lead, combine=combine, gate=gate, speculate=speculate, draw=draw)
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
        draw: Sampling | str | float | Mapping[str, Any] | None = None,
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
            constraint: what each text has to be.

        Raises:
            PromptError: the prompt is empty, too long, or cannot be represented by a member.
            SpecError: an argument is wrong, or nothing is drawn, so that all would be the same.
            NoRoom: other texts, such as open streams, hold all slots.
        """
        check_off(speculate, self.members)
        method = self.method.but(lead=lead, combine=combine, gate=gate, speculate=speculate, draw=draw)
        prompted, limits = Prompt(prompt, messages, tools), Limits(max_new_tokens, stop)
        return write_continuations(self._engine, n, Request("", prompted, limits, trace, method, constraint))

    def generate_batch(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Generation | UnisonoError]]:
        """Write many texts, as many at once as the ensemble was loaded for.

        Yields each request with its result as soon as it has ended, so not always in their order. One
        that cannot be written comes back with its error; the others go on. Requests are taken from
        the iterable only when there is room for them.
        """
        return write_batch(self._engine, requests)

    def score(
        self,
        texts: str | Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        lead: str | None = None,
        combine: Combine | str | Mapping[str, Any] | None = None,
        gate: Gate | str | Mapping[str, Any] | None = None,
        draw: Sampling | str | float | Mapping[str, Any] | None = None,
    ) -> list[Score]:
        """Tell how likely given texts are that follow a prompt, which is read once.

        A text is cut into pieces by the lead's tokenizer, each member spells them, and one pass a member, which
        reads all of the text, gives the combined probability before every piece. So this is the probability of the
        text written in this one way, as is usual where single models are evaluated; that of its bytes, however they
        are cut, would be a sum over all ways.

        Args:
            texts: what follows the prompt, or several such, each by itself.
            prompt: raw text; it may be empty. Either this or ``messages``.
            messages: a conversation that a text answers.
            lead: the member that cuts, and at whose distribution the gate looks. ``None``, here and below: as the
                spec says.
            combine: how distributions become one.
            gate: when the others are asked; it is read as if the text were being written.
            draw: what of it is done to each member's distribution counts, and nothing else.

        Returns:
            One score a text, in their order.

        Raises:
            PromptError: a member cannot read the prompt or spell a text, or its context is too small for both.
            SpecError: an argument is wrong.
            NoRoom: other texts, such as open streams, hold all slots.
        """
        method = self.method.but(lead=lead, combine=combine, gate=gate, draw=draw)
        asked = [(Prompt(prompt, messages), text) for text in ([texts] if isinstance(texts, str) else texts)]
        room = max(1, self._engine.free)
        waves = [asked[start : start + room] for start in range(0, len(asked), room)]
        return [score for wave in waves for score in self._engine.score(wave, method=method)]

    def close(self) -> None:
        """Unload all members. Idempotent."""
        self._engine.close()
