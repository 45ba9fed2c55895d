"""What those need who do not see the page, or do not point at it (WCAG 2.2, level AA)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from support.served_page import ServedPage, letters, streamed

LANDMARKS = "header, main, footer, dialog, .skip"
OUTSIDE = """
landmarks => [...document.body.querySelectorAll('*')]
  .filter(each => each.checkVisibility() && !each.closest(landmarks))
  .filter(each => [...each.childNodes].some(part => part.nodeType === 3 && part.data.trim()))
  .map(each => each.outerHTML.slice(0, 80))
"""
LEVELS = """
() => [...document.querySelectorAll('h1, h2, h3, h4')]
  .filter(each => each.checkVisibility()).map(each => Number(each.tagName[1]))
"""
SMALL = """
() => [...document.querySelectorAll('button, select, input:not([type=range]), textarea')]
  .filter(each => each.checkVisibility() && Math.min(each.offsetHeight, each.offsetWidth) < 24)
  .map(each => each.outerHTML.slice(0, 80))
"""
COLOURS = """
() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const read = (place, name) => {
    pen.fillStyle = getComputedStyle(document.querySelector(place))[name];
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const share = Number(getComputedStyle(document.querySelector('.row.chosen .bar')).opacity);
  return [read('.row.chosen .mass', 'color'), read('.row.chosen .bar', 'backgroundColor'),
    read('#pane', 'backgroundColor'), share];
}
"""
"""The colours of a row's words, of its bar, and of what is below, and how much of the bar shows."""
WATCHED = """
() => {
  window.spoken = [];
  const live = 'output:not([aria-live=off]), [role=status], [role=alert], [aria-live]:not([aria-live=off])';
  const hear = ({target}) => {
    const its = (target.closest ? target : target.parentElement)?.closest(live);
    if (its) window.spoken.push(its.textContent);
  };
  const options = {subtree: true, childList: true, characterData: true};
  new MutationObserver(found => found.forEach(hear)).observe(document.body, options);
}
"""


def luminance(colour: list[float]) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [1200, 400])
def test_all_words_stand_in_landmarks_headings_skip_no_level_and_nothing_is_too_small_to_hit(
    served: ServedPage, page: Any, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    served.open()
    page.locator("#settings summary").click()
    served.send("Hello")
    page.locator(".piece").nth(2).click()
    page.locator("#pane button.row").nth(1).click()
    page.locator(".answer[data-state=done]").nth(1).wait_for()
    assert page.evaluate(OUTSIDE, LANDMARKS) == []
    levels = [1, *page.evaluate(LEVELS)]
    assert all(later <= before + 1 for before, later in pairwise(levels))
    assert page.evaluate(SMALL) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_words_on_the_bar_of_the_chosen_piece_can_be_read(served: ServedPage, page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    served.open()
    served.send("Hello")
    page.locator(".piece").nth(2).hover()
    words, bar, below, share = page.evaluate(COLOURS)
    under = [share * part + (1 - share) * beneath for part, beneath in zip(bar, below, strict=True)]
    assert contrast(words, under) >= 4.5


def test_a_screen_reader_is_not_told_each_piece_that_is_written(served: ServedPage, page: Any) -> None:
    served.answer = lambda _request: streamed(letters(20))
    served.open()
    page.evaluate(WATCHED)
    served.send("Hello")
    assert page.locator(".strip output").text_content().startswith("At ")
    assert not [words for words in page.evaluate("window.spoken") if words.startswith("At ")]
    assert "Written. duo: 20 pieces." in page.evaluate("window.spoken")
