"""A program: `unisono` with members that talk, whose passes take as many milliseconds as the first argument says."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.chats import make_talkers
from support.serve_fakes import slowed
from unisono.backends.fake.backend import FAKE_MODELS
from unisono.cli.main import main

if __name__ == "__main__":
    make_talkers()
    seconds = float(sys.argv.pop(1)) / 1000
    for model in FAKE_MODELS.values():
        model.next_token = slowed(model.next_token, seconds)
    main()
