"""How many threads a member computes with on the host, and how long they spin while they wait for one another.

A thread that spins keeps the core that the one it waits for may need. GNU's OpenMP lets it for 300,000 rounds, which
are milliseconds; far fewer do as well on an idle machine, and better on a busy one (benchmarks/README.md). The number
of threads follows from cores and quota, never from the load: a model's numbers depend on it a little.
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
"""Bounds were measured on two; where there are more cores than this, threads spin as their library lets them."""
THEIRS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
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
        _, controllers, place = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            inside = Path(place.lstrip("/"))  # within a container perhaps the host's: its own group is the mount's root
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            found += [_group_quota(mount / each) for each in (inside, *inside.parents)]
    return min((each for each in found if each is not None), default=None)


def _group_quota(group: Path) -> float | None:
    """A group's own limit: of version 2 (``max`` for none), or of version 1 (-1)."""
    words = (_read(group / "cpu.max") or _read(group / "cpu.cfs_quota_us") + _read(group / "cpu.cfs_period_us")).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and all(word.isdecimal() for word in words) else None


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
    """Within it, GNU's OpenMP, when it is loaded, learns how long threads are to spin, unless the user has said it."""
    global _waiting
    if named := next((name for name in THEIRS if name in environment), None):
        _waiting = f"as {named}={environment[named]} says"
        yield
        return
    loaded = "/libgomp.so.1" in _read(ROOT / "proc/self/maps")
    if rounds and not loaded and _rounds_are_known() and free_threads() <= FEW_CORES:
        _waiting = f"for {rounds:,} rounds, then sleep"
        environment["GOMP_SPINCOUNT"] = str(rounds)
    try:
        yield
    finally:
        environment.pop("GOMP_SPINCOUNT", None)


def _rounds_are_known() -> bool:
    """Whether a round takes about as long as where it was measured: x86's ``pause``."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def told(count: int, *, asked: bool, openmp: bool = True) -> str:
    """How a member computes on the host, and why: with how many threads, asked for or not, waiting by OpenMP or not."""
    cores, quota = len(usable_cores()), cpu_quota()
    limit = "" if quota is None else f", quota {quota:g}"
    waiting = "" if count == 1 else f", which spin {_waiting if openmp else 'without bound'}, while they wait"
    return f"{count}{' as asked' if asked else ''} ({cores} cores{limit}){waiting}"
