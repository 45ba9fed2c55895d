"""The facade: load an ensemble, let it generate and score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, Unpack, overload

from unisono.build import Prepared, prepare
from unisono.chat.call_form import CallForm
from unisono.chat.messages import Message, Prompt
from unisono.config.ensemble import Source, load_spec, source_of
from unisono.config.method import Method, MethodOptions
from unisono.engine.client import Client, Stream
from unisono.engine.engine import Engine
from unisono.engine.request import GenerationOptions, Request
from unisono.engine.service import Service
from unisono.errors import ClosedError, SpecError, UnisonoError, deprecated
from unisono.fitting.checks import check, check_answers
from unisono.fitting.fit import Fit, fit
from unisono.fitting.readings import ObjectiveName
from unisono.generate_arguments import method_of, prompts_of, request_of
from unisono.loaded_models import LoadedModels, load_models
from unisono.members import Report, silent
from unisono.records import Generation, Score
from unisono.reference_answers import reference_of


class Ensemble:
    """Several models that write one text together. Not thread-safe.

    Make one with `Ensemble.load`, and use it in a ``with`` block, which unloads the models at its end:

    ```python
    with Ensemble.load("duo.yaml") as duo:
        print(duo.generate(messages=[{"role": "user", "content": "Why is the sky blue?"}]).text)
    ```
    """

    def __init__(self, prepared: Prepared, engine: Engine, models: LoadedModels | None = None) -> None:
        """Take an engine and the ``models`` that it uses, which `fit` needs."""
        self.prepared = prepared
        self._engine = engine
        self._models = models
        self._client = Client.of(engine)
        self._is_closed = False

    @classmethod
    def load(
        cls,
        spec: Source | None = None,
        *,
        batch: int = 1,
        report: Report = silent,
        **members: str | Mapping[str, Any],
    ) -> Ensemble:
        """Load an ensemble for ``batch`` texts at once.

        ```python
        Ensemble.load("duo.yaml")
        Ensemble.load(["Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"])
        Ensemble.load(smol="demo:smollm2-135m-instruct", gemma="demo:gemma3-270m weight:0.5")
        ```

        Args:
            spec: the path of an ensemble file, its content as a mapping, one model, or a list of members: strings
                ``"[NAME=]MODEL[ KEY:VALUE…]"`` or mappings of the file's keys.
            batch: how many texts are written at once.
            report: called with (member, fraction done, words) while models load.
            members: the members by name, in place of ``spec``.

        Raises:
            UnisonoError: a member or a key is wrong; the error names it and says what to do.
        """
        prepared = prepare(load_spec(source_of(spec, members)), batch=batch, report=report)
        models = load_models([prepared], report)
        return cls(prepared, models.engine(prepared), models)

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
        """How the ensemble writes; `Method.but` replaces options."""
        return self._engine.method

    def call_form(self, lead: str | None = None) -> CallForm:
        """How answers write tool calls, in the format of the lead; `find_calls` and `CallFinder` find them.

        Args:
            lead: the member that leads; ``None`` for the ensemble's own lead.

        Raises:
            SpecError: there is no such member that votes.
            PromptError: the lead's template writes no calls, or only in a form that members cannot share.
        """
        return self.prepared.call_form(lead)

    @overload
    def generate(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        n: None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        n: int,
        **options: Unpack[GenerationOptions],
    ) -> list[Generation]: ...
    @overload
    def generate(
        self,
        prompt: list[str] | None = None,
        *,
        messages: list[list[Message]] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Generation]: ...
    def generate(
        self,
        prompt: str | Prompt | list[str] | None = None,
        *,
        messages: Sequence[Message] | list[list[Message]] | None = None,
        n: int | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation | list[Generation]:
        """Generate a text, several texts of one prompt (``n``), or a text for each prompt of a list.

        Args:
            prompt: raw text to continue, without a chat template, or a list of texts. Either this or ``messages``.
            messages: a conversation to answer, or a list of conversations; each member reads it through its own chat
                template.
            n: how many texts to sample from one prompt, which is read once. Their seeds are the seed of the sampling,
                or a new one, then that plus 1, and so on. So each text can be generated again alone.
            options: ``max_new_tokens``, ``stop``, ``tools``, ``trace``, ``constraint``, ``begin``,
                ``continue_final_message`` (`GenerationOptions`), and the method: ``temperature``, ``top_p``, ``seed``,
                ``gate`` … (`MethodOptions`).

        Returns:
            One text, or a list if ``n`` or a list of prompts is given.

        Raises:
            PromptError: a prompt is empty, too long, or cannot be represented by a member.
            SpecError: an argument is wrong, the constraint cannot be enforced, or ``n`` is more than 1 without
                sampling, so that all texts would be the same.
            BackendMissing: a constraint is given, and llguidance is not installed.
            CapacityError: other texts, such as open streams, occupy too many slots.
            MemberUnavailable: a member that lives elsewhere does not answer.
        """
        if isinstance(prompt, list) or (isinstance(messages, list) and messages and isinstance(messages[0], list)):
            requests = [self.request(*pair, options) for pair in prompts_of(prompt, messages, n)]
            results: dict[int, Generation] = {}
            numbered = (replace(request, id=str(place)) for place, request in enumerate(requests))
            for request, result in self._client.generate_batch(numbered):
                if not isinstance(result, Generation):
                    raise result
                results[int(request.id)] = result
            return [results[place] for place in range(len(requests))]
        single: Any = messages
        texts = self._client.generate(self.request(prompt, single, options, n))
        return texts[0] if n is None else texts

    def stream(
        self,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Stream:
        """Generate one text and yield it as it grows; arguments and errors are those of `generate`."""
        return Stream(self._client, self.request(prompt, messages, options))

    def continuations(self, n: int, prompt: str | None = None, **arguments: Any) -> list[Generation]:
        """The old name of ``generate(prompt, n=n)``."""
        deprecated("continuations(n, …) is now generate(…, n=n)")
        return self.generate(prompt, n=n, **arguments)

    def generate_batch(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Generation | UnisonoError]]:
        """Generate the texts of many requests, as many at once as the ensemble was loaded for.

        Requests are taken from the iterable only when there is room.

        Yields:
            Each request with its result when it ends, so not always in order; a request with ``n`` comes ``n`` times.
                The result of a failed request is its error.
        """
        self._check_open()
        return self._client.generate_batch(requests)

    def score(
        self,
        texts: str | Sequence[str],
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        **options: Unpack[MethodOptions],
    ) -> list[Score]:
        """Compute the probability of given texts after a prompt, which is read once.

        The lead's tokenizer cuts a text into pieces, each member spells them, and one pass per member over the whole
        text gives the combined probability of every piece. This is the probability of one segmentation, as is usual
        for single models; that of the bytes would be a sum over all segmentations.

        Args:
            texts: one text, or several, each scored by itself.
            prompt: raw text; it may be empty. Either this or ``messages``.
            messages: a conversation that the texts answer.
            options: as in `generate`. Gates are read as if the text were being generated. Of the sampling, only the
                options of each member's distribution count.

        Returns:
            One score per text, in their order.

        Raises:
            PromptError: a member cannot read the prompt or spell a text, or its context is too small for both.
            SpecError: an argument is wrong.
            CapacityError: other texts, such as open streams, occupy all slots.
        """
        self._check_open()
        method = method_of(options, self.method, self.members)
        asked = [(Prompt(prompt, messages), text) for text in ([texts] if isinstance(texts, str) else texts)]
        room = max(1, self._engine.free // method.vocabulary.slots)
        waves = [asked[start : start + room] for start in range(0, len(asked), room)]
        return [score for wave in waves for score in self._engine.score(wave, method=method)]

    def fit(
        self,
        answers: Iterable[Mapping[str, Any]],
        *,
        rule: str | None = None,
        objective: ObjectiveName = "likelihood",
        temperatures: bool | None = None,
    ) -> Fit:
        """Find the weights and temperatures that suit reference answers best. The ensemble is not changed.

        A quarter of the answers is held out. `Fit.gains` has the gain on these answers; only if `Fit.is_better`, the
        fitted ensemble is better beyond chance. `Fit.members` has what to write into the ensemble's file.

        Args:
            answers: mappings with ``prompt`` (raw text) or ``messages``, and the ``answer`` that should follow it;
                where one of several is to be chosen, also all ``choices``.
            rule: ``mean`` or ``geometric``; by default the ensemble's own.
            objective: ``likelihood`` makes the answers most likely; ``choices`` makes them likelier than the others.
            temperatures: whether to fit temperatures, too, or weights alone; by default not to choices.

        Raises:
            SpecError: there are too few answers, or one of them is not such a mapping.
            PromptError: a member cannot read a prompt or spell an answer; the message names it.
            BackendMissing: scipy is not installed.
        """
        self._check_open()
        if self._models is None:
            raise SpecError("an ensemble that was made of an engine cannot be fitted", hint="load it: Ensemble.load(…)")
        references = [reference_of(f"answer {place}", each) for place, each in enumerate(answers, 1)]
        check(self.prepared, references, rule, objective)
        check_answers(self.prepared, references, objective)
        return fit(self.prepared, self._models, references, rule=rule, objective=objective, temperatures=temperatures)

    def close(self) -> None:
        """Unload all members. A second call has no effect."""
        self._is_closed = True
        self.service.unload()

    @property
    def service(self) -> Service:
        return self._client.service

    def request(
        self,
        prompt: str | Prompt | None,
        messages: Sequence[Message] | None,
        options: GenerationOptions,
        n: int | None = None,
    ) -> Request:
        self._check_open()
        return request_of(prompt, messages, options, n, self.method, self.members)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the ensemble is closed", hint="load it again, or generate before its `with` block ends")
