"""``unisono models``: the demo models, whether they are installed, and how to install them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from unisono.cli.flags import verb_app
from unisono.config.demo import DEMO_MODELS, DemoModel, install_command, installed


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the demo models, whether they are installed, and the command that installs them."""
    if as_json:
        typer.echo(json.dumps([_record(model) for model in DEMO_MODELS.values()], indent=2))
        return
    _print_table()
    for model in DEMO_MODELS.values():
        if not installed(model):
            # Not through rich, which would wrap the command and spoil it for copying.
            typer.echo(f"\nTo install {model.spec_name}:\n{install_command(model)}")


app = verb_app(models)


def _print_table() -> None:
    from rich.console import Console, JustifyMethod
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("model", "kind", "size", "vocabulary", "licence", "installed"):
        justify: JustifyMethod = "right" if heading in ("size", "vocabulary") else "left"
        table.add_column(heading, no_wrap=True, justify=justify)
    for model in DEMO_MODELS.values():
        table.add_row(
            model.spec_name,
            _kind(model),
            _size(model.size),
            f"{model.vocabulary:,}",
            model.licence,
            "yes" if installed(model) else "no",
        )
    Console(highlight=False).print(table)


def _record(model: DemoModel) -> dict[str, object]:
    return {
        "model": model.spec_name,
        "kind": _kind(model),
        "bytes": model.size,
        "vocabulary": model.vocabulary,
        "licence": model.licence,
        "sha256": model.sha256,
        "installed": installed(model),
        "install": install_command(model),
    }


def _kind(model: DemoModel) -> str:
    return "instruct" if model.instruct else "base"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
