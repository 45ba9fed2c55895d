"""Tries hostile cases for some minutes, and saves those that break something: ``make fuzz MINUTES=10``."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from fuzz import requests
from fuzz.case import Case, Outcome, Subject, same_fault
from fuzz.doctor import Doctor
from fuzz.files import Files
from fuzz.server import Server

SIDES = {
    "server": ("request", "grammar", "schema", "http"),
    "doctor": ("yaml", "gguf", "config", "tokenizer", "template", "weights", "adapter", "cache"),
}
ROUND = 50
"""Cases of one target before another has its turn; then the subject is checked."""
LINES = 30.0
"""Seconds between lines of progress."""
GROWTH = 100e6
"""Bytes by which a process may grow after a third of its time."""


class Broken(Exception):
    """Tells Hypothesis to look for a smaller case of the same fault."""


@dataclass
class Tried:
    """What came of the cases of one target."""

    seconds: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[Case, Outcome]] = field(default_factory=dict)
    """The smallest case of each."""
    spent: float = 0.0

    def line(self, target: str) -> str:
        middle, slowest = (statistics.median(self.seconds), max(self.seconds)) if self.seconds else (0.0, 0.0)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        words = f"{len(self.faults)} FAULTS" if self.faults else "no fault"
        times = f"{middle * 1e3:.0f} ms, at most {slowest:.2f} s"
        return f"  {target:10} {len(self.seconds):7,} cases ({counts}), {times}, {words}"


class Run:
    """Tries the targets of one subject until its time is over."""

    def __init__(
        self, subject: Subject, strategies: dict[str, SearchStrategy[Case]], options: argparse.Namespace
    ) -> None:
        self._subject, self._strategies, self._options = subject, strategies, options
        self._tried = {target: Tried() for target in strategies}
        self._began = time.monotonic()
        self._ends = self._began + 60 * options.minutes
        self._memory = [subject.memory()]
        self._seen: set[int] = set()

    def run(self) -> int:
        """Return the number of faults."""
        rounds, told = Counter[str](), self._began
        while time.monotonic() < self._ends:
            target = min(self._tried, key=lambda each: self._tried[each].spent)
            began = time.monotonic()
            self._round(target, zlib.crc32(f"{self._options.seed} {target} {rounds[target]}".encode()))
            self._tried[target].spent += time.monotonic() - began
            rounds[target] += 1
            if words := self._subject.check():
                self._note(Case(target, (), ()), Outcome("accepted", 0.0, "not as it was", words))
            self._memory.append(self._subject.memory())
            if time.monotonic() - told > LINES:
                told = time.monotonic()
                self._tell(f"{told - self._began:.0f} s")
        return self._summary()

    def _round(self, target: str, seed: int) -> None:
        hunted: list[str] = []

        @hypothesis.seed(seed)
        @settings(
            database=None,
            deadline=None,
            max_examples=ROUND,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(self._strategies[target])
        def one(case: Case) -> None:
            if time.monotonic() > self._ends or (not hunted and hash(case) in self._seen):
                return
            self._seen.add(hash(case))
            outcome = self._subject.run(case)
            if not hunted:
                self._tried[target].kinds[outcome.kind] += 1
                self._tried[target].seconds.append(outcome.seconds)
            if outcome.fault is not None:
                known = self._note(case, outcome)
                first = not known and not hunted and outcome.seconds < 1  # what is slow is slow to make smaller, too
                if first or (hunted and same_fault(hunted[0], outcome.fault)):
                    hunted[:] = [outcome.fault]
                    raise Broken(outcome.fault)

        with contextlib.suppress(Broken, hypothesis.errors.HypothesisException):
            one()

    def _note(self, case: Case, outcome: Outcome) -> bool:
        """Keep a case unless a smaller one has the same fault; whether the fault is known."""
        faults, fault = self._tried[case.target].faults, outcome.fault or ""
        name = next((each for each in faults if same_fault(each, fault)), None)
        if name is None or case.size < faults[name][0].size:
            faults[name or fault] = case, outcome
            path = case.save(self._options.out, outcome)
            if name is None:
                print(f"FAULT {case.target}: {fault}\n  again: make fuzz ARGS='--replay {path}'", flush=True)
        return name is not None

    def _tell(self, when: str) -> None:
        cases = sum(len(each.seconds) for each in self._tried.values())
        faults = sum(len(each.faults) for each in self._tried.values())
        print(f"{when}: {cases:,} cases, {faults} faults, {self._memory[-1] / 1e6:,.0f} MB", flush=True)

    def _summary(self) -> int:
        lines = [tried.line(target) for target, tried in self._tried.items()]
        cases, faults = (
            sum(len(getattr(each, name)) for each in self._tried.values()) for name in ("seconds", "faults")
        )
        warm = self._memory[len(self._memory) // 3]
        memory = ", ".join(
            f"{words} {size / 1e6:,.0f} MB"
            for words, size in (
                ("at the start", self._memory[0]),
                ("after a third", warm),
                ("at the end", self._memory[-1]),
            )
        )
        grown = self._memory[-1] - warm > GROWTH
        lines.append(f"  {cases:,} cases, {faults} faults; memory {memory}{', which is GROWTH' if grown else ''}")
        print("\n".join(lines), flush=True)
        return faults + grown


def main() -> None:
    targets = [each for side in SIDES.values() for each in side]
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats what was tried")
    parser.add_argument("--target", action="append", choices=targets, help="only this one; several times for several")
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"), help="a folder for what broke something")
    parser.add_argument("--replay", type=Path, nargs="+", help="only try these saved cases again")
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.models is not None:
        sys.exit(_side(options) > 0)
    with tempfile.TemporaryDirectory(prefix="unisono-fuzz-") as folder:
        options.models = Path(folder)
        subprocess.run([sys.executable, "-m", "fuzz.models", folder], check=True)
        sys.exit(_replay(options) if options.replay else _both(options))


def _both(options: argparse.Namespace) -> int:
    """Try the server and `doctor` at once, each in a process."""
    print(f"seed {options.seed}", flush=True)
    wanted = options.target or [each for side in SIDES.values() for each in side]
    given = ["--minutes", options.minutes, "--seed", options.seed, "--out", options.out, "--models", options.models]
    processes = []
    for side in SIDES.values():
        if chosen := [word for each in side if each in wanted for word in ("--target", each)]:
            command = [sys.executable, "-m", "fuzz", *map(str, given), *chosen]
            processes.append(subprocess.Popen(command))
    return max(process.wait() for process in processes)


def _side(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="case-", dir=options.models) as folder:
        subject, strategies = _subject(options.target[0], options.models, Path(folder))
        with contextlib.closing(subject):
            return Run(subject, {target: strategies[target] for target in options.target}, options).run()


def _subject(target: str, models: Path, folder: Path) -> tuple[Subject, dict[str, SearchStrategy[Case]]]:
    if target in SIDES["server"]:
        return Server(models, folder), requests.TARGETS
    doctor, files = Doctor(models, folder), Files(models)
    return doctor, files.targets | {"cache": files.cache_target(doctor.entries)}


def _replay(options: argparse.Namespace) -> int:
    faults = 0
    for path in options.replay:
        case = Case.load(path)
        with tempfile.TemporaryDirectory(prefix="case-", dir=options.models) as folder:
            subject, _ = _subject(case.target, options.models, Path(folder))
            with contextlib.closing(subject):
                outcome = subject.run(case)
            print(
                f"{path}: {outcome.kind} after {outcome.seconds:.2f} s, {outcome.fault or 'no fault'}\n{outcome.detail}"
            )
            faults += outcome.fault is not None
    return int(faults > 0)


if __name__ == "__main__":
    main()
