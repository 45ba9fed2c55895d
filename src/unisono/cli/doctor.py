"""``unisono doctor``: what an ensemble is made of, and what would hurt it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.console import loading_report, plain_console, print_table
from unisono.cli.flags import Json, Quiet, takes_flags, verb_app
from unisono.cli.method import method_words
from unisono.cli.spec_flags import EnsembleOrMembers

if TYPE_CHECKING:
    from rich.console import Console

    from unisono.build import Prepared
    from unisono.diagnosis import Diagnosis
    from unisono.member_diagnosis import MemberDiagnosis

    Members = Sequence[MemberDiagnosis]
    Row = tuple[str, Callable[[MemberDiagnosis], str]]
    """A title, and what a member's cell says."""

ABREAST = 12
"""Members in one table; of more, those of which all is the same have one column."""
OUTPUT_LAYERS = {None: "unknown", True: "its embeddings (tied)", False: "its own"}


@dataclass(kw_only=True)
class DoctorFlags(EnsembleOrMembers):
    weights: Annotated[
        bool, typer.Option("--weights", help="Load the weights too, and let each member read a few tokens.")
    ] = False
    as_json: Json = False
    quiet: Quiet = False


@takes_flags
def doctor(flags: DoctorFlags) -> None:
    """Show what an ensemble is made of, and warn of what would hurt it."""
    from unisono.build import prepare
    from unisono.diagnosis import diagnose

    with loading_report(quiet=flags.quiet) as report:
        prepared = prepare(flags.given().spec, report=report)
        loaded = _load_weights(prepared, report) if flags.weights else None
        diagnosis = diagnose(prepared, loaded=flags.weights)
    if flags.as_json:
        extra = {} if loaded is None else {"weights": loaded}
        print(json.dumps({**diagnosis.to_json(), **extra}, indent=2, ensure_ascii=False))
        return
    _show(diagnosis, plain_console(soft_wrap=True))
    if loaded is not None:
        print(
            f"\nweights loaded in {loaded['seconds']:.1f} s; "
            f"the process has grown to {loaded['peak_memory_bytes'] / 1e6:,.0f} MB at most"
        )


app = verb_app(doctor)


def _load_weights(prepared: Prepared, report: Any) -> dict[str, float]:
    """Load the members and let each read one prompt, to see that they work here."""
    import resource
    import sys

    from unisono.loaded_models import load_engine
    from unisono.records import Limits

    began = time.perf_counter()
    with load_engine(prepared, report, diagnosed=True) as engine:
        text = engine.add(prepared.prompt("Hello"), Limits(max_new_tokens=1))
        engine.step()
        engine.drop(text)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - began,
        "peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit),
    }


def _show(diagnosis: Diagnosis, console: Console) -> None:
    names, (titles, *columns) = [member.name for member in diagnosis.members], zip(*_rows(diagnosis), strict=True)
    shown = list(zip(names, columns, strict=True)) if len(names) <= ABREAST else _alike(names, columns)
    for start in range(0, len(shown), ABREAST):
        some = shown[start : start + ABREAST]
        cells = zip(titles, *(column for _, column in some), strict=True)
        print_table(console, ("", *(name for name, _ in some)), cells, left=1 + len(some), fold=True)
        console.print()
    for line in (*_vocabularies(diagnosis), *_facts(diagnosis)):
        console.print(line)
    console.print()
    for line in [f"! {warning}" for warning in diagnosis.warnings] or ["Nothing here would hurt this ensemble."]:
        console.print(line)


def _alike(names: Sequence[str], columns: Sequence[tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """One column for members of which all is the same."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, column in zip(names, columns, strict=True):
        groups.setdefault(column, []).append(name)
    return [(its[0] + (f" and {len(its) - 1:,} more" if its[1:] else ""), column) for column, its in groups.items()]


def _vocabularies(diagnosis: Diagnosis) -> Iterator[str]:
    """Who shares weights, and what those who do not have in common."""
    owners = {member.name: member.owner for member in diagnosis.members}
    on: dict[str, list[str]] = {owner: [] for owner in owners.values()}
    for name, owner in owners.items():
        on[owner] += [name] if name != owner else []
    for owner, sharing in on.items():
        if sharing:
            runs = "run" if len(sharing) > 1 else "runs"
            yield f"{_and(sharing)} {runs} on the weights of {owner}, which are loaded once"
    for pair in diagnosis.pairs:
        first, second = pair.members
        if owners[first] != owners[second]:
            yield (
                f"{first} and {second} share {pair.shared:,} pieces: "
                f"{pair.share_of_first:.0%} of {first}'s, {pair.share_of_second:.0%} of {second}'s"
            )


def _facts(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"union: {diagnosis.union_size:,} pieces, {diagnosis.left_out:,} left out"
    yield f"ordinary text: {diagnosis.ordinary_text_share:.0%} of its pieces are known to all members"
    if words := method_words(diagnosis.method, {member.name: member.weight for member in diagnosis.members}):
        yield f"method: {words}"
    yield f"context: {diagnosis.context:,} tokens"
    host = diagnosis.host_memory_bytes
    of = "" if host is None else f" of {_size(host)}"
    for member in diagnosis.members:
        if member.endpoint is not None:
            yield from (f"{member.name}: {note}" for note in member.endpoint.notes)
    yield f"memory: {_size(diagnosis.memory_bytes)}{of} for weights and caches"


def _rows(diagnosis: Diagnosis) -> Iterator[tuple[str, ...]]:
    members = diagnosis.members
    for part in (_of_model, _of_vote, _of_vocabulary, _of_conversations, _of_load):
        for title, cell in part(members):
            yield (title, *map(cell, members))


def _of_model(members: Members) -> Iterator[Row]:
    """Which model it is, and where it runs."""
    yield "model", lambda member: member.model
    if any(member.adapter for member in members):
        yield "adapter", lambda member: member.adapter or "none"
    yield "backend", lambda member: f"{member.backend}, {member.facts.device}, {member.facts.dtype}"
    if any(member.endpoint for member in members):
        yield "texts at once", lambda member: str(member.endpoint.slots) if member.endpoint else "as asked for"
        yield "tells", _tells
        yield "latency", _latency
    if any(member.facts.threads for member in members):
        yield "threads", lambda member: member.facts.threads or "none on the host"


def _of_vote(members: Members) -> Iterator[Row]:
    yield "vote", lambda member: f"{member.weight:.0%}"
    if any(member.temperature != 1 for member in members):
        yield "temperature", lambda member: f"{member.temperature:g}"
    if any(member.calibrate for member in members):
        yield "calibrated for", lambda member: " ".join(map(repr, member.calibrate)) or "nothing"


def _of_vocabulary(members: Members) -> Iterator[Row]:
    """What its ids mean."""
    yield "architecture", lambda member: member.facts.architecture
    yield "parameters", lambda member: _count(member.facts.parameters)
    if any(member.facts.tied is not None for member in members):
        yield "output layer", lambda member: OUTPUT_LAYERS[member.facts.tied]
    yield "vocabulary", lambda member: member.family
    yield "ids", _ids
    yield "pieces", lambda member: f"{member.pieces:,}"
    yield "END", _ends
    yield "excluded ids", _excluded
    yield "bytes without token", lambda member: " ".join(member.missing_bytes) or "none"
    yield "cannot spell", lambda member: " ".join(member.unspellable_bytes) or "nothing"


def _of_conversations(members: Members) -> Iterator[Row]:
    """How it reads prompts, and what it writes around answers."""
    yield "chat template", _template
    if any(map(_words_of_its_own, members)):
        yield "words of its own", lambda member: _words_of_its_own(member) or "none"
    yield "tools", _tools
    yield "begins with BOS", lambda member: "yes" if member.adds_bos else "no"
    yield "space before answers", lambda member: "folded away" if member.leading_space else "none"
    if any(member.opening for member in members):
        yield "written before answers", lambda member: member.opening or "nothing"
    if any(member.marks or member.reads for member in members):
        yield "marks", _marks


def _of_load(members: Members) -> Iterator[Row]:
    """What its weights showed, and the memory that it takes."""
    firsts = {member.owner: member for member in reversed(members)}

    def once(member: MemberDiagnosis, words: str) -> str:
        """What members of one model share is shown with the first of them."""
        first = firsts[member.owner]
        return words if first is member else f"{first.name}'s"

    yield "self-check", lambda member: once(member, _self_check(member))
    yield "context", lambda member: f"{member.facts.context:,} of {_count(member.facts.trained_context)}"
    yield "weights", lambda member: once(member, _bytes(member, member.facts.weight_bytes))
    yield "cache", lambda member: once(member, _bytes(member, member.facts.cache_bytes))


def _words_of_its_own(member: MemberDiagnosis) -> str:
    return _and([key for key in ("system", "prefix") if getattr(member, key)])


def _self_check(member: MemberDiagnosis) -> str:
    return member.self_check + (f": {member.not_checked}" if member.not_checked else "")


def _tells(member: MemberDiagnosis) -> str:
    told = member.endpoint and member.endpoint.truncated
    if not told:
        return "whole distributions"
    by_number = f", {told.also:,} by number" if told.also else ""
    return f"the {told.top:,} likeliest ids, {told.most:,} when asked again{by_number}"


def _latency(member: MemberDiagnosis) -> str:
    if member.endpoint is None:
        return "none"
    return f"{member.endpoint.latency_ms:.1f} ms a token, differing by {member.endpoint.jitter_ms:.1f} ms"


def _ids(member: MemberDiagnosis) -> str:
    """The model's rows, and by how much the tokenizer is larger or smaller."""
    more = member.tokens - member.rows
    return f"{member.rows:,}" + (f" (tokenizer: {abs(more):,} {'more' if more > 0 else 'fewer'})" if more else "")


def _ends(member: MemberDiagnosis) -> str:
    return "\n".join(f"{end.id} {end.text} ({end.why})" for end in member.end) or "none"


def _excluded(member: MemberDiagnosis) -> str:
    examples = " ".join(member.excluded_examples)
    more = " …" if member.excluded > len(member.excluded_examples) else ""
    return f"{member.excluded:,}" + (f": {examples}{more}" if examples else "")


def _template(member: MemberDiagnosis) -> str:
    return member.chat_template + (f": {', '.join(member.templates)}" if member.templates else "")


def _tools(member: MemberDiagnosis) -> str:
    if not member.tools:
        return "not known"
    return f"known, called by {' '.join(member.call.split())}" if member.call else "known, but it cannot write calls"


def _marks(member: MemberDiagnosis) -> str:
    """Its marks, those of a beginning and its end in one line, and what it reads for those of others."""
    lines = []
    for mark, begin in member.marks.items():
        what, _, place = mark.partition("_")
        end = member.marks.get(f"{what}_end")
        if place == "begin":
            lines.append(f"{what} {begin}" + (f" … {end}" if end else ""))
        elif f"{what}_begin" not in member.marks:
            lines.append(f"{what} … {begin}")
    lines += [f"{mark.replace('_', ' ')}s, read as {text!r}" for mark, text in member.reads.items()]
    return "\n".join(lines) or "none"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _bytes(member: MemberDiagnosis, count: int) -> str:
    return "elsewhere" if member.endpoint else _size(count)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
