"""Plots as SVG text that takes its ink from the page, so that it is readable in light and dark."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# A colour that nothing else uses stands for the page's own ink.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rar",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold dollar signs
}
# Told apart by people who see few colours (Okabe and Ito); legible on white and on near-black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
_MARKERS = "osD^vP*"
_SHORT = 16
"""Letters of a label of which three stand in a line."""

Line = tuple[str, Sequence[float], Sequence[float]]
"""A label, x values and y values."""


def _svg(figure: Figure, title: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def line_plot(
    title: str,
    lines: Sequence[Line],
    x: str,
    y: str,
    errors: Sequence[Sequence[float]] | None = None,
    ticks: Sequence[float] | None = None,
    diagonal: bool = False,
) -> str:
    """Draws lines with markers.

    Args:
        title: For readers who cannot see the plot.
        lines: What to draw; y values in per cent.
        x: Label of the x axis.
        y: Label of the y axis.
        errors: Standard deviations of each line's y values.
        ticks: Places of the x axis's ticks, which then stand evenly apart.
        diagonal: Draws the line on which y equals x.

    Returns:
        str: An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        # The legend stands below, and the plot grows by it: names of runs may be long.
        columns = 3 if max(len(label) for label, _, _ in lines) <= _SHORT else 1
        figure = Figure(figsize=(4.6, 2.9 + 0.19 * -(-len(lines) // columns)), layout="constrained")
        axes, drawn = figure.add_subplot(), []
        for number, (_, xs, ys) in enumerate(lines):
            places = [list(ticks).index(value) for value in xs] if ticks else xs
            look = {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
            spread = errors[number] if errors else None
            drawn.append(axes.errorbar(places, ys, yerr=spread, markersize=4, linewidth=1.4, capsize=3, **look))
        if ticks:
            axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if diagonal:
            axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.25, color=_INK, linewidth=0.5)
        # A label with an underscore before it would be left out of the legend, so texts are set afterwards.
        numbers = [str(number) for number in range(len(drawn))]
        legend = figure.legend(drawn, numbers, fontsize=8, loc="outside lower left", ncols=columns)
        for text, (label, _, _) in zip(legend.get_texts(), lines, strict=True):
            text.set_text(label)
        return _svg(figure, title)
