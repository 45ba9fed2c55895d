"""``unisono run --prompts``: many texts from a file, resumable, one bad line never stopping the rest."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from unisono.chat.messages import Message, Prompt
from unisono.cli.console import counting, say
from unisono.cli.inputs import RunFlags
from unisono.cli.trace_file import with_prompt
from unisono.engine.request import Request
from unisono.ensemble import Ensemble
from unisono.errors import SpecError, UnisonoError, shown
from unisono.records import Generation
from unisono.user_files import complete_lines, read_data, read_json, write_line
from unisono.validation import explain

FORM = 'write a JSON object a line: {"id": 1, "prompt": "Hello"}'

Id = str | int


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: str
    content: str


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: Id
    prompt: str | None = None
    messages: list[_Turn] | None = None
    continue_final_message: bool = False

    @model_validator(mode="after")
    def _one_of_the_two(self) -> _Line:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        if self.continue_final_message and self.messages is None:
            raise ValueError("continue_final_message: a prompt is continued anyway with --raw: give 'messages'")
        return self


@dataclass(frozen=True, slots=True)
class _Task:
    """One line: a request, or what is wrong with it."""

    id: Id | None
    number: int
    request: Request | None = None
    error: str | None = None
    is_object: bool = True
    """Whether the line is a JSON object."""

    @property
    def key(self) -> str:
        return _key(self.id, self.number)


def run_prompts(prompts: Path, job: RunFlags) -> None:
    """Answer every line of the file; each answer is written and flushed as soon as it has ended.

    Nothing is written, and nothing that was there is touched, before the models are loaded. Raises a `SpecError`.
    """
    _check_out(prompts, job)
    tasks = _read_tasks(prompts, job)
    records, kept = _earlier(job)
    done = {_key(record.get("id"), record.get("line", 0)) for record in records}
    waiting = [task for task in tasks if task.key not in done]
    sound = {task.key: task for task in waiting if task.request is not None}
    with ExitStack() as stack:
        ensemble = stack.enter_context(job.load(min(job.batch, len(sound)))) if sound else None
        file = stack.enter_context(_open_out(job, kept))
        faulty = [task for task in waiting if task.error is not None]
        failed = len(faulty)
        try:
            failed += _answer(ensemble, sound, faulty, file, job.quiet) if ensemble else 0
            _write_faulty(faulty, file)
        except KeyboardInterrupt:
            say("\n--resume continues from here" if job.out else "")
            raise
    if failed or not job.quiet:
        earlier = f", {len(tasks) - len(waiting)} were there already" if len(waiting) < len(tasks) else ""
        say(f"{len(waiting)} lines written{earlier}" + (f"; errors among them: {failed}" if failed else ""))


def _write_faulty(faulty: list[_Task], file: FileIO, before: float = math.inf) -> int:
    """Answer the malformed lines that stand before a line of the file, in its order, each once; and count them."""
    written = 0
    while faulty and faulty[0].number < before:
        task = faulty.pop(0)
        write_line(file, _error_record(task, task.error))
        written += 1
    return written


def _answer(ensemble: Ensemble, sound: dict[str, _Task], faulty: list[_Task], file: FileIO, quiet: bool) -> int:
    failed = 0
    requests = (task.request for task in sound.values() if task.request is not None)
    with counting(len(sound) + len(faulty), quiet=quiet) as count:
        for request, result in ensemble.generate_batch(requests):
            task = sound[request.id]
            count(_write_faulty(faulty, file, task.number))
            if isinstance(result, Generation):
                write_line(file, _answer_record(task, result))
            else:
                write_line(file, _error_record(task, _words(result)))
                failed += 1
            count()
        count(_write_faulty(faulty, file))
    return failed


def _answer_record(task: _Task, answer: Generation) -> dict[str, object]:
    """An answer as it is written, its trace with what was asked."""
    record = answer.to_json()
    steps = record.get("steps")
    if isinstance(steps, list) and task.request is not None:
        record["steps"] = [with_prompt(step, task.request.prompt) for step in steps]
    return {"id": task.id, **record}


def _read_tasks(prompts: Path, job: RunFlags) -> list[_Task]:
    try:
        lines = read_data(prompts, named=True).split(b"\n")
    except OSError as error:
        hint = FORM if error.errno == errno.EINVAL else "check the path"  # where it is read, and is no text
        raise SpecError(f"cannot read the prompts {str(prompts)!r}: {error.strerror}", hint=hint) from error
    seen: set[str] = set()
    tasks = [_task(line, number, job, seen) for number, line in enumerate(lines, 1) if line.strip()]
    if tasks and not any(task.is_object for task in tasks):
        raise SpecError(f"the prompts {str(prompts)!r} are no JSON lines: {tasks[0].error}", hint=FORM)
    return tasks


def _task(line: bytes, number: int, job: RunFlags, seen: set[str]) -> _Task:
    """Read one line. One whose id stood on an earlier line goes by its number: its id is that line's."""
    identity: Id | None = None
    data = None
    try:
        data = read_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        given = data.get("id") if isinstance(data, dict) else None
        identity = given if isinstance(given, str | int) and not isinstance(given, bool) else None
        if identity is not None:
            if _key(identity, number) in seen:
                return _Task(None, number, error=f"line {number}: the id {identity!r} stands on an earlier line")
            seen.add(_key(identity, number))
        row = _Line.model_validate(data)
        request = Request(
            _key(row.id, number), _prompt(row, job), job.limits, job.trace is not None, constraint=job.constraint
        )
        return _Task(row.id, number, request)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: {error.reason} at byte {error.start}"
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at column {error.colno}"
    except ValidationError as error:
        problem = _first_problem(error)
    except UnisonoError as error:
        problem = _words(error)
    except (ValueError, RecursionError) as error:
        problem = f"not readable: {error}"
    return _Task(identity, number, error=f"line {number}: {problem}", is_object=isinstance(data, dict))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    if not where and problem["type"] == "model_type":
        return 'a line is an object: {"id": …, "prompt": "…"} or {"id": …, "messages": […]}'
    if where[:1] == ["id"]:
        return "lacks an id" if problem["type"] == "missing" else "an id is a string or a whole number"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {shown('.'.join(where))}"
    if problem["type"] == "missing":
        return f"lacks the key {shown('.'.join(where))}"
    return f"{'.'.join(where)} is {shown(problem['input'])}: {explain([problem])}" if where else explain([problem])


def _prompt(row: _Line, job: RunFlags) -> Prompt:
    if row.prompt is not None:
        return job.prompt_of(row.prompt)
    if job.raw:
        raise SpecError("messages cannot be continued as raw text", hint="leave --raw out, or give a prompt")
    messages = [Message(role=turn.role, content=turn.content) for turn in row.messages or []]
    return Prompt(messages=[*job.opening(), *messages], continue_final_message=row.continue_final_message)


def _check_out(prompts: Path, job: RunFlags) -> None:
    if job.out is None:
        if job.resume:
            raise SpecError("--resume needs --out: it reads there which prompts are done")
        return
    name = repr(str(job.out))
    if job.resume and job.overwrite:
        raise SpecError("--resume and --overwrite contradict each other", hint="give one of them")
    if os.path.isdir(job.out):
        raise SpecError(f"--out is {name}, a folder", hint="give a file")
    if os.path.exists(job.out) and os.path.exists(prompts) and job.out.samefile(prompts):
        raise SpecError(f"--out is {name}, the file of the prompts itself", hint="give another file")
    if os.path.isfile(job.out) and job.out.stat().st_size and not (job.resume or job.overwrite):
        raise SpecError(f"{name} already has answers", hint="--resume continues it, --overwrite replaces it")


def _earlier(job: RunFlags) -> tuple[list[dict[str, Any]], int | None]:
    """What an earlier run has written, when this one goes on with it, and how many bytes of it are whole lines."""
    if not job.resume or job.out is None or not os.path.isfile(job.out):
        return [], None
    return complete_lines(job.out, "id", what="the output of a run", line_is="an answer")


def _open_out(job: RunFlags, kept: int | None) -> contextlib.AbstractContextManager[FileIO]:
    if job.out is None:
        sys.stdout.flush()
        return contextlib.nullcontext(FileIO(sys.stdout.fileno(), "wb", closefd=False))
    try:
        if not job.resume:
            return FileIO(job.out, "wb")
        file = FileIO(job.out, "ab")
        if kept is not None:
            file.truncate(kept)
        return file
    except OSError as error:
        raise SpecError(f"cannot write {str(job.out)!r}: {error.strerror}") from error


def _error_record(task: _Task, words: str | None) -> dict[str, Any]:
    line = {} if task.id is not None else {"line": task.number}
    return {"id": task.id, **line, "error": words}


def _key(identity: Id | None, number: int) -> str:
    return f"line {number}" if identity is None else json.dumps(identity)


def _words(error: UnisonoError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")
