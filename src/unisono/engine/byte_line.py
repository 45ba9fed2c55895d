"""A given text as one member reads it: what it says behind the ways of cutting it, found in few passes.

The bytes are known before they are scored. So the member's own cut is read in blocks; what it says there tells which
other cuts a beam is going to hold, and all that can be foreseen are read in one pass, then what follows from those. It
changes no score: what was foreseen in vain is not looked up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from unisono.backends.base import Array, common
from unisono.chat.messages import Prompt
from unisono.engine.byte_cursor import ByteCursor
from unisono.engine.cursor import Cursor
from unisono.engine.given_text import ids_of
from unisono.engine.member import Member
from unisono.engine.passes import Row
from unisono.engine.scoring import check_room
from unisono.engine.sequence import TextSequence
from unisono.fusion.byte_beam import Hypothesis, ahead_of_text, extended, pruned

REJOINED = 8  # ids of its own cut that are read behind another one which has held for two pieces

Ids = tuple[int, ...]
"""Those that follow the prompt."""


class ByteLine:
    """One text and member: the slot that reads its own cut, and what is known behind beginnings of cuts."""

    def __init__(self, text: TextSequence, beam: ByteCursor, cursor: Cursor, prompt: Prompt, data: bytes) -> None:
        """``beam`` follows the text without slots; ``cursor`` has the prompt. Raises what `check_room` raises."""
        self.member: Member = beam.member
        self._text = text
        self._beam = beam
        self._cursor = cursor
        self._prompt = list(cursor.ids)
        self._opens = beam.paths[0].opening
        self._own = list(ids_of(self.member, prompt, data))
        self._told: dict[Ids, Hypothesis] = {}
        check_room(self.member, len(self._prompt) + max(0, len(self._own) - 1))

    def look_up(self) -> bool:
        """Let hypotheses have what is known; return whether that was all that they wait for."""
        for path in self._beam.unread():
            if (told := self._told.get(self._behind_prompt(path.cursor))) is not None:
                self._beam.hear(path, told)
        return not self._beam.unread()

    @property
    def goes_on(self) -> bool:
        """Whether its own cut is what is read next, for which it needs no copy of its slot."""
        return self._is_own(self._behind_prompt(next(path.cursor for path in self._beam.unread())))

    def rows(self, rest: bytes, block: int, copies: list[Cursor], most: int) -> Iterator[Row]:
        """What is to be read next: ``block`` ids of its own cut, and other cuts that ``rest`` calls for, which follows.

        Other cuts are read in copies of its slot, which are added to ``copies``, so many at ``most``.
        """
        wanted = self._foresee(rest)
        is_own = self._is_own(wanted[0])
        if not is_own and wanted[0] == self._behind_prompt(self._beam.main):
            self._own = [*wanted[0], *(self._beam.its.own_cut(self._beam.behind + rest) or ())]
            is_own = True
        if not is_own and not most:
            yield self._row(self._cursor, wanted[0], ())
            return
        if own := [ids for ids in wanted if self._is_own(ids)]:
            room = self.member.backend.facts.context - len(self._prompt)
            yield self._row(self._cursor, own[0], self._own[len(own[0]) : min(room, len(own[0]) + block - 1)])
        for ids in [ids for ids in wanted if ids not in own][:most]:
            copies.append(self.member.copy(self._cursor))
            yield self._row(copies[-1], ids, () if self._is_own(ids[:-1]) else self._rejoining(ids))

    def _foresee(self, rest: bytes) -> list[Ids]:
        """The cuts of which is not known what follows, as far as what is known shows them; the beam's own come first.

        A cut that is not known is left out at once, so that others seem to have a little more of the mass.
        """
        self._forget()
        wanted: list[Ids] = []
        paths = [(self._behind_prompt(path.cursor), path.hypothesis) for path in self._beam.paths]
        for place, byte in enumerate(rest):
            known: list[tuple[Ids, Hypothesis]] = []
            for ids, its in paths:
                told = its if its.heard is not None else self._told.get(ids)
                if told is not None:
                    known.append((ids, Hypothesis(its.weight, told.heard)))
                elif ids not in wanted and len(self._prompt) + len(ids) <= self.member.backend.facts.context:
                    wanted.append(ids)
            found, ahead = extended([its for _, its in known], byte), ahead_of_text(rest[place + 1 :])
            kept = pruned(found, self._beam.beam, self._beam.least, ahead, on_top=True)
            if not kept:
                break
            paths = []
            for each in kept:
                ids, its = known[each.parent]
                new = () if each.completed is None else its.told.trie.ids(each.completed)
                paths.append(((*ids, *new), each.hypothesis))
        return wanted

    def _rejoining(self, ids: Ids) -> list[int]:
        """What follows in its own cut, where that has a border, too, behind the bytes of another one."""
        join, place, end = self.member.speller.vocabulary.join, 0, 0
        length = len(join(ids))
        while end < length and place < len(self._own):
            end += len(join(self._own[place : place + 1]))
            place += 1
        room = self.member.backend.facts.context - len(self._prompt) - len(ids)
        return self._own[place : place + min(room, REJOINED)] if end == length else []

    def _forget(self) -> None:
        """Forget what lies behind cuts that the beam has dropped."""
        cuts = {self._behind_prompt(path.cursor) for path in self._beam.paths}
        self._told = {ids: its for ids, its in self._told.items() if any(ids[: len(cut)] == cut for cut in cuts)}

    def _row(self, cursor: Cursor, ids: Ids, ahead: Sequence[int]) -> Row:
        whole = [*self._prompt, *ids]
        self.member.cut(cursor, common(cursor.ids, whole))
        cursor.ids = whole
        return Row(self._text, self.member, cursor, partial(self._take, ids, ahead), ahead)

    def _take(self, ids: Ids, ahead: Sequence[int], logits_NV: Array) -> None:
        for count, logits_V in enumerate(logits_NV):
            read = (*ids, *ahead[:count])
            self._told[read] = self._beam.told(logits_V, opening=self._opens and not read)

    def _behind_prompt(self, cursor: Cursor) -> Ids:
        return tuple(cursor.ids[len(self._prompt) :])

    def _is_own(self, ids: Ids) -> bool:
        return self._own[: len(ids)] == list(ids)
