"""OpenAI's ``logprobs``, from the combined distribution that a piece was chosen from."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from unisono.records import Generation
from unisono.server.openai_library import Logprobs, TopLogprob, chat
from unisono.step_records import StepRecord, TopPieces

IMPOSSIBLE = -9999.0
"""OpenAI's value for the logarithm of 0."""


class Offsets:
    """Counts the characters before each piece. A byte that is not text counts as a replacement character."""

    def __init__(self, count: int = 0, pending: bytes = b"") -> None:
        """Begin after so many characters, and the first bytes of another one."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(pending)
        self._count = count

    @property
    def count(self) -> int:
        """How many characters are whole."""
        return self._count

    def before(self, piece: bytes) -> int:
        """Take the next piece; return how many characters precede the one in which it begins."""
        pending, _ = self._decoder.getstate()
        begins = self._count + (1 if pending and not _continues(pending, piece) else 0)
        self._count += len(self._decoder.decode(piece))
        return begins


class Held:
    """Holds back the steps whose characters may still be cut off by a stop string.

    Reasoning, marks, and the white space beside marks, are no part of the text.
    """

    def __init__(self, pending: bytes = b"") -> None:
        """``pending`` are the bytes of the text that no step of it wrote: a character was begun before."""
        self._taken: list[StepRecord] = []
        """Steps of the answer, until its first character is known."""
        self._waiting: list[tuple[int, int, StepRecord]] = []
        """Where each piece begins, in bytes and in characters."""
        self._offsets = Offsets(pending=pending)
        self._any = False  # step was taken
        self._begun = bool(pending)
        self._written = len(pending)
        self._shown = 0

    def release(self, text: str, steps: Sequence[StepRecord]) -> list[StepRecord]:
        """Take new text and steps; return the steps whose pieces begin within the text so far."""
        self._take(steps)
        self._shown += len(text)
        if self._shown:
            self._place(text.encode())
        return self._release(lambda _, character: character < self._shown)

    def rest(self, generation: Generation) -> list[StepRecord]:
        """The remaining steps of a finished text; all of its steps if none were taken before."""
        if not self._any:
            self._take(generation.steps or ())
        self._place(generation.data)
        return self._release(lambda byte, _: byte < len(generation.data))

    def _take(self, steps: Sequence[StepRecord]) -> None:
        self._any = self._any or bool(steps)
        self._taken += [step for step in steps if step.piece and step.part == "answer"]

    def _place(self, text: bytes) -> None:
        """Find the places of new steps in the text, of which this is the first part, or a later one."""
        for step in self._taken:
            piece = step.piece or b""
            if not self._begun and not text[:1].isspace():
                piece = piece.lstrip()
            if piece:
                self._begun = True
                kept = step if piece == step.piece else replace(step, piece=piece)
                self._waiting.append((self._written, self._offsets.before(piece), kept))
                self._written += len(piece)
        self._taken = []

    def _release(self, is_safe: Callable[[int, int], bool]) -> list[StepRecord]:
        released = [step for byte, character, step in self._waiting if is_safe(byte, character)]
        self._waiting = [each for each in self._waiting if not is_safe(*each[:2])]
        return released


def chat_logprobs(steps: Iterable[StepRecord], count: int) -> list[chat.ChatCompletionTokenLogprob]:
    """An entry per piece, with the `count` most likely pieces. END among them is the empty string without bytes."""
    return [
        chat.ChatCompletionTokenLogprob(
            token=text_of(step.piece),
            bytes=_bytes(step.piece),
            logprob=logarithm(step.p),
            top_logprobs=[
                TopLogprob(token=text_of(piece), bytes=_bytes(piece), logprob=logarithm(p))
                for piece, p in _texts(step.likeliest)[:count]
            ],
        )
        for step in steps
    ]


class CompletionLogprobs:
    """``logprobs`` of a completion, chunk by chunk."""

    def __init__(self, count: int, start: int = 0, pending: bytes = b"") -> None:
        """List the `count` most likely pieces of each step, after ``start`` characters of the choice's text.

        ``pending`` are the first bytes of a character that was begun before.
        """
        self._count = count
        self._offsets = Offsets(start, pending)

    def of(self, steps: Iterable[StepRecord], *, unscored: Sequence[bytes] = ()) -> Logprobs:
        """The lists of the next pieces: those that have no likelihood, which OpenAI writes as null, and the steps'.

        Offsets count characters of the choice's text. Marks of a prompt that is scored are listed by their names.
        """
        offsets, tokens = [self._offsets.before(piece) for piece in unscored], [*map(_named, unscored)]
        logprobs: list[float | None] = [None] * len(unscored)
        likeliest: list[dict[str, float] | None] = [None] * len(unscored)
        for step in steps:
            offsets.append(self._offsets.before(step.piece or b""))
            tokens.append(step.mark or _named(step.piece))
            logprobs.append(logarithm(step.p))
            tops = (_texts(step.likeliest) if step.standing is None else step.likeliest)[: self._count]
            likeliest.append({piece if isinstance(piece, str) else _named(piece): logarithm(p) for piece, p in tops})
        return Logprobs.model_construct(
            text_offset=offsets, tokens=tokens, token_logprobs=logprobs, top_logprobs=likeliest
        )


def _texts(likeliest: TopPieces) -> list[tuple[bytes | None, float]]:
    """Pieces and END without marks, which are no tokens of a text."""
    return [(piece, p) for piece, p in likeliest if not isinstance(piece, str)]


def logarithm(p: float) -> float:
    """The natural logarithm of a probability, `IMPOSSIBLE` at the least."""
    return max(math.log(p), IMPOSSIBLE) if p > 0 else IMPOSSIBLE


def _continues(pending: bytes, piece: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(pending + piece[:1])
    except UnicodeDecodeError:
        return False
    return True


def text_of(piece: bytes | None) -> str:
    return "" if piece is None else piece.decode(errors="replace")


def _bytes(piece: bytes | None) -> list[int] | None:
    return None if piece is None else list(piece)


def _named(piece: bytes | None) -> str:
    """A piece as a key, distinct for distinct bytes: bytes that are not text are in hexadecimal, as OpenAI does."""
    if piece is None:
        return ""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
