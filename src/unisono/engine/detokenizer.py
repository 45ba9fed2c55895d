"""From chosen pieces to text: whole characters only, and never past a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Collects the bytes of one text and hands out what is safe to show.

    What might still become a stop string, and an incomplete character at the end, wait.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Begin an empty text that ends before the first completed string of ``stop``."""
        self._stops = [text.encode() for text in stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._data = bytearray()
        self._shown = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.stopped = False
        """Whether a stop string has been completed."""

    @property
    def data(self) -> bytes:
        """All bytes so far, up to a completed stop string."""
        return bytes(self._data)

    def tail(self, size: int) -> bytes:
        """The last bytes, at most ``size``."""
        return bytes(self._data[-size:]) if size else b""

    def add(self, piece: bytes) -> None:
        """Append a piece; sets `stopped` and cuts the text when it completes a stop string."""
        before = len(self._data)
        self._data += piece
        found = [self._data.find(stop, max(0, before - len(stop) + 1)) for stop in self._stops]
        starts = [start for start in found if start >= 0]
        if starts:
            del self._data[min(starts) :]
            self.stopped = True

    def take(self, *, final: bool = False) -> str:
        """Return the text that has become safe to show since the last call.

        Args:
            final: nothing will follow: the rest is shown, except an incomplete character at its end,
                which no member finished.
        """
        until = len(self._data) if final else len(self._data) - self._waiting()
        fresh = bytes(self._data[self._shown : until])
        self._shown = max(self._shown, until)
        return self._decoder.decode(fresh)

    def _waiting(self) -> int:
        """How many bytes at the end might be the beginning of a stop string."""
        tail = bytes(self._data[-self._reach :]) if self._reach else b""
        for length in range(len(tail), 0, -1):
            if any(stop.startswith(tail[-length:]) for stop in self._stops):
                return length
        return 0


def decode_text(data: bytes) -> str:
    """The text of a finished generation: an incomplete character at the end is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
