"""How many threads a member computes with on the host, and how long they spin while they wait for one another.

Threads that share cores with other processes lose most of their time to waiting: one that spins keeps the core that
the one it waits for needs. GNU's OpenMP lets them spin for 300,000 rounds, milliseconds, and then sleep. On few cores
some hundred rounds are enough for idle machines, and much better on busy ones; see benchmarks/README.md. How many
threads there are follows from what does not change while the process runs, for numbers depend on it in their last
bits: from the cores and the quota of the process, never from the load.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path

ROOT = Path("/")
FEW_CORES = 4
"""Where there are more, threads spin as their library lets them: that has been measured on few cores only."""
THEIRS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Where one of these is set, it stays as it is."""

_waiting = "as its library lets them"


def free_threads(root: Path = ROOT) -> int:
    """Cores that this process may use, those that share one (hyper-threads) counted once, within its quota."""
    return within_quota(_cores(usable_cores(), root), root)


def within_quota(count: int, root: Path = ROOT) -> int:
    """So many threads, or as many as the quota of this process keeps busy."""
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota)))


def usable_cores() -> Collection[int]:
    """The numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)


def cpu_quota(root: Path = ROOT) -> float | None:
    """How many cores' time the control groups of this process leave it; ``None`` where none of them has a limit."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct") if controllers else ("sys/fs/cgroup",)
        for mount in mounts:
            inside = Path(place.lstrip("/"))
            # Within a container the path may be the host's, and its own group is the mount's root: the last one here.
            found += [_group_quota(root / mount / each) for each in (inside, *inside.parents)]
    return min((each for each in found if each is not None), default=None)


def _group_quota(group: Path) -> float | None:
    """A group's own limit, by the file of version 2, or by those of version 1."""
    words = _read(group / "cpu.max").split()
    if not words:
        words = [*_read(group / "cpu.cfs_quota_us").split(), *_read(group / "cpu.cfs_period_us").split()]
    if len(words) != 2 or not all(word.isdecimal() for word in words):  # "max", or -1: no limit
        return None
    return int(words[0]) / int(words[1]) if int(words[1]) else None


def _cores(usable: Collection[int], root: Path) -> int:
    siblings = (root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list" for core in usable)
    return len({_read(file).strip() or str(file) for file in siblings}) or 1


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def bounded_spin(rounds: int | None, environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Within it, a library that brings GNU's OpenMP in learns to let threads spin for so many rounds and then sleep.

    OpenMP reads that once. It stays as it is where the user has said something, where there are more than
    `FEW_CORES`, and on processors whose rounds take another time; nothing is left behind for processes started later.
    """
    global _waiting
    if rounds is None:
        yield
        return
    named = next((name for name in THEIRS if name in environment), None)
    loaded = "/libgomp.so.1" in _read(ROOT / "proc/self/maps")
    if named:
        _waiting = f"as {named}={environment[named]} says"
    elif not loaded and _rounds_are_known() and free_threads() <= FEW_CORES:
        _waiting = f"for {rounds:,} rounds, then sleep"
        environment["GOMP_SPINCOUNT"] = str(rounds)
    try:
        yield
    finally:
        if not named:
            environment.pop("GOMP_SPINCOUNT", None)


def _rounds_are_known() -> bool:
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def told(count: int, *, asked: bool, bounded: bool = True) -> str:
    """How a member computes on the host, and why, in words for the user.

    Args:
        count: of its threads.
        asked: whether its spec says so.
        bounded: whether its library waits by OpenMP, which ends a spin.
    """
    cores, quota = len(usable_cores()), cpu_quota()
    limit = "" if quota is None else f", quota {quota:g}"
    waiting = "" if count == 1 else f", which spin {_waiting if bounded else 'without bound'}, while they wait"
    return f"{count}{' as asked' if asked else ''} ({cores} cores{limit}){waiting}"
