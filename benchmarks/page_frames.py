"""How long a large trace takes to open in the page, and the longest frames while it is read; needs Chromium.

    python benchmarks/page_frames.py [--pieces N] [--rounds N] > frames.json

Each round opens the page of `unisono show` anew: on a text of lines, and on one that is a single line. `open_ms` is the
time from the navigation to the last piece. Then the text is scrolled to its end and back, by a part of the window each
frame, by whole windows, and by several; then pieces are pointed at, and gone through by keys. A frame is the time
between two calls of `requestAnimationFrame`; on a machine that does other things, too, the processor time of the
longest task of the page's main thread tells more.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from unisono.page.trace_reader import read_trace
from unisono.page.trace_server import trace_server

WORDS = ("the", "a", "of", "and", "to", "in", "lighthouse", "keeper", "storm", "sea", "night", "lamp", "stairs", "wind")
SCROLLS = {"scrolled": (0.1, 0), "by windows": (0.9, 3), "jumped": (5, 3)}
"""How far at once, in windows, and how many frames are let pass."""
KINDS = ("agreed", "carried", "overruled", "nobody", "shut")
FRAMES = """
async ([distance, pause]) => {
  const box = document.querySelector("#conversation");
  const frame = () => new Promise(requestAnimationFrame);
  const found = [];
  let last = await frame();
  const step = async (by) => {
    box.scrollTop += by;
    for (let count = 0; count <= pause; count++) {
      const now = await frame();
      found.push(now - last);
      last = now;
    }
  };
  for (const way of [1, -1]) {
    let before = -1;
    while (box.scrollTop !== before) {
      before = box.scrollTop;
      await step(way * distance * box.clientHeight);
    }
  }
  return found;
}
"""
WATCH = """
() => {
  window.frames_ = [];
  let last = performance.now();
  const look = (now) => { window.frames_.push(now - last); last = now; window.looking = requestAnimationFrame(look); };
  window.looking = requestAnimationFrame(look);
}
"""
STOP = "() => { cancelAnimationFrame(window.looking); return window.frames_.slice(1); }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {"lines": [], "one line": []}
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for name, found in rounds.items():
            path = Path(folder) / f"{name}.jsonl".replace(" ", "-")
            path.write_text("\n".join(map(json.dumps, steps(given.pieces, lines=name == "lines"))))
            with shown(path) as url:
                found += [one_round(browser, url, given.pieces) for _ in range(given.rounds)]
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "pieces": given.pieces,
        **{name: {key: spread([each[key] for each in found]) for key in found[0]} for name, found in rounds.items()},
    }
    json.dump(report, sys.stdout, indent=2)
    print()


def spread(values: list[float]) -> Mapping[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "least": round(min(values), 1),
        "most": round(max(values), 1),
    }


@contextmanager
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def shown(path: Path) -> Iterator[str]:
    """The address at which `unisono show` would answer."""
    with trace_server(read_trace(path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def one_round(browser: Any, url: str, pieces: int) -> dict[str, float]:
    """Milliseconds until a trace is shown, and of the longest frame and task of each way to read it."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    try:
        page.goto(url, wait_until="commit")
        page.get_by_text(f"{pieces} steps").wait_for(timeout=60_000)
        found = {"open_ms": page.evaluate("performance.now()")}
        ways = {name: partial(page.evaluate, FRAMES, how) for name, how in SCROLLS.items()}
        for name, way in {**ways, "hovered and gone through": partial(go_through, page)}.items():
            browser.start_tracing(page=page, categories=["toplevel"])
            frames = way()
            found[f"{name}, longest frame"] = max(frames)
            found[f"{name}, longest task (processor)"] = longest_task(json.loads(browser.stop_tracing())["traceEvents"])
    finally:
        page.close()
    return found


def longest_task(events: list[dict[str, Any]]) -> float:
    """Milliseconds of processor time of the longest task of a page's main thread."""
    is_name = {"name": "thread_name", "args": {"name": "CrRendererMain"}}
    main = {(each["pid"], each["tid"]) for each in events if is_name.items() <= each.items()}
    tasks = [each["tdur"] for each in events if (each["pid"], each["tid"]) in main and "tdur" in each]
    return max(tasks) / 1000 if tasks else math.nan


def go_through(page: Any) -> list[float]:
    """Point at pieces, and go through them by keys, to the end and back; the frames meanwhile."""
    page.evaluate(WATCH)
    for place in range(40):
        page.mouse.move(40 + 15 * place, 300 + 5 * place)
    page.locator(".text").first.focus()
    for key in ("End", "Home", *["ArrowDown"] * 20, *["ArrowRight"] * 20):
        page.keyboard.press(key)
    frames: list[float] = page.evaluate(STOP)
    return frames


def steps(count: int, *, lines: bool) -> list[dict[str, Any]]:
    """Steps as a trace has them, of two members with ten likeliest pieces each."""
    draw = random.Random(0)
    members = [{"name": name, "weight": 0.5} for name in ("smol", "gemma")]
    gate = {"kind": "confidence", "parameter": 0.5}
    about = {"version": 2, "members": members, "lead": "smol", "gate": gate, "prompt": "Tell a story."}
    return [step(draw, lines=lines) | ({"about": about} if not place else {}) for place in range(count)]


def step(draw: random.Random, *, lines: bool) -> dict[str, Any]:
    word = "\n" if lines and draw.random() < 0.02 else f" {draw.choice(WORDS)}"
    piece, kind = list(word.encode()), draw.choice(KINDS)
    others = [list(f" {draw.choice(WORDS)}".encode()) for _ in range(9)]
    masses = sorted((draw.random() / 5 for _ in range(10)), reverse=True)
    top = [{"bytes": each, "p": p} for each, p in zip([piece, *others], masses, strict=True)]
    return {
        "bytes": piece, "p": masses[0], "voted": ["smol", "gemma"], "members": {"smol": masses[0], "gemma": masses[1]},
        "top": {"smol": top, "gemma": top}, "likeliest": top, "kind": kind, "winners": ["gemma"], "lead": "smol",
        "entropy": 5 * draw.random(), "variation": draw.random(), "seconds": {"total": 0.02, "members": {}},
        "gate": {"score": draw.random(), "threshold": 0.5, "asked": kind != "shut"},
        "spelled": {name: [{"id": draw.randrange(40_000), "bytes": piece}] for name in ("smol", "gemma")},
    }  # fmt: skip


if __name__ == "__main__":
    main()
