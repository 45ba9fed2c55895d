"""``unisono run``: one text from the command line or stdin, or many from a file."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisono.cli.answers import PaintedText, ShownText, closing, say_away
from unisono.cli.coloured import Painter
from unisono.cli.console import say
from unisono.cli.flags import Verb, refuse_flags, takes_flags, verb_app
from unisono.cli.inputs import INLINE, RunFlags, read_text
from unisono.cli.trace_file import TraceFile
from unisono.errors import SpecError

if TYPE_CHECKING:
    from unisono.chat.messages import Prompt
    from unisono.engine.client import Stream
    from unisono.ensemble import Ensemble

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
        if text is None:
            flags.check_file()
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


app = verb_app(run, cls=RunCommand)


def _run_one(text: str, job: RunFlags) -> None:
    if job.trace == INLINE:
        raise SpecError("--trace needs a file here", hint="write --trace FILE")
    if job.n > 1 and job.trace is not None:
        raise SpecError("--trace does not go with --n", hint="generate each text alone, with its seed from --json")
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
        painter = Painter(ensemble.prepared.weights, ensemble.method.but(**job.method)) if job.show else None
        _show(stack.enter_context(stream), job, trace, prompt, painter)
        say_away(stream.generation)
        if not job.as_json and not job.quiet and sys.stderr.isatty():
            say(closing(stream.generation, ensemble.method))


def _show(stream: Stream, job: RunFlags, trace: TraceFile | None, prompt: Prompt, painter: Painter | None) -> None:
    if trace is not None:
        trace.begin(prompt)
    show = ShownText(quiet=job.quiet) if painter is None else PaintedText(painter)
    try:
        for part, text in stream.parts():
            if painter is not None:
                painter.add(stream.steps)
            if not job.as_json:
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


def _show_several(ensemble: Ensemble, prompt: Prompt, job: RunFlags) -> None:
    for number, generation in enumerate(ensemble.generate(prompt, n=job.n, **job.options())):
        if job.as_json:
            print(json.dumps(generation.to_json(), ensure_ascii=False))
        else:
            print("---\n" * bool(number), end="", flush=True)
            show = ShownText(quiet=job.quiet)
            show("reasoning", generation.reasoning or "")
            show("answer", generation.text)
            show.end()
            say_away(generation)
            if not job.quiet:
                uncertain = generation.usage.uncertain
                doubt = "" if uncertain is None else f"{uncertain} uncertain; "
                say(f"[{doubt}seed:{generation.seed}; {generation.finish_reason}]")
