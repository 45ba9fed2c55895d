"""The report of a run: one page of HTML, the same as Markdown, and all figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from unisono.errors import SpecError
from unisono.evals.records import Results
from unisono.evals.report.drawings import draw
from unisono.evals.report.figures import figures as figures
from unisono.evals.report.page import HTML, MARKDOWN, render
from unisono.evals.report.plots import check_plots as check_plots
from unisono.evals.report.records import Report as Report

FIGURES, PLOTS = "report.json", "plots"


def write_report(results: Results, folder: Path) -> Report:
    """Write ``index.html``, ``report.md`` with its ``plots/``, and ``report.json``; return the figures.

    The same results give the same bytes, in whatever order the answers came. Raises `BackendMissing` without
    matplotlib, and a `SpecError` when a system answers a question twice or the folder cannot be written.
    """
    check_plots()
    report = figures(results)
    pictures = draw(report)
    pages = {f"{PLOTS}/{picture.name}.svg": _standalone(picture.svg) for picture in pictures.values()}
    pages["index.html"] = render(HTML, report, pictures)
    pages["report.md"] = render(MARKDOWN, report, pictures)
    pages[FIGURES] = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
    try:
        (folder / PLOTS).mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"cannot write a report into {str(folder)!r}: {error.strerror}", hint="choose another"
        ) from error
    return report


def check_report(folder: Path, *, option: str = "--report") -> None:
    """Check beforehand that a report can be written into a folder; `option` is the command's flag for it.

    Raises `BackendMissing` without matplotlib, and a `SpecError` when the folder is a file or holds something else.
    """
    check_plots()
    hint = f"choose another {option}"
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"a report is a folder, and {str(folder)!r} is a file", hint=hint)
    strange = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if strange and FIGURES not in strange:
        raise SpecError(f"{str(folder)!r} holds {min(strange)!r}, which is of no report", hint=hint)


def _standalone(svg: str) -> str:
    style = "svg{color:#1c1e26}@media(prefers-color-scheme:dark){svg{color:#e7e9f0}}"
    head, tag, body = svg.partition(">")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{tag}<style>{style}</style>{body}\n'
