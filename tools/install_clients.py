"""Install the clients of ``tests/clients`` into ``.clients-venv``; ``make test-clients`` begins with it.

Not all of them take the same version of the package openai, so each ``requirements*.txt`` has its own environment,
which is made anew when the file or Python changes. The npm packages are left out where there is no npm.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "tests" / "clients"
INTO = ROOT / ".clients-venv"


def main() -> None:
    INTO.mkdir(exist_ok=True)
    for requirements in sorted(CLIENTS.glob("requirements*.txt")):
        _environment(requirements)
    packages = (CLIENTS / "npm_packages.txt").read_text()
    npm = shutil.which("npm")
    if npm is None:
        print("There is no npm: the AI SDK is left out", file=sys.stderr)
    elif not _is_done("npm", packages):
        shutil.rmtree(INTO / "node_modules", ignore_errors=True)
        _run(npm, "install", "--silent", "--no-save", "--prefix", str(INTO), *packages.split())
        _set_done("npm", packages)


def _environment(requirements: Path) -> None:
    name = requirements.stem
    made_from = f"{sys.version}\n{requirements.read_text()}"
    if _is_done(name, made_from):
        return
    print(f"Installing the clients of {requirements.name}", file=sys.stderr, flush=True)
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(INTO / name))
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--python", str(INTO / name)]
    _run(*pip, "install", "--no-compile", "-r", str(requirements))  # most of what is installed is never imported
    _set_done(name, made_from)


def _is_done(name: str, made_from: str) -> bool:
    stamp = INTO / f"{name}.stamp"
    return stamp.is_file() and stamp.read_text() == made_from


def _set_done(name: str, made_from: str) -> None:
    (INTO / f"{name}.stamp").write_text(made_from)


def _run(*command: str) -> None:
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if finished.returncode:
        sys.exit(f"this failed with status {finished.returncode}: {' '.join(command)}")


if __name__ == "__main__":
    main()
