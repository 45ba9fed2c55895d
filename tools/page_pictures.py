"""Make the pictures of the page in docs/: an answer of the demo pair, and a branch of it; needs Chromium.

python tools/page_pictures.py
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "How do bees make honey?"
PIECES = 62
SECONDS = 120


def main() -> None:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 740})
        page.set_default_timeout(SECONDS * 1000)
        answer(page, url)
        take(page, "page-light.png")
        page.emulate_media(color_scheme="dark")
        branch(page)
        take(page, "page-dark.png")
        browser.close()


def take(page: Any, name: str) -> None:
    """A picture in docs/, of the 256 colours that stand for all: a third of the bytes."""
    path = ROOT / "docs" / name
    page.screenshot(path=path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The address of a server of the demo pair."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "unisono", "serve", str(ROOT / "examples" / "duo.yaml"), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
            while not is_ready(url) and time.monotonic() < deadline:
                time.sleep(0.5)
            yield url
        finally:
            server.terminate()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answered:
            return bool(answered.status == 200)
    except OSError:
        return False


def answer(page: Any, url: str) -> None:
    """Ask, and pin the first piece at which the vote overruled the lead: what follows from it differs most."""
    page.goto(url)
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#settings summary").click()
    page.locator("#controls [name=max_tokens]").fill(str(PIECES))
    page.locator("#settings summary").click()
    page.locator("#message").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator(".answer[data-state=done]").wait_for()
    page.locator(".piece.is-overruled").first.click()


def branch(page: Any) -> None:
    """Go on from the piece that the lead would have written."""
    page.locator(".columns section").nth(1).locator("button").first.click()
    page.locator(".answer[data-state=done]").nth(1).wait_for()
    page.mouse.move(0, 0)


if __name__ == "__main__":
    main()
