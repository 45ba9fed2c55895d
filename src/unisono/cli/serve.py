"""``unisono serve``: ensembles, and their members alone, behind the OpenAI API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import each_once
from unisono.cli.flags import optional, takes_flags, verb_app
from unisono.cli.method import MethodFlags
from unisono.cli.spec_flags import NO_ENSEMBLE, MemberWords, Save, read_given
from unisono.errors import BackendMissing, SpecError
from unisono.server.limits import ServerLimits, room_for_connections

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec
    from unisono.engine.service import Service
    from unisono.ray.arguments import Arguments
    from unisono.server.middleware import Keys

AS_THEY_ARE = ("batch", "queue", "chunk", "members_alone", "no_keys", "gac_api", "log_prompts", "strict")
"""Flags that are arguments of the application on Ray, too."""

limit_flag = partial(typer.Option, rich_help_panel="Limits")
LIMITS = ServerLimits()


@dataclass(kw_only=True)
class LimitFlags:
    """The limits of the server that have flags, by their names in `ServerLimits`."""

    body: Annotated[int, limit_flag("--max-body", min=1, help="Accept requests of at most this many bytes.")] = (
        LIMITS.body
    )
    values: Annotated[
        int,
        limit_flag(
            "--max-values", min=1, help="Accept this many values in a request's JSON, not counting a prompt's ids."
        ),
    ] = LIMITS.values
    prompt: Annotated[int, limit_flag("--max-prompt", min=1, help="Accept prompts of this many tokens at most.")] = (
        LIMITS.prompt
    )
    n: Annotated[int, limit_flag("--max-n", min=1, help="Write at most this many texts for a request.")] = LIMITS.n
    output: Annotated[
        int, limit_flag("--max-output", min=1, help="Write at most this many pieces of a text; also the default.")
    ] = LIMITS.output
    concurrency: Annotated[
        int, limit_flag("--max-concurrency", min=1, help="Accept at most this many requests at once.")
    ] = LIMITS.concurrency
    responses: Annotated[
        int,
        limit_flag(
            "--max-responses", min=0, help="Keep this many responses in memory, for previous_response_id; 0 keeps none."
        ),
    ] = LIMITS.responses
    timeout: Annotated[float, limit_flag(help="Give a request this many seconds.")] = LIMITS.timeout
    connections: Annotated[
        int | None,
        limit_flag(
            "--max-connections",
            min=1,
            help="Accept at most this many connections. Default: what the limit of open files permits.",
        ),
    ] = LIMITS.connections
    connections_per_address: Annotated[
        int | None,
        limit_flag(
            "--max-connections-per-address",
            min=1,
            help="Accept at most this many from one address. Default: three quarters of them.",
        ),
    ] = LIMITS.connections_per_address
    headers: Annotated[
        float, limit_flag("--header-timeout", help="Give the headers of a request this many seconds to arrive.")
    ] = LIMITS.headers
    reading: Annotated[
        float, limit_flag("--body-timeout", help="Give the body of a request this many seconds to arrive.")
    ] = LIMITS.reading
    keep_alive: Annotated[
        float, limit_flag("--keep-alive", help="Keep a connection this many seconds between requests.")
    ] = LIMITS.keep_alive
    grace: Annotated[float, limit_flag(help="Give running requests this many seconds after a signal to end.")] = (
        LIMITS.grace
    )

    def limits(self) -> ServerLimits:
        """The limits. Raises a `SpecError`."""
        return ServerLimits(**{field.name: getattr(self, field.name) for field in fields(LimitFlags)})


@dataclass(kw_only=True)
class ServeFlags(MethodFlags, LimitFlags):
    """The flags of ``unisono serve``."""

    ensembles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]FILE",
            help="Ensemble files, or models alone. Each is served as a model with the name of its file, or as NAME.",
            show_default=False,
        ),
    ] = None
    members: MemberWords = None
    save: Save = None
    host: Annotated[str, typer.Option(help="Listen on this address.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen on this port; 0 takes a free one.")] = 8000
    batch: Annotated[int, typer.Option(min=1, help="Write this many texts of each ensemble at once.")] = 8
    queue: Annotated[int, typer.Option(min=1, help="Let this many requests wait; refuse more with 429.")] = 256
    chunk: Annotated[int, typer.Option(min=1, help="Read this many prompt tokens between two steps.")] = 256
    members_alone: Annotated[bool, typer.Option(help="Serve each member by itself too, as NAME/MEMBER.")] = True
    api_key_file: Annotated[Path | None, optional(help="Require one of the API keys in this file, one per line.")] = (
        None
    )
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Allow any address without API keys, and answer under any host name.")
    ] = False
    gac_api: Annotated[
        bool,
        typer.Option(
            "--gac-api", help="Also serve /status and /api/generate/ of the GaC release, with the first FILE."
        ),
    ] = False
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log prompts and answers too.")] = False
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse fields without effect, and limits that are too high.")
    ] = False
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Run replicas through Ray Serve, in the cluster of RAY_ADDRESS or on this machine."),
    ] = False
    replicas: Annotated[int, typer.Option(min=1, help="With --ray, run this many replicas.")] = 1
    allow_origin: Annotated[
        list[str] | None,
        optional("--cors-origin", "--allow-origin", metavar="URL", help="Let browsers call from pages of this origin."),
    ] = None


@takes_flags
def serve(flags: ServeFlags) -> None:
    """Serve ensembles through the OpenAI API, until SIGTERM or Ctrl-C."""
    from unisono.server import check_libraries

    check_libraries()
    from unisono.server.ensembles import named_files
    from unisono.server.launch import bind
    from unisono.server.launch import serve as serve_on
    from unisono.server.middleware import read_origins
    from unisono.server.telemetry import to_stderr

    origins = read_origins(flags.allow_origin or ())
    files = named_files(flags.ensembles or ())
    specs = _specs(flags, files)
    keys = _read_keys(flags)
    limits = replace(flags.limits(), strict=flags.strict)
    if flags.ray:
        _serve_on_ray(flags, files)
        return
    if flags.replicas > 1:
        raise SpecError(f"--replicas is {flags.replicas} without --ray", hint="add --ray: Ray Serve runs replicas")
    room_for_connections(limits)
    bound = bind(flags.host, flags.port)
    with to_stderr():
        serve_on(
            lambda: _load(specs, flags),
            bound,
            limits,
            keys=keys,
            local=keys is None and not flags.no_keys,
            log_prompts=flags.log_prompts,
            gac_model=next(iter(specs)) if flags.gac_api else None,
            origins=origins,
        )


app = verb_app(serve)


def _specs(flags: ServeFlags, files: Mapping[str, Path | str]) -> dict[str, EnsembleSpec]:
    """What is served, by the names of models: files, or the members that flags name. Raises a `SpecError`."""
    from unisono.config.ensemble import load_spec

    method = [f"--{key.replace('_', '-')}" for key, value in flags.changes().items() if value is not None]
    if not flags.members:
        if not files:
            raise SpecError("there is no ensemble", hint=NO_ENSEMBLE)
        if given := [*method, *(["--save"] if flags.save else [])]:
            raise SpecError(f"{given[0]} is given without -m: files say themselves how they write", hint="leave it out")
        return {name: load_spec(path) for name, path in files.items()}
    if files:
        raise SpecError(
            f"{next(iter(files.values()))!s} and -m are both given", hint="--save writes the members to a file to serve"
        )
    if flags.ray:
        raise SpecError("--ray does not go with -m: replicas read files", hint="--save writes one; serve that")
    named = read_given(None, flags.members, flags.save, flags.changes())
    return {named.name: named.spec}


def _serve_on_ray(flags: ServeFlags, files: Mapping[str, Path | str]) -> None:
    import importlib.util

    from unisono.server.telemetry import to_stderr

    arguments = _arguments_on_ray(flags, files)
    if importlib.util.find_spec("ray") is None:
        raise BackendMissing("--ray needs ray, which is not installed", hint="pip install 'unisono[ray]'")
    from unisono.ray.application import serve_application

    with to_stderr():
        serve_application(arguments, flags.host, flags.port)


def _arguments_on_ray(flags: ServeFlags, files: Mapping[str, Path | str]) -> Arguments:
    """What the flags say to replicas. Raises a `SpecError` for one that says nothing there."""
    from unisono.ray.arguments import LIMITS as KEPT
    from unisono.ray.arguments import Arguments

    if flags.port == 0:
        raise SpecError("--port is 0 with --ray: Serve's proxies take no free one", hint="choose a port")
    usual = LimitFlags()
    changed = {
        field.name: getattr(flags, field.name)
        for field in fields(LimitFlags)
        if getattr(flags, field.name) != getattr(usual, field.name)
    }
    if lost := [name for name in changed if name not in KEPT]:
        raise SpecError(
            f"the limit {lost[0]} cannot be kept with --ray: Serve's proxies hold the connections", hint="leave it out"
        )
    places = {name: Path(path).absolute() if os.path.exists(path) else path for name, path in files.items()}
    return Arguments.read(
        {
            "ensembles": [f"{name}={place}" for name, place in places.items()],
            "replicas": flags.replicas,
            "api_key_file": None if flags.api_key_file is None else str(flags.api_key_file.absolute()),
            "allow_origin": flags.allow_origin or [],
            "limits": changed,
            **{key: getattr(flags, key) for key in AS_THEY_ARE},
        }
    )


def _read_keys(flags: ServeFlags) -> Keys | None:
    """The API keys. Raises a `SpecError` where anybody could use the server without one."""
    from unisono.server.hosts import is_loopback
    from unisono.server.middleware import read_keys

    if flags.api_key_file is not None:
        return read_keys(flags.api_key_file)
    if not is_loopback(flags.host) and not flags.no_keys:
        raise SpecError(
            f"every client that reaches {flags.host} could use this server, because there are no keys",
            hint="give keys with --api-key-file FILE, or allow this with --no-keys",
        )
    return None


def _load(specs: dict[str, EnsembleSpec], flags: ServeFlags) -> Service:
    from unisono.server.ensembles import load_ensembles
    from unisono.server.telemetry import say

    report = each_once(lambda member, words: say("loading", member=member, doing=words))
    return load_ensembles(
        specs, batch=flags.batch, queue=flags.queue, chunk=flags.chunk, alone=flags.members_alone, report=report
    )
