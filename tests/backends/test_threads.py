"""What a process has free for threads, how long they spin, and how slow passes are noticed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisono.backends import threads
from unisono.backends.registry import BACKENDS
from unisono.backends.threads import bounded_spin, cpu_quota, free_threads, told
from unisono.engine.draft_length import Work
from unisono.engine.slow_passes import ENOUGH, KNOWN, SlowPasses


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = "sys/fs/cgroup/cpu/"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "0::/of/the/host\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": "1:cpu:/\n", V1 + "cpu.cfs_quota_us": "-1\n", V1 + "cpu.cfs_period_us": "100000"}, None),
        (
            {"proc/self/cgroup": "1:cpu:/\n", V1 + "cpu.cfs_quota_us": "50000\n", V1 + "cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpuset:/x\n2:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "garbage\n"}, None),
    ],
)
def test_the_narrowest_quota_of_the_control_groups_counts(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(tree(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "count"), [("max", 2), ("800000", 2), ("150000", 1), ("20000", 1)])
def test_threads_are_cores_within_the_quota_and_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, count: int
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: {0, 1, 4, 5})
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota} 100000\n"}
    for core, siblings in ((0, "0,4"), (1, "1,5"), (4, "0,4"), (5, "1,5")):
        files[f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"] = siblings
    assert free_threads(tree(tmp_path, files)) == count


def bind(
    rounds: int | None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, cores: int = 2
) -> str | None:
    monkeypatch.setattr(threads, "_waiting", "as its library lets them")
    monkeypatch.setattr(threads, "_rounds_are_known", lambda: True)
    monkeypatch.setattr(threads, "free_threads", lambda: cores)
    monkeypatch.setattr(threads, "ROOT", Path("/nowhere"))  # OpenMP is not loaded yet
    before = dict(environment)
    with bounded_spin(rounds, environment):
        inside = environment.get("GOMP_SPINCOUNT")
    assert environment == before, "later processes inherit nothing"
    return inside


def test_the_spin_is_bounded_on_few_cores_where_the_user_has_said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bind(400, {}, monkeypatch) == "400"
    assert told(2, asked=False).endswith("which spin for 400 rounds, then sleep, while they wait")
    assert "spin" not in told(1, asked=True)
    assert "without bound" in told(2, asked=False, openmp=False)
    assert bind(400, {"GOMP_SPINCOUNT": "7"}, monkeypatch) == "7"
    assert "as GOMP_SPINCOUNT=7 says" in told(2, asked=False)
    assert bind(400, {"OMP_WAIT_POLICY": "ACTIVE"}, monkeypatch) is None
    assert bind(400, {}, monkeypatch, cores=16) is None
    assert bind(None, {}, monkeypatch) is None


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_the_library_itself_reads_the_bound() -> None:
    """OpenMP prints what it has read when it is loaded with OMP_DISPLAY_ENV."""
    pytest.importorskip("llama_cpp")
    code = (
        "from unisono.backends import threads; threads._rounds_are_known = lambda: True\n"
        "threads.free_threads = lambda *_: 2\n"
        "from unisono.backends.registry import make_loader\n"
        "from unisono.backends.base import LoadRequest, ModelSource\n"
        "make_loader('llamacpp', LoadRequest('m', ModelSource('gguf', 'x.gguf')))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in threads.THEIRS}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("llama.cpp was built without GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{BACKENDS['llamacpp'].spins}'" in shown


WORK = Work(texts=1, tokens=1, rows=1)


def feed(slow: SlowPasses, passes: list[float]) -> None:
    for seconds in passes:
        slow.note("smol", 1, WORK, seconds)


def test_passes_that_take_a_multiple_beside_others_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    count = iter(range(0, 10**6, 100))
    slow = SlowPasses(preempted=lambda: next(count))
    with caplog.at_level(logging.WARNING):
        feed(slow, [0.010] * KNOWN + [0.030] * (ENOUGH - 1))
        assert not caplog.messages
        feed(slow, [0.030] * 5 * ENOUGH)
    (message,) = caplog.messages
    assert all(words in message for words in ("member 'smol'", "3.0 times", "threads"))


@pytest.mark.parametrize(
    "passes",
    [
        [0.030] * 50,
        [0.010] * 20 + [0.019] * 50,
        [0.010] * 20 + [0.030, 0.010] * 50,
        [0.010 * 1.02**n for n in range(200)],
    ],
)
def test_nothing_is_said_of_what_was_never_faster_of_single_passes_or_of_slow_growth(
    passes: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    count = iter(range(0, 10**6, 100))
    with caplog.at_level(logging.WARNING):
        feed(SlowPasses(preempted=lambda: next(count)), passes)
    assert not caplog.messages


def test_long_texts_are_slow_without_a_word_for_they_lose_no_core(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        feed(SlowPasses(preempted=lambda: 0), [0.010] * 20 + [0.050] * 100)
    assert not caplog.messages
