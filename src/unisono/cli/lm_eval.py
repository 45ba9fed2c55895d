"""``unisono lm-eval``: lm-evaluation-harness's own command line, in which ``--model unisono`` is known."""

from __future__ import annotations

import typer

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of the verb: all that follows it is for lm-evaluation-harness, ``--help`` too."""


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness: lm-eval --model unisono --model_args spec=FILE[,member=NAME] --tasks NAMES …"""
    from unisono.evals.tasks import load_lm_eval

    load_lm_eval().run_command_line(context.args)
