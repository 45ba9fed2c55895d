"""Facts about an ensemble that need no generation, and warnings about its problems."""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files

from unisono import self_check
from unisono.build import Prepared
from unisono.chat.template import DEFAULT
from unisono.config.method import Method
from unisono.member_diagnosis import MemberDiagnosis, diagnose_member
from unisono.member_warnings import words_beyond, words_deaf, words_endless, words_taken_away, words_uncased
from unisono.members import PreparedMember
from unisono.wanted_models import Wanted

LOW_SHARE = 0.6
"""Below this share of common pieces in ordinary text, members often have to spell each other's words."""
PAIRED = 24
"""So many members are compared with one another; of more, the lead with each, as pairs grow by the square."""


@dataclass(frozen=True, slots=True)
class PairDiagnosis:
    """How much of their vocabularies two members share."""

    members: tuple[str, str]
    shared: int
    share_of_first: float
    share_of_second: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `unisono doctor` shows: an ensemble's vocabularies, templates, sizes and likely problems."""

    members: tuple[MemberDiagnosis, ...]
    pairs: tuple[PairDiagnosis, ...]
    """All pairs; with more than 24 members, those of the lead with each."""
    union_size: int
    """Pieces of the union, END included."""
    left_out: int
    """Pieces that some member cannot spell; they are never chosen."""
    ordinary_text_share: float
    """The share, 0 to 1, of the pieces of ordinary text that all members have."""
    context: int
    """The smallest of the members' contexts, in tokens."""
    memory_bytes: int
    """Weights and key-value caches of all models, each counted once."""
    host_memory_bytes: int | None
    """The memory of this machine; ``None`` if it is unknown."""
    method: Method
    """How the ensemble writes, with the lead's name."""
    warnings: tuple[str, ...]
    """Likely problems, in words."""

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "method": self.method.to_json()}


def diagnose(prepared: Prepared, *, loaded: bool = False) -> Diagnosis:
    """Look at an ensemble's vocabularies, templates and sizes.

    Args:
        prepared: the ensemble, such as `Ensemble.prepared`.
        loaded: whether its weights were loaded. If not, the warnings say what was not checked.
    """
    members = tuple(_diagnose_members(prepared.members))
    share = ordinary_text_share(prepared)
    method, weights = prepared.spec.method, prepared.weights
    models = {member.owner: member.facts for member in members}
    memory = sum(facts.weight_bytes + facts.cache_bytes for facts in models.values())
    host = _host_memory()
    return Diagnosis(
        members=members,
        pairs=tuple(_pairs(prepared.members, method.lead_among(weights))),
        union_size=prepared.union.size,
        left_out=len(prepared.union.left_out),
        ordinary_text_share=share,
        context=min(member.facts.context for member in members),
        memory_bytes=memory,
        host_memory_bytes=host,
        method=replace(method, lead=method.lead_among(weights)),
        warnings=(
            *_warnings(members, share, loaded),
            *_failed_checks(prepared),
            *_same_members(prepared),
            *_models_loaded_again(prepared),
            *_memory_warning(members, memory, host),
        ),
    )


def _diagnose_members(members: Sequence[PreparedMember]) -> Iterator[MemberDiagnosis]:
    """Look at each; of those that differ in their votes alone, at the first."""
    seen: dict[str, MemberDiagnosis] = {}
    for member in members:
        spec = member.spec.model_dump_json(exclude={"name", "weight", "temperature", "calibrate"})
        key = spec if member.source.kind not in ("endpoint", "ray") else member.spec.name
        if key not in seen:
            seen[key] = diagnose_member(member)
        yield replace(
            seen[key],
            name=member.spec.name,
            weight=member.weight,
            temperature=member.spec.temperature,
            calibrate=dict(member.spec.calibrate),
            facts=member.facts,
        )


def ordinary_text_share(prepared: Prepared) -> float:
    """Of the pieces in which the members write a sample of ordinary text, the share that all members have.

    The sample is English prose, dialogue, arithmetic, code, a table, and a little of seven other
    languages. Every member writes it with its own tokenizer; all their pieces count alike.
    """
    text = files("unisono").joinpath("ordinary.txt").read_text(encoding="utf-8")
    of_all = set.intersection(*({*member.vocabulary.canonical} for member in prepared.members))
    pieces = common = 0
    written: dict[tuple[str, str, str], list[bytes | None]] = {}
    for member in prepared.members:
        key = member.backend, member.source.kind, member.source.location  # by which models are read alike
        if key not in written or member.source.kind in ("endpoint", "ray"):
            written[key] = [member.vocabulary.pieces[token] for token in member.tokenizer.encode(text)]
        pieces += len(written[key])
        common += sum(piece in of_all for piece in written[key] if piece)
    return common / pieces


def _pairs(members: Sequence[PreparedMember], lead: str) -> Iterator[PairDiagnosis]:
    """All pairs; of very many members, those of the lead with each."""
    if len(members) <= PAIRED:
        yield from itertools.starmap(_diagnose_pair, itertools.combinations(members, 2))
        return
    first = next(member for member in members if member.spec.name == lead)
    yield from (_diagnose_pair(first, member) for member in members if member is not first)


def _diagnose_pair(a: PreparedMember, b: PreparedMember) -> PairDiagnosis:
    of_a, of_b = a.vocabulary.canonical.keys(), b.vocabulary.canonical.keys()
    shared = len(of_a & of_b)
    return PairDiagnosis((a.spec.name, b.spec.name), shared, shared / len(of_a), shared / len(of_b))


def _warnings(members: tuple[MemberDiagnosis, ...], share: float, loaded: bool) -> Iterator[str]:
    if len(members) == 1:
        yield "only one member votes, so this is no ensemble: it writes what that model writes alone"
    owners = set[str]()
    for member in members:
        yield from _member_warnings(member, is_first=member.owner not in owners, alone=len(members) == 1, loaded=loaded)
        owners.add(member.owner)
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


def _member_warnings(member: MemberDiagnosis, *, is_first: bool, alone: bool, loaded: bool) -> Iterator[str]:
    """``is_first`` of those that run on its model's weights, of which all of them would say the same."""
    name, unspellable = member.name, member.unspellable_bytes
    if member.chat_template == "none":
        yield (
            f"{name} has no chat template (a base model), so the ensemble can only continue raw text "
            "(--raw); give the member a chat_template to let it answer messages"
        )
    if member.templates and DEFAULT not in member.templates:
        yield (
            f"{name} has the chat templates {', '.join(member.templates)} and none of them is the default: "
            "name one in the ensemble file (chat_template: …)"
        )
    if is_first:
        yield from (f"{name}: {warning}" for warning in member.facts.warnings)
        if not loaded:
            yield from (f"{name}: not checked without loading it: {words}" for words in member.facts.unchecked)
    yield from (f"the chat template of {name} {words}" for words in member.template_faults)
    yield from (f"the adapter of {name} {words}" for words in member.adapter_doubts)
    yield from (f"{name} {words}" for words in member.odd_ends)
    if member.uncased:
        yield words_uncased(name)
    if member.taken_away:
        yield words_taken_away(name, member.taken_away)
    if member.deaf:
        yield words_deaf(name)
    if not member.system_heard:
        yield (
            f"the chat template of {name} does not write its system message, or refuses it: "
            "give the member a prefix instead"
        )
    if member.tokens_beyond and is_first:
        yield words_beyond(name, member.tokens - len(member.tokens_beyond), member.tokens_beyond)
    if member.opening:
        yield (
            f"{name} answers at once: its template writes {member.opening!r} before an answer, where its model can "
            "also begin to reason or to call a tool, which an ensemble does not write"
        )
    if not member.end:
        yield words_endless(name)
    if unspellable and is_first:
        yield (
            f"{name} cannot spell {len(unspellable)} bytes ({' '.join(unspellable)}): no member may choose a piece "
            "with one of them, and a prompt with one of them is refused"
        )
    if member.weight > 0.9 and not alone:
        yield f"{name} has {member.weight:.0%} of the vote: the others hardly matter"


def _failed_checks(prepared: Prepared) -> Iterator[str]:
    for member in {member.loader: member for member in reversed(prepared.members)}.values():  # as `load_models` does
        name = member.spec.name
        subject = name if member.adapter is None else f"the model of {name}, without its adapter,"
        yield from (f"{subject} {words}" for words in self_check.kept(member) or ())


def _same_members(prepared: Prepared) -> Iterator[str]:
    groups: dict[tuple[Hashable, ...], list[str]] = {}
    for member in prepared.members:
        spec = member.spec
        key = _model_of(member), spec.adapter, spec.chat_template, spec.system, spec.prefix
        groups.setdefault(key, []).append(spec.name)
    for names in groups.values():
        if len(names) > 1:
            yield (
                f"{' and '.join(names)} are the same: give each a system, a prefix, a chat_template or an adapter of "
                "its own, or make them one member with the sum of their weights"
            )


def _models_loaded_again(prepared: Prepared) -> Iterator[str]:
    """Members that name one model with the same settings, each with weights of its own."""
    owners: dict[Hashable, dict[str, None]] = {}
    for member in prepared.members:
        owners.setdefault(_model_of(member), {})[member.owner.name] = None
    for first, *others in owners.values():
        if others:
            yield (
                f"{' and '.join((first, *others))} load the same model {len(others) + 1} times: write "
                f"share_weights_with: {first} in place of the model of {' and '.join(others)}, and it is loaded once"
            )


def _model_of(member: PreparedMember) -> Hashable:
    """The model of a member and how it is run; one elsewhere is known by its name alone."""
    if member.source.kind in ("endpoint", "ray"):
        return member.owner.name
    return Wanted(owner=member.owner, backend=member.backend, source=member.source, slots=1).alike


def _memory_warning(members: tuple[MemberDiagnosis, ...], needed: int, host: int | None) -> Iterator[str]:
    on_host = all(member.facts.device.startswith(("cpu", "mps")) for member in members)
    if host is not None and on_host and needed >= 0.9 * host:
        yield f"weights and caches need {needed / 1e9:.1f} GB, and this machine has {host / 1e9:.1f} GB of memory"


def _host_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
