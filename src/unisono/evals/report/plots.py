"""Drawing with matplotlib: the one file that knows the library.

Drawings are SVG, the same bytes for the same figures and version of matplotlib. Text stays text. `INK` becomes
``currentColor``.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unisono.evals import check_installed
from unisono.evals.report.escaping import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes

INK = "#010203"
WIDTH = 7.2
"""Width of drawings; this and all measures are in inches."""
LABELS = 2.35
"""Width of the label column on the right."""
LINE = 0.155

_STYLE: dict[Any, object] = {
    "svg.hashsalt": "unisono",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "font.size": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": INK,
    "grid.alpha": 0.12,
    "xtick.color": INK,
    "ytick.color": INK,
}
_NOT_SAID = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    """File name without extension: ASCII letters, digits, ``-`` and ``_``."""
    title: str
    alt: str
    svg: str
    """An ``svg`` element; ``currentColor`` takes the colour of the surrounding text."""


Pictures = Mapping[tuple[str, str | None], Picture]
"""By plot and task; ``None`` for all tasks."""


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    y: float
    text: str
    colour: str
    strong: bool = False


def check_plots() -> None:
    check_installed("a report with plots", "matplotlib")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply our style regardless of the user's matplotlib settings, which are restored at the end."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The font that text is measured in lacks it; browsers have another.
        warnings.filterwarnings("ignore", message=r"(?s).*[Gg]lyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


class Drawing:
    def __init__(self, height: float) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._height = height
        self._figure = Figure((WIDTH, height))
        FigureCanvasSVG(self._figure)

    def panel(self, left: float, bottom: float, width: float, height: float) -> Axes:
        return self._figure.add_axes((left / WIDTH, bottom / self._height, width / WIDTH, height / self._height))

    def label(self, axes: Axes, labels: Sequence[Label]) -> None:
        """Write labels right of a panel whose limits are final, without overlaps."""
        height = axes.get_position().height * self._height
        low, high = axes.get_ylim()
        labels = sorted(labels, key=lambda each: (each.y, -each.x, each.text))
        places = spread([(each.y - low) / (high - low) * height for each in labels], LINE)
        over = max(0.0, places[-1] - height)
        for each, place in zip(labels, places, strict=True):
            axes.annotate(
                short(each.text),
                (each.x, each.y),
                xytext=(1.06, (place - over) / height),
                textcoords="axes fraction",
                va="center",
                fontsize=8,
                fontweight="bold" if each.strong else "normal",
                arrowprops={
                    "arrowstyle": "-",
                    "color": each.colour,
                    "linewidth": 0.8,
                    "alpha": 0.8,
                    "shrinkA": 1,
                    "shrinkB": 4,
                    "relpos": (0, 0.5),
                },
                annotation_clip=False,
            )

    def svg(self) -> str:
        written = io.StringIO()
        self._figure.savefig(written, format="svg", metadata=_NOT_SAID)
        svg = written.getvalue()
        svg = svg[svg.index("<svg") :]
        # It would hold for the page that the drawing stands in.
        svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
        svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, count=1, flags=re.DOTALL)
        return svg.replace("<svg ", '<svg stroke-linejoin="round" ', 1).replace(INK, "currentColor").strip()


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move sorted places apart as little as possible until neighbours have a ``gap``: in blocks around their mean."""
    blocks: list[tuple[float, int]] = []
    """The middle and size of each block."""
    for place in places:
        blocks.append((place, 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2:
            (low, below), (high, above) = blocks[-2:]
            blocks[-2:] = [((low * below + high * above) / (below + above), below + above)]
    return [middle + gap * (place - (count - 1) / 2) for middle, count in blocks for place in range(count)]
