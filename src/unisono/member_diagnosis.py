"""One member of an ensemble without its weights: what its vocabulary, its template and its files show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from unisono import self_check
from unisono.backends.base import ModelFacts
from unisono.backends.endpoint.report import EndpointReport, Reports
from unisono.chat.conversation import own_messages
from unisono.chat.messages import Message
from unisono.chat.template import TemplateFailure
from unisono.errors import PromptError
from unisono.members import PreparedMember
from unisono.vocab.marks import OF_CALLS


@dataclass(frozen=True, slots=True)
class EndToken:
    id: int
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class MemberDiagnosis:
    """One member, without its weights."""

    name: str
    model: str
    weights_of: str | None
    """The member whose weights it shares; ``None`` where it has its own."""
    adapter: str | None
    """What is added to the model's weights for it alone."""
    backend: str
    weight: float
    """Its share of the vote; the members' shares sum to 1."""
    temperature: float
    """What its logits are divided by."""
    calibrate: dict[str, float]
    """How likely it finds some answers where the question says nothing; by which these are calibrated."""
    family: str
    rows: int
    """Ids of its output, those beyond the tokenizer included."""
    tokens: int
    """Ids of its tokenizer, those beyond the model included."""
    tokens_beyond: tuple[str, ...]
    """Tokens of the tokenizer for which the model has no row: ordinary text for this member."""
    pieces: int
    """Different pieces among them."""
    end: tuple[EndToken, ...]
    excluded: int
    """Ids whose mass is dropped: control tokens, padding, unused rows."""
    excluded_examples: tuple[str, ...]
    missing_bytes: tuple[str, ...]
    unspellable_bytes: tuple[str, ...]
    """Bytes that no spelling reaches, in hexadecimal."""
    chat_template: str
    """``own``, ``given`` or ``none``."""
    templates: tuple[str, ...]
    """The names of the model's own, where it has several and the spec names none of them."""
    deaf: bool
    """Whether its chat template writes the same for different questions."""
    template_faults: tuple[str, ...]
    """What its chat template does not do that chats need, in words."""
    adapter_doubts: tuple[str, ...]
    """How its adapter was trained to read and it does not, in words."""
    odd_ends: tuple[str, ...]
    """What ends its texts and looks like a part of them, in words."""
    uncased: bool
    """Whether its tokenizer reads capital letters as small ones."""
    taken_away: tuple[str, ...]
    """What its tokenizer takes away of a chat, in words."""
    system: str | None
    prefix: str | None
    """What it reads before the first user message, or before raw text."""
    system_heard: bool
    """Whether its chat template writes that system message; true without one."""
    tools: bool
    """Whether its chat template writes tools, their calls and the answers to them."""
    call: str | None
    """How it writes a call; ``None`` where an ensemble that it leads cannot write calls."""
    adds_bos: bool
    leading_space: bool
    """Whether the space before its answers is folded away."""
    opening: str
    """What is written before its answers, with control tokens, and so is part of its prompts; mostly nothing."""
    marks: dict[str, str]
    """How it writes each mark that it votes for: the texts of its tokens."""
    reads: dict[str, str]
    """What it reads where others choose a mark that it does not write; of others it reads nothing."""
    self_check: str
    """What the self-check of its model found when it was loaded: ``passed``, ``failed`` or ``not done``."""
    not_checked: str | None
    """Why it was not done; ``None`` where it was."""
    endpoint: EndpointReport | None
    """What the endpoint behind which it lives can do, and how long it takes; ``None`` for a model that is here."""
    facts: ModelFacts
    """Of the model: for members that share weights, the same, and their cache is that of all of them."""

    @property
    def owner(self) -> str:
        return self.weights_of or self.name


def diagnose_member(member: PreparedMember) -> MemberDiagnosis:
    table, vocabulary, found = member.tokenizer.table, member.vocabulary, _self_check_of(member)
    return MemberDiagnosis(
        name=member.spec.name,
        model=str(member.owner.home),
        weights_of=member.spec.share_weights_with,
        adapter=member.spec.adapter,
        backend=member.backend,
        weight=member.weight,
        temperature=member.spec.temperature,
        calibrate=dict(member.spec.calibrate),
        family=vocabulary.family,
        rows=vocabulary.rows,
        tokens=len(table.texts) + len(table.beyond),
        tokens_beyond=tuple(text for text, _ in table.beyond),
        pieces=len(vocabulary.canonical),
        end=tuple(EndToken(token, _text_of(member, token), why) for token, why in member.endings.items()),
        excluded=len(vocabulary.excluded_ids),
        excluded_examples=tuple(filter(None, (_text_of(member, token) for token in vocabulary.excluded_ids[:8]))),
        missing_bytes=tuple(f"{byte:02X}" for byte in sorted(vocabulary.missing_bytes)),
        unspellable_bytes=_unspellable_bytes_of(member),
        chat_template=_template_of(member),
        templates=tuple(table.named_templates) if member.spec.chat_template is None else (),
        deaf=member.deaf,
        template_faults=member.template_faults,
        adapter_doubts=member.adapter_doubts,
        odd_ends=member.odd_ends,
        uncased=member.uncased,
        taken_away=member.taken_away,
        system=member.spec.system,
        prefix=member.spec.prefix,
        system_heard=_hears_its_system(member),
        tools=member.encoder.template is not None and member.encoder.tool_use().knows_tools,
        call=_call_of(member),
        adds_bos=table.adds_bos,
        leading_space=member.leading_space,
        opening=member.encoder.opening(),
        marks=_marks_of(member),
        reads=_reads_of(member),
        self_check=found,
        not_checked=self_check.why_not_done(member) if found == "not done" else None,
        endpoint=cast(Reports, member.loader).report() if member.source.kind in ("endpoint", "ray") else None,
        facts=member.facts,
    )


def _text_of(member: PreparedMember, token: int) -> str:
    texts = member.tokenizer.table.texts
    return texts[token] if token < len(texts) else ""


def _unspellable_bytes_of(member: PreparedMember) -> tuple[str, ...]:
    missing = sorted(member.vocabulary.missing_bytes)
    return tuple(f"{byte:02X}" for byte in missing if member.speller.spell(bytes([byte])) is None)


def _template_of(member: PreparedMember) -> str:
    if member.encoder.given_template:
        return "given"
    return "none" if member.encoder.template is None else "own"


def _reads_of(member: PreparedMember) -> dict[str, str]:
    marks = member.vocabulary.marks
    return {
        mark: member.vocabulary.join(ids).decode(errors="replace")
        for mark, ids in marks.reads.items()
        if mark not in marks.known
    }


def _marks_of(member: PreparedMember) -> dict[str, str]:
    forms, vocabulary, texts = member.vocabulary.marks, member.vocabulary, member.tokenizer.table.texts
    begun = {mark: (*forms.opening, *ids) for mark, ids in forms.at_opening.items()}
    return {
        mark: "".join((vocabulary.pieces[token] or texts[token].encode()).decode(errors="replace") for token in ids)
        for mark, ids in {**begun, **forms.anywhere}.items()
        if not (forms.seams and mark in OF_CALLS)  # of which the form of calls tells all
    }


def _self_check_of(member: PreparedMember) -> str:
    findings = self_check.kept(member)
    if findings is None:
        return "not done"
    return "failed" if findings else "passed"


def _hears_its_system(member: PreparedMember) -> bool:
    template, system = member.encoder.template, member.spec.system
    if template is None or system is None:
        return True
    question = [Message(role="user", content="Why?")]
    try:
        return template.render(own_messages(question, system, None)) != template.render(question)
    except TemplateFailure:
        return False


def _call_of(member: PreparedMember) -> str | None:
    try:
        return member.encoder.call_form().written("NAME", "{}")
    except PromptError:
        return None
