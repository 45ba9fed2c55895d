"""What one hostile client, or one hostile file, costs a server and those who use it too.

Usage: python benchmarks/hostile.py [--only WORDS …] [--rounds N] [--answers N] [--json] [--out FILE]

A real `unisono serve` on two tiny random models (transformers), which may open 256 files. A bystander asks for answers
of eight pieces, one after another, each on a connection of its own: first alone, then beside the hostile client
(`hostile_clients`), in turn. Files (`hostile_files`) are given to commands, each in a process of its own. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile_clients import CLIENTS, answer_to
from hostile_files import FILES, File, Measured
from served import Served, serve
from support.tiny_models import save_tiny

OPEN_FILES = 256
CONTEXT = 65_536
PIECES = 8
SETTLING = 0.5
"""Seconds after a client has begun or ended."""
GOAL = 3.0
"""The most that the bystander's 99th percentile beside a client may be of its own alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one client cost. Seconds and megabytes."""

    attack: str
    answers: dict[str, int]
    """How often the client was answered with each status."""
    median: float | None
    longest: float | None
    memory: tuple[int, int]
    """Of the server, before and after."""
    idle: tuple[float, float]
    """The bystander's median and 99th percentile alone."""
    beside: tuple[float, float]

    @property
    def ratio(self) -> float:
        return self.beside[1] / self.idle[1]


def attack(served: Served, name: str, rounds: int, answers: int) -> Row:
    """Measure the bystander alone and beside a client, in turn."""
    before = served.memory()
    idle: list[float] = []
    beside: list[float] = []
    seconds: list[float] = []
    given: dict[str, int] = {}
    for _ in range(rounds):
        idle += bystander(served, answers)
        found = _beside(served, name, beside, answers)
        seconds += found["seconds"]
        for status, count in found["answers"].items():
            given[status] = given.get(status, 0) + count
    return Row(
        name,
        given,
        statistics.median(seconds) if seconds else None,
        max(seconds, default=None),
        (before, served.memory()),
        _percentiles(idle),
        _percentiles(beside),
    )


def _beside(served: Served, name: str, beside: list[float], answers: int) -> dict[str, Any]:
    """Add the bystander's seconds beside a client, and return what the client saw."""
    program = Path(__file__).with_name("hostile_clients.py")
    port = served.url.rpartition(":")[2]
    client = subprocess.Popen([sys.executable, program, name, port], stdout=subprocess.PIPE)
    try:
        time.sleep(2 * SETTLING)  # it has to be started
        beside += bystander(served, answers)
        client.terminate()
        out, _ = client.communicate(timeout=60)
    finally:
        client.kill()
    time.sleep(SETTLING)
    found: dict[str, Any] = json.loads(out)
    return found


def bystander(served: Served, count: int) -> list[float]:
    """Seconds to each of some answers of eight pieces; a refusal is an error."""
    port, seconds = int(served.url.rpartition(":")[2]), []
    for number in range(count):
        began = time.perf_counter()
        body = {"model": "duo", "prompt": f"Question {number}", "max_tokens": PIECES, "logit_bias": served_ends}
        status, words = answer_to(port, "/v1/completions", body)
        seconds.append(time.perf_counter() - began)
        assert status == 200, words
    return seconds


served_ends: dict[str, int] = {}
"""The columns that end a text, which a bystander's never does."""


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    ranks = statistics.quantiles(seconds, n=100, method="inclusive")
    return ranks[49], ranks[98]


def clients(wanted: list[str], rounds: int, answers: int) -> Iterator[Row]:
    """Measure clients, each against a server that goes on."""
    with tempfile.TemporaryDirectory() as folder:
        members = [{"name": name, "model": str(_model(Path(folder) / name))} for name in ("llama", "qwen2")]
        with serve({"members": members}, files=OPEN_FILES) as served:
            ends = httpx2.post(f"{served.url}/v1/pieces", json={"model": "duo", "text": ""}).json()["end"]
            served_ends.update({str(column): -100 for column in ends})
            bystander(served, answers)
            for name in wanted:
                row = attack(served, name, rounds, answers)
                print(f"{name}: {row.ratio:.1f} times idle, answers {row.answers}", file=sys.stderr, flush=True)
                yield row


def _model(folder: Path) -> Path:
    """A tiny model that could read long prompts: else they are refused before they are read."""
    config = save_tiny(folder, folder.name) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": CONTEXT}))
    return folder


def files(wanted: list[str]) -> Iterator[tuple[File, Measured]]:
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(wanted):
            file = FILES[name]
            measured = file.measure(Path(folder) / str(number))
            print(f"{name}: {measured.seconds:.1f} s, {measured.megabytes} MB", file=sys.stderr, flush=True)
            yield file, measured


def table(rows: list[Row], measured: list[tuple[File, Measured]]) -> str:
    """What was measured, in Markdown."""
    lines = [
        "| client | answers | median, longest | memory, MB | bystander alone: p50, p99 | beside | p99 ÷ alone |",
        "|---|---|---|---|---|---|---:|",
    ]
    for row in rows:
        answers = ", ".join(f"{count} x {status}" for status, count in row.answers.items()) or "none"
        time_ = "" if row.median is None or row.longest is None else f"{_ms(row.median)}, {_ms(row.longest)}"
        ratio = f"**{row.ratio:.1f}**" if row.ratio > GOAL else f"{row.ratio:.1f}"
        idle, beside = (f"{_ms(p50)}, {_ms(p99)}" for p50, p99 in (row.idle, row.beside))
        memory = " → ".join(map(str, row.memory))
        lines.append(f"| {row.attack} | {answers} | {time_} | {memory} | {idle} | {beside} | {ratio} |")
    lines += ["", "| file | said | seconds (of a sound one) | MB (of a sound one) |", "|---|---|---:|---:|"]
    for file, each in measured:
        seconds, megabytes = f"{each.seconds:.1f}", f"{each.megabytes}"
        if each.sound is not None:
            seconds, megabytes = f"{seconds} ({each.sound[0]:.1f})", f"{megabytes} ({each.sound[1]})"
        lines.append(f"| {file.name} | {each.said} | {seconds} | {megabytes} |")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="rows whose names have one of these words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=100, help="of the bystander, in each part of a round")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    def chosen(names: Sequence[str]) -> list[str]:
        return [name for name in names if not given.only or any(words in name for words in given.only)]

    wanted = chosen(list(CLIENTS))
    rows = list(clients(wanted, given.rounds, given.answers)) if wanted else []
    measured = list(files(chosen(list(FILES))))
    found = {
        "clients": [{**asdict(row), "ratio": row.ratio} for row in rows],
        "files": [{"file": file.name, **asdict(each)} for file, each in measured],
    }
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2) if given.json else table(rows, measured))


if __name__ == "__main__":
    main()
