"""``unisono run``: one text from the command line or stdin, or many from a file."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from unisono.cli.console import loading_report, say
from unisono.cli.inputs import INLINE, RunFlags, conversation, read_constraint, read_text, refuse_flags, renamed_flag
from unisono.cli.method import (
    BoundaryFlag,
    CombineFlag,
    DrawFlag,
    GateFlag,
    LeadFlag,
    MaxPiecesFlag,
    MinPFlag,
    SamplingFlag,
    SeedFlag,
    SpeculateFlag,
    SpellingFlag,
    TemperatureFlag,
    TopKFlag,
    TopPFlag,
)
from unisono.cli.trace_file import TraceFile
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.chat.messages import Prompt
    from unisono.config.method import Method
    from unisono.engine.client import Stream
    from unisono.ensemble import Ensemble
    from unisono.records import Generation

AT_ONCE = 8
"""Texts of one prompt that are written at once, at most."""


class RunCommand(TyperCommand):
    """Lets ``--trace`` stand without a value, which means: into each line of ``--out``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare ``--trace`` an empty value."""
        given: list[str] = []
        options = args.index("--") if "--" in args else len(args)
        for index, word in enumerate(args):
            alone = index + 1 == len(args) or args[index + 1].startswith("-")
            given.append("--trace=" if word == "--trace" and alone and index < options else word)
        return super().parse_args(ctx, given)


def run(
    spec: Annotated[Path, typer.Argument(help="The ensemble file.", show_default=False)],
    text: Annotated[
        str | None, typer.Argument(help="What to answer; read from stdin when it is left out.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without a chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before the text.", show_default=False)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Pieces to write at most.")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.", show_default=False)
    ] = None,
    combine: CombineFlag = None,
    lead: LeadFlag = None,
    gate: GateFlag = None,
    boundary: BoundaryFlag = None,
    speculate: SpeculateFlag = None,
    max_pieces: MaxPiecesFlag = None,
    sampling: SamplingFlag = None,
    temperature: TemperatureFlag = None,
    top_p: TopPFlag = None,
    top_k: TopKFlag = None,
    min_p: MinPFlag = None,
    seed: SeedFlag = None,
    draw: DrawFlag = None,
    spelling: SpellingFlag = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JSON that this schema allows.", show_default=False)
    ] = None,
    constraint: Annotated[
        str | None,
        typer.Option(
            metavar="KIND[:SOURCE]",
            help="What the text has to be: json_object, regex:REGEX, lark:GRAMMAR or json_schema:SCHEMA.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", min=1, help="Texts to draw from one prompt; with --json a line of each.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when the text has ended.")] = False,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Write every step to FILE as JSON lines; with --prompts, without FILE, into each line of --out.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help='JSON lines {"id", "prompt"} or {"id", "messages"} to answer.', show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the answers to --prompts go.", show_default=False)] = None,
    batch: Annotated[int, typer.Option(help="How many of --prompts are written at once.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --out was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Let an ensemble write: stream one answer to stdout, or answer a file of prompts."""
    from unisono.config.method import MethodOptions
    from unisono.records import Limits

    limits = Limits(max_new_tokens, stop or ())
    method = MethodOptions(
        lead=lead,
        combine=combine,
        gate=gate,
        boundary=boundary,
        speculate=speculate,
        max_pieces=max_pieces,
        sampling=renamed_flag(sampling, draw, "--sampling", "--draw"),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        spelling=spelling,
    )
    flags = RunFlags(
        spec,
        limits,
        method,
        read_constraint(json_schema, constraint),
        raw=raw,
        system=system,
        n=n,
        as_json=as_json,
        trace=trace,
        prompts=prompts,
        out=out,
        batch=batch,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
    )
    if prompts is None:
        refuse_flags(
            "goes with --prompts",
            "give a file of prompts, or leave it out",
            {"--out": out, "--resume": resume, "--overwrite": overwrite, "--batch": batch != 1},
        )
        _run_one(read_text(text), flags)
        return
    from unisono.cli.prompts import run_prompts

    refuse_flags(
        "does not go with --prompts",
        "the answers, and their traces, go to --out",
        {"a text": text, "--json": as_json, "a FILE for --trace": trace},
    )
    refuse_flags("does not go with --prompts", "repeat the line of the file, once for each text", {"--n": n > 1})
    run_prompts(prompts, flags)


def _run_one(text: str, job: RunFlags) -> None:
    from unisono.build import prepare
    from unisono.chat.messages import Prompt
    from unisono.config.ensemble import load_spec
    from unisono.ensemble import Ensemble

    if job.trace == INLINE:
        raise SpecError("--trace needs a file here", hint="write --trace FILE")
    if job.n > 1 and job.trace is not None:
        raise SpecError("--trace does not go with --n", hint="draw each text alone, with the seed that --json tells")
    prompt = Prompt(*conversation(text, job.raw, job.system))
    with contextlib.ExitStack() as stack:
        trace = None if job.trace is None else stack.enter_context(TraceFile(Path(job.trace)))
        with loading_report(quiet=job.quiet) as report:
            prepared = prepare(load_spec(job.spec).but(**job.method), batch=min(job.n, AT_ONCE), report=report)
            prepared.check_prompt(prompt)
            prepared.check_constraint(job.constraint)
            engine = prepared.load(report)
        ensemble = stack.enter_context(Ensemble(prepared, engine))
        if job.n > 1:
            _show_several(ensemble, prompt, job)
            return
        stream = ensemble.stream(
            prompt,
            max_new_tokens=job.limits.max_new_tokens,
            stop=job.limits.stop,
            trace=trace is not None,
            constraint=job.constraint,
        )
        _show(stack.enter_context(stream), job, trace)
        if not job.as_json and not job.quiet and sys.stderr.isatty():
            say(_closing(stream.generation, ensemble.method))


def _show(stream: Stream, job: RunFlags, trace: TraceFile | None) -> None:
    if trace is not None:
        trace.begin()
    try:
        for part in stream:
            if not job.as_json:
                sys.stdout.write(part)
                sys.stdout.flush()
            if trace is not None:
                trace.write(stream.steps)
    finally:
        if trace is not None:
            trace.write(stream.steps)
    if not job.as_json:
        print(flush=True)
        return
    record = stream.generation.to_json()
    record.pop("steps", None)
    print(json.dumps(record, ensure_ascii=False))


def _show_several(ensemble: Ensemble, prompt: Prompt, job: RunFlags) -> None:
    """Print several texts: as JSON lines, or with a line of dashes between them."""
    limits = job.limits
    generations = ensemble.generate(
        prompt,
        n=job.n,
        max_new_tokens=limits.max_new_tokens,
        stop=limits.stop,
        constraint=job.constraint,
    )
    for number, generation in enumerate(generations):
        if job.as_json:
            print(json.dumps(generation.to_json(), ensure_ascii=False))
        else:
            print("---\n" * bool(number) + generation.text, flush=True)
            if not job.quiet:
                say(f"[seed:{generation.seed}; {generation.finish_reason}]")


def _closing(generation: Generation, method: Method) -> str:
    """The line after a text: how fast it was, and what the gate and the drafts have saved."""
    usage, seconds = generation.usage, generation.seconds.total
    parts = [f"{usage.pieces} pieces in {seconds:.1f} s, {usage.pieces / seconds:.1f} a second"]
    if not method.gate.always_open and usage.pieces:
        parts.append(f"{100 * usage.ensembled / usage.pieces:.0f} % ensembled")
    if method.speculate is not None:
        drafted = f"{usage.accepted} of {usage.drafted} drafted pieces accepted"
        parts.append(drafted if usage.drafted else "nothing drafted")
    if generation.seed is not None:
        parts.append(f"seed:{generation.seed}")
    return f"[{'; '.join((*parts, generation.finish_reason))}]"
