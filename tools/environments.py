"""Environments beside ``.venv``, each made anew only when what it is made from changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def environment(folder: Path, requirements: Path, finish: Callable[[Path], None] = lambda folder: None) -> None:
    """Install a file of requirements into a folder; ``finish`` mends what was installed."""
    made_from = f"{sys.version}\n{requirements.read_text()}"
    if is_done(folder, made_from):
        return
    print(f"Installing {requirements.name} of {requirements.parent.name}", file=sys.stderr, flush=True)
    run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
    # Most of what is installed is never imported.
    run(*pip(folder), "install", "--no-compile", "-r", str(requirements))
    finish(folder)
    set_done(folder, made_from)


def pip(folder: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--python", str(folder)]


def is_done(folder: Path, made_from: str) -> bool:
    stamp = folder.with_suffix(".stamp")
    return stamp.is_file() and stamp.read_text() == made_from


def set_done(folder: Path, made_from: str) -> None:
    folder.with_suffix(".stamp").write_text(made_from)


def run(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command, and end the installation where it fails."""
    env = {**os.environ, **(environment or {})}
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, env=env, check=False)
    if finished.returncode:
        sys.exit(f"this failed with status {finished.returncode}: {' '.join(command)}")
