"""From bytes to text that is safe to show: whole characters, no stop string, no white space beside a mark."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_SPACE = b" \t\n\r\v\f"  # what `bytes.strip` takes away


class Detokenizer:
    """Collects the bytes of one text and hands out what is safe to show.

    What might still become a stop string, and an incomplete character at the end, wait. Of a text that is ``stripped``
    the white space at the beginning is left out; it stands beside a mark. Of one that is ``marked`` it waits, as a mark
    may yet follow it: what is shown does not depend on when it is taken.
    """

    def __init__(self, stop: Sequence[str] = (), *, stripped: bool = False, marked: bool = False) -> None:
        self._stops = [text.encode() for text in stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._data = bytearray()
        self._begin = 0  # of what is the text's
        self._stripped = stripped
        self._holds = marked or stripped
        self._shown = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.stopped = False

    @property
    def data(self) -> bytes:
        return bytes(self._data[self._begin :])

    def strip(self) -> None:
        """Leave white space at the beginning out, if nothing else is written yet; of a text that is marked."""
        if not self._stripped and not self._data.strip():
            self._stripped = True
            self._skip()

    def tail(self, size: int) -> bytes:
        return bytes(self._data[-size:]) if size else b""

    def add(self, piece: bytes) -> None:
        """Append a piece; sets `stopped` and cuts the text when it completes a stop string."""
        before = len(self._data)
        self._data += piece
        if self._stripped and self._begin == before:
            self._skip()
        found = [self._data.find(stop, max(self._begin, before - len(stop) + 1)) for stop in self._stops]
        starts = [start for start in found if start >= 0]
        if starts:
            del self._data[min(starts) :]
            self.stopped = True

    def _skip(self) -> None:
        self._begin = self._shown = len(self._data) - len(self._data[self._begin :].lstrip())

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
        if self._holds and self._shown == self._begin and self._data[self._begin :].isspace():
            return len(self._data) - self._begin
        tail = bytes(self._data[-self._reach :]) if self._reach else b""
        for length in range(len(tail), 0, -1):
            if any(stop.startswith(tail[-length:]) for stop in self._stops):
                return length
        return 0


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
