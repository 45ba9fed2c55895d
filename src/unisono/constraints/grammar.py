"""Grammars over the columns of a union, by llguidance: the one file that knows the library.

llguidance (https://github.com/guidance-ai/llguidance) computes which tokens of one tokenizer may follow. Here its
"tokenizer" is the union: a token for each piece, a special token for each mark, END as its end-of-sequence token. So
one mask holds for all members.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from unisono.config.constraint import JSON_OBJECT, JSON_SCHEMA, LARK, REGEX, Constraint
from unisono.constraints.json_schema import GIVEN_OPTIONS, JSON_OPTIONS, OPTIONS, SPACING, check_schema
from unisono.errors import BackendMissing, SpecError, nearest, shown
from unisono.fusion.logits_processors import Allowed
from unisono.user_files import short_float
from unisono.vocab.union import UnionVocabulary

log = logging.getLogger(__name__)

COMPILED = 32
"""Compiled grammars that are kept."""
CHARACTERS = 100_000
"""Of their sources, all together, but for the one that was used last: compiled, each takes 30 to 1,000 bytes."""
LONGEST_REASON = 400
"""Characters of the library's words; they may repeat all of an expression."""
SPECIAL = 0xFF
"""The byte with which llguidance marks special tokens. No text in UTF-8 has it, so no piece that does is allowed."""

SUBJECT = "the constraint {}"
"""What errors call a constraint of a kind. Of a grammar that was made of something else, the maker says what."""

# Without this a forced text is allowed in one spelling only, that of "the" tokenizer: a union has none, and all
# pieces that lead along the forced text are as good. The last such line holds.
_ANY_SPELLING = '\n%llguidance {"no_forcing": true}\n'

_LARK_OPTIONS = ("allow_initial_skip", "allow_invalid_utf8", "no_forcing")
"""The options of a grammar, of which later versions of the library have more."""
_KEEPABLE = "leave out what it cannot keep; docs/spec.md says what constraints may hold"
_NO_LARK = "it has ::=, as llama.cpp's grammars (GBNF) have: write it in Lark, as llguidance.gbnf_to_lark does"

Compile = Callable[[Constraint], "Parse"]
"""Compiles a constraint over the columns of the union and returns its initial state. Raises a `SpecError`."""


class Grammars:
    """Compiles grammars over one union. The library, and its view of the union, are loaded for the first."""

    def __init__(self, union: UnionVocabulary) -> None:
        self._union = union
        self._compiled: OrderedDict[Constraint, Parse] = OrderedDict()
        self._keeping = threading.Lock()

    def __call__(self, constraint: Constraint) -> Parse:
        """Return the initial state of a constraint's grammar. Raises a `SpecError` where no grammar keeps all that the
        constraint says, and a `BackendMissing` without llguidance.
        """
        parse = self._compiled.get(constraint) or self._compile(constraint)
        self._keep(constraint, parse)
        return parse.copy()

    def get_ready(self) -> None:
        """Give the library its view of the union, where it is installed: a second in which no other thread runs."""
        if _is_installed():
            _ = self._tokenizer

    def _keep(self, constraint: Constraint, parse: Parse) -> None:
        """Keep what was used last: few grammars, and of long ones fewer, because clients may write them."""
        kept = self._compiled
        with self._keeping:
            kept[constraint] = parse
            kept.move_to_end(constraint)
            while len(kept) > 1 and (len(kept) > COMPILED or sum(len(each.source) for each in kept) > CHARACTERS):
                kept.popitem(last=False)

    def _compile(self, constraint: Constraint) -> Parse:
        library = _library()
        grammar = _grammar(constraint, library)
        limits = library.LLParserLimits(verbose_errors=False)
        matcher = library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise SpecError(
                f"{SUBJECT.format(constraint.kind)} cannot be kept: {_reason(matcher.get_error())}",
                hint=_NO_LARK if _is_gbnf(constraint) else _KEEPABLE,
            )
        for warning in matcher.get_grammar_warnings():
            log.warning("the constraint %s: %s", constraint.kind, warning)
        subject = SUBJECT.format(constraint.kind)
        parse = Parse(matcher, self._union, subject, by_seams=_names_seams(constraint))
        parse.allowed(())
        return parse

    @functools.cached_property
    def _tokenizer(self) -> Any:
        library, pieces = _library(), _Pieces(self._union)
        wrapper = library.TokenizerWrapper(pieces)
        tokenizer = library.LLTokenizer(wrapper)
        wrapper.tokens = pieces.tokens = ()  # it has its own copy by now
        return tokenizer


class Parse:
    """The state of one sequence in its grammar."""

    by_seams = False
    """Whether it names marks between the names and the arguments of calls."""

    def __init__(self, matcher: Any, union: UnionVocabulary, subject: str, *, by_seams: bool = False) -> None:
        """``subject`` is what errors call its constraint."""
        self._matcher = matcher
        self._union = union
        self._subject = subject
        self.by_seams = by_seams

    def allowed(self, ahead: Sequence[int]) -> Allowed:
        """The columns that may follow what is written and the drafted pieces ``ahead``; END where the text may end.

        Raises a `SpecError` where the members could write nothing that may follow, or the grammar grew too complex.
        """
        matcher = self._matcher
        if ahead:
            matcher = matcher.deep_copy()
            self._feed(matcher, ahead)
        packed = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed_U = np.unpackbits(packed, count=self._union.size, bitorder="little").view(np.bool_)
        # An error and a dead end both come back as "END alone".
        if allowed_U[self._union.end] and not matcher.is_accepting():
            dead_end = "NoExtensionBias" in matcher.get_error()
            reason = "the members have no pieces to go on with" if dead_end else _reason(matcher.get_error())
            raise SpecError(
                f"{self._subject} cannot be kept any further: {reason}",
                hint="let it ask for other characters" if dead_end else "make it simpler",
            )
        return allowed_U

    def accepts(self, column: int) -> bool:
        """Whether one column may follow, which is quicker than to find all that may."""
        return bool(self._matcher.validate_tokens([column]))

    def settle(self, column: int) -> int:
        """What a choice stands for: mostly itself."""
        return column

    def consume(self, column: int) -> None:
        self._feed(self._matcher, [column])

    def copy(self) -> Parse:
        return Parse(self._matcher.deep_copy(), self._union, self._subject, by_seams=self.by_seams)

    def _feed(self, matcher: Any, columns: Sequence[int]) -> None:
        if not matcher.consume_tokens(list(columns)):
            pieces = [self._union.piece(column) for column in columns]
            raise AssertionError(f"{pieces} was not allowed: {_reason(matcher.get_error())}")


class _Pieces:
    """The union as the tokenizer that llguidance's wrapper takes."""

    bos_token_id = None

    def __init__(self, union: UnionVocabulary) -> None:
        pieces = [union.piece(column) or b"" for column in range(union.texts)]
        marks = [f"<|{mark}|>".encode() for mark in union.marks]
        self.tokens: Sequence[bytes] = [*(b"" if SPECIAL in piece else piece for piece in pieces), *marks, b""]
        self.special_token_ids = list(range(union.texts, union.end))
        self.eos_token_id = union.end

    def __call__(self, text: bytes) -> list[int]:
        raise AssertionError("a union spells nothing")


def _is_installed() -> bool:
    return importlib.util.find_spec("llguidance") is not None


def _library() -> ModuleType:
    if not _is_installed():
        raise BackendMissing(
            "a constraint needs llguidance, which is not installed",
            hint="install it: pip install 'unisono[constraints]'",
        )
    import llguidance

    return llguidance


def _grammar(constraint: Constraint, library: ModuleType) -> str:
    if constraint.kind in (JSON_SCHEMA, JSON_OBJECT):
        schema = constraint.schema
        check_schema(schema)
        if isinstance(schema, bool):
            schema = {} if schema else {"enum": []}
        return f"start: %json {json.dumps({**schema, OPTIONS: {**JSON_OPTIONS, **SPACING}})}{_ANY_SPELLING}"
    if constraint.kind == REGEX:
        [grammar] = json.loads(library.LLMatcher.grammar_from_regex(constraint.source))["grammars"]
        return f"{grammar['lark_grammar']}{_ANY_SPELLING}"
    _check_lark(constraint.source, library)
    return constraint.source + _ANY_SPELLING


# Both take time in proportion to the text, whatever it is: a quote that is not closed is read to the line's end, and a
# bracket up to the next one.
_LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"?|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/?')
_FOREIGN = re.compile(
    r"<\[|<\|(?!call_(?:begin|end|arguments|next|text)\|>)[^|>\s]*\|?>?"
    r"|\[[^\[\]]*\b(?:temperature|max_tokens|stop|stop_capture)\b"
)


_WORDS = re.compile(rf"{_LITERALS.pattern}|(%json|%llguidance)\s*(?=\{{)")


def _check_lark(grammar: str, library: ModuleType) -> None:
    """Refuse what means tokens of one model or marks beside the text, or would be read and not done."""
    if found := _FOREIGN.search(_LITERALS.sub('""', grammar)):
        raise SpecError(
            f"the lark grammar has {found.group()!r}: "
            "token numbers, marks, temperature, max_tokens, stop mean nothing here",
            hint="write the text itself; lazy and suffix work, and how pieces are drawn is said by sampling",
        )
    for option in dict.fromkeys(option for options in _objects_in(grammar, "%llguidance") for option in options):
        if not _is_known(option, library):
            raise SpecError(
                f"the lark grammar gives %llguidance the option {shown(option)}, which it ignores"
                f"{nearest(option, _LARK_OPTIONS)}",
                hint=f"choose of {', '.join(_LARK_OPTIONS)}, or leave it out",
            )
    for schema in _objects_in(grammar, "%json"):
        options = schema.pop(OPTIONS, None)
        if isinstance(options, dict) and set(options) - set(GIVEN_OPTIONS):
            raise SpecError(f"{OPTIONS} is {shown(options)}", hint=f"choose one of {', '.join(GIVEN_OPTIONS)}")
        check_schema(schema)


def _is_known(option: str, library: ModuleType) -> bool:
    """Whether the library reads an option: it refuses a value of a wrong type only then."""
    return bool(library.LLMatcher.validate_grammar(f'%llguidance {json.dumps({option: []})}\nstart: ""'))


def _names_seams(constraint: Constraint) -> bool:
    return constraint.kind == LARK and "<|call_arguments|>" in _LITERALS.sub('""', constraint.source)


def _is_gbnf(constraint: Constraint) -> bool:
    return constraint.kind == LARK and "::=" in _LITERALS.sub('""', constraint.source)


def _objects_in(grammar: str, word: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON behind a word of a grammar, such as ``%json``, as far as they can be read."""
    for found in _WORDS.finditer(grammar):
        if found[1] == word:
            with contextlib.suppress(ValueError, RecursionError):  # llguidance says what is wrong
                yield json.JSONDecoder(parse_float=short_float).raw_decode(grammar, found.end())[0]


def _reason(error: str) -> str:
    """The words of an error, without the grammar that it repeats."""
    words = re.split(r"\n +\d+ \|", re.split("<backtrace>|<non-verbose/>", error)[0])[0]
    words = re.sub(r"^(at )?\d+\(\d+\): ", "", words).replace("failed to compile JSON schema: ", "")
    words = re.sub(r"Unimplemented keys: \[([^\]]*)\]", r"keywords of JSON Schema that are not supported: \1", words)
    words, half = " ".join(words.split()), LONGEST_REASON // 2
    return words if len(words) <= LONGEST_REASON else f"{words[:half]} … {words[-half:]}"
