"""``unisono member serve``: one member of an ensemble for coordinators on other machines."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import PLAIN, each_once, say
from unisono.cli.flags import Verb, name_values, optional, takes_flags
from unisono.errors import SpecError
from unisono.server.limits import ServerLimits

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec
    from unisono.worker.served_member import ServedMember

limit_flag = partial(typer.Option, rich_help_panel="Limits")

app = typer.Typer(
    name="member",
    help="One member of an ensemble by itself, for ensembles on other machines.",
    no_args_is_help=True,
    **PLAIN,
)


@dataclass(kw_only=True)
class WorkerFlags:
    """The flags of ``unisono member serve``."""

    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="The ensemble file, or a model alone.", show_default=False)
    ]
    member: Annotated[
        str | None, optional(metavar="NAME", help="Serve this member of the file. Default: the only one.")
    ] = None
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen on this port; 0 takes a free one.")] = 8100
    token_env: Annotated[
        str | None,
        optional(
            metavar="VARIABLE",
            help="Require the token in this environment variable. Without it, the worker makes and "
            "prints one if other machines can reach it.",
        ),
    ] = None
    slots: Annotated[int, limit_flag(min=1, max=4096, help="Hold this many texts at once, over all clients.")] = 8
    idle: Annotated[
        float, limit_flag(min=1, max=86400, help="Free the slots of a client that is silent for this many seconds.")
    ] = 60.0
    max_body: Annotated[int, limit_flag(min=1, help="Accept requests of at most this many bytes.")] = 64 * 2**20
    max_concurrency: Annotated[int, limit_flag(min=1, help="Let at most this many calls run or wait.")] = 64
    grace: Annotated[float, limit_flag(min=0, help="Give calls this many seconds after a signal to end.")] = 10.0


@app.callback()
def options() -> None:
    """Keep ``serve`` a word of its own."""


@app.command(cls=Verb)
@name_values
@takes_flags
def serve(flags: WorkerFlags) -> None:
    """Serve one member, until SIGTERM or Ctrl-C.

    Another ensemble names the address, in place of a model: {name: gemma, url: "http://HOST:PORT"}.
    """
    from unisono.server import check_libraries

    check_libraries()
    from unisono.config.ensemble import load_spec
    from unisono.server.launch import bind
    from unisono.server.limits import room_for_connections
    from unisono.server.telemetry import to_stderr
    from unisono.worker.launch import serve as serve_on
    from unisono.worker.served_member import find_owner

    spec = load_spec(flags.spec)
    name = _member(spec, flags)
    find_owner(spec, name)
    token = _token(flags)
    limits = ServerLimits(
        body=flags.max_body, concurrency=flags.max_concurrency, keep_alive=2 * flags.idle, grace=flags.grace
    )
    room_for_connections(limits)
    bound = bind(flags.host, flags.port)
    with to_stderr():
        serve_on(lambda: _load(spec, name, flags), bound, limits, token=token, idle=flags.idle)


def _member(spec: EnsembleSpec, flags: WorkerFlags) -> str:
    """The member to serve. Raises a `SpecError` where none is named of several."""
    if flags.member is None and len(spec.members) > 1:
        names = ", ".join(member.name for member in spec.members)
        raise SpecError(f"{flags.spec!r} has several members: {names}", hint="name one with --member")
    return flags.member or spec.members[0].name


def _token(flags: WorkerFlags) -> str | None:
    """What clients have to say; nothing where only this machine reaches the worker. Raises a `SpecError`."""
    from unisono.server.hosts import is_loopback
    from unisono.server.middleware import KEY_HAS, is_key

    if flags.token_env is None:
        if is_loopback(flags.host):
            return None
        token = secrets.token_urlsafe(24)
        say("unisono: a token was made for this worker; the other side names a variable that holds it: api_key_env")
        print(token, flush=True)
        return token
    token = os.environ.get(flags.token_env, "")
    if not is_key(token):
        raise SpecError(
            f"the environment variable {flags.token_env!r} "
            + ("holds no token" if token else "is not set, or empty: it is to hold the token"),
            hint=f"a token {KEY_HAS}",
        )
    return token


def _load(spec: EnsembleSpec, name: str, flags: WorkerFlags) -> ServedMember:
    from unisono.server.telemetry import say as log
    from unisono.worker.served_member import load_member

    report = each_once(lambda member, words: log("loading", member=member, doing=words))
    return load_member(spec, name, flags.slots, report)
