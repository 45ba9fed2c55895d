"""``unisono lm-eval``: lm-evaluation-harness, with ensembles as its models."""

from __future__ import annotations

import typer

from unisono.cli.flags import verb_app

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""All that follows the verb is for lm-evaluation-harness, ``--help`` too."""


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness: lm-eval --model unisono --model_args spec=FILE[,member=NAME] --tasks NAMES …"""
    from unisono.evals.tasks import load_lm_eval

    load_lm_eval().run_command_line(context.args)


app = verb_app(lm_eval, context_settings=PASSED_ON)
