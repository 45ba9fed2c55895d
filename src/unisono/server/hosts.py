"""Host names of this machine: what a Host header says, read exactly."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence

HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")


def read_host(header: str) -> str | None:
    """The host of a Host header, in lower case, without brackets and the final dot; ``None`` if it is not well-formed.

    All of the header has to be a name or an address and perhaps a port (RFC 3986, section 3.2.2).
    """
    if (parts := HOST.fullmatch(header)) is None:
        return None
    bracketed, name, port = parts.groups()
    if port is not None and int(port) > 65535:
        return None
    if name is not None:
        return str(name).lower().removesuffix(".") or None
    try:
        return str(ipaddress.IPv6Address(bracketed))
    except ValueError:
        return None


def is_local(headers: Sequence[bytes]) -> bool:
    """Whether the Host headers of a request are one, which names this machine."""
    if len(headers) != 1:
        return False
    host = read_host(headers[0].decode("latin-1"))
    return host is not None and is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
