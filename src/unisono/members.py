"""Members before their weights: where their models are, what their vocabularies hold, how they read a prompt."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from unisono.backends.base import Loader, LoadRequest, ModelFacts, ModelSource
from unisono.backends.registry import check_files, make_loader
from unisono.chat.mark_probe import given_marks, probe_marks
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_faults import template_faults
from unisono.chat.template_probe import probe_answer_form
from unisono.config.ensemble import EnsembleSpec
from unisono.config.member import PLAIN, MemberSpec
from unisono.config.model_source import choose_backend, find_model
from unisono.config.whole import refusal
from unisono.errors import SpecError, nearest
from unisono.fusion.calibration import Calibration
from unisono.vocab.bounded import within_rows
from unisono.vocab.marks import Mark
from unisono.vocab.normal_forms import is_uncased
from unisono.vocab.pieces import Vocabulary, end_ids, read_vocabulary
from unisono.vocab.reserved import reserve
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Foresighted, Tokenizer, TokenTable
from unisono.vocab.union import ABSENT, MemberMap, UnionMember, UnionVocabulary, check_essentials

log = logging.getLogger(__name__)

QUESTIONS = """\
{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}Answer: {{ message.content }}

{% else %}Question: {{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"""
"""The template called ``plain``, by which base models read conversations as questions and answers."""

Report = Callable[[str, float, str], None]
"""Called while things load: the member, the fraction done (0 to 1), and what is being done."""


def silent(member: str, fraction: float, words: str) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an ensemble wants of a model."""

    owner: MemberSpec
    backend: str
    source: ModelSource
    slots: int
    copy: int = 0
    """How many members before in the same ensemble name the model and yet want weights of their own."""
    alone: bool = False
    """Whether the process serves this model and nothing else."""

    @property
    def key(self) -> Hashable:
        """The model and how it is run: equal for members of several ensembles that can share it."""
        owner, options = self.owner, json.dumps(self.owner.options, sort_keys=True, default=repr)
        how = (owner.dtype, owner.device, owner.context, owner.threads, options)
        return self.backend, self.source, how, self.copy


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
    foresighted: Foresighted | None
    """Who can learn in the background what it encodes texts as."""
    spellers: dict[tuple[Hashable, ...], Speller] = field(default_factory=dict)
    """By the ids that are END, and the marks. Members differ in them only where their templates do."""


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

    @property
    def vocabulary(self) -> Vocabulary:
        return self.speller.vocabulary

    @property
    def template_faults(self) -> tuple[str, ...]:
        """What its chat template does not do that chats need, in words that follow "the chat template of NAME"."""
        return () if self.encoder.template is None else template_faults(self.encoder.template)

    @property
    def uncased(self) -> bool:
        """Whether its tokenizer reads capital letters as small ones."""
        return is_uncased(self.tokenizer, self.vocabulary)


def find_models(spec: EnsembleSpec, batch: int, report: Report) -> dict[str, Wanted]:
    """Find the models of an ensemble, by the name of the member that has each."""
    voters = spec.voters()
    sharing = Counter(member.owner for member, _ in voters)
    for member in spec.members:
        if member.weight == 0:
            log.warning(
                "member %r has weight 0 and is left out%s",
                member.name,
                ", but for its weights, which others share" if member.name in sharing else "",
            )
    found: dict[str, Wanted] = {}
    copies: Counter[Hashable] = Counter()
    by_name = {member.name: member for member in spec.members}
    for name, members in sharing.items():
        owner, say = by_name[name], reporter(report, name)
        say(0.0, "finding the model")
        source = find_model(owner, spec.folder, say)
        backend = choose_backend(owner, source).name
        check_files(backend, name, source)
        slots = batch * spec.method.slots * members
        wanted = Wanted(owner=owner, backend=backend, source=source, slots=slots)
        key = wanted.key
        found[name] = replace(wanted, copy=copies[key])
        copies[key] += 1
    return found


def read_model(wanted: Wanted, report: Report) -> Model:
    """Read a model's vocabulary."""
    owner, source, backend = wanted.owner, wanted.source, wanted.backend
    request = LoadRequest(
        name=owner.name,
        source=source,
        dtype=owner.dtype,
        device=owner.device,
        context=owner.context,
        threads=owner.threads,
        slots=wanted.slots,
        options=owner.options,
        may_be_away=owner.on_failure == "degrade",
        alone=wanted.alone,
    )
    loader = make_loader(backend, request)
    report(owner.name, 0.0, "reading the vocabulary")
    tokenizer, facts = loader.tokenizer(), loader.facts()
    return Model(
        owner=owner,
        backend=backend,
        source=source,
        loader=loader,
        tokenizer=within_rows(tokenizer, facts.usable_rows),
        facts=facts,
        foresighted=tokenizer if isinstance(tokenizer, Foresighted) else None,
    )


def words_uncased(name: str) -> str:
    return (
        f"the tokenizer of {name} reads texts in lower case, and so prompts; capital letters that other members write "
        "are read as they are, in pieces that its model has rarely seen"
    )


def words_beyond(name: str, rows: int, beyond: Sequence[str]) -> str:
    """Say that a member's tokenizer has tokens for which its model has no row."""
    examples = ", ".join(filter(None, beyond[:4])) + (" …" if len(beyond) > 4 else "")
    tokens = f"{len(beyond):,} {'token' if len(beyond) == 1 else 'tokens'} ({examples})"
    return (
        f"the tokenizer of {name} is larger than its model by {tokens}: the model has {rows:,} rows, "
        "and what lies beyond is spelled as ordinary text"
    )


def join_member(spec: MemberSpec, weight: float, model: Model) -> PreparedMember:
    """Give a model to one of its members, whose template settles what is END."""
    tokenizer = model.tokenizer
    template = template_of(spec, tokenizer)
    form = probe_answer_form(template, tokenizer)
    endings = end_ids(tokenizer.table, form.turn_end_ids)
    marks = probe_marks(template, tokenizer, endings)
    if spec.marks:
        forms: dict[Mark, str] = {mark: value for mark, value in spec.marks.items() if isinstance(value, str)}
        reads: dict[Mark, str] = {m: value.reads for m, value in spec.marks.items() if not isinstance(value, str)}
        marks = given_marks(spec.name, marks, forms, reads, tokenizer)
    tokenizer = reserve(tokenizer, marks)
    key = (*endings, repr(marks))
    if key not in model.spellers:
        vocabulary = read_vocabulary(tokenizer.table, endings, model.facts.rows, marks)
        model.spellers[key] = Speller(vocabulary, tokenizer.encode)
    speller = model.spellers[key]
    check_essentials(UnionMember(spec.name, speller))
    encoder = PromptEncoder(
        spec.name,
        tokenizer,
        speller,
        template,
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
        leading_space=form.leading_space,
    )


def expect_pieces(member: PreparedMember, its_map: MemberMap, union: UnionVocabulary) -> None:
    """Let a member whose tokenizer is elsewhere learn the pieces that it has no token for, before steps need them."""
    if member.foresighted is None:
        return
    lacking = [union.piece(column) for column in np.flatnonzero(its_map.id_U[: union.texts] == ABSENT).tolist()]
    pieces = [piece for piece in lacking if piece]
    if its_map.first_column_V is not None:  # an answer begins with a space that is folded away
        canonical = member.vocabulary.canonical
        texts = (union.piece(column) or b"" for column in range(union.texts))
        pieces += [spaced for piece in texts if (spaced := b" " + piece) not in canonical]
    decoded = (piece.decode("utf-8", "ignore") for piece in pieces)
    member.foresighted.expect(text for text, piece in zip(decoded, pieces, strict=True) if text.encode() == piece)


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


def template_of(spec: MemberSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    """A member's template. Raises a `SpecError` where the spec gives a bad one."""
    given, table = spec.chat_template, tokenizer.table
    try:
        if given is not None:
            return ChatTemplate(template_text(spec, table), table.special_texts)
        if table.named_templates:
            return ChatTemplate.of_named(table.named_templates, table.special_texts)
        return None if table.chat_template is None else ChatTemplate(table.chat_template, table.special_texts)
    except TemplateFailure as failure:
        if given is None:
            log.warning("the chat template of member %r's own model is not valid: %s", spec.name, failure)
            return None
        raise SpecError(f"the chat_template of member {spec.name!r} is not valid Jinja: {failure}") from failure


def is_given(spec: MemberSpec, table: TokenTable) -> bool:
    """Whether a member's template is not of its model's files."""
    if spec.chat_template is None:
        return table.template_given
    return spec.chat_template not in table.named_templates


def template_text(spec: MemberSpec, table: TokenTable) -> str:
    """The template that a spec gives, or names among those of the model; or that of questions and answers."""
    given = str(spec.chat_template)
    if given == PLAIN and PLAIN not in table.named_templates:
        return QUESTIONS
    if not table.named_templates or not re.fullmatch(r"[\w.-]+", given):
        return given
    if given not in table.named_templates:
        raise SpecError(
            f"the chat_template of member {spec.name!r} is {given!r}, and its model has none of that name"
            + nearest(given, table.named_templates),
            hint=f"choose one of {', '.join(table.named_templates)}, or give a Jinja template",
        )
    return table.named_templates[given]


def reporter(report: Report, name: str) -> Callable[[float, str], None]:
    return lambda fraction, words: report(name, fraction, words)
