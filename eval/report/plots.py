"""Line plots as SVG that takes its text colour from the page, so that it is readable in light and dark mode."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

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
COLOUR_OF = {
    "clip_zero_shot": "#56B4E9",
    "clip_knn": "#0072B2",
    "clip_fused": "#CC79A7",
    "tip": "#8E6CB8",
    "tip_f": "#A1845C",
    "linear_probe": "#7F9A2F",
    "clip_lora": "#3F4E8C",
    "rar_untuned": "#E69F00",
    "rar": "#D55E00",
    "rar_fused": "#009E73",
    "recall": "#8c8c8c",
}
"""Colours of methods, the same in every plot."""
_MARKERS = "osD^vP*"
_MAX_SHORT_LABEL = 16
"""Maximum length of labels for three legend columns."""
_WIDTH = 4.6
_KS = (1, 2, 5, 10, 20, 50, 100, 200)

Line = tuple[str, Sequence[float], Sequence[float]]
"""A label, x values and y values."""


def _svg(figure: Figure, title: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def _line_style(index: int, label: str) -> dict[str, Any]:
    colour = COLOUR_OF.get(label, COLOURS[index % len(COLOURS)])
    return {"color": colour, "marker": _MARKERS[index % len(_MARKERS)], "markersize": 4, "linewidth": 1.4}


def _new_figure(labels: Sequence[str], height: float) -> Figure:
    """Makes a figure that is higher by its legend, which is below the plot: names of runs may be long."""
    return Figure(figsize=(_WIDTH, height + 0.19 * -(-len(labels) // _legend_columns(labels))), layout="constrained")


def _legend_columns(labels: Sequence[str]) -> int:
    return 3 if max(map(len, labels)) <= _MAX_SHORT_LABEL else 1


def _add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    # The legend would leave out a label that begins with an underscore, so texts are set afterwards.
    placeholders = [str(index) for index in range(len(handles))]
    columns = _legend_columns(labels)
    legend = figure.legend(handles, placeholders, fontsize=8, loc="outside lower left", ncols=columns)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _add_grid(axes: Axes) -> None:
    axes.grid(alpha=0.25, color=_INK, linewidth=0.5)


def line_plot(
    title: str,
    lines: Sequence[Line],
    x: str,
    y: str,
    errors: Sequence[Sequence[float]] | None = None,
    ticks: Sequence[float] | None = None,
) -> str:
    """Draws lines with markers.

    Args:
        title: For screen readers.
        lines: Labels and values; y values in per cent.
        x: Label of the x axis.
        y: Label of the y axis.
        errors: Standard deviations of each line's y values.
        ticks: The x values, which are then spaced evenly along the axis.

    Returns:
        str: An ``<svg>`` element.
    """
    labels = [label for label, _, _ in lines]
    with matplotlib.rc_context(_STYLE):
        figure = _new_figure(labels, 2.9)
        axes, handles = figure.add_subplot(), []
        for index, (label, xs, ys) in enumerate(lines):
            positions = [list(ticks).index(value) for value in xs] if ticks else xs
            deviations = errors[index] if errors else None
            handles.append(axes.errorbar(positions, ys, yerr=deviations, capsize=3, **_line_style(index, label)))
        if ticks:
            axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _add_grid(axes)
        _add_legend(figure, handles, labels)
        return _svg(figure, title)


def k_plot(title: str, lines: Sequence[Line], chosen: int, speeds: Sequence[tuple[float, float]]) -> str:
    """Draws recall and top-1 against the number of candidates, and the speed below where it was measured.

    Args:
        title: For screen readers.
        lines: Labels, numbers of candidates and per cent.
        chosen: The number of candidates that was chosen, which is marked.
        speeds: Numbers of candidates and images/s; may be empty.

    Returns:
        str: An ``<svg>`` element.
    """
    labels = [label for label, _, _ in lines]
    counts = sorted({count for _, xs, _ in lines for count in xs})
    with matplotlib.rc_context(_STYLE):
        figure = _new_figure(labels, 3.7 if speeds else 2.9)
        panels = figure.subplots(2, sharex=True, height_ratios=(3, 1)) if speeds else [figure.add_subplot()]
        top, bottom = panels[0], panels[-1]
        handles = [
            top.plot(xs, ys, **_line_style(index, label) | ({"marker": ""} if len(xs) > 2 * len(_KS) else {}))[0]
            for index, (label, xs, ys) in enumerate(lines)
        ]
        if speeds:
            bottom.plot(*zip(*speeds, strict=True), color=_INK, marker="o", markersize=3, linewidth=1)
            bottom.set_ylabel("images/s")
            bottom.set_ylim(0, 1.15 * max(speed for _, speed in speeds))
        for axes in panels:
            axes.axvline(chosen, color=_INK, linewidth=1, linestyle="--")
            _add_grid(axes)
        top.annotate(f" k = {chosen}", (chosen, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
        top.set_ylabel("%")
        bottom.set_xscale("log")
        bottom.set_xticks([k for k in _KS if counts[0] <= k <= counts[-1]] or counts)
        bottom.xaxis.set_minor_locator(NullLocator())
        bottom.xaxis.set_major_formatter("{x:g}")
        bottom.set_xlabel("k, number of candidates")
        _add_legend(figure, handles, labels)
        return _svg(figure, title)


def reliability_plot(title: str, panels: dict[str, list[tuple[str, list[dict]]]], labels: Sequence[str]) -> str:
    """Draws reliability diagrams side by side: accuracy against confidence, a marker's area by its share of images.

    Args:
        title: For screen readers.
        panels: By heading, methods and their bins (``eval.metrics.reliability``); the same methods in each.
        labels: The legend, a text per method.

    Returns:
        str: An ``<svg>`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure = _new_figure(labels, 2.7 if len(panels) > 1 else 3.4)
        handles: list[Any] = []
        for axes, (heading, methods) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle=":")
            handles = [_draw_bins(axes, index, *method) for index, method in enumerate(methods)]
            axes.set(xlim=(0, 103), ylim=(0, 103), aspect="equal", xlabel="confidence %", xticks=range(0, 101, 25))
            axes.set_yticks(range(0, 101, 25))
            axes.set_title(heading, fontsize=10)
            axes.label_outer()
            _add_grid(axes)
        figure.axes[0].set_ylabel("top-1 %")
        _add_legend(figure, handles, labels)
        return _svg(figure, title)


def _draw_bins(axes: Axes, index: int, method: str, bins: list[dict]) -> Any:
    style = _line_style(index, method)
    counts = [row["count"] for row in bins]
    points = [[100 * row[key] for row in bins] for key in ("confidence", "accuracy")]
    axes.scatter(*points, s=[10 + 90 * count / sum(counts) for count in counts], color=style["color"], alpha=0.8)
    return axes.plot(*points, **style | {"marker": "", "linewidth": 1.1})[0]
