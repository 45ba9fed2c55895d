"""The part of the report that says what was run, so that it can be run again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from unisono.evals.report.document import Block, Bullets, Column, Heading, Listing, Paragraph, Row, Table
from unisono.evals.report.records import Report, as_plain
from unisono.evals.report.words import NONE

_KNOWN = ("command", "date", "machine", "seeds", "versions", "models", "spec", "systems", "tasks", "earlier")


def run_again(report: Report) -> Iterator[Block]:
    """Command, spec, versions, sums, systems and tasks; what else the run says of itself, as it is."""
    about = report.about
    yield Heading(2, "Run it again")
    if "command" in about:
        yield Listing("Command", _words(about["command"]))
    if "date" in about:
        yield Bullets((f"date: {_words(about['date'])}",))
    for each in about.get("earlier", ()):
        yield Listing(f"Before, on {each.get('date')}", _words(each.get("command")))
        for key, title in (("machine", "The machine then"), ("versions", "Versions then")):
            if each.get(key) not in (None, about.get(key)):
                yield _facts(title, each.get(key))
    if "spec" in about:
        yield Listing("The ensemble’s file", _words(about["spec"]))
    for key, title in (
        ("seeds", "Seeds"),
        ("machine", "The machine"),
        ("versions", "Versions"),
        ("models", "The models"),
    ):
        if key in about:
            yield _facts(title, about[key])
    yield from _systems(report)
    yield from _tasks(report)
    further = {key: value for key, value in about.items() if key not in _KNOWN}
    if further:
        yield Listing("What else the run says of itself", _json(further, indent=2))
    yield Paragraph("All of this, the ids of all questions and all figures are in report.json.")


def _facts(title: str, value: Any) -> Block:
    """A mapping as a table; anything else as it is."""
    if not isinstance(value, Mapping) or not value:
        return Listing(title, _words(value))
    rows = []
    for name, each in value.items():
        several = isinstance(each, Mapping)
        rows.append(
            Row(
                (
                    str(name),
                    ", ".join(f"{key}: {_words(own)}" for key, own in each.items()) if several else _words(each),
                )
            )
        )
    return Table(title, (Column("", numeric=False), Column("", numeric=False)), tuple(rows))


def _systems(report: Report) -> Iterator[Block]:
    if not any(system.method or system.members or system.source for system in report.systems):
        return
    heads = ("system", "kind", "members", "weights", "method", "source")
    rows = []
    for system in report.systems:
        weights = ", ".join(f"{name}: {weight:g}" for name, weight in (system.weights or {}).items())
        method = _method(system.method or {})
        cells = (", ".join(system.members), weights, method, system.source)
        rows.append(Row((system.name, system.kind, *(cell or NONE for cell in cells))))
    yield Table("The systems", tuple(Column(head, numeric=False) for head in heads), tuple(rows))


def _method(method: Mapping[str, Any]) -> str:
    """A method without what is off."""
    return _json({key: _set(value) for key, value in method.items() if value is not None}) if method else ""


def _set(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: own for key, own in value.items() if own is not None and own is not False and own != {}}


def _tasks(report: Report) -> Iterator[Block]:
    if not report.tasks:
        return
    words, numbers = ("version", "source", "metrics"), ("questions", "shots")
    heads = (Column("task", numeric=False), *map(Column, numbers), *(Column(each, numeric=False) for each in words))
    rows = []
    for task in report.tasks:
        facts = task.facts
        shots = NONE if facts.shots is None else str(facts.shots)
        said = (facts.version or NONE, facts.source or NONE, ", ".join(facts.metrics) or NONE)
        rows.append(Row((facts.name, f"{len(facts.questions):,}", shots, *said)))
    yield Table("The tasks", heads, tuple(rows))


def _words(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(as_plain(value), ensure_ascii=False, indent=indent)
