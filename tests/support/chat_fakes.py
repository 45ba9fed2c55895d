"""A program: `unisono` with members that talk, whose passes take as many milliseconds as the first argument says."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.chats import make_talkers
from support.serve_fakes import run_slowed

if __name__ == "__main__":
    make_talkers()
    run_slowed()
