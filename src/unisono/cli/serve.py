"""``unisono serve``: ensembles, and their members alone, behind the OpenAI API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.errors import SpecError, shown

if TYPE_CHECKING:
    from unisono.config.ensemble import EnsembleSpec
    from unisono.engine.service import Service

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def serve(
    ensembles: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FILE…", help="Ensemble files; the model's name is that of the file.", show_default=False
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Texts of each ensemble that are written at once.")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused with 429.")] = 256,
    chunk: Annotated[int, typer.Option(min=1, help="Tokens of prompts that are read between two steps.")] = 256,
    members_alone: Annotated[bool, typer.Option(help="Serve each member by itself too, as NAME/MEMBER.")] = True,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that open the server, one a line.", show_default=False)
    ] = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Without keys, listen on any address, and answer under any name.")
    ] = False,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request at most.")] = 2**20,
    max_values: Annotated[int, typer.Option(min=1, help="Values in the JSON of a request at most.")] = 10_000,
    max_prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt at most.")] = 32_768,
    max_n: Annotated[int, typer.Option(min=1, help="Texts of a request at most.")] = 16,
    max_output: Annotated[int, typer.Option(min=1, help="Pieces of a text at most, and by default.")] = 4096,
    max_concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once at most.")] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 600.0,
    grace: Annotated[float, typer.Option(help="Seconds for running requests after a signal to end.")] = 30.0,
    gac_api: Annotated[
        bool, typer.Option("--gac-api", help="Answer /status and /api/generate/ of the GaC release, by the first FILE.")
    ] = False,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what is asked and answered, too.")] = False,
) -> None:
    """Serve ensembles by the OpenAI API, until SIGTERM or Ctrl-C."""
    from unisono.server import check_libraries

    check_libraries()
    from unisono.config.ensemble import load_spec
    from unisono.server.launch import bind
    from unisono.server.launch import serve as serve_on
    from unisono.server.limits import ServerLimits
    from unisono.server.middleware import is_loopback, read_keys
    from unisono.server.telemetry import to_stderr

    specs = {name: load_spec(path) for name, path in _named(ensembles).items()}
    keys = None if api_key_file is None else read_keys(api_key_file)
    if keys is None and not is_loopback(host) and not no_keys:
        raise SpecError(
            f"whoever reaches {host} could use this server: there are no keys",
            hint="give keys with --api-key-file FILE, or say --no-keys",
        )
    limits = ServerLimits(
        body=max_body,
        values=max_values,
        prompt=max_prompt,
        n=max_n,
        output=max_output,
        concurrency=max_concurrency,
        timeout=timeout,
        grace=grace,
    )
    bound = bind(host, port)

    def load() -> Service:
        return _load(specs, batch, queue, chunk, members_alone)

    with to_stderr():
        serve_on(
            load,
            bound,
            limits,
            keys=keys,
            local=keys is None and not no_keys,
            log_prompts=log_prompts,
            gac_model=next(iter(specs)) if gac_api else None,
        )


def _named(ensembles: list[str]) -> dict[str, Path]:
    """The names of the models and their files."""
    found: dict[str, Path] = {}
    for word in ensembles:
        given, equals, rest = word.partition("=")
        name, path = (given, Path(rest)) if equals else (Path(word).stem, Path(word))
        if not NAME.fullmatch(name):
            raise SpecError(
                f"{shown(name)} cannot be the name of a model",
                hint="use letters, digits, '.', '_' and '-'; NAME=FILE names it otherwise than its file",
            )
        if name in found:
            raise SpecError(
                f"two ensembles are named {name!r}: {found[name]} and {path}", hint=f"name one otherwise: NAME={path}"
            )
        found[name] = path
    return found


def _load(specs: dict[str, EnsembleSpec], batch: int, queue: int, chunk: int, alone: bool) -> Service:
    from unisono.build import load_service, prepare_several
    from unisono.server.telemetry import say

    last: dict[str, str] = {}

    def report(member: str, fraction: float, words: str) -> None:
        if last.get(member) != words:
            last[member] = words
            say("loading", member=member, doing=words)

    prepared = prepare_several(list(specs.values()), batch=batch, report=report)
    return load_service(dict(zip(specs, prepared, strict=True)), alone=alone, queue=queue, chunk=chunk, report=report)
