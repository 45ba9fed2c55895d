"""Processes that try constraints: whose fault an end is, what is remembered, and what they do not run."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unisono.config.constraint import LARK, REGEX, Constraint
from unisono.constraints import trial
from unisono.errors import SpecError
from unisono.server import constraint_trials
from unisono.server.constraint_trials import PATIENCE, PATIENCE_ALONE, ConstraintTrials, _Trial
from unisono.server.errors import Refusal

GOOD = Constraint(REGEX, "a+b")
BAD = Constraint(LARK, "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(3000)) + '\nr3000: "a"\n')


def tried(trials: ConstraintTrials, *constraints: Constraint) -> None:
    async def each() -> None:
        for constraint in constraints:
            await trials.try_constraint(constraint)

    asyncio.run(each())


def trial_of(trials: ConstraintTrials) -> _Trial:
    return trials._trials[True]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    started: list[Any] = []
    start = constraint_trials._start

    def _start() -> Any:
        started.append(start())
        return started[-1]

    monkeypatch.setattr(constraint_trials, "_start", _start)
    return started


def test_a_module_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llguidance", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    trials = ConstraintTrials()
    tried(trials, GOOD)
    trials.close()
    assert not (tmp_path / "ran").exists()


def test_a_process_that_ended_while_idle_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    trials = ConstraintTrials()
    tried(trials, GOOD)
    os.kill(started[0].pid, signal.SIGKILL)
    time.sleep(0.2)
    tried(trials, Constraint(REGEX, "b"))
    monkeypatch.setattr(started[1], "poll", lambda: None)  # it ends between the look and the question
    os.kill(started[1].pid, signal.SIGKILL)
    tried(trials, Constraint(REGEX, "c"))
    trials.close()
    assert len(started) == 3


def test_an_answer_that_was_read_counts_though_the_clock_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Trial, "_answer", lambda _self, _line: (b"null\n", True))
    trials = ConstraintTrials()
    tried(trials, GOOD)
    trials.close()


def test_a_late_process_is_ended_and_its_lateness_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    trials = ConstraintTrials(patience=0.001)
    for _ in range(2):
        with pytest.raises(SpecError, match="within"):
            tried(trials, GOOD)
    trials.close()
    assert len(started) == 2


def test_a_process_without_a_timer_of_its_own_has_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [trial._patience for trial in ConstraintTrials()._trials.values()] == [PATIENCE] * 2
    monkeypatch.delattr(signal, "setitimer")  # as on Windows
    assert [trial._patience for trial in ConstraintTrials()._trials.values()] == [PATIENCE_ALONE] * 2
    trial._limit(1)


@pytest.mark.parametrize("code", ["while True: pass", "while True: print(end='x' * 1000)"])
def test_a_process_that_never_answers_is_ended_without_limits_of_the_system(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def endless() -> Any:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(constraint_trials, "_start", endless)
    started = counted(monkeypatch)
    trials, began = ConstraintTrials(patience=0.5), time.monotonic()
    with pytest.raises(SpecError, match="cannot be compiled"):
        tried(trials, GOOD)
    assert time.monotonic() - began < 5
    assert all(process.poll() is not None for process in started)
    trials.close()


def test_failures_are_remembered_and_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    started = counted(monkeypatch)
    trials = ConstraintTrials()
    with caplog.at_level(logging.INFO, logger="unisono"):
        for constraint in (BAD, BAD, BAD, Constraint(REGEX, "("), Constraint(REGEX, "(")):
            with pytest.raises(SpecError):
                tried(trials, constraint)
    trials.close()
    ended = [record for record in caplog.records if record.getMessage() == "trial"]
    assert len(started) == 2  # one for long constraints, one for short ones
    assert len(ended) == 1
    assert [len(key) for key in trials._tried] == [32, 32]  # nothing of what a client sent, which may be long
    assert sum(len(message) + len(hint or "") for message, hint in filter(None, trials._tried.values())) < 2000


def test_where_no_process_can_start_the_client_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(constraint_trials, "_start", full)
    trials = ConstraintTrials()
    with pytest.raises(Refusal, match="Too many open files") as refused:
        tried(trials, GOOD)
    trials.close()
    assert refused.value.status == 503
    assert refused.value.headers
    assert not trials._tried


def test_a_process_that_cannot_work_is_not_the_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        code = [sys.executable, "-c", "raise SystemExit(1)"]
        return subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(constraint_trials, "_start", broken)
    started = counted(monkeypatch)
    trials = ConstraintTrials()
    with pytest.raises(Refusal, match="status 1"):
        tried(trials, GOOD)
    trials.close()
    assert len(started) == 2
    assert not trials._tried


def test_a_closed_bench_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    one = _Trial(1.0)
    one._closed = True
    with pytest.raises(Refusal, match="shutting down"):
        one._ask(b'["regex", "a"]\n')
    trials = ConstraintTrials()
    for _ in range(2):
        trials.close()
    with pytest.raises(Refusal, match="shutting down"):
        tried(trials, GOOD)
    assert not started


def test_a_process_that_starts_while_the_bench_closes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    one = _Trial(1.0)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        one.close()
        one.close()  # which is harmless
        return started[0]

    monkeypatch.setattr(constraint_trials, "_start", start)
    with pytest.raises(Refusal, match="shutting down"):
        one._ask(b'["regex", "a"]\n')
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_an_unexpected_error_is_an_answer_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panic(_union: object) -> Any:
        raise Panic("no\nway")

    monkeypatch.setattr(trial, "Grammars", panic)
    outcome: list[Any] = []
    trial._try(None, json.dumps([GOOD.kind, GOOD.source]), outcome)  # type: ignore[arg-type]
    assert outcome[0][0] == "the constraint cannot be compiled: Panic: no way"
