"""Line plots as SVG that takes its text colour from the page, so that it is readable in light and dark mode."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# A colour that nothing else uses: replaced by the page's text colour.
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
    "text.parse_math": False,  # a name may contain dollar signs
}
# Distinguishable with colour blindness (Okabe and Ito); legible on white and on near-black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
_MARKERS = "osD^vP*"
_MAX_SHORT_LABEL = 16
"""Maximum length of labels for three legend columns."""

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
        title: For screen readers.
        lines: Labels and values; y values in per cent.
        x: Label of the x axis.
        y: Label of the y axis.
        errors: Standard deviations of each line's y values.
        ticks: The x values, which are then spaced evenly along the axis.
        diagonal: Draws the line on which y equals x.

    Returns:
        str: An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        # The legend is below the plot, and the figure grows with it: names of runs may be long.
        columns = 3 if max(len(label) for label, _, _ in lines) <= _MAX_SHORT_LABEL else 1
        figure = Figure(figsize=(4.6, 2.9 + 0.19 * -(-len(lines) // columns)), layout="constrained")
        axes, handles = figure.add_subplot(), []
        for index, (_, xs, ys) in enumerate(lines):
            positions = [list(ticks).index(value) for value in xs] if ticks else xs
            style = {"color": COLOURS[index % len(COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}
            deviations = errors[index] if errors else None
            handles.append(
                axes.errorbar(positions, ys, yerr=deviations, markersize=4, linewidth=1.4, capsize=3, **style)
            )
        if ticks:
            axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if diagonal:
            axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.25, color=_INK, linewidth=0.5)
        # The legend would leave out a label that begins with an underscore, so texts are set afterwards.
        placeholders = [str(index) for index in range(len(handles))]
        legend = figure.legend(handles, placeholders, fontsize=8, loc="outside lower left", ncols=columns)
        for text, (label, _, _) in zip(legend.get_texts(), lines, strict=True):
            text.set_text(label)
        return _svg(figure, title)
