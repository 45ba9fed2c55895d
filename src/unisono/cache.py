"""The user's cache folder: written atomically, so that a reader never meets a half-written entry.

Entries are built under a temporary name in the same folder and renamed when complete. Where two processes want one
entry at once, `build_once` lets one wait for the other, and with `replace_file` the last one stays. Everything here can
be deleted at any time; it is made again when needed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from unisono.errors import CacheError
from unisono.user_files import SETTINGS, open_plain, read_bytes

log = logging.getLogger(__name__)

ENVIRONMENT_KEY = "UNISONO_CACHE"
SEAL = "unisono_seal.json"
UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EDQUOT, errno.EFBIG, errno.ENOTEMPTY),
)
"""What the system says of a folder or a file that cannot be written, whatever it names."""


def cache_root() -> Path:
    """The folder that holds all entries: ``$UNISONO_CACHE``, or the platform's cache folder."""
    chosen = os.environ.get(ENVIRONMENT_KEY)
    return Path(os.path.expanduser(chosen)) if chosen else platformdirs.user_cache_path("unisono")


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise a `CacheError` where the file system of ``folder`` has less than ``size`` bytes free."""
    with _cache_errors(folder, what):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < size:
        raise CacheError(
            f"{what} needs {size / 1e6:,.0f} MB in {folder}, which has {free / 1e6:,.0f} MB free",
            hint=f"free some space, or set {ENVIRONMENT_KEY} to a folder on a larger disk",
        )


def build_once(path: Path, build: Callable[[Path], None], what: str) -> Path:
    """Return ``path``, after ``build`` has made it, a file or a folder, at the temporary path that it is given.

    ``what`` names the entry in errors. Raises a `CacheError` where the folder cannot be written or the disk is full.
    """
    if path.exists():
        return path
    with _cache_errors(path.parent, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():  # no other process has built it meanwhile
                for left in path.parent.glob(f".{path.name}.*"):  # of a process that was killed: we hold the lock
                    shutil.rmtree(left, ignore_errors=True)
                write_whole(path, build)
    return path


def build_sealed(path: Path, build: Callable[[Path], None], what: str, key: str) -> Path:
    """Return a folder that holds what ``build`` made for ``key``, byte for byte; where it does not, it is built again.

    ``build`` is given a temporary folder. A seal in it has the key, and the size and SHA-256 of every file: whatever
    was changed, added or lost since is found. Raises a `CacheError` as `build_once` does.
    """

    def build_and_seal(target: Path) -> None:
        target.mkdir()
        build(target)
        (target / SEAL).write_text(json.dumps({"key": key, "files": _sums(target)}), "utf-8")

    with _cache_errors(path.parent, what):
        if _is_sealed(path, key):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{path}.lock"):
            if os.path.lexists(path):
                if _is_sealed(path, key):  # another process has built it meanwhile
                    return path
                log.warning("%s in the cache is not what was kept there, and is made again: %s", what, path)
                _remove(path)
            for left in path.parent.glob(f".{path.name}.*"):
                shutil.rmtree(left, ignore_errors=True)
            write_whole(path, build_and_seal)
    return path


def _is_sealed(path: Path, key: str) -> bool:
    """Whether a folder holds what its seal says, and the seal is of a key."""
    try:
        seal = json.loads(read_bytes(path / SEAL, SETTINGS))
        if not isinstance(seal, dict) or seal.get("key") != key or not isinstance(seal.get("files"), dict):
            return False
        return bool(seal["files"] == _sums(path, seal["files"]))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _sums(folder: Path, sealed: Mapping[str, Any] | None = None) -> dict[str, list[Any]]:
    """Size and SHA-256 of each file but the seal. Raises a `ValueError` where a size is not that ``sealed``."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != SEAL:
            with open_plain(path) as file:
                size = os.fstat(file.fileno()).st_size
                if sealed is not None and sealed.get(path.name, ())[:1] != [size]:
                    raise ValueError(f"{path.name} is of another size")
                found[path.name] = [size, hashlib.file_digest(file, "sha256").hexdigest()]
    return found


def clear(path: Path, what: str) -> None:
    """Remove whatever is at a path, if anything is. Raises a `CacheError`."""
    with _cache_errors(path.parent, what):
        if os.path.lexists(path):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replace_file(path: Path, build: Callable[[Path], None], what: str) -> None:
    """Write ``path`` anew, whatever is there: readers see the old file or the new one, never a mixture."""
    with _cache_errors(path.parent, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, build)


def write_whole(path: Path, build: Callable[[Path], object]) -> None:
    """Let ``build`` write beside ``path``, and put what it wrote in its place: nobody ever reads a part of it."""
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        build(holder / path.name)
        os.replace(holder / path.name, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _is_within(name: object, folder: Path) -> bool:
    return isinstance(name, str | os.PathLike) and Path(name).is_relative_to(folder)


@contextlib.contextmanager
def _cache_errors(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            problem, way_out = "the disk is full", "free some space"
        elif error.errno in UNWRITABLE or _is_within(error.filename, folder):
            problem, way_out = f"it cannot be written ({error.strerror})", "check what is there, and its permissions"
        else:
            raise
        raise CacheError(
            f"cannot keep {what} in {folder}: {problem}",
            hint=f"{way_out}, or set {ENVIRONMENT_KEY} to another folder",
        ) from error
