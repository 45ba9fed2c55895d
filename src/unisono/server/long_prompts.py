"""Long prompts: in what order they are read, and by whom; see docs/adr/0017.

Short ones never wait for them: they are prepared in another thread. Members' encoders and spellers ask a process
beside the server for the ids of a long text, `unisono.chat.encoding_process`.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from unisono.chat.encoding_process import load, packed, question, size_of
from unisono.chat.messages import Prompt
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.engine.encoding import check_length
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.engine.service import Service
from unisono.errors import MemberUnavailable, PromptError
from unisono.server.errors import OVERLOADED, Refusal, no_process
from unisono.server.helper_process import HelperProcess, TooMuch, start_module
from unisono.server.limits import ServerLimits
from unisono.server.telemetry import say
from unisono.vocab.spelling import Speller

SHORT = 8192
"""Characters of a prompt up to which it counts as short. Some of llama.cpp's regular expressions end a process where a
word has 20,000."""
NEAR = 10_000
"""Characters up to which a text is encoded in the server's own process: a short prompt, and what a method adds."""
WAITING = 32
"""How many of the longest prompts may wait to be read."""
SHARE = 50_000
"""Characters for which a prompt lets others pass for a second."""
PATIENCE = 60.0
"""Seconds after which a process has to have answered, on a machine however busy."""
LONGEST = 2**26
"""Bytes of an answer."""
TRIES = 4
"""How often a question is put to processes that have not what it is about."""
REST = 60.0
"""Seconds for which a tokenizer that ended a process when it was loaded there is not loaded again."""

T = TypeVar("T")


class Line:
    """Who reads next: the shortest first, but each only for a time that grows with its size, so that none starves."""

    def __init__(self, room: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``room`` is how many characters may wait in all."""
        self._room = room
        self._clock = clock
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._taken = False

    async def enter(self, size: int, retry_after: int) -> None:
        """Wait for one's turn; `leave` ends it. Raises a `Refusal` where too much waits."""
        if not self._taken:
            self._taken = True
            return
        waiting = sum(its_size for _, its_size, _ in self._waiting)
        if waiting + size > self._room:
            words = f"prompts of {waiting} characters wait to be read, and this one has {size}; try again later"
            raise Refusal(429, words, kind=OVERLOADED, code="queue_full", retry_after=retry_after)
        turn = asyncio.get_running_loop().create_future()
        entry = self._clock() + size / SHARE, size, turn
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            if not turn.cancelled():
                self.leave()  # it was given the turn meanwhile
            raise

    def leave(self) -> None:
        self._waiting = [entry for entry in self._waiting if not entry[2].done()]  # who is about to leave
        self._taken = bool(self._waiting)
        if self._waiting:
            entry = min(self._waiting, key=lambda each: each[0])
            self._waiting.remove(entry)
            entry[2].set_result(None)


class LongPrompts:
    """The thread that prepares requests with long prompts, and the process that encodes for it."""

    def __init__(self, limits: ServerLimits, room: int, patience: float = PATIENCE) -> None:
        """``room`` is how many characters may wait."""
        self.limits = limits
        self._line = Line(room)
        self._process = HelperProcess("reader", _start, patience, LONGEST)
        self._asking = threading.Lock()
        self._parcels: dict[int, Parcel] = {}
        """By the identity of a tokenizer."""

    def lend(self, service: Service) -> None:
        """Let the members of a service ask the process for the ids of long texts."""
        engines: set[Engine] = set(service.engines.values())
        for member in [member for engine in engines for member in engine.members]:
            reader = _Reader(self, *self.take(member.encoder), member)
            member.encoder, member.speller = _FarEncoder(member.encoder, reader), _FarSpeller(member.speller, reader)

    def take(self, encoder: PromptEncoder) -> tuple[Parcel, int]:
        """The parcel in which the process is sent an encoder, and the encoder's place in it."""
        parcel = self._parcels.setdefault(id(encoder.tokenizer), Parcel(len(self._parcels)))
        if all(each is not encoder for each in parcel.encoders):
            parcel.encoders.append(encoder)
        return parcel, next(place for place, each in enumerate(parcel.encoders) if each is encoder)

    async def read(self, size: int, work: Callable[[], T], retry_after: int) -> T:
        """Do what encodes so many characters when its turn comes, which it has until it is done. Raises a `Refusal`."""
        await self._line.enter(size, retry_after)
        try:
            working = self._process.run(work)
        except Refusal:
            self._line.leave()
            raise
        working.add_done_callback(self._done)
        return await asyncio.shield(working)  # a thread cannot be interrupted

    def _done(self, working: asyncio.Future[Any]) -> None:
        self._line.leave()
        if not working.cancelled():
            working.exception()  # nobody may be there to hear it

    def close(self) -> None:
        """End the process, and refuse what waits for it."""
        self._process.close()

    def ask(self, parcel: Parcel, line: bytes) -> dict[str, Any] | None:
        """What the process answers of a parcel; ``None`` where it cannot have that. Called in any thread.

        Raises a `PromptError` where the prompt takes too much, or a `Refusal`.
        """
        with self._asking:
            for _ in range(TRIES):
                if parcel.stays:
                    return None
                try:
                    answer: dict[str, Any] = self._process.exchange(line)
                except TooMuch as error:
                    raise PromptError(
                        "the prompt cannot be read within the time and memory that this server has for one",
                        hint="shorten it, or break up very long words and runs of one character",
                    ) from error
                if "missing" not in answer:
                    return answer
                self._load(parcel)
        raise no_process("it does not last")

    def _load(self, parcel: Parcel) -> None:
        """Send a parcel to the process, or let it stay where it is. Raises a `PromptError` where the process ends."""
        if (data := parcel.packed()) is None:
            return
        if time.monotonic() >= parcel.rests_until:
            try:
                answer = self._process.exchange(load(parcel.number, data))
            except TooMuch:
                parcel.rests_until = time.monotonic() + REST
            else:
                if "unable" in answer:
                    parcel.stay(answer["unable"])
                return
        raise PromptError(
            f"prompts of this length cannot be read now: the tokenizer of {parcel.names} ends the process for them",
            hint=f"shorten it to {NEAR:,} characters, or try again in a minute",
        )


@dataclass(slots=True)
class Parcel:
    """Encoders with one tokenizer, which is sent once for all of them."""

    number: int
    encoders: list[PromptEncoder] = field(default_factory=list)
    stays: bool = False
    """Whether they cannot be had in another process, so that they read in this one."""
    rests_until: float = 0.0
    """Until when they are not loaded, because they ended the process that did it."""
    _data: bytes | None = None

    @property
    def names(self) -> str:
        return ", ".join(dict.fromkeys(encoder.name for encoder in self.encoders))

    def packed(self) -> bytes | None:
        """The encoders for the process; ``None`` where they stay."""
        if self._data is None and not self.stays:
            try:
                self._data = packed(self.encoders)
            except Exception as error:  # what `pickle` raises is of many kinds
                self.stay(f"{type(error).__name__}: {error}")
        return self._data

    def stay(self, why: str) -> None:
        self.stays, self._data = True, None
        say("reader", level=30, stays=f"long prompts of {self.names} are read in this process: {why}")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads for one member."""

    prompts: LongPrompts
    parcel: Parcel
    place: int
    """Of the encoder in its parcel."""
    member: Member
    is_bounded: bool = True
    """Whether the ids of prompts that are too long to be answered stay where they are."""

    def ids(self, what: Prompt | str | bytes, *, off: bool = False, may_be_empty: bool = False) -> list[int] | None:
        """The ids; ``None`` where nobody else can read.

        Raises a `PromptError`, a `Refusal`, or a `MemberUnavailable` of a tokenizer that is elsewhere.
        """
        if self.parcel.stays:
            return None
        limits, context = self.prompts.limits, self.member.backend.facts.context
        most = min(context, limits.prompt) if isinstance(what, Prompt) and self.is_bounded else None
        asked = question((self.parcel.number, self.place), what, off=off, may_be_empty=may_be_empty, most=most)
        if (answer := self.prompts.ask(self.parcel, asked)) is None:
            return None
        if "error" in answer:
            message, hint = answer["error"]
            raise PromptError(message, hint=hint)
        if "away" in answer:
            member, address, reason, seconds = answer["away"]
            raise MemberUnavailable(member, address, reason, retry_after=seconds)
        if isinstance(what, Prompt) and "length" in answer:
            check_length(self.member.name, answer["length"], context)
            limits.check_tokens(self.member.name, answer["length"], what)
        ids: list[int] = answer["ids"]
        return ids


class _FarEncoder(PromptEncoder):
    """An encoder that has long prompts read."""

    def __init__(self, near: PromptEncoder, reader: _Reader) -> None:
        vars(self).update(vars(near))
        self._reader = reader

    @property
    def unbounded(self) -> PromptEncoder:
        return _FarEncoder(self, replace(self._reader, is_bounded=False))

    def encode(self, prompt: Prompt, *, off: bool = False, may_be_empty: bool = False) -> list[int]:
        found = self._reader.ids(prompt, off=off, may_be_empty=may_be_empty) if size_of(prompt) > NEAR else None
        return super().encode(prompt, off=off, may_be_empty=may_be_empty) if found is None else found

    def encode_text(self, text: str) -> list[int]:
        found = self._reader.ids(text) if len(text) > NEAR else None
        return super().encode_text(text) if found is None else found


class _FarSpeller(Speller):
    """A speller that has long texts spelled."""

    def __init__(self, near: Speller, reader: _Reader) -> None:
        vars(self).update(vars(near))
        self._reader = reader

    def own_encoding(self, piece: bytes) -> tuple[int, ...] | None:
        """The ids of a text, exact byte for byte; of a long one, also those of the longest match."""
        found = self._reader.ids(piece) if _is_long(piece) else None
        return super().own_encoding(piece) if found is None else tuple(found) or None

    def longest_match(self, piece: bytes) -> tuple[int, ...] | None:
        far = _is_long(piece) and not self._reader.parcel.stays
        return None if far else super().longest_match(piece)


def _is_long(text: bytes) -> bool:
    """Whether bytes are a long text; of others a tokenizer knows no ids, and the longest match needs no process."""
    try:
        return len(text) > NEAR and len(text.decode()) > NEAR
    except UnicodeDecodeError:
        return False


def _start() -> subprocess.Popen[bytes]:
    return start_module("unisono.chat.encoding_process")
