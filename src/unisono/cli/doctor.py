"""``unisono doctor``: what an ensemble is made of, and what would hurt it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unisono.cli.console import loading_report
from unisono.cli.method import method_words

if TYPE_CHECKING:
    from rich.console import Console

    from unisono.build import Prepared
    from unisono.diagnosis import Diagnosis, MemberDiagnosis


def doctor(
    spec: Annotated[Path, typer.Argument(help="The ensemble file.", show_default=False)],
    weights: Annotated[
        bool, typer.Option("--weights", help="Load the weights too, and let each member read a few tokens.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Show what an ensemble is made of, and say what would hurt it."""
    from unisono.build import prepare
    from unisono.config.ensemble import load_spec
    from unisono.diagnosis import diagnose

    with loading_report(quiet=quiet) as report:
        prepared = prepare(load_spec(spec), report=report)
        diagnosis = diagnose(prepared)
        loaded = _load_weights(prepared, report) if weights else None
    if as_json:
        extra = {} if loaded is None else {"weights": loaded}
        print(json.dumps({**diagnosis.to_json(), **extra}, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    _show(diagnosis, Console(highlight=False, soft_wrap=True))
    if loaded is not None:
        print(
            f"\nweights loaded in {loaded['seconds']:.1f} s; "
            f"the process has grown to {loaded['peak_memory_bytes'] / 1e6:,.0f} MB at most"
        )


def _load_weights(prepared: Prepared, report: Any) -> dict[str, float]:
    """Load the members and let each read one prompt, to see that they work here."""
    import resource
    import sys

    from unisono.records import Limits

    began = time.perf_counter()
    with prepared.load(report) as engine:
        text = engine.add(prepared.prompt("Hello"), Limits(max_new_tokens=1))
        engine.step()
        engine.drop(text)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - began,
        "peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit),
    }


def _show(diagnosis: Diagnosis, console: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for member in diagnosis.members:
        table.add_column(member.name, overflow="fold")
    for title, values in _rows(diagnosis):
        table.add_row(title, *values)
    console.print(table)
    console.print()
    owners = {member.name: member.owner for member in diagnosis.members}
    for owner in dict.fromkeys(owners.values()):
        sharing = [name for name, of in owners.items() if of == owner != name]
        if sharing:
            runs = "run" if len(sharing) > 1 else "runs"
            console.print(f"{_and(sharing)} {runs} on the weights of {owner}, which are loaded once")
    for pair in diagnosis.pairs:
        first, second = pair.members
        if owners[first] == owners[second]:
            continue
        console.print(
            f"{first} and {second} share {pair.shared:,} pieces: "
            f"{pair.share_of_first:.0%} of {first}'s, {pair.share_of_second:.0%} of {second}'s"
        )
    console.print(f"union: {diagnosis.union_size:,} pieces, {diagnosis.left_out:,} left out")
    console.print(f"ordinary text: {diagnosis.ordinary_text_share:.0%} of its pieces are known to all members")
    if words := method_words(diagnosis.method, [member.name for member in diagnosis.members]):
        console.print(f"method: {words}", markup=False)
    console.print(f"context: {diagnosis.context:,} tokens")
    host = diagnosis.host_memory_bytes
    of = "" if host is None else f" of {_size(host)}"
    console.print(f"memory: {_size(diagnosis.memory_bytes)}{of} for weights and caches")
    console.print()
    if not diagnosis.warnings:
        console.print("Nothing here would hurt this ensemble.")
    for warning in diagnosis.warnings:
        console.print(f"! {warning}", markup=False)


def _rows(diagnosis: Diagnosis) -> list[tuple[str, list[str]]]:
    members = diagnosis.members

    def once(member: MemberDiagnosis, size: str) -> str:
        """What members of one model share is shown with the first of them."""
        first = next(other for other in members if other.owner == member.owner)
        return size if first is member else f"{first.name}'s"

    chat_template = ("chat template", [member.chat_template for member in members])
    rows: list[tuple[str, list[str]]] = [
        ("model", [member.model for member in members]),
        ("backend", [f"{member.backend}, {member.facts.device}, {member.facts.dtype}" for member in members]),
        ("vote", [f"{member.weight:.0%}" for member in members]),
        ("architecture", [member.facts.architecture for member in members]),
        ("parameters", [_count(member.facts.parameters) for member in members]),
        ("vocabulary", [member.family for member in members]),
        ("ids", [f"{member.rows:,}" for member in members]),
        ("pieces", [f"{member.pieces:,}" for member in members]),
        ("END", [_ends(member) for member in members]),
        ("excluded ids", [_excluded(member) for member in members]),
        ("bytes without token", [" ".join(member.missing_bytes) or "none" for member in members]),
        ("cannot spell", [" ".join(member.unspellable_bytes) or "nothing" for member in members]),
        chat_template,
        ("tools", [_tools(member) for member in members]),
        ("begins with BOS", ["yes" if member.adds_bos else "no" for member in members]),
        ("space before answers", ["folded away" if member.leading_space else "none" for member in members]),
        ("context", [f"{member.facts.context:,} of {_count(member.facts.trained_context)}" for member in members]),
        ("weights", [once(member, _size(member.facts.weight_bytes)) for member in members]),
        ("cache", [once(member, _size(member.facts.cache_bytes)) for member in members]),
    ]
    if any(member.facts.threads for member in members):
        rows.insert(2, ("threads", [member.facts.threads or "none on the host" for member in members]))
    words = [_and([key for key in ("system", "prefix") if getattr(member, key)]) for member in members]
    if any(words):
        rows.insert(rows.index(chat_template) + 1, ("words of its own", [each or "none" for each in words]))
    return rows


def _ends(member: MemberDiagnosis) -> str:
    return "\n".join(f"{end.id} {end.text} ({end.why})" for end in member.end) or "none"


def _excluded(member: MemberDiagnosis) -> str:
    examples = " ".join(member.excluded_examples)
    more = " …" if member.excluded > len(member.excluded_examples) else ""
    return f"{member.excluded:,}" + (f": {examples}{more}" if examples else "")


def _tools(member: MemberDiagnosis) -> str:
    if not member.tools:
        return "not known"
    return f"known, called by {' '.join(member.call.split())}" if member.call else "known, but it cannot write calls"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
