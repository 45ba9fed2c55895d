"""What every client asks for: the server's address, and a type that small models can fill in."""

from __future__ import annotations

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
