"""An ensemble, or one of its members, answering requests of lm-evaluation-harness."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from unisono.build import prepare
from unisono.chat.messages import Prompt
from unisono.config.ensemble import load_spec
from unisono.config.method import Method
from unisono.engine.client import Client
from unisono.engine.engine import Engine
from unisono.engine.plan import lead_of
from unisono.engine.request import Request
from unisono.errors import MemberUnavailable, SpecError, UnisonoError, nearest, shown
from unisono.evals.requests import MAX_PIECES, prompt_of, read_generation, split_pair
from unisono.evals.windows import rolling_windows
from unisono.loaded_models import load_engine
from unisono.members import Report, silent
from unisono.records import Generation, Score

BATCH = 8
METHOD = ("lead", "combine", "gate", "boundary", "speculate", "max_pieces", "sampling", "reasoning", "vocabulary")
"""Arguments that change how the ensemble writes, named as in `Method.but`."""
_OLD = ("draw", "spelling")
_OF_SEVERAL = ("lead", "combine", "gate", "boundary")
Item = TypeVar("Item")
_KNOWN = ("spec", "member", "batch", "max_gen_toks", *METHOD)


@dataclass(frozen=True, slots=True)
class Arguments:
    spec: str
    member: str | None = None
    batch: int = BATCH
    max_pieces: int = MAX_PIECES
    """Maximum of pieces when a request sets none."""
    method: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Mapping[str, Any], *, batch_size: object = None) -> Arguments:
        """Read arguments by name; ``None`` counts as absent. Raises a `SpecError` for a wrong name or value."""
        given = {key: value for key, value in given.items() if value is not None}
        for key in given:
            if key not in (*_KNOWN, *_OLD):
                raise SpecError(
                    f"unknown argument {shown(key)}{nearest(key, _KNOWN)}; known: {', '.join(_KNOWN)}",
                    hint="write --model_args spec=duo.yaml,batch=8,gate=confidence:0.5; devices stand in the ensemble "
                    "file",
                )
        if "spec" not in given:
            raise SpecError("the argument spec is missing", hint="write --model_args spec=duo.yaml")
        if "member" in given and (several := [key for key in _OF_SEVERAL if key in given]):
            raise SpecError(
                f"{several[0]} is given, but {given['member']} answers alone", hint="leave it out, or the member"
            )
        batch = given.get("batch", BATCH if batch_size in (None, "auto") else batch_size)
        return cls(
            str(given["spec"]),
            None if "member" not in given else str(given["member"]),
            _count("batch", batch),
            _count("max_gen_toks", given.get("max_gen_toks", MAX_PIECES)),
            {key: given[key] for key in (*METHOD, *_OLD) if key in given},
        )


class Respondent:
    """Loaded members that answer requests; errors name the request. Not thread-safe."""

    def __init__(self, engine: Engine, method: Method, max_pieces: int = MAX_PIECES) -> None:
        self._engine = engine
        self.method = method
        self._max_pieces = max_pieces

    @classmethod
    def load(cls, arguments: Arguments, report: Report = silent) -> Respondent:
        """Load the members, or the one that answers alone. Raises a `UnisonoError` that names the member."""
        prepared = prepare(load_spec(arguments.spec).measured(), batch=arguments.batch, report=report)
        if arguments.member is not None:
            names = [member.spec.name for member in prepared.members]
            if arguments.member not in names:
                raise SpecError(
                    f"the member {shown(arguments.member)} is none that votes{nearest(arguments.member, names)}",
                    hint=f"choose one of {', '.join(names)}",
                )
            prepared = prepared.alone(arguments.member)
        method = prepared.spec.method.but(**arguments.method)
        method.check(prepared.weights)
        return cls(load_engine(prepared, report, keep_prefixes=True), method, arguments.max_pieces)

    @property
    def templates(self) -> str:
        """The members and the hashes of their chat templates: equal when conversations are read in the same way."""
        words = []
        for member in self._engine.members:
            encoder = member.encoder
            source = None if encoder.template is None else encoder.template.source
            own = json.dumps([source, encoder.system, encoder.prefix])
            words.append(f"{member.name}-{hashlib.sha256(own.encode()).hexdigest()[:16]}")
        return "unisono-" + "-".join(words)

    def write(self, asked: Sequence[tuple[str, Mapping[str, Any], str]]) -> Iterator[tuple[int, str]]:
        """Write texts, several at once; yield each with its index as soon as it ends.

        A request is a context, ``generation_kwargs``, and its name in errors. All are checked before the first begins.
        Raises a `UnisonoError`.
        """
        requests = []
        for place, (context, kwargs, name) in enumerate(asked):
            with _named(name):
                wanted = read_generation(kwargs, max_pieces=self._max_pieces)
                method = self.method.but(draw=wanted.draw(self.method.draw))
                request = Request(str(place), prompt_of(context), wanted.limits, method=method)
                self._engine.prepare(request)
            requests.append(request)
        for request, result in Client.of(self._engine).generate_batch(requests):
            with _named(asked[int(request.id)][2]):
                if not isinstance(result, Generation):
                    raise result
            yield int(request.id), result.text

    def score(self, asked: Sequence[tuple[str, str, str]]) -> Iterator[tuple[int, tuple[float, bool]]]:
        """Score texts after their contexts, those of one context together.

        A request is a context, which may be empty, a continuation, and its name in errors. A score is the natural log
        probability, and whether greedy decoding would have written the text. Raises a `UnisonoError`.
        """
        split = [(*split_pair(context, text), name) for context, text, name in asked]
        order = sorted(range(len(asked)), key=lambda place: split[place][0])
        for places in _packed(order, lambda place: split[place][0], self._engine.texts_at_once(self.method)):
            wanted = [(prompt_of(split[place][0]), split[place][1]) for place in places]
            scores = self._score(wanted, [asked[place][2] for place in places])
            for place, score in zip(places, scores, strict=True):
                yield place, (score.logp, score.is_greedy)

    def score_whole(self, asked: Sequence[tuple[str, str]]) -> Iterator[tuple[int, float]]:
        """Score texts of any length, given with their names in errors, without a context; see `rolling_windows`."""
        lead = lead_of(self.method, self._engine.members)
        for place, (text, words) in enumerate(asked):
            with _named(words):
                windows = [(Prompt(text=before), after) for before, after in rolling_windows(self._engine, lead, text)]
            logp = 0.0
            for some in _chunks(windows, self._engine.texts_at_once(self.method)):
                logp += sum(score.logp for score in self._score(some, [words] * len(some)))
            yield place, logp

    def close(self) -> None:
        self._engine.close()

    def _score(self, wanted: Sequence[tuple[Prompt, str]], names: Sequence[str]) -> list[Score]:
        """Score a group; if that fails, one by one, to name the failing one."""
        try:
            return self._engine.score(wanted, method=self.method)
        except UnisonoError:
            scores = []
            for each, name in zip(wanted, names, strict=True):
                with _named(name):
                    scores += self._engine.score([each], method=self.method)
            return scores


def _packed(order: Iterable[int], context: Callable[[int], str], room: int) -> Iterator[list[int]]:
    """Groups of indices, each as large as fits; texts of one context stay together where possible."""
    pack: list[int] = []
    for _, group in itertools.groupby(order, key=context):
        for some in _chunks(group, room):
            if len(pack) + len(some) > room:
                yield pack
                pack = []
            pack += some
    if pack:
        yield pack


def _count(name: str, value: object) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SpecError(f"{name} is {shown(value)}: it must be a whole number, 1 or more")
    return value


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except MemberUnavailable:  # which names its member
        raise
    except UnisonoError as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
