"""Other hosts on this machine: network namespaces, each with an address of its own and a cable that can be pulled."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NUMBERS = itertools.count(1)


def refusal() -> str | None:
    """Why this machine can make no other hosts; ``None`` where it can."""
    if shutil.which("ip") is None:
        return "there is no ip (iproute2)"
    name = f"unisono-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces need the rights of an administrator"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    gateway: str
    """This side's address, as seen from there."""

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line that runs there."""
        return ["ip", "netns", "exec", self.name, *words]

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """What it sends meanwhile is lost, and nobody says so."""
        _ip("-n", self.name, "route", "add", "blackhole", self.gateway)
        try:
            yield
        finally:
            _ip("-n", self.name, "route", "del", "blackhole", self.gateway)


@contextlib.contextmanager
def host() -> Iterator[Host]:
    number = next(_NUMBERS)
    name, cable = f"unisono-{os.getpid()}-{number}", f"uni{os.getpid() % 10_000}x{number}"
    net = f"10.{200 + number % 50}.{os.getpid() % 250}"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{net}.1/24", "dev", cable)
        _ip("link", "set", cable, "up")
        for words in (("addr", "add", f"{net}.2/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("-n", name, *words)
        _ip("-n", name, "link", "set", "lo", "up")
        yield Host(name, f"{net}.2", f"{net}.1")
    finally:
        _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
