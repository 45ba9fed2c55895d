"""The texts of control tokens, and where a text spells them: found in one pass, however many tokens there are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

_WORD = re.compile(r"\w")


class Controls(dict[str, int]):
    """The ids of control tokens by their texts. It does not change once it is used."""

    def __init__(
        self,
        ids: Mapping[str, int],
        strips: Mapping[int, tuple[bool, bool]] | None = None,
        words: Collection[int] = (),
    ) -> None:
        """``strips`` are those that take in the white space before or behind them, and ``words`` those that are text
        beside a letter or a digit.
        """
        super().__init__(ids)
        self.strips = strips or {}
        self.words = frozenset(words)

    @cached_property
    def spelled(self) -> re.Pattern[str]:
        """Matches the texts, of several at one place the longest."""
        return re.compile(_alternatives(self))

    @cached_property
    def spelled_in_any_case(self) -> re.Pattern[str]:
        return re.compile(_alternatives(self), re.IGNORECASE)

    @cached_property
    def folded(self) -> re.Pattern[str]:
        """Matches the `folded` texts."""
        return re.compile(_alternatives(map(folded, self)))

    def cut(self, text: str) -> list[tuple[str, int | None]]:
        """Split a text at control tokens, preferring the longest. Plain parts have ``None`` as their id.

        White space that a control token takes in is left out.
        """
        parts = self._cut(text)
        return self._without_taken(parts) if self.strips else parts

    def _cut(self, text: str) -> list[tuple[str, int | None]]:
        if not self:
            return [(text, None)] if text else []
        parts, end = list[tuple[str, int | None]](), 0
        for match in self.spelled.finditer(text):
            if self.words and self[match.group()] in self.words and _is_within_word(text, *match.span()):
                continue
            if match.start() > end:
                parts.append((text[end : match.start()], None))
            end = match.end()
            parts.append((match.group(), self[match.group()]))
        return [*parts, (text[end:], None)] if end < len(text) else parts

    def _without_taken(self, parts: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
        kept: list[tuple[str, int | None]] = []
        ids = [None, *(control for _, control in parts), None]
        for (part, control), before, after in zip(parts, ids, ids[2:], strict=False):
            if control is None and before is not None and self.strips.get(before, (False, False))[1]:
                part = part.lstrip()
            if control is None and after is not None and self.strips.get(after, (False, False))[0]:
                part = part.rstrip()
            kept += [(part, control)] if part else []
        return kept


def _is_within_word(text: str, start: int, end: int) -> bool:
    return _WORD.match(text, start - 1, start) is not None or _WORD.match(text, end) is not None


def cut_controls(text: str, controls: Mapping[str, int]) -> list[tuple[str, int | None]]:
    """Split a text at control tokens as `Controls.cut` does; other mappings are for short texts."""
    if isinstance(controls, Controls):
        return controls.cut(text)
    return Controls({control: token for control, token in controls.items() if control in text}).cut(text)


def folded(text: str) -> str:
    """The same for all texts that a change of case makes of one."""
    return text.upper().casefold()


def _alternatives(texts: Iterable[str]) -> str:
    """A regular expression of texts that shares their beginnings, so that no place of a text is looked at for each.

    It matches nothing where there are no texts.
    """
    root: dict[str, dict] = {}  # type: ignore[type-arg]
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branch(root) if root else r"(?!)"


def _branch(node: dict[str, dict]) -> str:  # type: ignore[type-arg]
    written = ""
    while len(node) == 1:
        [(character, node)] = node.items()
        if character == "":
            return written
        written += re.escape(character)
    ways = [re.escape(character) + _branch(rest) for character, rest in node.items() if character]
    return f"{written}(?:{'|'.join(ways)}){'?' if '' in node else ''}"
