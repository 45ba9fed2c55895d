"""What a round trip to a member on another host costs, and what of it gates and drafts hide.

    python benchmarks/distance.py [--repeating] [--delays 0 1 10] [--pieces 48] [--rounds 3] [--json]

SmolLM2 leads in this process; Gemma 3 is behind `unisono member serve`, and a relay between the two holds back each
byte for half a delay in each direction (milliseconds; many kernels come without netem). Settings and delays take turns,
text by text; the relay counts calls of the worker. Rows go through memory of this machine: bytes are in `moved.py`.

The texts are free continuations, or, with `--repeating`, such as repeat what stands before them, as where a document is
corrected, quoted or put into another form: drafts of n-grams, which cost no pass, are then often right.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from key_tokens import FREE
from relay import Relay
from support.engine_processes import GEMMA, SMOL, free_port, running
from unisono import Ensemble

SETTINGS: dict[str, dict[str, str]] = {
    "every step": {},
    "gate=confidence:0.5": {"gate": "confidence:0.5"},
    "speculate=smol": {"speculate": "smol"},
    "speculate=ngram": {"speculate": "ngram"},
    "gate=confidence:0.5 speculate=smol": {"gate": "confidence:0.5", "speculate": "smol"},
}

_SHIPS = "Aurora, Bellerophon, Cassandra, Dauntless, Endymion, Firebrand, Galatea, Hermione, Illustrious, Juno"
_LETTER = (
    "the lamp has burned every night since the storm, the boat is dry again, and the bread that you sent us was eaten "
    "before the snow came down from the northern hills"
)
_SUM = "(prices):\n    total = 0\n    for price in prices:\n        total = total + price\n    return total\n"
_ROWS = "".join(
    f"{name} | {town} | {year}\n"
    for name, town, year in (("Anna", "Bergen", 1901), ("Peter", "Oslo", 1894), ("Maria", "Tromso", 1911))
)
REPEATING = (
    f"The ships sailed in this order: {_SHIPS}. Once more, the ships sailed in this order: Aurora, Bellerophon,",
    f'He wrote: "{_LETTER}." She read it aloud. It said: "the lamp has burned',
    f"# before\ndef sum_of_prices{_SUM}\n# after: only the name has changed\ndef total_of_prices(prices):\n    total =",
    f"Table:\n{_ROWS}\nThe same table again:\nAnna | Bergen",
    f"Correct the spelling. Wrong: {_LETTER.replace('bread', 'bred')}. Right: the lamp has burned",
)
"""Texts that go on with what stands before them."""


@dataclass(frozen=True, slots=True)
class Written:
    """One text. Calls of the far member are those of a piece, the prompt's included."""

    text: str
    milliseconds: float
    """A piece, after the first."""
    calls: float
    ensembled: float


@dataclass(frozen=True, slots=True)
class Row:
    """A setting at a distance: milliseconds are a median over texts, the rest are means."""

    delay: float
    """Milliseconds of a round trip."""
    setting: str
    milliseconds: float
    speed: float
    """To the same text at every step and the same distance: median."""
    spread: tuple[float, float]
    """10th and 90th percentile of that."""
    calls: float
    ensembled: float
    same: float
    """Share of texts equal to those of the shortest distance."""


@contextlib.contextmanager
def worker(slots: int) -> Iterator[int]:
    """A worker with Gemma 3; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "worker.yaml"
        spec.write_text(f'members: [{{name: gemma, model: "{GEMMA}", threads: 1, context: 512}}]')
        command = [sys.executable, "-m", "unisono", "member", "serve", spec, "--member", "gemma", "--port", port]
        with running([*command, "--slots", slots], f"http://127.0.0.1:{port}/v1/member"):
            yield port


def compare(texts: Sequence[str], delays: Sequence[float], pieces: int, rounds: int) -> list[Row]:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(worker(8 * len(delays)))
        relays = {delay: stack.enter_context(Relay(port, delay / 1000)) for delay in delays}
        pairs = {delay: stack.enter_context(_pair(relay.port)) for delay, relay in relays.items()}
        written: dict[tuple[float, str], list[Written]] = {}
        for number in range(rounds + 1):
            for text in texts:
                for delay in delays:
                    for setting, keys in SETTINGS.items():
                        its = _write(pairs[delay], relays[delay], text, pieces, keys)
                        if number:  # in the first round lengths of drafts are learned
                            written.setdefault((delay, setting), []).append(its)
    return [_row(delay, setting, written) for delay, setting in written]


def _pair(port: int) -> Ensemble:
    far = {"name": "gemma", "url": f"http://127.0.0.1:{port}"}
    return Ensemble.load({"members": [{"name": "smol", "model": SMOL, "threads": 1, "context": 512}, far]}, batch=1)


def _write(pair: Ensemble, relay: Relay, text: str, pieces: int, keys: dict[str, str]) -> Written:
    calls = relay.calls
    answer = pair.generate(text, max_new_tokens=pieces, **keys)
    count = answer.usage.pieces
    seconds = (answer.seconds.total - answer.seconds.first_piece) / (count - 1)
    return Written(
        answer.text,
        1000 * seconds,
        (relay.calls - calls) / count,
        answer.usage.ensembled / count,
    )


def _row(delay: float, setting: str, written: dict[tuple[float, str], list[Written]]) -> Row:
    its, plain = written[delay, setting], written[delay, "every step"]
    speed = sorted(there.milliseconds / here.milliseconds for here, there in zip(its, plain, strict=True))
    nearest = min(other for other, _ in written)
    same = [here.text == there.text for here, there in zip(its, written[nearest, setting], strict=True)]
    return Row(
        delay,
        setting,
        statistics.median(each.milliseconds for each in its),
        statistics.median(speed),
        (speed[len(speed) // 10], speed[-1 - len(speed) // 10]),
        statistics.mean(each.calls for each in its),
        statistics.mean(each.ensembled for each in its),
        sum(same) / len(same),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 1.0, 10.0], help="milliseconds a round trip")
    parser.add_argument("--pieces", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeating", action="store_true", help="texts that repeat what stands before them")
    given = parser.parse_args()
    rows = compare(REPEATING if given.repeating else FREE, given.delays, given.pieces, given.rounds)
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    names = ("delay, ms", "setting", "ms a piece", "speed, of every step", "calls a piece", "ensembled")
    print(f"| {' | '.join(names)} | same text |")
    print("|---" * (len(names) + 1) + "|")
    for row in rows:
        low, high = row.spread
        print(
            f"| {row.delay:g} | `{row.setting}` | {row.milliseconds:.1f} | {row.speed:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row.calls:.2f} | {row.ensembled:.0%} | {row.same:.0%} |"
        )


if __name__ == "__main__":
    main()
