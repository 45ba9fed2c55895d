"""Install the clients of ``tests/clients`` into ``.clients-venv``; ``make test-clients`` begins with it.

Not all of them take the same version of the package openai, so each ``requirements*.txt`` has its own environment,
which is made anew when the file or Python changes. The npm packages are left out where there is no npm.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from environments import environment, is_done, run, set_done

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "tests" / "clients"
INTO = ROOT / ".clients-venv"


def main() -> None:
    INTO.mkdir(exist_ok=True)
    for requirements in sorted(CLIENTS.glob("requirements*.txt")):
        environment(INTO / requirements.stem, requirements)
    packages = (CLIENTS / "npm_packages.txt").read_text()
    npm = shutil.which("npm")
    if npm is None:
        print("There is no npm: the AI SDK is left out", file=sys.stderr)
    elif not is_done(INTO / "npm", packages):
        shutil.rmtree(INTO / "node_modules", ignore_errors=True)
        run(npm, "install", "--silent", "--no-save", "--prefix", str(INTO), *packages.split())
        set_done(INTO / "npm", packages)


if __name__ == "__main__":
    main()
