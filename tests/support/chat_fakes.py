"""A program: `unisono` with members that talk, whose passes take as many milliseconds as the first argument says.

Each pass that begins is a byte of the file `PASSES` in the folder of the user's state.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.chats import PASSES, make_talkers
from support.serve_fakes import run_slowed


def note_pass() -> None:
    with Path(os.environ["XDG_STATE_HOME"], PASSES).open("ab") as file:
        file.write(b".")


if __name__ == "__main__":
    make_talkers()
    run_slowed(note_pass)
