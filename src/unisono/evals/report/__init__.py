"""From the answers of a run to its report: one page of HTML, the same as Markdown, and all figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from unisono.evals.records import Results
from unisono.evals.report.drawings import draw
from unisono.evals.report.figures import figures as figures
from unisono.evals.report.html import as_html
from unisono.evals.report.markdown import PLOTS, as_markdown
from unisono.evals.report.pages import as_document
from unisono.evals.report.plots import check_plots as check_plots
from unisono.evals.report.records import Report as Report


def write_report(results: Results, folder: Path) -> Report:
    """Write ``index.html``, ``report.md`` with its ``plots/``, and ``report.json``.

    The same results give the same bytes, in whatever order the answers came.

    Args:
        results: of a run; nothing else is needed, and no model.
        folder: where to; made where it is missing.

    Returns:
        The figures.

    Raises:
        BackendMissing: matplotlib is not installed; `check_plots` tells beforehand.
        SpecError: a question is answered twice by one system.
    """
    check_plots()
    report = figures(results)
    pictures = draw(report)
    document = as_document(report, pictures)
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    for picture in pictures.values():
        (folder / PLOTS / f"{picture.name}.svg").write_text(_standalone(picture.svg), encoding="utf-8")
    (folder / "index.html").write_text(as_html(document), encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(document), encoding="utf-8")
    figures_as_json = json.dumps(report.to_json(), indent=1, allow_nan=False)
    (folder / "report.json").write_text(figures_as_json + "\n", encoding="utf-8")
    return report


def _standalone(svg: str) -> str:
    """A drawing as a file of its own, which chooses its ink by the reader's ground."""
    style = "svg{color:#1c1e26}@media(prefers-color-scheme:dark){svg{color:#e7e9f0}}"
    head, tag, body = svg.partition(">")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{tag}<style>{style}</style>{body}\n'
