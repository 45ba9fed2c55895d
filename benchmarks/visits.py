"""Count what a reader has to follow, and time what a step costs outside forward passes; all members are fakes.

Usage: python benchmarks/visits.py [--only http step prompt time] [--list] [--json] [--against SRC] [--rounds N]

http    one completion of three tokens over HTTP, through `unisono serve`: functions and files of `unisono` visited in
        all threads, from the moment the server is warm until its answer has been received.
step    one `next(stream)` that takes one plain step of two members (greedy, mean, every member votes).
prompt  how often `unisono run` encodes its prompt, by member.
time    microseconds of a step outside forward passes: from pass to pass, without what the passes take.

A call is a call event of `sys.setprofile` of a named function in a file of `unisono`, the fakes' own included. What
Python makes of comprehensions, generator expressions and lambdas is counted apart (``with unnamed``): their text
stands in the function that is counted. The depth is that of calls of `unisono`, named or not.

With ``--against SRC`` (the `src` folder of another tree) only times are taken, in two processes that take turns.
The same file runs on any tree: it imports `unisono`, `unisono.testing` and the command line's entry.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import unisono
from unisono import testing

HOME = str(Path(unisono.__file__).parent) + os.sep
WORDS = ("the", " the", " cat", " sat", "quick", " brown")
PROMPT = "the quick brown fox"
SIZES = {"tiny": (300, 600), "large": (50_000, 150_000)}
BATCHES = (1, 8)
PIECES = {"tiny": 120, "large": 40}
Place = tuple[str, str]


class Visits:
    """The profiler of threads: counts calls of functions of `unisono` while it is `on`."""

    def __init__(self) -> None:
        self.on = False
        self.calls: Counter[Place] = Counter()
        self.depth = 0

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if self.on and event == "call" and code.co_filename.startswith(HOME):
            self.calls[code.co_filename[len(HOME) :], code.co_qualname] += 1
            above: FrameType | None = frame
            deep = 0
            while above is not None:
                deep += above.f_code.co_filename.startswith(HOME)
                above = above.f_back
            self.depth = max(self.depth, deep)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Profile this thread and those that begin meanwhile."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def figures(self) -> dict[str, Any]:
        """Sums, and the list in the order of the first visits."""
        named = {place: count for place, count in self.calls.items() if not place[1].endswith(">")}
        return {
            "calls": sum(named.values()),
            "functions": len(named),
            "files": len({file for file, _ in self.calls}),
            "depth": self.depth,
            "with unnamed": {"calls": self.calls.total(), "functions": len(self.calls)},
            "visited": [[f"{file}:{name}", count] for (file, name), count in self.calls.items()],
        }


def spec(names: Sequence[str]) -> dict[str, Any]:
    """An ensemble of fakes as a newcomer writes it."""
    return {"members": [{"name": name, "model": f"fake:{name}"} for name in names]}


@contextlib.contextmanager
def ensemble_file() -> Iterator[Path]:
    """The file of two tiny fakes that never end a text at once."""
    for seed, name in enumerate(("a", "b")):
        testing.fake_member(name, WORDS, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "duo.yaml"
        path.write_text(json.dumps(spec(("a", "b"))))
        yield path


def command_line(*words: str) -> str:
    """Run `unisono` in this process; return its standard output."""
    from unisono.__main__ import main

    before, said = sys.argv, io.StringIO()
    sys.argv = ["unisono", *words]
    try:
        with contextlib.redirect_stdout(said):
            main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before
    return said.getvalue()


def count_http() -> dict[str, Any]:
    """One completion, asked for by a thread that has nothing of `unisono`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    visits, failed = Visits(), []

    def ask() -> None:
        body = json.dumps({"model": "duo", "prompt": PROMPT, "max_tokens": 3}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            json.load(answer)

    def client() -> None:
        try:
            _await(f"http://127.0.0.1:{port}/ready")
            for _ in range(3):
                ask()
            time.sleep(0.5)
            visits.on = True
            ask()
            visits.on = False
        except Exception as error:
            failed.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    with ensemble_file() as path, contextlib.redirect_stderr(io.StringIO()):
        thread = threading.Thread(target=client, daemon=True)
        thread.start()
        with visits.attached():
            command_line("serve", f"duo={path}", "--port", str(port))
        thread.join()
    if failed:
        raise failed[0]
    return visits.figures()


def _await(url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")


def count_step() -> dict[str, Any]:
    """A plain step has the median of the calls, as some look at more pieces, or end no character; the first is none."""
    taken = []
    with ensemble_file() as path, unisono.Ensemble.load(path) as duo:
        duo.generate(PROMPT, max_new_tokens=24)
        stream = duo.stream(PROMPT, max_new_tokens=24)
        while True:
            visits = Visits()
            with visits.attached():
                visits.on = True
                ended = next(stream, None) is None
                visits.on = False
            if ended:
                break
            taken.append(visits.figures())
    totals = [each["calls"] for each in taken]
    plain = 1 + totals[1:].index(statistics.median_low(totals[1:]))
    return {**taken[plain], "steps": totals}


class _Counting(testing.LongestMatchTokenizer):
    """Counts who encodes the prompt, outermost calls only."""

    seen = 0
    _within = False

    def encode(self, text: str) -> list[int]:
        return self._count(super().encode, text)

    def encode_prompt(self, text: str) -> list[int]:
        return self._count(super().encode_prompt, text)

    def encode_rendered(self, text: str) -> list[int]:
        return self._count(super().encode_rendered, text)

    def _count(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        outer = not self._within
        self.seen += outer and PROMPT in text
        self._within = True
        try:
            return encode(text)
        finally:
            self._within = not outer


def count_prompt() -> dict[str, Any]:
    """By member, how often the prompt is encoded as a message and raw."""
    found: dict[str, Any] = {}
    with ensemble_file() as path:
        for kind, flags in {"message": (), "raw": ("--raw",)}.items():
            models = {}
            for seed, name in enumerate(("a", "b")):
                table = testing.byte_level_table(WORDS)
                rule = testing.hashed_rule(len(table.texts), seed)
                models[name] = testing.register_fake(name, testing.FakeModel(_Counting(table), rule))
            command_line("run", str(path), PROMPT, *flags, "--max-new-tokens", "3", "-q")
            found[kind] = {name: model.tokenizer.seen for name, model in models.items()}  # type: ignore[attr-defined]
    return found


class Timed:
    """An ensemble whose passes cost next to nothing, and are left out of what is timed."""

    def __init__(self, size: str, batch: int) -> None:
        self.size, self.batch, self.passes = size, batch, list[tuple[str, int, float, float]]()
        names = [f"{size}{number}" for number in range(2)]
        for name, pieces in zip(names, SIZES[size], strict=True):
            if name not in _MADE:
                _MADE[name] = testing.register_fake(name, _large(pieces))
        self.first = names[0]
        self.ensemble = unisono.Ensemble.load(spec(names), batch=batch)

    def round(self) -> list[float]:
        """Microseconds of each plain step of a round."""
        self.passes.clear()
        limits = unisono.Limits(max_new_tokens=PIECES[self.size])
        with _watched(self.passes):
            requests = (unisono.Request(str(n), unisono.Prompt(PROMPT), limits) for n in range(self.batch))
            for _, result in self.ensemble.generate_batch(requests):
                if isinstance(result, Exception):
                    raise result
        starts = [at for at, (name, feeds, *_) in enumerate(self.passes) if name == self.first and feeds == self.batch]
        took = []
        for at, until in itertools.pairwise(starts):
            if until - at == 2 and self.passes[at + 1][1] == self.batch:
                inside = sum(end - begin for *_, begin, end in self.passes[at:until])
                took.append((self.passes[until][2] - self.passes[at][2] - inside) * 1e6)
        if len(took) < 10:
            raise RuntimeError(f"only {len(took)} plain steps of {self.size}, batch {self.batch}")
        return took[2:]


_MADE: dict[str, testing.FakeModel] = {}


@functools.cache
def _words(count: int) -> tuple[str, ...]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    made = (f" {''.join(each)}" for size in (2, 3, 4) for each in itertools.product(letters, repeat=size))
    return tuple(itertools.islice(made, count))


def _large(pieces: int) -> testing.FakeModel:
    """A fake of so many pieces; the lower ones are shared, and the choice is always one of them."""
    table = testing.byte_level_table(_words(pieces - 262))
    rows = len(table.texts)
    drawn = np.random.default_rng(pieces).normal(0, 3, (4, rows)).astype(np.float32)
    drawn[np.arange(4), 270 + np.arange(4)] += 30
    return testing.FakeModel(testing.LongestMatchTokenizer(table), lambda read: drawn[len(read) % 4])


@contextlib.contextmanager
def _watched(passes: list[tuple[str, int, float, float]]) -> Iterator[None]:
    """Note the name, the feeds, the begin and the end of every pass of fakes."""
    plain: Any = testing.FakeBackend.advance

    def advance(self: Any, feeds: Any) -> Any:
        begin = time.perf_counter()
        given = plain(self, feeds)
        passes.append((self._name, len(feeds), begin, time.perf_counter()))
        return given

    testing.FakeBackend.advance = advance  # type: ignore[method-assign]
    try:
        yield
    finally:
        testing.FakeBackend.advance = plain  # type: ignore[method-assign]


def cases() -> dict[str, Timed]:
    """Every size and batch, loaded and warm."""
    made = {f"{size}, batch {batch}": Timed(size, batch) for size in SIZES for batch in BATCHES}
    for each in made.values():
        each.round()
    return made


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and the tenth and ninetieth of a hundred."""
    low, *_, high = statistics.quantiles(values, n=10)
    return {"median": statistics.median(values), "low": low, "high": high, "of": len(values)}


def time_here(rounds: int) -> dict[str, Any]:
    """The steps of all rounds in this process."""
    took = {name: [step for _ in range(rounds) for step in each.round()] for name, each in cases().items()}
    return {name: spread(steps) for name, steps in took.items()}


def work() -> None:
    """A round a line of the standard input."""
    made = cases()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps({name: statistics.median(each.round()) for name, each in made.items()}), flush=True)


def time_against(other: Path, rounds: int) -> dict[str, Any]:
    """This tree and another in turn, by round; a ratio is this one's microseconds ÷ the other's."""
    here = Path(HOME).parent
    workers = {}
    for name, src in {"this": here, "other": other.resolve()}.items():
        if not (src / "unisono").is_dir():
            raise SystemExit(f"{src} has no folder unisono: give the folder src of another tree")
        workers[name] = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(src)},
        )
    took: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for worker in workers.values():
        _line(worker)
    for turn in range(rounds):
        for name in ("this", "other") if turn % 2 else ("other", "this"):
            worker = workers[name]
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            took[name].append(json.loads(_line(worker)))
    for worker in workers.values():
        worker.communicate()
    found = {}
    for case in took["this"][0]:
        this, that = ([turn[case] for turn in took[name]] for name in ("this", "other"))
        ratios = spread([mine / theirs for mine, theirs in zip(this, that, strict=True)])
        found[case] = {"this": spread(this), "other": spread(that), "ratio": ratios}
    return found


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker ended with status {worker.wait()}")
    return line


def main() -> None:
    """Count and time what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("http", "step", "prompt", "time"), default=())
    parser.add_argument("--list", action="store_true", help="list what was visited, in order, with counts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--against", type=Path, metavar="SRC")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rounds < 2:
        parser.error("--rounds is 2 or more")
    if asked.work:
        work()
        return
    if asked.against:
        found = {"against": time_against(asked.against, asked.rounds)}
    else:
        wanted = asked.only or ("step", "prompt", "time", "http")
        does: dict[str, Callable[[], dict[str, Any]]] = {
            "step": count_step, "prompt": count_prompt, "time": lambda: time_here(asked.rounds), "http": count_http
        }  # fmt: skip
        found = {name: do() for name, do in does.items() if name in wanted}
    print(json.dumps({"tree": HOME, **found}, indent=2) if asked.json else words(found, asked.list))


def words(found: dict[str, Any], listed: bool) -> str:
    """For people."""
    lines = []
    for name, own in found.items():
        if name in ("http", "step"):
            sums = ", ".join(f"{own[key]} {key}" for key in ("calls", "functions", "files", "depth"))
            unnamed = own["with unnamed"]
            lines.append(f"{name:7} {sums} (with unnamed: {unnamed['calls']} calls, {unnamed['functions']} functions)")
            lines += [f"  {count:4} {place}" for place, count in own["visited"]] if listed else []
        elif name == "prompt":
            lines += [f"prompt  {kind}: encoded {own[kind]}" for kind in own]
        else:
            lines += [f"{name:7} {case}: {_shown(value)}" for case, value in own.items()]
    return "\n".join(lines)


def _shown(value: dict[str, Any]) -> str:
    if "ratio" in value:
        ratio = value["ratio"]
        return (
            f"{value['this']['median']:.0f} µs a step, the other {value['other']['median']:.0f}; "
            f"ratio {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
        )
    return f"{value['median']:.0f} µs a step outside passes ({value['low']:.0f} to {value['high']:.0f})"


if __name__ == "__main__":
    main()
