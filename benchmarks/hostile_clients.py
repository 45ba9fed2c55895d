"""Hostile clients of `unisono serve`, each in a process of its own: ``python benchmarks/hostile_clients.py NAME PORT``.

A client goes on until SIGTERM and then prints ``{"seconds": […], "answers": {…}}``: how long each answer took, and what
was answered how often.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import itertools
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LONG = 520_000
"""Characters of a long prompt, all of spellings of control tokens."""
CROWD = 300
"""Connections of a crowd; the server may open 256 files."""
PIPELINED = 500
"""Requests that are sent without waiting for an answer."""
OVER = threading.Event()
FOUND: list[tuple[str, float]] = []
"""The status of each answer, and the seconds that it took."""

ASKED = {"model": "duo", "prompt": "Hi", "max_tokens": 2}
CHAIN = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(3000)) + '\nr3000: "a"\n'
LISTS = {
    "allOf": [{"$ref": "#/$defs/a0"}],
    "$defs": {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(900)},
}
DOUBLING = {"$ref": "#/$defs/a0", "$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}}
POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
SLOW = HEALTH + b"x: "
BODY = json.dumps(ASKED).encode()
LENGTH = b"content-length: %d\r\n" % len(BODY)
TWO_WAYS = (
    POST + LENGTH + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    POST + LENGTH * 2 + b"\r\n" + BODY,
    POST + b"content-length: +3\r\n\r\nabc",
)
FOREIGN = [
    POST.replace(b"localhost", host) + LENGTH + b"\r\n" + BODY for host in (b"localhost:80.evil.com", b"[::1].evil.com")
]


def constrained(make: Callable[[int], dict[str, Any]]) -> Callable[[int], None]:
    """A client that sends one constraint after another; no two are the same."""

    def attack(port: int) -> None:
        for number in itertools.count():
            post(port, "/v1/completions", {**ASKED, "unisono": {"constraint": make(number)}})

    return attack


def post(port: int, path: str, body: dict[str, Any]) -> None:
    began = time.perf_counter()
    status = "none"
    with contextlib.suppress(OSError, http.client.HTTPException):
        status = str(answer_to(port, path, body)[0])
    note(status, began)


def answer_to(port: int, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of an answer, on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def note(status: str, began: float) -> None:
    FOUND.append((status, time.perf_counter() - began))


def raw(requests: list[bytes] | tuple[bytes, ...], *, shut: bool = False) -> Callable[[int], None]:
    """A client that sends bytes, each time on a connection of its own, and reads until it is closed."""

    def attack(port: int) -> None:
        for request in itertools.cycle(requests):
            began, answer = time.perf_counter(), b""
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 60) as connection:
                connection.sendall(request)
                if shut:
                    connection.shutdown(socket.SHUT_WR)
                while data := connection.recv(65536):
                    answer += data
            statuses = [status for status in re.findall(rb"HTTP/1.1 (\d+) ", answer) if status != b"100"]
            note(statuses[0].decode() if statuses else "none", began)

    return attack


def crowd(first: bytes, again: bytes) -> Callable[[int], None]:
    """A client that holds many connections, and opens another for each that is closed."""

    def opened(port: int) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(0.5)
        with contextlib.suppress(OSError):
            connection.connect(("127.0.0.1", port))
            connection.setblocking(False)
            connection.send(first)
        return connection

    def attack(port: int) -> None:
        held = [opened(port) for _ in range(CROWD)]
        while not OVER.wait(0.05):
            room = 20
            for place, connection in enumerate(held):
                lost = False
                try:
                    lost = connection.recv(1000) == b""
                except BlockingIOError:
                    with contextlib.suppress(BlockingIOError):
                        lost = bool(again) and connection.send(again) == 0
                except OSError:
                    lost = True
                if lost and room:
                    room -= 1
                    connection.close()
                    held[place] = opened(port)

    return attack


def pipelined(number: int) -> Callable[[int], None]:
    """A client that sends many requests at once on each of its connections, again and again."""

    def one(port: int) -> None:
        request = (HEALTH + b"\r\n") * PIPELINED
        while not OVER.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 60) as connection:
                threading.Thread(target=read, args=(connection,), daemon=True).start()
                while not OVER.is_set():
                    connection.sendall(request)

    def read(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(1 << 20):
                pass

    return together(one, number)


def together(one: Callable[[int], None], number: int) -> Callable[[int], None]:
    """Some clients at once."""

    def attack(port: int) -> None:
        for _ in range(number - 1):
            threading.Thread(target=one, args=(port,), daemon=True).start()
        one(port)

    return attack


def long_prompts(port: int) -> None:
    prompt = ("<s></s><think>" * LONG)[:LONG]
    while not OVER.is_set():
        post(port, "/v1/completions", {**ASKED, "prompt": prompt})


def long_users(port: int) -> None:
    while not OVER.is_set():
        post(port, "/v1/completions", {**ASKED, "user": "x\n" * 300_000})


CLIENTS: dict[str, Callable[[int], None]] = {
    "Lark: 3,000 rules in a chain": constrained(lambda number: {"lark": f"// {number}\n{CHAIN}"}),
    "Lark: 30,000 [": constrained(lambda number: {"lark": f"// {number}\nstart: " + "[" * 30_000}),
    "Lark: 60,000 [": constrained(lambda number: {"lark": f"// {number}\nstart: " + "[" * 60_000}),
    "schema: 900 references in a chain": constrained(lambda number: {"json_schema": {"title": str(number), **LISTS}}),
    "schema: references that double": constrained(lambda number: {"json_schema": {"title": str(number), **DOUBLING}}),
    "regex: repetitions of repetitions": constrained(
        lambda number: {"regex": f"{number}" + "(((a{1,999}){1,999}){1,999}){1,999}b" * 20}
    ),
    "regex: 2,000 alternatives": constrained(
        lambda number: {"regex": f"{number}|" + "|".join(f"(x{i}.*){{2,50}}" for i in range(2000))}
    ),
    "300 idle connections": crowd(b"", b""),
    "300 connections with slow headers": crowd(SLOW, b"a"),
    "pipelined requests, 1 connection": pipelined(1),
    "pipelined requests, 50 connections": pipelined(50),
    "20 prompts of 520,000 characters": together(long_prompts, 20),
    "Content-Length and Transfer-Encoding": raw(TWO_WAYS),
    "Host localhost:80.evil.com": raw(FOREIGN),
    "user of 600,000 characters": long_users,
    "half-closed sockets": raw([POST + LENGTH + b"\r\n" + BODY], shut=True),
}


def main() -> None:
    name, port = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: OVER.set())
    threading.Thread(target=CLIENTS[name], args=(int(port),), daemon=True).start()
    OVER.wait()
    found = list(FOUND)
    answers = collections.Counter(status for status, _ in found)
    print(json.dumps({"seconds": [seconds for _, seconds in found], "answers": answers}), flush=True)


if __name__ == "__main__":
    main()
