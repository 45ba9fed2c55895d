"""Hostile files, and what a command that is given one says, and takes of time and memory."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.gguf_files import rewrite_gguf
from support.tiny_gguf import tiny_tensors, write_tiny
from support.tiny_models import save_tiny

LONGEST = 120
"""Seconds after which a command is given up."""
TELLING = ("^unisono: ", "adapter", "made again", "Error")
"""What lines have that say what is wrong, the first ones sooner."""
MANY = 1000
MEMBERS = """
from unisono.build import prepare
from unisono.config.ensemble import load_spec
from unisono.testing import fake_member
fake_member("a", [" the"], seed=1)
prepare(load_spec({"members": [{"name": f"m{n}", "model": "fake:a"} for n in range(COUNT)]}))
print("prepared")
"""


@dataclass(frozen=True, slots=True)
class Measured:
    said: str
    seconds: float
    megabytes: int
    """The most that the process held."""
    sound: tuple[float, int] | None = None
    """Seconds and megabytes of the same command with a sound file."""


@dataclass(frozen=True, slots=True)
class File:
    name: str
    measure: Callable[[Path], Measured]
    """Measures in a folder, which is made."""


def run(words: list[object], folder: Path) -> Measured:
    """Run a command in a folder, with a cache of its own."""
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "UNISONO_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    out, most = folder / "out", 0
    began = time.perf_counter()
    with out.open("w") as file:
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=file, stderr=file, env=environment)
        while process.poll() is None and time.perf_counter() - began < LONGEST:
            most = max(most, _held(process.pid))  # what the system counts of a child begins with its parent's
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.kill()
    return Measured(_said(out.read_text(), process.wait()), seconds, most)


def _held(pid: int) -> int:
    """The most megabytes that a process has held until now."""
    with contextlib.suppress(OSError):
        held = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        return int(held[1]) // 1024 if held else 0
    return 0


def _said(text: str, code: int) -> str:
    """The first line that says what is wrong, shortened."""
    lines = [re.sub(r"/\S*/", "…/", line.strip()) for line in text.splitlines()]
    telling = (line for words in TELLING for line in lines if re.search(words, line))
    line = next(telling, lines[-1] if lines else "")
    return f"{line[:110]} (status {code})".replace("|", "\\|")


def unisono(*words: object) -> list[object]:
    return ["-m", "unisono", *words]


def spec_of(model: Path, folder: Path, **keys: object) -> Path:
    path = folder / "one.yaml"
    path.write_text(json.dumps({"members": [{"name": "odd", "model": str(model), **keys}]}))
    return path


def yaml(form: str) -> Callable[[Path], Measured]:
    def measure(folder: Path) -> Measured:
        folder.mkdir()
        lines = ["a0: &a0 {k: 1}"]
        lines += [f"a{n}: &a{n} " + form.format(",".join([f"*a{n - 1}"] * 10), n) for n in range(1, 20)]
        (folder / "one.yaml").write_text("\n".join(lines))
        return run(unisono("doctor", folder / "one.yaml"), folder)

    return measure


@functools.cache
def sound(kind: str) -> tuple[float, int]:
    """Seconds and megabytes of doctor for a sound model: a folder or a GGUF file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_tiny(folder / "a.gguf", tiny_tensors()) if kind == "gguf" else save_tiny(folder / "a", "llama")
        found = run(unisono("doctor", spec_of(model, folder)), folder)
        return found.seconds, found.megabytes


def folder_with(change: Callable[[Path], object], *, asked: bool = False) -> Callable[[Path], Measured]:
    """What doctor says of a model's folder after a change, or ``run`` where it is ``asked`` something."""

    def measure(folder: Path) -> Measured:
        folder.mkdir()
        model = save_tiny(folder / "model", "llama")
        spec = spec_of(model, folder)
        change(model)
        words = unisono("run", spec, "Hello", "-q") if asked else unisono("doctor", spec)
        odd = run(words, folder)
        return Measured(odd.said, odd.seconds, odd.megabytes, sound("folder"))

    return measure


def config(**keys: object) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def token(model: Path) -> None:
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["odd"] = 2**31
    path.write_text(json.dumps(content))


def pipe(model: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")


def template(text: str) -> Callable[[Path], object]:
    return lambda model: (model / "chat_template.jinja").write_text(text)


def dimensions(folder: Path) -> Measured:
    """A GGUF file whose first tensor has 500,000 dimensions."""
    folder.mkdir()
    path = write_tiny(folder / "tiny.gguf", tiny_tensors())
    data = bytearray(path.read_bytes())
    name = b"token_embd.weight"
    place = data.index(len(name).to_bytes(8, "little") + name) + 8 + len(name)
    data[place : place + 4] = (500_000).to_bytes(4, "little")
    path.write_bytes(data)
    odd = run(unisono("doctor", spec_of(path, folder)), folder)
    return Measured(odd.said, odd.seconds, odd.megabytes, sound("gguf"))


def metadata(key: str, value: object) -> Callable[[Path], Measured]:
    def measure(folder: Path) -> Measured:
        folder.mkdir()
        whole = write_tiny(folder / "tiny.gguf", tiny_tensors())
        path = rewrite_gguf(whole, folder / "odd.gguf", metadata={key: value})
        odd = run(unisono("doctor", spec_of(path, folder)), folder)
        return Measured(odd.said, odd.seconds, odd.megabytes, sound("gguf"))

    return measure


def cached(pattern: str, change: Callable[[Path], object], **keys: object) -> Callable[[Path], Measured]:
    """A text before and after files of the cache were changed: it has to stay."""

    def measure(folder: Path) -> Measured:
        folder.mkdir()
        model = write_tiny(folder / "tiny.gguf", tiny_tensors())
        words = unisono("run", spec_of(model, folder, **keys), "Hello", "--raw", "--max-new-tokens", 8, "-q")
        run(words, folder)  # fills the cache
        before = run(words, folder)
        text = (folder / "out").read_bytes()
        paths = [path for path in (folder / "cache").glob(pattern) if path.is_file()]
        for path in paths:
            change(path)
        odd = run(words, folder)
        same = (folder / "out").read_bytes().endswith(text[-20:])
        said = f"{len(paths)} files changed, {'the same text' if same and paths else 'ANOTHER TEXT'}: {odd.said}"
        return Measured(said, odd.seconds, odd.megabytes, (before.seconds, before.megabytes))

    return measure


def reversed_end(path: Path) -> None:
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + data[half:][::-1])


def many(folder: Path) -> Measured:
    folder.mkdir()
    two = run(["-c", MEMBERS.replace("COUNT", "2")], folder)
    odd = run(["-c", MEMBERS.replace("COUNT", str(MANY))], folder)
    return Measured(odd.said, odd.seconds, odd.megabytes, (two.seconds, two.megabytes))


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
MEASURES: dict[str, Callable[[Path], Measured]] = {
    "YAML: anchors in anchors": yaml("[{0}]"),
    "YAML: merge keys": yaml("{{<<: [{0}], k{1}: 1}}"),
    "folder: 10⁹ layers": folder_with(config(num_hidden_layers=10**9)),
    "folder: -1 layers": folder_with(config(num_hidden_layers=-1)),
    "folder: 2⁵⁰ ids": folder_with(config(vocab_size=2**50)),
    "folder: a token's id is 2³¹": folder_with(token),
    "folder: a pipe for weights": folder_with(pipe),
    "folder: adapter_model.bin beside weights": folder_with(lambda model: (model / "adapter_model.bin").touch()),
    "folder: a template of loops in loops": folder_with(template(LOOPS), asked=True),
    "folder: a template that indents by 10⁹": folder_with(
        template("{{ ('a\n' * 1000) | indent(1000000000) }}"), asked=True
    ),
    "folder: a template with a wide format": folder_with(template("{{ '%1000000000d' % 1 }}"), asked=True),
    "GGUF: a tensor of 500,000 dimensions": dimensions,
    "GGUF: 2³² - 1 layers": metadata("llama.block_count", 2**32 - 1),
    "cache: converted weights changed": cached(
        "transformers/**/*.safetensors", reversed_end, backend="transformers", dtype="float32"
    ),
    "cache: converted weights of 10¹² bytes": cached(
        "transformers/**/*.safetensors", lambda path: os.truncate(path, 10**12), backend="transformers", dtype="float32"
    ),
    "cache: converted tokenizer changed": cached("transformers/**/*.json", reversed_end, backend="transformers"),
    "1,000 members": many,
}
FILES = {name: File(name, measure) for name, measure in MEASURES.items()}
