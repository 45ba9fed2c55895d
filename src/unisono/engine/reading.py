"""Scoring by one reading: every member reads every text once, and all settings are computed from what it says.

A text may be cut in several ways: by the lead of an ensemble, and by each member that scores it alone. A member reads
it in one of them. Another that begins alike takes from that what they have in common; the slot is then rewound, and the
rest is read. Prompts are read once, and so is what the prompts of a pack have in common; some last ids are read again
where that makes passes cheaper. The path that scores one setting at a time (`unisono.engine.scoring`) is the oracle.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from unisono.chat.messages import Prompt
from unisono.engine.cutting import Cutting, Line, Listener, MemberKey, key_of
from unisono.engine.given_text import cut
from unisono.engine.member import Member
from unisono.engine.pack import Pack, Way, ways_of
from unisono.engine.request import PreparedRequest
from unisono.engine.scoring import check_room
from unisono.engine.setting_group import Setting, SettingGroup
from unisono.records import Score

Done = Callable[[Sequence[int]], None]
"""What is told which texts have been read, as soon as they have."""
ROW_BYTES = 128 << 20
"""Of the rows of one pass of a member."""


class Reading:
    """Scores texts by several settings at once. The models stay whose they are."""

    def __init__(self, settings: Sequence[Setting]) -> None:
        """Group settings. Raises a `ValueError` where a member tells its likeliest ids only."""
        self._settings = settings
        groups: defaultdict[tuple[object, ...], dict[int, Setting]] = defaultdict(dict)
        for number, setting in enumerate(settings):
            groups[setting.group_key][number] = setting
        self._groups = [SettingGroup(group) for group in groups.values()]
        self._reader = TextReader(self._groups, min(setting.slots for setting in settings))

    def check(self, asked: Sequence[tuple[Prompt, str]]) -> None:
        """Raise what `score` raises before it reads; see `TextReader.check`."""
        self._reader.check(asked)

    def score(self, asked: Sequence[tuple[Prompt, str]], done: Done = lambda texts: None) -> list[list[Score]]:
        """Score texts that follow prompts, by setting and text; see `TextReader.read`."""
        found: list[dict[int, Score]] = [{} for _ in self._settings]
        try:
            for cutting, seconds in self._reader.read(asked, done):
                assert isinstance(cutting.listener, SettingGroup)
                for number, score in cutting.listener.finish(cutting, seconds).items():
                    found[number][cutting.text] = score
        finally:
            for group in self._groups:
                group.forget()
        return [[by_text[text] for text in range(len(asked))] for by_text in found]


class TextReader:
    """Lets members read texts, each as few times as their listeners allow."""

    def __init__(self, listeners: Sequence[Listener], slots: int) -> None:
        """Read for listeners, as many texts at once as there are slots. Raises a `ValueError`; see `Reading`."""
        if any(member.is_truncated for listener in listeners for member in listener.members):
            raise ValueError("a truncated member has no probability for pieces that it does not tell")
        self._listeners = sorted(listeners, key=lambda each: -len(each.members))  # their ways serve members alone
        self._slots = slots
        self._members: dict[MemberKey, Member] = {
            key_of(member): member for listener in listeners for member in listener.members
        }
        widest = max(member.backend.facts.rows for member in self._members.values())
        self._most_rows = max(16, ROW_BYTES // (4 * widest))

    def check(self, asked: Sequence[tuple[Prompt, str]]) -> None:
        """Raise the `PromptError` or `SpecError` that `read` would raise before it reads."""
        self._cut(asked)

    def read(
        self, asked: Sequence[tuple[Prompt, str]], done: Done = lambda texts: None
    ) -> Iterator[tuple[Cutting, float]]:
        """Read texts that follow prompts; those of one prompt stand together. ``done`` is told of each pack of texts.

        Yields each text as each listener has scored it, and the seconds of its members' passes, without those over
        the prompt. Raises what `Engine.score` raises, for any of them, and what a model raises; slots are free again.
        """
        cuttings = self._cut(asked)
        ways = [ways_of(its) for its in cuttings]
        for pack in self._packs(asked, ways):
            seconds = Pack(self._members, self._most_rows, {text: ways[text] for text in pack}).read()
            for cutting in (cutting for text in pack for cutting in cuttings[text]):
                yield cutting, sum(seconds[key, cutting.text] for key in cutting.lines)
            done(pack)

    def _cut(self, asked: Sequence[tuple[Prompt, str]]) -> list[list[Cutting]]:
        """Every text as every listener has it. Raises a `PromptError` or a `SpecError`."""
        cuttings: list[list[Cutting]] = [[] for _ in asked]
        for listener in self._listeners:
            prepared: PreparedRequest | None = None
            losses: Mapping[str, float] = {}
            for text, (prompt, words) in enumerate(asked):
                if prepared is None or prompt is not asked[text - 1][0]:
                    prepared = listener.prepare(prompt, listener.plan)
                    losses = _losses(listener, prepared)
                columns = cut(listener.plan.lead, prompt, words)
                cuttings[text].append(_cutting(listener, text, prepared, columns, losses))
        return cuttings

    def _packs(self, asked: Sequence[tuple[Prompt, str]], ways: Sequence[Sequence[Way]]) -> Iterator[list[int]]:
        """Texts that are read together: as there are slots, and as their rows are not too many.

        Those of one prompt stand together where that is possible, and so do those that take as many ids: passes over
        them have little to fill up. The prompt of one text is read with it, and that of several once.
        """
        lengths = [max(stop - start for way in its for _, start, stop in way.scored[:1]) for its in ways]
        by_prompt = itertools.groupby(range(len(asked)), key=lambda text: id(asked[text][0]))

        def taken(texts: Sequence[int]) -> int:
            return max(_ids(ways[text][0], with_prompt=len(texts) == 1) for text in texts)

        groups = sorted((list(group) for _, group in by_prompt), key=taken)
        pack: list[int] = []
        rows = 0
        for texts in groups:
            total = sum(lengths[text] for text in texts)
            if pack and (len(pack) + len(texts) > self._slots or rows + total > self._most_rows):
                yield pack
                pack, rows = [], 0
            for text in texts:
                if len(pack) == self._slots or (pack and rows + lengths[text] > self._most_rows):
                    yield pack
                    pack, rows = [], 0
                pack.append(text)
                rows += lengths[text]
        if pack:
            yield pack


def _ids(way: Way, *, with_prompt: bool) -> int:
    """How many ids members read of a text in a way."""
    return sum(len(line.ids) - (0 if with_prompt else line.ends[0]) for line in way.lines.values())


def _losses(listener: Listener, prepared: PreparedRequest) -> Mapping[str, float]:
    if not listener.weighs_prompt:
        return {}
    prompt = prepared.request.prompt
    return {member.name: member.prompt_loss(member.asked_ids(prompt)) for member in listener.members}


def _cutting(
    listener: Listener, text: int, prepared: PreparedRequest, columns: list[int], losses: Mapping[str, float]
) -> Cutting:
    answers = prepared.request.prompt.begins_answer and not prepared.begins_inside
    openings = frozenset(each.name for each in listener.members if answers and each.opens(off=True))
    lines = {}
    for member in listener.members:
        ids = list(prepared.ids[member.name])
        ends = [len(ids)]
        for position, column in enumerate(columns[:-1]):
            piece = listener.union.piece(column) or b""
            ids += member.spell(column, piece, first=not position and member.name in openings)
            ends.append(len(ids))
        check_room(member, len(ids))
        lines[key_of(member)] = Line(ids, ends)
    tokens = {name: len(ids) for name, ids in prepared.ids.items()}
    return Cutting(text, listener, columns, lines, openings, losses, tokens)
