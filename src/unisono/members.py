"""Members before their weights: where their models are, what their vocabularies hold, how they read a prompt."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unisono.backends.base import Loader, LoadRequest, ModelFacts, ModelSource
from unisono.backends.registry import make_loader
from unisono.chat.prompt_encoder import PromptEncoder
from unisono.chat.template import ChatTemplate, TemplateFailure
from unisono.chat.template_probe import probe_answer_form
from unisono.config.ensemble import EnsembleSpec
from unisono.config.member import MemberSpec
from unisono.config.model_source import choose_backend, find_model
from unisono.errors import SpecError, nearest
from unisono.vocab.bounded import within_rows
from unisono.vocab.pieces import Vocabulary, end_ids, read_vocabulary
from unisono.vocab.spelling import Speller
from unisono.vocab.tokenizer import Tokenizer, TokenTable
from unisono.vocab.union import UnionMember, check_essentials

log = logging.getLogger(__name__)

Report = Callable[[str, float, str], None]
"""Called while things load: the member, the fraction done (0 to 1), and what is being done."""


def silent(member: str, fraction: float, words: str) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMember:
    """A member without its weights: what its vocabulary and templates show."""

    spec: MemberSpec
    weight: float
    """Its share; the prepared members' weights sum to 1."""
    owner: MemberSpec
    """The member that names its model: itself, or the one whose weights it shares, which may have no vote."""
    backend: str
    source: ModelSource
    loader: Loader
    """One object for all members that share weights, as are the tokenizer and the facts."""
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    speller: Speller
    encoder: PromptEncoder
    endings: dict[int, str]
    """The ids that are END, and why."""
    leading_space: bool
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class Run:
    """A model and how it is run: the same for members of several ensembles that can share it."""

    backend: str
    source: ModelSource
    dtype: str | None
    device: str | None
    context: int | None
    threads: int | None
    options: str
    copy: int
    """How many members before in the same ensemble name the model and yet want weights of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model without its weights, for all members that share them."""

    owner: MemberSpec
    backend: str
    source: ModelSource
    loader: Loader
    tokenizer: Tokenizer
    facts: ModelFacts
    spellers: dict[tuple[int, ...], Speller] = field(default_factory=dict)
    """By the ids that are END. Members differ in them only where their templates close answers differently."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an ensemble wants of a model."""

    run: Run
    owner: MemberSpec
    slots: int


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
    for name, members in sharing.items():
        run = _find(spec.member(name), spec.folder, report)
        while any(run == other.run for other in found.values()):
            run = replace(run, copy=run.copy + 1)
        found[name] = Wanted(run, spec.member(name), batch * spec.sampling.beam_width * members)
    return found


def _find(owner: MemberSpec, folder: Path, report: Report) -> Run:
    say = reporter(report, owner.name)
    say(0.0, "finding the model")
    source = find_model(owner, folder, say)
    backend = choose_backend(owner, source).name
    options = json.dumps(owner.options, sort_keys=True, default=repr)
    return Run(backend, source, owner.dtype, owner.device, owner.context, owner.threads, options, 0)


def read_model(wanted: Wanted, report: Report) -> Model:
    """Read a model's vocabulary."""
    owner, run = wanted.owner, wanted.run
    request = LoadRequest(
        name=owner.name,
        source=run.source,
        dtype=run.dtype,
        device=run.device,
        context=run.context,
        threads=run.threads,
        slots=wanted.slots,
        options=owner.options,
    )
    loader = make_loader(run.backend, request)
    report(owner.name, 0.0, "reading the vocabulary")
    tokenizer, facts = loader.tokenizer(), loader.facts()
    tokenizer = within_rows(tokenizer, facts.usable_rows)
    if beyond := tokenizer.table.beyond:
        log.warning("%s", words_beyond(owner.name, facts.usable_rows, [text for text, _ in beyond]))
    return Model(owner, run.backend, run.source, loader, tokenizer, facts)


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
    template = _template(spec, tokenizer)
    form = probe_answer_form(template, tokenizer)
    endings = end_ids(tokenizer.table, form.turn_end_ids)
    if tuple(endings) not in model.spellers:
        vocabulary = read_vocabulary(tokenizer.table, endings, model.facts.rows)
        model.spellers[tuple(endings)] = Speller(vocabulary, tokenizer.encode)
    speller = model.spellers[tuple(endings)]
    check_essentials(UnionMember(spec.name, speller))
    encoder = PromptEncoder(
        spec.name,
        tokenizer,
        speller,
        template,
        given_template=spec.chat_template not in (None, *tokenizer.table.named_templates),
        system=spec.system,
        prefix=spec.prefix,
        opening=form.opening,
    )
    return PreparedMember(
        spec,
        weight,
        model.owner,
        model.backend,
        model.source,
        model.loader,
        tokenizer,
        speller.vocabulary,
        speller,
        encoder,
        endings,
        form.leading_space,
        model.facts,
    )


def _template(spec: MemberSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    given, table = spec.chat_template, tokenizer.table
    try:
        if given is not None:
            return ChatTemplate(_named(spec, table), table.special_texts)
        if table.named_templates:
            return ChatTemplate.of_named(table.named_templates, table.special_texts)
        return None if table.chat_template is None else ChatTemplate(table.chat_template, table.special_texts)
    except TemplateFailure as failure:
        if given is None:
            log.warning("the chat template of member %r's own model is not valid: %s", spec.name, failure)
            return None
        raise SpecError(f"the chat_template of member {spec.name!r} is not valid Jinja: {failure}") from failure


def _named(spec: MemberSpec, table: TokenTable) -> str:
    """The template that a spec gives, or names among those of the model."""
    given = str(spec.chat_template)
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
