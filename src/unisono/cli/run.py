"""``unisono run``: one text from the command line or stdin, or many from a file."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from unisono.cli.coloured import Painter, colours
from unisono.cli.console import harmless, murmur, say
from unisono.cli.flags import Verb, refuse_flags, takes_flags
from unisono.cli.inputs import INLINE, RunFlags, read_text
from unisono.cli.trace_file import TraceFile
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.chat.messages import Prompt
    from unisono.config.method import Method
    from unisono.engine.client import Stream
    from unisono.ensemble import Ensemble
    from unisono.records import Generation, Part

AT_ONCE = 8


class RunCommand(Verb):
    """Lets ``--trace`` stand without a value, which means: into each line of ``--out``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        options = args.index("--") if "--" in args else len(args)
        for index, word in enumerate(args):
            alone = index + 1 == len(args) or args[index + 1].startswith("-")
            given.append("--trace=" if word == "--trace" and alone and index < options else word)
        return super().parse_args(ctx, given)


@takes_flags
def run(flags: RunFlags) -> None:
    """Write with an ensemble: stream one answer to stdout, or answer a file of prompts."""
    prompts, text = flags.prompts, flags.text
    if prompts is None:
        refuse_flags(
            "goes with --prompts",
            "give a file of prompts, or leave it out",
            {"--out": flags.out, "--resume": flags.resume, "--overwrite": flags.overwrite, "--batch": flags.batch != 1},
        )
        _run_one(read_text(text), flags)
        return
    from unisono.cli.prompts import run_prompts

    refuse_flags(
        "does not go with --prompts",
        "the answers, and their traces, go to --out",
        {"a text": text, "--json": flags.as_json, "a FILE for --trace": flags.trace, "--show": flags.show},
    )
    refuse_flags("does not go with --prompts", "repeat the line of the file, once for each text", {"--n": flags.n > 1})
    run_prompts(prompts, flags)


def _run_one(text: str, job: RunFlags) -> None:
    if job.trace == INLINE:
        raise SpecError("--trace needs a file here", hint="write --trace FILE")
    if job.n > 1 and job.trace is not None:
        raise SpecError("--trace does not go with --n", hint="draw each text alone, with the seed that --json tells")
    refuse_flags("does not go with --show", "look at one text at a time", {"--n": job.show and job.n > 1})
    refuse_flags("does not go with --show", "--trace FILE keeps every step", {"--json": job.show and job.as_json})
    prompt = job.prompt_of(text)
    with contextlib.ExitStack() as stack:
        trace = None if job.trace is None else stack.enter_context(TraceFile(Path(job.trace)))
        ensemble = stack.enter_context(job.load(min(job.n, AT_ONCE), prompt))
        if job.n > 1:
            _show_several(ensemble, prompt, job)
            return
        stream = ensemble.stream(prompt, **job.options())
        painter = Painter(ensemble.members, ensemble.method.but(**job.method)) if job.show else None
        _show(stack.enter_context(stream), job, trace, painter)
        _say_away(stream.generation)
        if not job.as_json and not job.quiet and sys.stderr.isatty():
            say(_closing(stream.generation, ensemble.method))


def _show(stream: Stream, job: RunFlags, trace: TraceFile | None, painter: Painter | None) -> None:
    if trace is not None:
        trace.begin()
    show = _Shown(job) if painter is None else _Painted(painter)
    try:
        for part, text in stream.parts():
            if painter is not None:
                painter.add(stream.steps)
            show(part, text)
            if trace is not None:
                trace.write(stream.steps)
    finally:
        if trace is not None:
            trace.write(stream.steps)
    if painter is not None:
        painter.add(stream.steps)  # END's, after which no text comes
    if not job.as_json:
        show.end()
        return
    record = stream.generation.to_json()
    record.pop("steps", None)
    print(json.dumps(record, ensure_ascii=False))


class _Shown:
    """Writes an answer to stdout, and to stderr what is reasoned before it."""

    def __init__(self, job: RunFlags) -> None:
        self._job = job
        self._reasons = False

    def __call__(self, part: Part, text: str) -> None:
        if self._job.as_json:
            return
        if part == "reasoning":
            if not self._job.quiet:
                self._reasons = self._reasons or bool(text)
                murmur(text)
            return
        self._answer()
        sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def end(self) -> None:
        self._answer()
        print(flush=True)

    def _answer(self) -> None:
        """Leave a blank line below reasoning."""
        if self._reasons:
            say("\n")
        self._reasons = False


class _Painted:
    """Writes an answer to stdout, and to stderr what is reasoned before it, coloured; a legend first, a table last."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._streams: dict[Part, TextIO] = {"answer": sys.stdout, "reasoning": sys.stderr}
        self._part: Part = "answer"
        print(painter.legend(coloured=colours(sys.stdout)), end="\n\n", flush=True)

    def __call__(self, part: Part, text: str) -> None:
        if part != self._part:
            self._close("\n\n" if self._part == "reasoning" else "")
            self._part = part
        stream = self._streams[part]
        stream.write(self._painter.paint(part, text, coloured=colours(stream)))
        stream.flush()

    def end(self) -> None:
        self._close("\n\n")
        self._painter.print_table()

    def _close(self, after: str) -> None:
        stream = self._streams[self._part]
        stream.write(self._painter.end(self._part, coloured=colours(stream)) + after)
        stream.flush()


def _show_several(ensemble: Ensemble, prompt: Prompt, job: RunFlags) -> None:
    for number, generation in enumerate(ensemble.generate(prompt, n=job.n, **job.options())):
        if job.as_json:
            print(json.dumps(generation.to_json(), ensure_ascii=False))
        else:
            print("---\n" * bool(number), end="", flush=True)
            show = _Shown(job)
            show("reasoning", generation.reasoning or "")
            show("answer", generation.text)
            show.end()
            _say_away(generation)
            if not job.quiet:
                uncertain = generation.usage.uncertain
                doubt = "" if uncertain is None else f"{uncertain} uncertain; "
                say(f"[{doubt}seed:{generation.seed}; {generation.finish_reason}]")


def _say_away(generation: Generation) -> None:
    """Say without which members a text was written, however quiet it is to be."""
    for name, count in (generation.usage.degraded or {}).items():
        of = generation.usage.pieces + (generation.finish_reason == "end")
        say(f"unisono: member {name!r} was away from {count} of {of} choices")


def _closing(generation: Generation, method: Method) -> str:
    """The line after a text: how fast it was, and what the gate and the drafts have saved."""
    usage, seconds = generation.usage, generation.seconds.total
    parts = [f"{usage.pieces} pieces in {seconds:.1f} s, {usage.pieces / seconds:.1f} a second"]
    if not method.gate.always_open and usage.pieces:
        parts.append(f"{100 * usage.ensembled / usage.pieces:.0f} % ensembled")
    for name, count in (usage.unasked or {}).items():
        parts.append(f"certain without {name} at {count}")
    if method.speculate is not None:
        drafted = f"{usage.accepted} of {usage.drafted} drafted pieces accepted"
        parts.append(drafted if usage.drafted else "nothing drafted")
    if usage.uncertain is not None:
        parts.append(f"{usage.uncertain} uncertain")
    if generation.seed is not None:
        parts.append(f"seed:{generation.seed}")
    return f"[{'; '.join((*parts, generation.finish_reason))}]"
