"""Members before their weights: what their vocabularies hold, and how they read a prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from unisono.backends.adapter_reading import trained_otherwise
from unisono.backends.base import Loader, ModelFacts, ModelSource
from unisono.chat.messages import Message
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template_faults import template_faults
from unisono.chat.template_probe import writes_users
from unisono.config.member import MemberSpec
from unisono.config.whole_distributions import refusal
from unisono.errors import PromptError, SpecError, VocabularyError
from unisono.fusion.calibration import Calibration
from unisono.member_template import TemplateReading, is_given, read_template
from unisono.vocab.normal_forms import is_uncased, taken_away
from unisono.vocab.pieces import Vocabulary, odd_ends, read_vocabulary
from unisono.vocab.reserved import reserve
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import RemoteTokenizer, Tokenizer
from unisono.vocab.union import ABSENT, MemberMap, UnionMember, UnionVocabulary, check_essentials

Report = Callable[[str, float, str], None]
"""Called while things load: the member, the fraction done (0 to 1), and what is being done."""


def silent(member: str, fraction: float, words: str) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A model without its weights, for all members that share them."""

    owner: MemberSpec
    """The member that names it, which may have no vote."""
    backend: str
    source: ModelSource
    loader: Loader
    tokenizer: Tokenizer
    facts: ModelFacts
    remote_tokenizer: RemoteTokenizer | None
    """Who can learn in the background what it encodes texts as."""
    spellers: dict[tuple[Hashable, ...], Speller] = field(default_factory=dict)
    """By the ids that are END, and the marks. Members differ in them only where their templates do."""
    templates: dict[Hashable, TemplateReading] = field(default_factory=dict)
    """What was found by asking templates, for all models of the same files."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedMember(Model):
    """A member without its weights: its model, and what its vocabulary and templates show."""

    spec: MemberSpec
    weight: float
    """Its share; the prepared members' weights sum to 1."""
    speller: Speller
    encoder: PromptEncoder
    endings: dict[int, str]
    """The ids that are END, and why."""
    leading_space: bool
    adapter: str | None = None
    """The path of what is added to the model's weights for this member."""

    @property
    def vocabulary(self) -> Vocabulary:
        return self.speller.vocabulary

    @property
    def template_faults(self) -> tuple[str, ...]:
        """What its chat template does not do that chats need, in words that follow "the chat template of NAME"."""
        return () if self.encoder.template is None else template_faults(self.encoder.template)

    @property
    def deaf(self) -> bool:
        """Whether its chat template writes the same for different questions."""
        if self.encoder.template is None:
            return False
        try:
            first, second = (
                self.encoder.encode_messages([Message(role="user", content=question)])
                for question in ("Why?", "How many?")
            )
        except PromptError:
            return not writes_users(self.encoder.template)
        return first == second

    @property
    def adapter_doubts(self) -> tuple[str, ...]:
        """How its adapter was trained to read and it does not, in words that follow "the adapter of NAME"."""
        if self.adapter is None or self.backend == "fake":
            return ()
        return trained_otherwise(
            Path(self.adapter), self.tokenizer.table, template_given=self.spec.chat_template is not None
        )

    @property
    def odd_ends(self) -> tuple[str, ...]:
        """What ends its texts and looks like a part of them, in words that follow its name."""
        return odd_ends(self.tokenizer.table, self.endings)

    @property
    def uncased(self) -> bool:
        """Whether its tokenizer reads capital letters as small ones."""
        return is_uncased(self.tokenizer, self.vocabulary)

    @property
    def taken_away(self) -> tuple[str, ...]:
        """What its tokenizer takes away of a chat, in words."""
        return taken_away(self.tokenizer, self.vocabulary)


def join_member(spec: MemberSpec, weight: float, model: Model, adapter: str | None = None) -> PreparedMember:
    """Give a model to one of its members, whose template settles what is END."""
    read = read_template(spec, model.tokenizer, model.templates)
    endings, marks, tokenizer = read.endings, read.marks, reserve(model.tokenizer, read.marks)
    key = (*endings, repr(marks))
    if key not in model.spellers:
        vocabulary = read_vocabulary(tokenizer.table, endings, model.facts.rows, marks)
        model.spellers[key] = Speller(vocabulary, tokenizer.encode)
    speller = model.spellers[key]
    try:
        check_essentials(UnionMember(spec.name, speller))
    except VocabularyError as error:
        if why := odd_ends(tokenizer.table, endings):
            raise VocabularyError(f"{error.message}; it {why[0]}", hint="correct eos_token_id in its files") from error
        raise
    encoder = PromptEncoder(
        spec.name,
        tokenizer,
        speller,
        read.template,
        given_template=is_given(spec, tokenizer.table),
        system=spec.system,
        prefix=spec.prefix,
    )
    shared = {key.name: getattr(model, key.name) for key in fields(Model)} | {"tokenizer": tokenizer}
    return PreparedMember(
        **shared,
        spec=spec,
        weight=weight,
        speller=speller,
        encoder=encoder,
        endings=endings,
        leading_space=read.leading_space,
        adapter=adapter,
    )


def expect_pieces(member: PreparedMember, its_map: MemberMap, union: UnionVocabulary) -> None:
    """Let a member whose tokenizer is elsewhere learn the pieces that it has no token for, before steps need them."""
    if member.remote_tokenizer is None:
        return
    lacking = [union.piece(column) for column in np.flatnonzero(its_map.id_U[: union.texts] == ABSENT).tolist()]
    pieces = [piece for piece in lacking if piece]
    if its_map.first_column_V is not None:  # an answer begins with a space that is folded away
        canonical = member.vocabulary.canonical
        texts = (union.piece(column) or b"" for column in range(union.texts))
        pieces += [spaced for piece in texts if (spaced := b" " + piece) not in canonical]
    decoded = (piece.decode("utf-8", "ignore") for piece in pieces)
    member.remote_tokenizer.expect(text for text, piece in zip(decoded, pieces, strict=True) if text.encode() == piece)


def columns_of_answers(specs: Sequence[MemberSpec], union: UnionVocabulary) -> dict[bytes, int]:
    """The columns of the answers that members are calibrated for."""
    answers = {text.encode() for spec in specs for text in spec.calibrate}
    return union.columns(answers) if answers else {}


def calibration_of(spec: MemberSpec, columns: Mapping[bytes, int]) -> Calibration | None:
    """A member's calibration, as far as the union has its answers; ``None`` where it has fewer than two."""
    known = [(columns[text.encode()], prior) for text, prior in spec.calibrate.items() if text.encode() in columns]
    return Calibration(*zip(*known, strict=True)) if len(known) > 1 else None


def check_reshaped(members: Sequence[PreparedMember], union: UnionVocabulary) -> None:
    """Hold members' ``temperature`` and ``calibrate`` against what they tell, and what the union has.

    Raises:
        SpecError: a member tells its likeliest ids only, or an answer is no piece.
    """
    columns = columns_of_answers([member.spec for member in members], union)
    for member in members:
        spec = member.spec
        if member.facts.truncated and (spec.temperature != 1 or spec.calibrate):
            words = "calibrate" if spec.temperature == 1 else f"temperature {spec.temperature:g}"
            raise refusal(f"{words} of a member", [spec.name], "it reshapes all of its masses", "leave it out")
        for text in spec.calibrate:
            if text.encode() not in columns:
                raise SpecError(
                    f"calibrate of member {spec.name!r} has the answer {text!r}, which is no piece of any member",
                    hint="give answers that are one piece, with the space before them, such as ' A'",
                )


def reporter(report: Report, name: str) -> Callable[[float, str], None]:
    return lambda fraction, words: report(name, fraction, words)
