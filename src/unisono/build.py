"""The composition root: from a spec to an engine. The only module that names concrete parts."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from unisono.backends.base import Backend, Loader, LoadRequest, ModelFacts
from unisono.backends.registry import make_loader
from unisono.engine.engine import Engine
from unisono.engine.member import Member
from unisono.engine.prefixes import PrefixStore
from unisono.engine.submission import check_length
from unisono.errors import SpecError, nearest, shown
from unisono.member_spec import MemberSpec
from unisono.sources import choose_backend, find_model
from unisono.spec import EnsembleSpec
from unisono.types import Message, Prompt
from unisono.vocab.call_form import CallForm
from unisono.vocab.ending import end_ids
from unisono.vocab.pieces import Vocabulary, read_vocabulary
from unisono.vocab.probe import probe_answer_form
from unisono.vocab.prompt import PromptReader
from unisono.vocab.spelling import Speller
from unisono.vocab.template import ChatTemplate, TemplateFailure
from unisono.vocab.tokenizer import Tokenizer
from unisono.vocab.union import UnionMember, UnionVocabulary, check_essentials
from unisono.vocab.union_cache import load_union

log = logging.getLogger(__name__)

Report = Callable[[str, float, str], None]
"""Called while things load: the member, the fraction done (0 to 1), and what is being done."""


def silent(member: str, fraction: float, words: str) -> None:
    """A `Report` that says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedMember:
    """A member before its weights: everything that its vocabulary and templates tell."""

    spec: MemberSpec
    weight: float
    """Its share; the prepared members' weights sum to 1."""
    owner: MemberSpec
    """The member that names its model: itself, or the one whose weights it shares, which may have no vote."""
    backend: str
    loader: Loader
    """One object for all members that share weights, as are the tokenizer and the facts."""
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    speller: Speller
    reader: PromptReader
    endings: dict[int, str]
    """The ids that are END, and why."""
    leading_space: bool
    facts: ModelFacts


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An ensemble before its weights."""

    spec: EnsembleSpec
    members: list[PreparedMember]
    union: UnionVocabulary

    def check_prompt(self, prompt: Prompt) -> None:
        """Refuse early what no loaded ensemble could read. Raises a `PromptError`."""
        for member in self.members:
            check_length(member.spec.name, len(member.reader.read(prompt)), member.facts.context)

    def prompt(self, text: str) -> Prompt:
        """A prompt of some text that all members can read: raw, or a message where one has a system message."""
        if all(member.spec.system is None for member in self.members):
            return Prompt(text=text)
        return Prompt(messages=(Message(role="user", content=text),))

    def call_form(self, lead: str | None = None) -> CallForm:
        """How texts write calls of tools: as the lead does, whose text the others read as text.

        Args:
            lead: a member that votes; by default the spec's.

        Raises:
            PromptError: the lead writes no calls, or none that members share; see `PromptReader.call_form`.
            SpecError: there is no such member.
        """
        readers = {member.spec.name: member.reader for member in self.members}
        name = lead or self.spec.method.lead_among({member.spec.name: member.weight for member in self.members})
        if name not in readers:
            raise SpecError(
                f"the lead {shown(name)} is no member that votes{nearest(name, readers)}",
                hint=f"choose one of {', '.join(readers)}",
            )
        return readers[name].call_form()

    def load(self, report: Report = silent, *, longest_block: int | None = None, keep_prefixes: bool = False) -> Engine:
        """Load all weights, each once, and return the engine; frees what was loaded when one fails.

        Args:
            report: told what is going on.
            longest_block: see `Engine`; a `Service` wants one.
            keep_prefixes: whether what ended texts have read is kept for prompts that begin alike (`PrefixStore`).
        """
        members: list[Member] = []
        backends: dict[str, Backend] = {}
        with contextlib.ExitStack() as loaded:
            for index, member in enumerate(self.members):
                owner = member.owner.name
                if owner not in backends:
                    backend = member.loader.load(_reporter(report, owner))
                    loaded.callback(backend.unload)
                    backends[owner] = PrefixStore(backend) if keep_prefixes else backend
                members.append(
                    Member(
                        member.spec.name,
                        member.weight,
                        backends[owner],
                        member.reader,
                        member.speller,
                        self.union.maps[index],
                    )
                )
            loaded.pop_all()
        return Engine(members, self.union, self.spec.method, longest_block=longest_block)


def prepare(spec: EnsembleSpec, *, batch: int = 1, report: Report = silent) -> Prepared:
    """Find the models, read their vocabularies and templates, and build the union. No weights are loaded.

    Args:
        spec: checked.
        batch: texts to be written at once at most; a beam's width is counted in where the spec has one.
        report: told what is going on.

    Raises:
        UnisonoError: of the kind that fits, naming the member.
    """
    if not isinstance(batch, int) or batch < 1:
        raise SpecError(f"the batch is {batch!r}: it must be a whole number, 1 or more")
    voters = spec.voters()
    sharing = Counter(member.owner for member, _ in voters)
    for member in spec.members:
        if member.weight == 0:
            log.warning(
                "member %r has weight 0 and is left out%s",
                member.name,
                ", but for its weights, which others share" if member.name in sharing else "",
            )
    slots = batch * spec.draw.beam_width
    models: dict[str, _Model] = {}
    members = []
    for member, weight in voters:
        name = member.owner
        if name not in models:
            models[name] = _find(spec.member(name), spec.folder, slots * sharing[name], report)
        members.append(_join(member, weight, models[name]))
    report("the union", 0.0, "mapping the vocabularies")
    union = load_union(
        [UnionMember(member.spec.name, member.speller, leading_space=member.leading_space) for member in members]
    )
    report("the union", 1.0, f"{union.size:,} pieces")
    return Prepared(spec, members, union)


def prepare_member(
    spec: MemberSpec, weight: float = 1.0, *, folder: Path = Path(), batch: int = 1, report: Report = silent
) -> PreparedMember:
    """Prepare one member that has a model of its own; see `prepare`."""
    return _join(spec, weight, _find(spec, folder, batch, report))


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A model before its weights, for all members that share them."""

    owner: MemberSpec
    backend: str
    loader: Loader
    tokenizer: Tokenizer
    facts: ModelFacts
    spellers: dict[tuple[int, ...], Speller] = field(default_factory=dict)
    """By the ids that are END. Members differ in them only where their templates close answers differently."""


def _find(owner: MemberSpec, folder: Path, slots: int, report: Report) -> _Model:
    """Find a member's model and read its vocabulary."""
    say = _reporter(report, owner.name)
    say(0.0, "finding the model")
    source = find_model(owner, folder, say)
    entry = choose_backend(owner, source)
    request = LoadRequest(
        name=owner.name,
        source=source,
        dtype=owner.dtype,
        device=owner.device,
        context=owner.context,
        threads=owner.threads,
        slots=slots,
        options=owner.options,
    )
    loader = make_loader(entry.name, request)
    say(0.0, "reading the vocabulary")
    return _Model(owner, entry.name, loader, loader.tokenizer(), loader.facts())


def _join(spec: MemberSpec, weight: float, model: _Model) -> PreparedMember:
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
    reader = PromptReader(
        spec.name,
        tokenizer,
        speller,
        template,
        given_template=spec.chat_template is not None,
        system=spec.system,
        prefix=spec.prefix,
    )
    return PreparedMember(
        spec,
        weight,
        model.owner,
        model.backend,
        model.loader,
        tokenizer,
        speller.vocabulary,
        speller,
        reader,
        endings,
        form.leading_space,
        model.facts,
    )


def _template(spec: MemberSpec, tokenizer: Tokenizer) -> ChatTemplate | None:
    given = spec.chat_template
    source = tokenizer.table.chat_template if given is None else given
    if source is None:
        return None
    try:
        return ChatTemplate(source, tokenizer.table.special_texts)
    except TemplateFailure as failure:
        if given is None:
            log.warning("the chat template of member %r's own model is not valid: %s", spec.name, failure)
            return None
        raise SpecError(f"the chat_template of member {spec.name!r} is not valid Jinja: {failure}") from failure


def _reporter(report: Report, name: str) -> Callable[[float, str], None]:
    return lambda fraction, words: report(name, fraction, words)
