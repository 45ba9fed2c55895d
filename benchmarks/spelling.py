"""Does it matter as which ids members read what was written? ``spelling: piecewise`` beside ``canonical``.

Usage: python benchmarks/spelling.py --data DIR [--only PAIR/TASK …] [--limit N] [--out FILE]

Every text is written by both spellings, greedy, one at a time, from one reading of its prompt. Questions with
short answers are graded; passages are written on and then read by a judge that is no member, and by the members,
each in the tokens in which it would read any text. FILE gets one JSON line for each text and one for each
reading; what it holds already is not done again, so that a run that was stopped goes on. The figures of all
lines go to standard output as JSON.

The third setting of some passages, ``reread``, is piecewise with the last token of every member read twice, in a
block with the new one: its texts tell what rounding alone does, as respelling too reads blocks where piecewise
reads single tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from run import MODELS, machine
from spelling_figures import figures
from spelling_tasks import REREAD, TASKS, Item, Task, grade, items
from unisono.backends.base import Feed, Slot
from unisono.engine.engine import Engine
from unisono.engine.member import Cursor, Member
from unisono.ensemble import Ensemble
from unisono.records import Limits

CONTEXT = 1024
"""Tokens. The slots are copied for every text, and that takes time by their room."""


class Lines:
    """The file of what has been done, a JSON line each."""

    def __init__(self, path: Path) -> None:
        """Read what there is; a line that was cut off when a run was killed is dropped."""
        self._path = path
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        self.all: list[dict[str, Any]] = [json.loads(line) for line in whole.split("\n") if line]
        self._done = {_key(line): line for line in self.all}

    def find(self, *key: str) -> dict[str, Any] | None:
        """The line of a pair, task, id, setting and, of a reading, reader."""
        return self._done.get(key)

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.all.append(line)
        self._done[_key(line)] = line


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(line[name] for name in ("pair", "task", "id", "setting", "reader") if name in line)


class Prefixes:
    """What each member has read last, so that prompts that begin alike are not read anew."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Take a slot of each member."""
        self._members = members
        self._slots: dict[str, Slot] = {member.name: member.backend.open() for member in members}
        self._read: dict[str, list[int]] = {member.name: [] for member in members}

    def lend(self, member: Member, cursor: Cursor) -> None:
        """Let a cursor that has read nothing go on from a copy of its prompt's reading, but for the last id."""
        slot = self.read(member, cursor.ids[:-1])
        member.backend.close(cursor.slot)
        cursor.slot, cursor.read = member.backend.open(copy_of=slot), len(cursor.ids) - 1

    def read(self, member: Member, ids: Sequence[int]) -> Slot:
        """A slot that has read just these ids; it is lent until the next call."""
        slot, read = self._slots[member.name], self._read[member.name]
        common = _common(read, ids)
        member.backend.rewind(slot, common)
        del read[common:]
        if len(ids) > common:
            member.backend.advance([Feed(slot, ids[common:], 0)])
            read.extend(ids[common:])
        return slot


def write(engine: Engine, prefixes: Prefixes, item: Item, setting: str, task: Task) -> dict[str, Any]:
    """Write one text and note how it went.

    Returned are, besides the text: its pieces; the processor's seconds for them; and by member, ``respelled``:
    steps after which ids were replaced, ``forgotten``: how many ids; ``contexts``: generated contexts that it
    was asked in and that are whole characters, ``foreign``: those that are not its tokenizer's own encoding;
    ``nats`` and ``bytes`` of the chosen pieces that are its own, and ``lacking``: pieces that are not.
    """
    method = engine.method.but(spelling="canonical" if setting == "canonical" else "piecewise")
    limits = Limits(task.pieces, () if task.judged else ("\n",))
    text = engine.add(item.prompt, limits, method=method, trace=True)
    cursors = dict(text.cursors)
    for member in engine.members:
        prefixes.lend(member, cursors[member.name])
    begins = {name: len(cursor.ids) for name, cursor in cursors.items()}
    fields = ("respelled", "forgotten", "contexts", "foreign", "nats", "bytes", "lacking")
    noted: dict[str, dict[str, float]] = {name: dict.fromkeys(fields, 0) for name in cursors}
    seconds = 0.0
    while text.finish is None:
        before = {name: list(cursor.ids) for name, cursor in cursors.items()}
        for member in engine.members:
            _note_context(noted[member.name], member, before[member.name][begins[member.name] :], setting)
            cursor = cursors[member.name]
            if setting == REREAD and cursor.read > begins[member.name]:
                cursor.read -= 1
                member.backend.rewind(cursor.slot, cursor.read)
        began = time.process_time()
        engine.step()
        seconds += time.process_time() - began
        for name, cursor in cursors.items():
            gone = len(before[name]) - _common(before[name], cursor.ids)
            noted[name]["respelled"] += gone > 0
            noted[name]["forgotten"] += gone
    _note_choices(noted, engine.members, text.steps or ())
    written = text.generation()
    return {
        "text": written.text,
        "size": len(written.data),
        "finish": written.finish_reason,
        "pieces": written.usage.pieces,
        "seconds": round(seconds, 4),
        "members": noted,
    }


def _note_context(noted: dict[str, float], member: Member, ids: list[int], setting: str) -> None:
    data = member.speller.vocabulary.join(ids)
    own = member.speller.own_encoding(data) if data else None
    if own is not None:
        noted["contexts"] += 1
        noted["foreign"] += own != tuple(ids)
        if setting == "canonical" and own != tuple(ids):
            print(f"{member.name}: canonical has {ids} for {data!r}, its own is {own}", file=sys.stderr, flush=True)


def _note_choices(noted: dict[str, dict[str, float]], members: Sequence[Member], steps: Sequence[Any]) -> None:
    for step in steps:
        for member in members:
            if step.piece is None:
                continue
            if step.members[member.name] > 0:
                noted[member.name]["nats"] -= math.log(step.members[member.name])
                noted[member.name]["bytes"] += len(step.piece)
            else:
                noted[member.name]["lacking"] += 1


def likelihood(member: Member, prefixes: Prefixes, before: str, text: str) -> dict[str, float]:
    """How unlikely a reader finds a text behind another, read as it reads any text: nats, over bytes."""
    known, ids = member.reader.read_text(before), member.reader.read_text(before + text)
    first = max(1, _common(known, ids))
    nats = 0.0
    if first < len(ids):
        slot = prefixes.read(member, ids[: first - 1])
        copy = member.backend.open(copy_of=slot)
        logits_NV = member.backend.advance([Feed(copy, ids[first - 1 : -1], len(ids) - first)])
        for logits_V, token in zip(logits_NV, ids[first:], strict=True):
            highest = float(logits_V.max())
            nats += highest - float(logits_V[token]) + math.log(np.exp(logits_V - highest).sum(dtype=np.float64))
        member.backend.close(copy)
    return {"nats": nats, "bytes": len(member.speller.vocabulary.join(ids[first:]))}


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))


def load(names: Sequence[str]) -> Ensemble:
    """Demo models through llama.cpp, on one thread each."""
    members = [
        {"name": name, "backend": "llamacpp", "threads": 1, "context": CONTEXT, **MODELS[name]} for name in names
    ]
    return Ensemble.load({"members": members}, batch=3)


def write_all(pair: tuple[str, str], tasks: Sequence[tuple[Task, list[Item]]], lines: Lines) -> None:
    """Write all texts of a pair, and let the members read those that are judged."""
    waiting = [
        (task, number, item)
        for task, all_items in tasks
        for number, item in enumerate(all_items)
        if any(lines.find("+".join(pair), task.name, item.id, setting) is None for setting in item.settings)
        or (task.judged and any(None in _readings(lines, pair, task, item, name) for name in pair))
    ]
    if not waiting:
        return
    with load(pair) as ensemble:
        engine = ensemble._engine
        prefixes = Prefixes(engine.members)
        for task, number, item in waiting:
            named = {"pair": "+".join(pair), "task": task.name, "id": item.id}
            turn = number % len(item.settings)
            for setting in (*item.settings[turn:], *item.settings[:turn]):
                if lines.find(*named.values(), setting) is None:
                    line = write(engine, prefixes, item, setting, task)
                    if item.answers:
                        line |= grade(task.name, line["text"], item.answers)
                    lines.add({**named, "setting": setting, **line})
            if task.judged:
                for member in engine.members:
                    _read(member, prefixes, named, item, task, lines)


def judge_all(pair: tuple[str, str], tasks: Sequence[tuple[Task, list[Item]]], lines: Lines) -> None:
    """Let the demo model that is no member read what was written on from passages."""
    [judge] = [name for name in MODELS if name not in pair]
    waiting = [
        (task, item)
        for task, all_items in tasks
        for item in all_items
        if task.judged and None in _readings(lines, pair, task, item, judge)
    ]
    if not waiting:
        return
    with load([judge]) as ensemble:
        [member] = ensemble._engine.members
        prefixes = Prefixes([member])
        for task, item in waiting:
            _read(member, prefixes, {"pair": "+".join(pair), "task": task.name, "id": item.id}, item, task, lines)


def _readings(lines: Lines, pair: tuple[str, str], task: Task, item: Item, reader: str) -> list[dict[str, Any] | None]:
    return [lines.find("+".join(pair), task.name, item.id, setting, reader) for setting in item.settings]


def _read(member: Member, prefixes: Prefixes, named: dict[str, str], item: Item, task: Task, lines: Lines) -> None:
    """Let a reader say how unlikely it finds a passage's continuations; each text is read once."""
    known: dict[str, dict[str, float]] = {}
    for setting in item.settings:
        line = lines.find(*named.values(), setting)
        assert line is not None
        assert item.prompt.text is not None
        if lines.find(*named.values(), setting, member.name) is None:
            text = line["text"]
            if text not in known:
                known[text] = likelihood(member, prefixes, item.prompt.text, text)
            lines.add({**named, "setting": setting, "reader": member.name, **known[text]})


def main() -> None:
    """Write, read and reckon."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with questions, and shots/ in it")
    parser.add_argument("--only", nargs="+", default=[], help="smol+gemma/triviaqa …; all")
    parser.add_argument("--limit", type=int, help="texts of each task at most")
    parser.add_argument("--out", type=Path, default=Path("spelling.jsonl"), help="where the lines go")
    options = parser.parse_args()
    lines = Lines(options.out)
    known = [f"{'+'.join(pair)}/{task.name}" for pair, tasks in TASKS.items() for task in tasks]
    if unknown := sorted(set(options.only) - set(known)):
        parser.error(f"--only: {', '.join(unknown)} is unknown; known: {', '.join(known)}")
    for pair, tasks in TASKS.items():
        chosen = [
            (task, items(task, options.data, min(task.count, options.limit or task.count)))
            for task in tasks
            if not options.only or f"{'+'.join(pair)}/{task.name}" in options.only
        ]
        write_all(pair, chosen, lines)
        judge_all(pair, chosen, lines)
    print(json.dumps({"machine": machine(), "figures": figures(lines.all)}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
