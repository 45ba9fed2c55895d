"""Facts about an ensemble that need no generation, and warnings about its problems."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files

from unisono import self_check
from unisono.backends.base import ModelFacts
from unisono.build import Prepared
from unisono.chat.messages import Message
from unisono.chat.prompt_encoder import own_messages
from unisono.chat.template import DEFAULT, TemplateFailure
from unisono.config.method import Method
from unisono.errors import PromptError
from unisono.members import PreparedMember, words_beyond

LOW_SHARE = 0.6
"""Below this share of common pieces in ordinary text, members often have to spell each other's words."""


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
    backend: str
    weight: float
    """Its share of the vote; the members' shares sum to 1."""
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
    self_check: str
    """What the self-check of its model found when it was loaded: ``passed``, ``failed`` or ``not done``."""
    facts: ModelFacts
    """Of the model: for members that share weights, the same, and their cache is that of all of them."""

    @property
    def owner(self) -> str:
        return self.weights_of or self.name


@dataclass(frozen=True, slots=True)
class PairDiagnosis:
    """How much of their vocabularies two members share."""

    members: tuple[str, str]
    shared: int
    share_of_first: float
    share_of_second: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """An ensemble, seen from its vocabularies."""

    members: tuple[MemberDiagnosis, ...]
    pairs: tuple[PairDiagnosis, ...]
    union_size: int
    """Pieces of the union, END included."""
    left_out: int
    """Pieces that some member cannot spell; they are never chosen."""
    ordinary_text_share: float
    """Of the pieces in which the members write ordinary text, the share that all members have."""
    context: int
    memory_bytes: int
    """Weights and key-value caches of all models, each counted once."""
    host_memory_bytes: int | None
    """What this machine has."""
    method: Method
    """How the ensemble writes; its lead is named."""
    warnings: tuple[str, ...]
    """Likely problems, in words."""

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "method": self.method.to_json()}


def diagnose(prepared: Prepared) -> Diagnosis:
    """Look at an ensemble's vocabularies, templates and sizes."""
    members = tuple(_diagnose_member(member) for member in prepared.members)
    share = ordinary_text_share(prepared)
    method, weights = prepared.spec.method, {member.spec.name: member.weight for member in prepared.members}
    models = {member.owner: member.facts for member in members}
    memory = sum(facts.weight_bytes + facts.cache_bytes for facts in models.values())
    host = _host_memory()
    return Diagnosis(
        members=members,
        pairs=tuple(_diagnose_pair(a, b) for a, b in itertools.combinations(prepared.members, 2)),
        union_size=prepared.union.size,
        left_out=len(prepared.union.left_out),
        ordinary_text_share=share,
        context=min(member.facts.context for member in members),
        memory_bytes=memory,
        host_memory_bytes=host,
        method=replace(method, lead=method.lead_among(weights)),
        warnings=(
            *_warnings(members, share),
            *_failed_checks(prepared),
            *_same_members(prepared),
            *_memory_warning(members, memory, host),
        ),
    )


def ordinary_text_share(prepared: Prepared) -> float:
    """Of the pieces in which the members write a sample of ordinary text, the share that all members have.

    The sample is English prose, dialogue, arithmetic, code, a table, and a little of seven other
    languages. Every member writes it with its own tokenizer; all their pieces count alike.
    """
    text = files("unisono").joinpath("ordinary.txt").read_text(encoding="utf-8")
    members = prepared.members
    pieces = [member.vocabulary.pieces[token] for member in members for token in member.tokenizer.encode(text)]
    common = sum(all(piece in member.vocabulary.canonical for member in members) for piece in pieces if piece)
    return common / len(pieces)


def _diagnose_member(member: PreparedMember) -> MemberDiagnosis:
    table, vocabulary = member.tokenizer.table, member.vocabulary

    def text_of(token: int) -> str:
        return table.texts[token] if token < len(table.texts) else ""

    own = "none" if member.encoder.template is None else "own"
    return MemberDiagnosis(
        name=member.spec.name,
        model=str(member.owner.model),
        weights_of=member.spec.share_weights_with,
        backend=member.backend,
        weight=member.weight,
        family=vocabulary.family,
        rows=vocabulary.rows,
        tokens=len(table.texts) + len(table.beyond),
        tokens_beyond=tuple(text for text, _ in table.beyond),
        pieces=len(vocabulary.canonical),
        end=tuple(EndToken(token, text_of(token), why) for token, why in member.endings.items()),
        excluded=len(vocabulary.excluded_ids),
        excluded_examples=tuple(text for token in vocabulary.excluded_ids[:8] if (text := text_of(token))),
        missing_bytes=tuple(f"{byte:02X}" for byte in sorted(vocabulary.missing_bytes)),
        unspellable_bytes=tuple(
            f"{byte:02X}" for byte in sorted(vocabulary.missing_bytes) if member.speller.spell(bytes([byte])) is None
        ),
        chat_template="given" if member.encoder.given_template else own,
        templates=tuple(table.named_templates) if member.spec.chat_template is None else (),
        deaf=_is_deaf(member),
        system=member.spec.system,
        prefix=member.spec.prefix,
        system_heard=_hears_its_system(member),
        tools=member.encoder.template is not None and member.encoder.tool_use().knows_tools,
        call=_call_of(member),
        adds_bos=table.adds_bos,
        leading_space=member.leading_space,
        opening=member.encoder.opening,
        self_check=_self_check_of(member),
        facts=member.facts,
    )


def _self_check_of(member: PreparedMember) -> str:
    findings = self_check.kept(member)
    if findings is None:
        return "not done"
    return "failed" if findings else "passed"


def _is_deaf(member: PreparedMember) -> bool:
    if member.encoder.template is None:
        return False
    try:
        first, second = (
            member.encoder.encode_messages([Message(role="user", content=question)])
            for question in ("Why?", "How many?")
        )
    except PromptError:
        return False
    return first == second


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


def _diagnose_pair(a: PreparedMember, b: PreparedMember) -> PairDiagnosis:
    of_a, of_b = a.vocabulary.canonical.keys(), b.vocabulary.canonical.keys()
    shared = len(of_a & of_b)
    return PairDiagnosis((a.spec.name, b.spec.name), shared, shared / len(of_a), shared / len(of_b))


def _warnings(members: tuple[MemberDiagnosis, ...], share: float) -> Iterator[str]:
    if len(members) == 1:
        yield "only one member votes, so this is no ensemble: it writes what that model writes alone"
    for place, member in enumerate(members):
        yield from _member_warnings(member, members[:place], alone=len(members) == 1)
    if share < LOW_SHARE:
        yield (
            f"only {share:.0%} of the pieces of ordinary text are known to all members: they often read each other's "
            "words in spellings they have rarely seen, and every such piece costs them several tokens"
        )
    small, large = (choose(members, key=lambda member: member.facts.context) for choose in (min, max))
    if large.facts.context > 2 * small.facts.context:
        yield (
            f"the context of {small.name}, {small.facts.context:,} tokens, ends every text, though {large.name} could "
            f"hold {large.facts.context:,}"
        )


def _member_warnings(member: MemberDiagnosis, earlier: Sequence[MemberDiagnosis], *, alone: bool) -> Iterator[str]:
    name, unspellable = member.name, member.unspellable_bytes
    if member.chat_template == "none":
        yield (
            f"{name} has no chat template (a base model), so the ensemble can only continue raw text "
            "(--raw); give the member a chat_template to let it answer messages"
        )
    if member.templates and DEFAULT not in member.templates:
        yield (
            f"{name} has the chat templates {', '.join(member.templates)} and none of them is the default: "
            "name one in the spec (chat_template: …)"
        )
    if member.owner not in {other.owner for other in earlier}:
        yield from (f"{name}: {warning}" for warning in member.facts.warnings)
    if member.deaf:
        yield f"the chat template of {name} writes the same whatever is asked: it never sees the question"
    if not member.system_heard:
        yield (
            f"the chat template of {name} does not write its system message, or refuses it: "
            "give the member a prefix instead"
        )
    if member.tokens_beyond and member.owner not in {other.owner for other in earlier}:
        yield words_beyond(name, member.tokens - len(member.tokens_beyond), member.tokens_beyond)
    if member.opening:
        yield (
            f"{name} answers at once: its template writes {member.opening!r} before an answer, where its model can "
            "also begin to reason or to call a tool, which an ensemble does not write"
        )
    if not member.end:
        yield f"{name} has no token that ends a text: it never votes to stop"
    if unspellable and member.owner not in {other.owner for other in earlier}:
        yield (
            f"{name} cannot spell {len(unspellable)} bytes ({' '.join(unspellable)}): no member may choose a piece "
            "that holds one, and a prompt that holds one is refused"
        )
    if member.weight > 0.9 and not alone:
        yield f"{name} has {member.weight:.0%} of the vote: the others hardly matter"


def _failed_checks(prepared: Prepared) -> Iterator[str]:
    for member in prepared.members:
        if member.owner is member.spec:
            yield from (f"{member.spec.name} {words}" for words in self_check.kept(member) or ())


def _same_members(prepared: Prepared) -> Iterator[str]:
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for spec in (member.spec for member in prepared.members):
        groups.setdefault((spec.owner, spec.chat_template, spec.system, spec.prefix), []).append(spec.name)
    for names in groups.values():
        if len(names) > 1:
            yield (
                f"{' and '.join(names)} are the same: give each a system, a prefix or a chat_template of its own, "
                "or make them one member with the sum of their weights"
            )


def _memory_warning(members: tuple[MemberDiagnosis, ...], needed: int, host: int | None) -> Iterator[str]:
    on_host = all(member.facts.device.startswith(("cpu", "mps")) for member in members)
    if host is not None and on_host and needed >= 0.9 * host:
        yield f"weights and caches need {needed / 1e9:.1f} GB, and this machine has {host / 1e9:.1f} GB of memory"


def _host_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
