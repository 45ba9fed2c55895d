"""Renders a report's figures as HTML and as Markdown: two templates with shared content."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jinja2
from markupsafe import Markup, escape

from unisono.evals.records import Kind
from unisono.evals.report import overall_words, phrases, sentences
from unisono.evals.report.escaping import cut, markdown, one_line, visible
from unisono.evals.report.plots import Picture, Pictures
from unisono.evals.report.records import Report

TITLE = "Does the ensemble beat its best member?"
CONTENT = "content.jinja"
HTML, MARKDOWN = "report.html.jinja", "report.md.jinja"
_IN_SECTION = ("command", "date", "machine", "seeds", "versions", "models", "spec", "systems", "tasks", "earlier")


def render(form: str, report: Report, pictures: Pictures) -> str:
    return render_content(
        form,
        CONTENT,
        TITLE,
        report.headline,
        report=report,
        plots=pictures,
        by_task=[line for each in report.of_kind(Kind.ENSEMBLE) for line in sentences.by_task(each.name, report.tasks)],
        claims=[sentences.claim(each) for each in sorted(report.gate_claims, key=lambda each: each.task is not None)],
        sources=[f"{each.name}: {each.source}" for each in report.of_kind(Kind.BASELINE) if each.source],
        failures=[(task.facts.name, *failure) for task in report.tasks for failure in task.failures.items()],
        further={key: value for key, value in report.about.items() if key not in _IN_SECTION},
    )


def render_content(form: str, content: str | jinja2.Template, title: str, headline: str, **values: Any) -> str:
    """Render a content template within a form's page. No value can become markup."""
    template = environment(form).get_template(form)
    return template.render(content=content, title=title, headline=headline, **values).strip() + "\n"


@functools.cache
def environment(form: str) -> jinja2.Environment:
    """The Jinja environment of a form: it escapes every value that is not marked up already."""
    is_html = form == HTML
    clean: Callable[[str], str] = one_line if is_html else markdown
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("unisono.evals.report"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.globals |= {"phrases": phrases, "words": phrases.words, "numbers": phrases.numbers}
    found.globals |= {"sentences": sentences, "overall_words": overall_words}
    found.filters |= {name: getattr(phrases, name) for name in ("in_line", "measure", "percent", "plain", "span")}
    found.filters |= {
        "anchor": lambda text: "-".join(re.findall(r"[a-z0-9]+", text.lower())),
        "count": "{:,}".format,
        "cut": cut,
        "fence": lambda text: Markup("`" * max(3, 1 + max(map(len, re.findall("`+", visible(text))), default=0))),
        "inline": _inline,
        "list_of": lambda names: ", ".join(names) or "none",
        "literal": lambda text: escape(visible(text)) if is_html else Markup(visible(text)),
        "ms": phrases.milliseconds,
        "title": phrases.task_title,
        "zip": functools.partial(zip, strict=True),
    }
    return found


def _inline(picture: Picture) -> Markup:
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{picture.name}-\1"', picture.svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{picture.name}-", svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(visible(picture.alt))}" ', 1))
