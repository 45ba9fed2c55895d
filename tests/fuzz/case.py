"""Something hostile to try, what came of it, and the file from which it can be tried again."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FOLDERS, GGUF = ("llama", "gemma3", "gpt2", "spaced"), "tiny.gguf"
"""The sound models, which `fuzz.models` writes; the file of the one in ``gguf``."""
SERVED = ("hf", "gguf", "mixed")
"""The ensembles of the server, each a file ``NAME.yaml``."""
Part = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation with a server, or files for a command."""

    target: str
    words: tuple[str, ...]
    """How it is tried: of a server's, see `fuzz.server`; of a command's, its arguments after the model's name."""
    parts: tuple[Part, ...]
    """What is done with a connection, and the bytes for it; or files by name, ``None`` for one that is taken away."""

    @property
    def size(self) -> int:
        return sum(len(data or b"") for _, data in self.parts)

    def save(self, folder: Path, outcome: Outcome) -> Path:
        """Write a file that `load` reads; its name begins with the target."""
        content = {
            "target": self.target,
            "fault": outcome.fault,
            "detail": outcome.detail,
            "words": self.words,
            "parts": [[name, _written(data)] for name, data in self.parts],
        }
        kind = hashlib.sha256(_kind(outcome.fault or "").encode()).hexdigest()[:8]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.target}-{kind}.json"
        path.write_text(json.dumps(content, indent=1), "utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Case:
        content = json.loads(path.read_text("utf-8"))
        parts = tuple((name, _read(data)) for name, data in content["parts"])
        return cls(content["target"], tuple(content["words"]), parts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case."""

    kind: str
    """``accepted``, ``refused`` or ``left``, where nothing can be told of an answer."""
    seconds: float
    fault: str | None = None
    """What must not happen, in a few words."""
    detail: str = ""


class Subject(Protocol):
    """What cases are tried on."""

    def run(self, case: Case) -> Outcome: ...

    def check(self) -> str | None:
        """What is wrong with it after all that it was given, if anything is."""

    def memory(self) -> int:
        """Bytes."""

    def close(self) -> None: ...


def memory_of(process: int) -> int:
    """The bytes that a process has in memory; 0 where it has ended."""
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, check=False)
    return int(found.stdout or 0) * 1024


def _kind(fault: str) -> str:
    """A fault without its numbers, so that one fault has one name."""
    return re.sub(r"\d+", "N", fault)


def same_fault(one: str, other: str) -> bool:
    return _kind(one) == _kind(other)


def _written(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return "text:" + data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()


def _read(written: str | None) -> bytes | None:
    if written is None:
        return None
    kind, _, data = written.partition(":")
    return data.encode() if kind == "text" else base64.b64decode(data)
