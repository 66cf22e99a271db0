"""A chart: colours, marks, a figure that needs no pyplot and shows itself in a notebook, its caption, its two files.

Colours are Okabe and Ito's, told apart by colour-blind readers; marker, line style and hatching say the same again in grey print.
"""
from __future__ import annotations

import io
import textwrap
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .reading import caption

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
GREY = "#777777"
BROWN = "#5C3A1E"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY, BROWN)  # black is the limit's
MARKERS, DASHES = "osD^vP*X", ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)))


class Chart(Figure):
    """A matplotlib Figure that needs no pyplot, shows itself in a notebook and carries its caption. size: width, height in inches."""
    caption_text = ""

    def __init__(self, *size: float):
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return buffer.getvalue()


def one_panel(width: float, height: float):
    """(Chart, its one Axes)."""
    chart = Chart(width, height)
    axes = chart.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return chart, axes


def finish(chart: Chart, records, note: str = "", width: int = 105) -> Chart:
    """The caption below the chart: the note, then what `reading.caption` says of the records. width: of a line, in characters."""
    chart.caption_text = " ".join(filter(None, (note, caption(records))))
    chart.supxlabel("\n".join(textwrap.wrap(chart.caption_text, width)), x=0.01, ha="left", fontsize=7.5, color="#333333")
    return chart


def save(figure: Figure, path) -> list[Path]:
    """Write path.png (150 dpi) and path.svg, the same bytes for the same records; returns both paths."""
    stem = Path(path).with_suffix("") if Path(path).suffix in (".png", ".svg") else Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    _settle(figure)
    with matplotlib.rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "none"}):
        figure.savefig(written[0], dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(written[1], bbox_inches="tight", metadata={"Date": None})
    return written


def _settle(figure: Figure) -> None:
    """Lay the panels out, once, and round their places: the last digits of the solver differ from run to run, and names in an SVG are
    hashes of them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(number, 6) for number in axes.get_position(original=True).bounds])
