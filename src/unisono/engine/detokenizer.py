"""From bytes to text that is safe to show: whole characters, no stop string, no white space beside a mark."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_SPACE = b" \t\n\r\v\f"  # what `bytes.strip` takes away


class StopString:
    """A stop string, and how much of it the end of a text may be; found byte by byte, however long it is.

    It is the algorithm of Knuth, Morris and Pratt (1977). Its table grows only as far as a text has come, and is the
    same for all texts.
    """

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()
        self._borders = [0]
        """By how many bytes fit, less one: the longest part of those that both begins and ends them."""

    def __deepcopy__(self, memo: object) -> StopString:
        return self

    def __len__(self) -> int:
        return len(self._bytes)

    def after(self, fitting: int, byte: int) -> int:
        """How many bytes fit after one more, where ``fitting`` did."""
        while fitting and self._bytes[fitting] != byte:
            fitting = self._border(fitting)
        return fitting + (self._bytes[fitting] == byte)

    def within(self, fitting: int) -> int:
        """How many bytes fit still, where the whole of it was gone past."""
        return self._border(fitting) if fitting == len(self._bytes) else fitting

    def _border(self, length: int) -> int:
        while len(self._borders) < length:
            self._borders.append(self.after(self._borders[-1], self._bytes[len(self._borders)]))
        return self._borders[length - 1]


class Detokenizer:
    """Collects the bytes of one text and hands out what is safe to show.

    What might still become a stop string, and an incomplete character at the end, wait. Of a text that is ``stripped``
    the white space at the beginning is left out; it stands beside a mark. Of one that is ``marked`` it waits, as a mark
    may yet follow it: what is shown does not depend on when it is taken.
    """

    def __init__(
        self, stop: Sequence[str] = (), *, stripped: bool = False, marked: bool = False, keeps_stop: bool = False
    ) -> None:
        """Of a text that ``keeps_stop`` the string that ends it is the last part."""
        self._keeps_stop = keeps_stop
        self._stops = [StopString(text) for text in stop]
        self._fitting = [0] * len(stop)
        """By stop string, how many of its bytes the text ends with."""
        self._data = bytearray()
        self._begin = 0  # of what is the text's
        self._given = 0  # of what was given before it
        self._stripped = stripped
        self._holds = marked or stripped
        self._shown = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.stopped = False

    @property
    def data(self) -> bytes:
        return bytes(self._data[max(self._begin, self._given) :])

    def strip(self) -> None:
        """Leave white space at the beginning out, if nothing else is written yet; of a text that is marked."""
        if not self._stripped and (not self._data or self._data.isspace()):
            self._stripped = True
            self._skip()

    def tail(self, size: int) -> bytes:
        return bytes(self._data[-size:]) if size else b""

    def go_on(self) -> None:
        """Take all that was added as given: none of it is shown, but a character that it ends within.

        Of a stop string, no more than all but its last byte can wait: so many bytes at the end are looked at.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(self._data)
        self._given = len(self._data) - len(decoder.getstate()[0])
        self._shown = max(self._shown, self._given)
        for number, stop in enumerate(self._stops):
            self._fitting[number] = 0
            self._found(number, len(self._data) - len(stop) + 1, past=True)

    def add(self, piece: bytes, *, given: bool = False) -> None:
        """Append a piece; sets `stopped` and cuts the text when it completes a stop string.

        Nothing is looked for in one that is ``given``, behind the last of which `go_on` is called.
        """
        before = len(self._data)
        self._data += piece
        if self._stripped and self._begin == before:
            self._skip()
        if given:
            return
        found = [self._found(number, before) for number in range(len(self._stops))]
        ends = [(start, start + len(stop)) for start, stop in zip(found, self._stops, strict=True) if start is not None]
        if ends:
            start, end = min(ends)
            del self._data[end if self._keeps_stop else start :]
            self.stopped = True

    def _found(self, number: int, before: int, *, past: bool = False) -> int | None:
        """Where a stop string begins that what came after ``before`` completes, if it is not to be gone ``past``."""
        stop, fitting = self._stops[number], self._fitting[number]
        for place in range(max(before, self._begin), len(self._data)):
            fitting = stop.after(fitting, self._data[place])
            if fitting == len(stop) and not past:
                return place + 1 - len(stop)
            fitting = stop.within(fitting)
        self._fitting[number] = fitting
        return None

    def _skip(self) -> None:
        self._begin = len(self._data) - len(self._data[self._begin :].lstrip())
        self._shown = max(self._given, self._begin)
        self._fitting = [0] * len(self._stops)

    def take(self, *, final: bool = False) -> str:
        """Return the text that has become safe to show since the last call.

        When it is ``final``, the rest is shown, except an incomplete character at its end, which no member finished.
        """
        until = len(self._data) if final else len(self._data) - self._waiting()
        fresh = bytes(self._data[self._shown : until])
        self._shown = max(self._shown, until)
        return self._decoder.decode(fresh)

    def _waiting(self) -> int:
        """How many bytes at the end might be the beginning of a stop string, or be left out."""
        if self._holds and self._shown <= max(self._begin, self._given) and self._data[self._begin :].isspace():
            return len(self._data) - self._begin
        return max(self._fitting, default=0)


class ReasoningText(Detokenizer):
    """The text of reasoning, without the white space at its ends, which stands beside its marks."""

    def __init__(self) -> None:
        super().__init__(stripped=True)

    @property
    def data(self) -> bytes:
        return super().data.rstrip()

    def take(self, *, final: bool = False) -> str:
        """What has become safe to show since the last call; white space waits for what follows it, also at the end."""
        return super().take()

    def _waiting(self) -> int:
        """How many bytes at the end are white space."""
        return next((count for count, byte in enumerate(reversed(self._data)) if byte not in _SPACE), len(self._data))


def decode_text(data: bytes) -> str:
    """The text of a finished generation: an incomplete character at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
