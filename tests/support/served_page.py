"""The page in a browser, with answers that a test chooses: nothing listens anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from support.traces import ABOUT, step
from unisono.page.files import HEADERS, START, PageFile, page_files

URL = "http://page.example/"
DUO = {**ABOUT, "combine": "mean", "speculate": None, "sampling": "greedy"}
MODELS = [("duo", DUO), *((f"duo/{each['name']}", {**DUO, "members": [each]}) for each in ABOUT["members"])]

Answer = tuple[int, str]
"""A status, and the words of a body."""


def streamed(steps: Sequence[dict[str, Any]], about: Any = DUO, **report: Any) -> Answer:
    """An answer of these steps."""
    trace = [{"about": about, **steps[0]}, *steps[1:]]
    told = {"unisono": {"choices": [{"index": 0, "trace": trace, "finish": "length", **report}]}}
    return 200, f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n"


def refused(status: int, words: str) -> Answer:
    return status, json.dumps({"error": {"message": words}})


def letters(count: int) -> list[dict[str, Any]]:
    return [step(bytes([97 + place])) for place in range(count)]


class ServedPage:
    """What the page asks of its server, and what it is told."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.sent: list[dict[str, Any]] = []
        """Requests for answers."""
        self.models: Answer = (200, json.dumps({"data": [{"id": name, "unisono": about} for name, about in MODELS]}))
        self.answer: Callable[[dict[str, Any]], Answer] = lambda _request: streamed(letters(6))
        page.route(f"{URL}**", self._tell)

    def _tell(self, route: Any) -> None:
        path = urlsplit(route.request.url).path
        file: PageFile | None = None
        status = 200
        if path == "/v1/models":
            status, words = self.models
        elif path == "/v1/chat/completions":
            self.sent.append(route.request.post_data_json)
            status, words = self.answer(self.sent[-1])
        else:
            file = page_files()[START if path == "/" else path.removeprefix("/page/")]
            words = file.content.decode()
        kind = "application/json" if file is None else file.kind
        route.fulfill(status=status, body=words, headers={"content-type": kind, **HEADERS})

    def open(self) -> None:
        self.page.goto(URL)
        self.page.locator("#model option").first.wait_for(state="attached")

    def send(self, words: str) -> None:
        self.page.locator("#message").fill(words)
        self.page.keyboard.press("Enter")
        self.page.locator("#send:enabled").wait_for()

    @property
    def where(self) -> str:
        """Which piece the pane shows."""
        words: str = self.page.locator("#pane .where").text_content()
        return words.partition(" of ")[0]
