"""Looks at a model's file before it is read: what kind it is, and whether it may be what is wanted."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unisono.backends.bounded_files import LONGEST_HEADER, MOST_IN_SETTINGS, parse_json
from unisono.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from unisono.user_files import DOCUMENT, open_plain, read_bytes

LFS_POINTER = b"version https://git-lfs.github.com/spec"
GGUF_MAGIC = b"GGUF"
HEAD = 512
"""Bytes that show what a file is."""
ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
}
OLD_GGML = (b"lmgg", b"tjgg", b"fmgg", b"algg")
AGAIN = "download it again"
_PICKLE_HINT = "take the model as GGUF or safetensors, or convert it; a pickle can run any code when it is loaded"


def begins_as_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do. Raises an `OSError` where it cannot be read, or is no plain file."""
    with open_plain(path) as file:
        return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC


def refuse_other_kinds(path: Path, wanted: str) -> None:
    """Raise a `ModelError` that says what a file is, unless it may be what is ``wanted``.

    That is ``gguf``, ``safetensors``, ``pickle`` or ``text``. A Git LFS pointer, an empty file, a web page, a JSON
    message, an archive, a pickle and weights of another format are recognised. Raises `ModelNotFound` for no file.
    """
    head = _head(path)
    if wanted == "safetensors" and _may_be_safetensors(head) and _head_length(head) <= path.stat().st_size - 8:
        return  # the bytes of its length can look like any other kind
    if head.startswith(LFS_POINTER):
        raise ModelCorrupt(
            f"{path} is a Git LFS pointer, not the file that it stands for",
            hint=f"run `git lfs pull` in {path.parent}",
        )
    if not head:
        raise ModelCorrupt(f"{path} is empty", hint=AGAIN)
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if begins.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelCorrupt(
            f"{path} is a web page, saved under that name",
            hint="download the file itself: its address may need an account, or another link",
        )
    if wanted == "text":
        return
    if path.suffix != ".json" and begins.startswith((b'{"', b"{'", b"{\n", b"{\r", b"{ ", b"[")):
        raise ModelCorrupt(f"{path} is JSON text, perhaps an error message of the server", hint=AGAIN)
    if wanted == "pickle" and head.startswith(b"PK\x03\x04"):
        _check_zip(path)
    else:
        _refuse_other_binaries(path, head, wanted)


def _check_zip(path: Path) -> None:
    """Check that the archive that torch writes is whole and holds a pickle."""
    if not zipfile.is_zipfile(path):
        raise ModelCorrupt(f"{path} is cut short: its archive has no end", hint=AGAIN)
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("data.pkl") for name in archive.namelist()):
            raise ModelUnsupported(
                f"{path} is a zip archive without a pickle", hint="unpack it, and give what it holds"
            )


def _head(path: Path) -> bytes:
    if not path.is_file() and not path.exists():
        raise ModelNotFound(f"there is no file {path}", hint="check the path; download what is missing")
    if path.is_dir():
        raise ModelNotFound(f"{path} is not a file", hint="check the path; download what is missing")
    try:
        with open_plain(path) as file:
            return file.read(HEAD)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", hint="check the file") from error


def _refuse_other_binaries(path: Path, head: bytes, wanted: str) -> None:
    if _is_pickle(head):
        if wanted == "pickle":
            return
        raise ModelUnsupported(f"{path} is a pickle", hint=_PICKLE_HINT)
    for magic, name in ARCHIVES.items():
        if head.startswith(magic):
            raise ModelUnsupported(f"{path} is a {name} archive", hint="unpack it, and give what it holds")
    if head.startswith(OLD_GGML):
        raise ModelUnsupported(f"{path} is a GGML file, the format before GGUF", hint="download the model as GGUF")
    if head.startswith(GGUF_MAGIC) and wanted != "gguf":
        raise ModelUnsupported(
            f"{path} is a GGUF file", hint=f"give its path as the model, and name it {path.stem}.gguf"
        )
    if _may_be_safetensors(head) and wanted != "safetensors":
        raise ModelUnsupported(
            f"{path} is a safetensors file", hint="give the folder that holds it with its config.json and tokenizer"
        )


def _is_pickle(head: bytes) -> bool:
    """Whether a file is a plain pickle, or one in a zip archive, as torch writes it."""
    zipped = head.startswith(b"PK\x03\x04") and len(head) >= 30
    if zipped:
        length = int.from_bytes(head[26:28], "little")
        return head[30 : 30 + length].endswith(b"data.pkl")
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _may_be_safetensors(head: bytes) -> bool:
    return len(head) > 9 and 2 <= _head_length(head) <= LONGEST_HEADER and head[8:9] == b"{"


def _head_length(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def check_texts(paths: Iterable[Path]) -> None:
    """Raise a `ModelError` for a file that is no text: a Git LFS pointer, a web page, nothing, or too much."""
    for path in paths:
        if path.is_file():
            refuse_other_kinds(path, "text")
            if (size := path.stat().st_size) > LONGEST_HEADER:
                raise ModelCorrupt(f"{path} has {size:,} bytes, and at most {LONGEST_HEADER:,} are read", hint=AGAIN)


def check_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file. Raises `ModelCorrupt`, or says what the file is instead."""
    refuse_other_kinds(path, "text")
    try:
        parsed = parse_json(read_bytes(path, DOCUMENT), MOST_IN_SETTINGS)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", hint="check the file") from error
    except ValueError as error:  # a UnicodeDecodeError is one
        raise ModelCorrupt(f"{path} is no JSON ({error})", hint="download the model again") from error
    if not isinstance(parsed, dict):
        raise ModelCorrupt(f"{path} holds no JSON object", hint="download the model again")
    return parsed
