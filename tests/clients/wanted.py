"""What every client asks for, and the line that it prints when all of it was right."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import Literal

from pydantic import BaseModel

URL = sys.argv[1]
KEY = "none"
MODEL = "duo"
QUESTION = "What is the weather in Rome?"


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Sofia", "Rome"]


BEGUN = "In Rome it is"
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}


def check(truth: object, reason: str, found: object) -> None:
    """End with a reason and status 1 if something is not so; `python -O` does not remove it."""
    if not truth:
        sys.exit(f"{reason}: {found!r}")


def done(package: str, **what: object) -> None:
    """Print what was done."""
    version = importlib.metadata.version(package)
    print(json.dumps({"client": package, "version": version, **what}, ensure_ascii=False, default=str))
