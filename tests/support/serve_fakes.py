"""A program: `unisono` with fake members, whose passes take as many milliseconds as the first argument says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fakes import make_fakes
from unisono.backends.fake.backend import FAKE_MODELS, NextToken
from unisono.cli.main import main


def slowed(next_token: NextToken, seconds: float, begun: Callable[[], None]) -> NextToken:
    def wait(read: tuple[int, ...]) -> object:
        begun()
        time.sleep(seconds)
        return next_token(read)

    return wait  # type: ignore[return-value]


def run_slowed(begun: Callable[[], None] = lambda: None) -> None:
    """Run `unisono` with the fake members that there are, with the first argument taken away.

    What is to happen when a pass has ``begun``, happens before it takes its time.
    """
    seconds = float(sys.argv.pop(1)) / 1000
    for model in FAKE_MODELS.values():
        model.next_token = slowed(model.next_token, seconds, begun)
    main()


if __name__ == "__main__":
    make_fakes()
    run_slowed()
