"""Texts that are read together, each in as few ways as its cuttings allow, and scored while the rows are there."""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unisono.backends.base import Array, Feed, common, dense
from unisono.engine.cursor import Cursor
from unisono.engine.cutting import Cutting, Job, Line, Listener, MemberKey
from unisono.engine.member import Member

PART = 8  # ids that take about as long as another part of a pass: llama.cpp unpacks all weights for each
LEAST_SHARED = 16  # ids at the beginning of all prompts of a pack that are worth a pass of their own


@dataclass(slots=True, eq=False)
class Way:
    """One way of writing a text that members read, and the positions that are scored on it."""

    lines: dict[MemberKey, Line]
    scored: list[tuple[Cutting, int, int]]
    """Texts as listeners have them, from a position to before another one. The first one's lines are `lines`."""

    @property
    def first(self) -> Mapping[MemberKey, int]:
        """By member, the number of ids before the first position that is scored."""
        _, start, _ = self.scored[0]
        return {key: line.ends[start] for key, line in self.lines.items()}

    def stop(self, cutting: Cutting, start: int) -> int:
        """The position before which a text can be scored on this way from ``start`` on, as the same ids stand before.

        It is ``start`` where that is no position. Several members' positions have to be the same: a pass ends at them.
        """
        first, stops = self.first, []
        for key, line in cutting.lines.items():
            own = self.lines.get(key)
            if own is None or line.ends[start] < first[key]:
                return start
            stops.append(bisect_right(line.ends, common(line.ids, own.ids)))
            if len(cutting.lines) > 1:
                stops.append(common(line.ends, own.ends))
        return max(start, min(stops))


def ways_of(cuttings: Sequence[Cutting]) -> list[Way]:
    """The ways in which a text has to be read: each position of each cutting is scored on the first that has it."""
    ways: list[Way] = []
    for cutting in cuttings:
        start, count = 0, len(cutting.columns)
        for way in ways:
            if start == count:
                break
            if (stop := way.stop(cutting, start)) > start:
                way.scored.append((cutting, start, stop))
                start = stop
        if start < count:
            ways.append(Way(dict(cutting.lines), [(cutting, start, count)]))
    return ways


Marks = Mapping[tuple[MemberKey, int], int]
"""Numbers by member and text."""


class Pack:
    """Texts that are read together: a slot a text and member."""

    def __init__(self, members: Mapping[MemberKey, Member], most_rows: int, ways: Mapping[int, Sequence[Way]]) -> None:
        """Read texts, each in some ways, in passes of ``most_rows``."""
        self._members, self._most_rows, self._ways = members, most_rows, ways
        self._prompts: dict[tuple[MemberKey, int], list[int]] = {}
        for text, its in ways.items():
            for way in its:
                for key, line in way.lines.items():
                    self._prompts[key, text] = line.ids[: line.ends[0]]
        distinct = {(key, *ids) for (key, _), ids in self._prompts.items()}
        several = len(distinct) > len({key for key, _ in self._prompts})
        self._uneven = {key for key, member in members.items() if several and member.backend.facts.rewinds_anywhere}
        """The members whose passes are made even: some ids, and prompts of one text, are read with texts."""
        self._cursors: dict[tuple[MemberKey, int], Cursor] = {}
        self._seconds: defaultdict[tuple[MemberKey, int], float] = defaultdict(float)

    def read(self) -> Mapping[tuple[MemberKey, int], float]:
        """Read and score all; return the seconds of passes by member and text, without those over prompts."""
        is_sound = False
        try:
            self._read_prompts()
            for turn in range(max(len(ways) for ways in self._ways.values())):
                self._read_ways({text: ways[turn] for text, ways in self._ways.items() if turn < len(ways)})
            is_sound = True
        finally:
            with contextlib.ExitStack() as closing:
                for (key, text), cursor in self._cursors.items():
                    member = self._members[key]
                    closing.callback(member.close, cursor, for_good=not is_sound)
                    if is_sound:
                        member.cut(cursor, len(self._prompts[key, text]))
        return self._seconds

    def _read_prompts(self) -> None:
        """Open a slot for every text; a prompt of several texts is read but for its last id, once.

        Of several prompts, that of one text is read in the same pass as the text, or there would be two of uneven
        lengths. A lone prompt and its texts are read in the passes of the oracle: so numbers are the same to the bit.
        A running state is kept where a prompt ends, and so is always read up to there.
        """
        for key, member in self._members.items():
            texts = [text for each, text in self._prompts if each == key]
            first = dict.fromkeys(tuple(self._prompts[key, text]) for text in texts)
            shared = min(_beginning(list(first)), min(map(len, first), default=0) - 1)
            opened: dict[tuple[int, ...], Cursor] = {}
            for text in texts:
                ids = tuple(self._prompts[key, text])
                if ids not in opened:
                    opened[ids] = self._cursors[key, text] = member.open(list(ids))
                    alone = len(opened) == 1 and len(first) > 1 and member.prefixes is not None
                    if alone and shared - opened[ids].read >= LEAST_SHARED:
                        _read_to(member, [(opened[ids], shared)])
            several = Counter(tuple(self._prompts[key, text]) for text in texts)
            before = [ids for ids in opened if several[ids] > 1 or key not in self._uneven]
            _read_to(member, [(opened[ids], len(ids) - 1) for ids in before])
            for text in texts:
                if (key, text) not in self._cursors:
                    self._cursors[key, text] = member.copy(opened[tuple(self._prompts[key, text])])

    def _read_ways(self, ways: Mapping[int, Way]) -> None:
        """Read one way of each text, in blocks of as many positions as give rows for one pass."""
        size = max(1, self._most_rows // len(ways))
        reached: dict[tuple[MemberKey, int], int] = {}
        kept, goals = dict(reached), dict(reached)
        for text, way in ways.items():
            _, start, stop = way.scored[0]
            for key, line in way.lines.items():
                cursor, place = self._cursors[key, text], (key, text)
                reached[place], goals[place] = line.ends[start] - 1, line.ends[min(stop, start + size) - 1]
                kept[place] = min(common(cursor.ids[: cursor.read], line.ids), reached[place])
        uneven = {place: length for place, length in kept.items() if place[0] in self._uneven}
        for (key, text), length in {**kept, **levelled(uneven, goals)}.items():
            cursor = self._cursors[key, text]
            self._members[key].cut(cursor, length)
            cursor.ids = list(ways[text].lines[key].ids)
        longest = max(stop - start for way in ways.values() for _, start, stop in way.scored[:1])
        for begin in range(0, longest, size):
            goals = {}
            for text, way in ways.items():
                _, start, stop = way.scored[0]
                if start + begin < stop:
                    last = min(stop, start + begin + size) - 1
                    goals |= {(key, text): line.ends[last] for key, line in way.lines.items()}
            self._read_block({text: ways[text] for _, text in goals}, reached, goals)
            reached |= goals

    def _read_block(self, ways: Mapping[int, Way], reached: Marks, goals: Marks) -> None:
        """Let members read on to ``goals``, and score the positions whose rows lie beyond what was ``reached``."""
        logits, row_of = self._advance(reached, goals)
        jobs: defaultdict[Listener, list[Job]] = defaultdict(list)
        for text, way in ways.items():
            for cutting, start, stop in way.scored:
                places = [(line.ends, key, text) for key, line in cutting.lines.items()]
                for position in range(start, stop):
                    ends = [(its[position], (key, text)) for its, key, text in places]
                    if all(reached[place] < end <= goals[place] for end, place in ends):
                        rows = [row_of[place] + end - reached[place] - 1 for end, place in ends]
                        jobs[cutting.listener].append(Job(cutting, position, rows))
        for listener, its in jobs.items():
            listener.score(its, [logits[member.model] for member in listener.members])

    def _advance(self, reached: Marks, goals: Marks) -> tuple[dict[int, Array], Marks]:
        """One pass a model: its rows, and where those of each member and text begin."""
        logits: dict[int, Array] = {}
        row_of: dict[tuple[MemberKey, int], int] = {}
        by_model: defaultdict[int, list[tuple[MemberKey, int]]] = defaultdict(list)
        for key, text in goals:
            by_model[key[1]].append((key, text))
        for model, its in by_model.items():
            its.sort(key=lambda each: self._cursors[each].slot)
            feeds, rows, ids = [], 0, 0
            for each in its:
                cursor, wanted = self._cursors[each], goals[each] - reached[each]
                row_of[each] = rows
                rows += wanted
                if wanted:
                    feeds.append(Feed(cursor.slot, cursor.ids[cursor.read : goals[each]], wanted))
                    ids += len(feeds[-1].ids)
            began = time.perf_counter()
            logits[model] = dense(self._members[its[0][0]].advance(feeds))
            spent = (time.perf_counter() - began) / max(1, ids)
            for each in its:
                self._seconds[each] += spent * (goals[each] - reached[each])
                self._cursors[each].read = goals[each]
        return logits, row_of


def levelled(kept: Marks, goals: Marks) -> Marks:
    """How many ids each text keeps of what was read, for passes of a model from there to its goals.

    A backend parts a pass where a text ends, or fills up the shorter ones. So texts read some ids again and are as long
    as the longest, where that is cheaper than the parts.
    """
    levels: dict[tuple[MemberKey, int], int] = {}
    for model in {key[1] for key, _ in kept}:
        left = {each: goals[each] - kept[each] for each in kept if each[0][1] == model}
        level = {each: min(max(left.values()), goals[each]) for each in left}
        fewer = len(set(left.values())) - len(set(level.values()))
        is_cheaper = sum(level.values()) - sum(left.values()) < PART * fewer
        levels |= {each: goals[each] - (level if is_cheaper else left)[each] for each in left}
    return levels


def _beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many ids all prompts begin with."""
    return min((common(prompts[0], other) for other in prompts), default=0)


def _read_to(member: Member, goals: Sequence[tuple[Cursor, int]]) -> None:
    """Let a member read texts up to a number of ids each, in one pass."""
    waiting = sorted(((cursor, goal) for cursor, goal in goals if cursor.read < goal), key=lambda each: each[0].slot)
    if waiting:
        member.advance([Feed(cursor.slot, cursor.ids[cursor.read : goal], 0) for cursor, goal in waiting])
        for cursor, goal in waiting:
            cursor.read = goal
