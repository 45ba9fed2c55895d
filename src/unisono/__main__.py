"""``python -m unisono``, and the entry point of the program."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program; Ctrl-C ends it without a traceback even while it is being imported."""
    try:
        from unisono.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
