"""Whether an address is this machine's, and whether it is asked through a proxy of the environment."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def is_here(address: str) -> bool:
    """Whether an address is this machine's, as far as it says so."""
    host = urlsplit(address).hostname or ""
    with contextlib.suppress(ValueError):
        address_of_host = ip_address(host)
        return address_of_host.is_loopback or address_of_host.is_unspecified
    return host == "localhost"


def is_proxied(address: str) -> bool:
    """Whether the environment names a proxy for an address. None is used for this machine: it is another one there."""
    parts = urlsplit(address)
    proxied = not {parts.scheme, "all"}.isdisjoint(getproxies())
    return proxied and not is_here(address) and not proxy_bypass(parts.hostname or "")
