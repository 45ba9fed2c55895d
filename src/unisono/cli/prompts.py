"""``unisono run --prompts``: many texts from a file, resumable, one bad line never stopping the rest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from unisono.build import prepare
from unisono.cli.console import counting, loading_report, say
from unisono.cli.run import conversation
from unisono.ensemble import Ensemble, Request, make_prompt
from unisono.errors import SpecError, UnisonoError
from unisono.spec import load_spec
from unisono.types import Generation, Limits

Id = str | int


@dataclass(frozen=True, slots=True)
class PromptsJob:
    """What ``unisono run --prompts`` was asked to do."""

    spec: Path
    prompts: Path
    out: Path | None
    raw: bool
    system: str | None
    limits: Limits
    batch: int
    resume: bool
    overwrite: bool
    trace: bool
    quiet: bool


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: str
    content: str


class _Line(BaseModel):
    """One line of the file of prompts."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Id
    prompt: str | None = None
    messages: list[_Turn] | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> _Line:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self


@dataclass(frozen=True, slots=True)
class _Task:
    """One line: a request, or what is wrong with it."""

    id: Id | None
    number: int
    request: Request | None = None
    error: str | None = None

    @property
    def key(self) -> str:
        """What tells this line from the others in the output of an earlier run."""
        return _key(self.id, self.number)


def run_prompts(job: PromptsJob) -> None:
    """Answer every line of the file; each answer is written and flushed as soon as it has ended.

    Raises:
        SpecError: a file cannot be read or written, or ``--out`` holds answers and nothing says what
            should become of them.
    """
    tasks = _read_tasks(job)
    done = _already_done(job)
    with ExitStack() as stack:
        waiting = [task for task in tasks if task.key not in done]
        file = stack.enter_context(_open_out(job)) if job.out else sys.stdout
        failed = sum(_write(file, _error_record(task, task.error)) for task in waiting if task.error is not None)
        sound = {task.key: task for task in waiting if task.request is not None}
        if sound:
            with loading_report(quiet=job.quiet) as report:
                prepared = prepare(load_spec(job.spec), batch=min(job.batch, len(sound)), report=report)
                ensemble = stack.enter_context(Ensemble(prepared, prepared.load(report)))
            try:
                failed += _answer(ensemble, sound, file, job.quiet)
            except KeyboardInterrupt:
                say("\n--resume goes on from here" if job.out else "")
                raise
    if not job.quiet:
        earlier = f", {len(tasks) - len(waiting)} were there already" if len(waiting) < len(tasks) else ""
        say(f"{len(waiting)} lines written{earlier}" + (f"; {failed} of them are errors" if failed else ""))


def _answer(ensemble: Ensemble, sound: dict[str, _Task], file: TextIO, quiet: bool) -> int:
    failed = 0
    requests = (task.request for task in sound.values() if task.request is not None)
    with counting(len(sound), quiet=quiet) as count:
        for request, result in ensemble.generate_batch(requests):
            task = sound[request.id]
            if isinstance(result, Generation):
                _write(file, {"id": task.id, **result.to_json()})
            else:
                failed += _write(file, _error_record(task, _words(result)))
            count()
    return failed


def _read_tasks(job: PromptsJob) -> list[_Task]:
    try:
        lines = job.prompts.read_bytes().split(b"\n")
    except OSError as error:
        raise SpecError(f"cannot read the prompts {str(job.prompts)!r}: {error.strerror}") from error
    seen: set[str] = set()
    return [_task(line, number, job, seen) for number, line in enumerate(lines, 1) if line.strip()]


def _task(line: bytes, number: int, job: PromptsJob, seen: set[str]) -> _Task:
    identity: Id | None = None
    try:
        data = json.loads(line.decode("utf-8"))
        identity = data.get("id") if isinstance(data, dict) and isinstance(data.get("id"), str | int) else None
        row = _Line.model_validate(data)
        if (key := _key(row.id, number)) in seen:
            return _Task(None, number, error=f"line {number}: the id {row.id!r} stands on an earlier line")
        seen.add(key)
        return _Task(row.id, number, Request(key, _prompt(row, job), job.limits, job.trace))
    except UnicodeDecodeError as error:
        return _Task(identity, number, error=f"line {number}: not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return _Task(identity, number, error=f"line {number}: not JSON: {error.msg} at column {error.colno}")
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        return _Task(identity, number, error=f"line {number}: {where + ': ' if where else ''}{message}")
    except UnisonoError as error:
        return _Task(identity, number, error=f"line {number}: {_words(error)}")


def _prompt(row: _Line, job: PromptsJob) -> Any:
    if row.prompt is not None:
        return make_prompt(*conversation(row.prompt, job.raw, job.system))
    if job.raw:
        raise SpecError("messages cannot be continued as raw text", hint="leave --raw out, or give a prompt")
    opening = [] if job.system is None else [{"role": "system", "content": job.system}]
    return make_prompt(None, [*opening, *(turn.model_dump() for turn in row.messages or [])])  # type: ignore[list-item]


def _already_done(job: PromptsJob) -> set[str]:
    """The keys of the lines that ``--out`` holds; a line that was cut off is taken away."""
    if job.out is None:
        if job.resume:
            raise SpecError("--resume needs --out: nothing else knows what is done already")
        return set()
    if job.resume and job.overwrite:
        raise SpecError("--resume and --overwrite contradict each other", hint="give one of them")
    if not job.out.exists() or job.overwrite:
        return set()
    if not job.resume:
        if job.out.stat().st_size == 0:
            return set()
        raise SpecError(
            f"{str(job.out)!r} holds answers already", hint="--resume goes on with it, --overwrite replaces it"
        )
    return {_key(record.get("id"), record.get("line", 0)) for record in _kept_records(job.out)}


def _kept_records(path: Path) -> Iterator[dict[str, Any]]:
    kept = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise SpecError(
                    f"{str(path)!r} is not the output of a run: line {number} is not a JSON object",
                    hint="check the name of the file; nothing in it was changed",
                )
            kept += len(line)
            yield record
        file.truncate(kept)


def _open_out(job: PromptsJob) -> TextIO:
    assert job.out is not None
    try:
        return job.out.open("a" if job.resume else "w", encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot write {str(job.out)!r}: {error.strerror}") from error


def _write(file: TextIO, record: dict[str, Any]) -> int:
    """Write one line and make sure that it survives us. Returns 1, the number of lines."""
    try:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise SpecError(
            f"cannot write an answer: {os.strerror(error.errno or 0)}", hint="--resume goes on from here"
        ) from error
    return 1


def _error_record(task: _Task, words: str | None) -> dict[str, Any]:
    line = {} if task.id is not None else {"line": task.number}
    return {"id": task.id, **line, "error": words}


def _key(identity: Id | None, number: int) -> str:
    return f"line {number}" if identity is None else json.dumps(identity)


def _words(error: UnisonoError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")
