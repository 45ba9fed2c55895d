"""Build the sdist and the wheel into ``dist``, and try the wheel alone; ``make dist`` ends here.

    dist.py [PYTHON]

The sdist is made of the checkout, the wheel of the sdist. Both are looked through. Then the wheel is installed into an
empty environment in a folder of its own, first alone and then with the libraries and models that README.md needs, all
of the versions in ``constraints.txt``, and the commands and the Python of README.md run there as they are written.
llama.cpp is not compiled again where ``make install`` has done it for this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from distribution import sdist_faults, tracked, wheel_faults
from environments import pip, run
from readme import run_page

ROOT = Path(__file__).resolve().parent.parent
INTO = ROOT / "dist"
CONSTRAINTS = ROOT / "constraints.txt"
LLAMA = ROOT / ".venv" / ".unisono" / "wheels"
"""Where ``install.py`` keeps the wheels of llama.cpp that it has compiled."""
EXTRAS = "llamacpp,server,evals"
"""What README.md needs; torch and transformers are not among it."""
KEPT = ("HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
"""Variables that the new environment has of this one, beside those of pip."""


def main() -> None:
    files = tracked(ROOT)
    wheel, sdist = _built(files)
    with tempfile.TemporaryDirectory(prefix="unisono-dist-") as name:
        folder = Path(name)
        environment = _environment(folder)
        _say("Installing the wheel alone")
        _install(folder, str(wheel))
        _try_alone(folder, environment, wheel)
        _say(f"Installing it with {EXTRAS}, and the demo models")
        _install(folder, f"{wheel}[{EXTRAS}]")
        shutil.copytree(ROOT / "examples", folder / "examples")
        _install_models(folder, environment)
        _say("Running the commands of README.md")
        run_page((ROOT / "README.md").read_text(encoding="utf-8"), folder, environment)
    for made in (sdist, wheel):
        _say(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")


def _built(files: frozenset[str]) -> tuple[Path, Path]:
    """The wheel and the sdist, which hold what they should."""
    shutil.rmtree(INTO, ignore_errors=True)
    _say("Building the sdist, and the wheel of it")
    build(ROOT, "sdist", INTO)
    [sdist] = INTO.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="unisono-sdist-") as name:
        with tarfile.open(sdist) as archive:
            archive.extractall(name, filter="data")
        [source] = Path(name).iterdir()
        build(source, "wheel", INTO)
    [wheel] = INTO.glob("*.whl")
    if faults := [*sdist_faults(sdist, files), *wheel_faults(wheel, files)]:
        sys.exit("\n".join(faults))
    return wheel, sdist


def build(source: Path, kind: str, into: Path) -> None:
    """Let hatchling make a wheel or an sdist of a checkout, or of an sdist's folder."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(into)]
    made = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"hatchling could not build the {kind}:\n{made.stdout}{made.stderr}")


def _environment(folder: Path) -> dict[str, str]:
    """An empty environment in ``folder``, and the variables of a shell that has it and nothing of this checkout."""
    venv = folder / ".venv"
    run(_python(), "-m", "venv", "--without-pip", str(venv))
    pinned = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("pip=="))
    run(*pip(venv), "install", pinned)
    kept = {key: value for key, value in os.environ.items() if key in KEPT or key.startswith("PIP_")}
    cache = {"UNISONO_CACHE": str(folder / "cache"), "PATH": f"{venv / 'bin'}:{os.defpath}"}
    return kept | cache


def _python() -> str:
    return sys.argv[1] if len(sys.argv) > 1 else getattr(sys, "_base_executable", sys.executable)


def _install(folder: Path, what: str) -> None:
    compiled = [f"--find-links={path}" for path in sorted(LLAMA.glob("*/"))]
    pinned = ["-c", str(CONSTRAINTS), "--build-constraint", str(CONSTRAINTS)]
    run(*pip(folder / ".venv"), "install", "--no-compile", *compiled, *pinned, what)


def _try_alone(folder: Path, environment: Mapping[str, str], wheel: Path) -> None:
    """What needs no library of an extra works, and what needs one says which, and how it is installed."""
    version = _output(folder, environment, "unisono", "--version")
    if version.split()[1] != wheel.name.split("-")[1]:
        sys.exit(f"{wheel.name} says that it is {version}")
    for words in ("--help", "models", "doctor --help", "serve --help"):
        _output(folder, environment, "unisono", *words.split())
    (folder / "model.gguf").write_bytes(b"GGUF")
    for words in ("run ./model.gguf text", "serve ./model.gguf", "eval ./model.gguf --tasks x"):
        command = [str(folder / ".venv" / "bin" / "unisono"), *words.split()]
        done = subprocess.run(
            command, cwd=folder, env=dict(environment), input="", capture_output=True, text=True, check=False
        )
        if done.returncode != 2 or "pip install" not in done.stderr or "Traceback" in done.stderr:
            sys.exit(f"without extras, {words} ended with status {done.returncode}:\n{done.stderr}")


def _install_models(folder: Path, environment: Mapping[str, str]) -> None:
    """The demo models that README.md and its ensemble file name, by the commands that ``unisono models`` says."""
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "examples" / "duo.yaml").read_text()
    named = set(re.findall(r"demo:[a-z0-9.-]*\w", text))
    for model in json.loads(_output(folder, environment, "unisono", "models", "--json")):
        if model["model"] in named:
            quick = model["install"].replace(" install ", " -qq --disable-pip-version-check install --no-compile ")
            run("bash", "-c", quick, environment=environment)


def _output(folder: Path, environment: Mapping[str, str], *words: str) -> str:
    """What a program of the environment prints."""
    command = [str(folder / ".venv" / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        sys.exit(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
