"""A YAML document, and where each of its values stands, for messages that name the place."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from unisono.errors import SpecError, shown

MOST_NODES = 10_000
"""Of a document, the nodes of an alias counted at each use."""
DEEPEST = 50
"""Mappings and lists inside one another."""
LONGEST_NUMBER = 400
"""Characters of what is no text: the digits of a number, a date."""

Place = tuple[int, int]
"""Line and column, counted from 1."""
Places = dict[tuple[Hashable, ...], Place]
"""By the keys and indices that lead to a value."""


def read_yaml(text: str, path: Path) -> tuple[Any, Places]:
    """Return the document, and where each of its values stands; ``path`` is its name in messages.

    Raises:
        SpecError: it is no YAML, a key is given twice or is no plain text, or it is nested too deeply or too large.
    """
    try:
        loader = _BoundedLoader(text, path)
        node = loader.get_single_node()
        places: Places = {}
        if node is None:
            return None, places
        _locate(node, (), places, path)
        return loader.construct_document(node), places
    except SpecError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if isinstance(error, yaml.composer.ComposerError) and mark and error.problem == _SECOND:
            raise SpecError(
                f"{path}, line {mark.line + 1}: a second document begins here, and a file holds one",
                hint="leave the line '---' out, or make a file of each",
            ) from error
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(
            f"{path}{where}: this is not valid YAML: {error.problem or error.context}",
            hint=_without_the_space("".join(text.splitlines()[mark.line : mark.line + 1])) if mark else None,
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(
            f"{path}, line {line}: this is not valid YAML: the character {chr(error.character)!r} is not allowed",
            hint="if the file is UTF-16, save it as UTF-8" if error.character == 0 else None,
        ) from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise SpecError(f"{path}: this is not valid YAML: {error}") from error
    except (LookupError, AttributeError) as error:  # of a tag whose value is none, such as !!bool maybe
        raise SpecError(f"{path}: this is not valid YAML: a value is not what its tag says") from error


class _BoundedLoader(yaml.SafeLoader):
    """Composes a document of bounded size: what its aliases stand for is counted before anything walks over it."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self._path = path
        self._depth = self._nodes = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """The nodes in a node and how deep they lie, by its `id`; nothing for one that is being composed."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self._depth >= DEEPEST:
            raise self._fault(event, f"this is nested too deeply: {DEEPEST} levels are read")
        if self._nodes >= MOST_NODES:
            raise self._fault(event, _TOO_LARGE)
        self._depth += 1
        self._nodes += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise self._fault(event, f"the alias *{event.anchor} refers to what it stands in")
        else:
            self._sizes[id(node)] = self._measured(node)
        nodes, deep = self._sizes[id(node)]
        if self._depth + deep > DEEPEST:
            raise self._fault(event, f"this is nested too deeply: {DEEPEST} levels are read, aliases written out")
        if nodes > MOST_NODES:
            raise self._fault(event, _TOO_LARGE)
        return node

    def _measured(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            if node.tag != _TEXT and len(node.value) > LONGEST_NUMBER:
                raise self._fault(node, f"a number has at most {LONGEST_NUMBER} characters; quote what is text")
            return 1, 1
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for item in node.value for part in (item if pairs else (item,))]
        sizes = [self._sizes[id(part)] for part in inner]
        return 1 + sum(nodes for nodes, _ in sizes), 1 + max((deep for _, deep in sizes), default=0)

    def _fault(self, node: yaml.Node | yaml.Event, words: str) -> SpecError:
        line, column = _place(node)
        return SpecError(f"{self._path}, line {line}, column {column}: {words}")


_TEXT = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_BASE_8 = re.compile(r"[-+]?0[0-7_]+")
_BASE_60 = re.compile(r"[^:]+(:[^:]+)+")
_SECOND = "but found another document"
_TOO_LARGE = f"this is too large: at most {MOST_NODES:,} values are read, aliases written out"


def place_of(where: tuple[Hashable, ...], places: Places) -> str:
    """Where a value stands, or what it is in, as a message goes on: ``, line 3, column 5``; nothing where unknown."""
    while where and where not in places:
        where = where[:-1]
    if where not in places:
        return ""
    line, column = places[where]
    return f", line {line}, column {column}"


def path_of(where: tuple[Hashable, ...], whole: str = "the spec") -> str:
    """The keys and indices that lead to a value, in one word: ``members[0].name``; ``whole`` where there are none."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or whole


def _without_the_space(line: str) -> str | None:
    slip = re.match(r"\s*(gate|speculate)\s*:\s*([\w.-]+)\s*:\s+([\w.-]+)", line)
    return slip and f"write {slip[1]}: {slip[2]}:{slip[3]}"


def _locate(node: yaml.Node, where: tuple[Hashable, ...], places: Places, path: Path) -> None:
    places.setdefault(where, _place(node))
    own = bool(where) and str(where[0]).startswith("x-")  # it means nothing here
    if isinstance(node, yaml.ScalarNode) and not own:
        _check_number(node, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _locate(item, (*where, index), places, path)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line, column = _place(key)
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{path}, line {line}, column {column}: a key has to be plain text")
            if not own:
                _check_number(key, path)
            inner = (*where, key.value)
            if inner in places:
                raise SpecError(f"{path}, line {line}, column {column}: the key {shown(key.value)} is given twice")
            places[inner] = line, column
            _locate(value, inner, places, path)


def _check_number(node: yaml.ScalarNode, path: Path) -> None:
    """Refuse a number that YAML 1.1, which is read here, and 1.2 read differently: ``010`` is 8 or 10."""
    if node.tag not in _NUMBERS:
        return
    in_base_8 = _BASE_8.fullmatch(node.value) and len(node.value.lstrip("+-0")) > 1  # 07 is 7 in both
    if in_base_8 or _BASE_60.fullmatch(node.value):
        line, column = _place(node)
        raise SpecError(
            f"{path}, line {line}, column {column}: {node.value} is read differently by two versions of YAML, in the "
            f"base {'60' if ':' in node.value else '8'} by one of them",
            hint="write the number without zeros before it, as 10 or 90; quote what is text",
        )


def _place(node: yaml.Node | yaml.Event) -> Place:
    mark = node.start_mark
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
