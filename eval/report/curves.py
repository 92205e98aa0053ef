"""The curves of a report's page."""

from __future__ import annotations

from eval.metrics.diagnostics import accuracy_by_share_ranked, calibration, recall_within
from eval.report.plots import line_plot
from eval.report.reading import Evaluated

_METHODS = ("clip_zero_shot", "clip_knn", "clip_fused", "rar_untuned", "rar")


def _prefixed(evaluations: list[Evaluated], evaluated: Evaluated, label: str) -> str:
    return label if len(evaluations) == 1 else f"{evaluated.name}: {label}"


def _by_shots(evaluations: list[Evaluated]) -> str | None:
    """Accuracy against shots; None where only one number of shots was evaluated."""
    lines, errors, ticks = [], [], set()
    for evaluated in evaluations:
        drawn = [part for part in evaluated.results["summary"] if part["task"] != "whole_set"]
        parts = sorted(drawn, key=lambda part: part["shots"])
        ticks |= {part["shots"] for part in parts}
        for method in _METHODS if len(evaluations) == 1 else ("rar",):
            own = [part for part in parts if method in part["methods"]]
            means = [100 * part["methods"][method]["mean"] for part in own]
            lines.append((_prefixed(evaluations, evaluated, method), [part["shots"] for part in own], means))
            errors.append([100 * part["methods"][method]["sd"] for part in own])
    if len(ticks) < 2:
        return None
    title = "Top-1 against images per class in the memory"
    return line_plot(title, lines, "images per class (0: names alone)", "top-1 %", errors, sorted(ticks))


def _found(evaluations: list[Evaluated]) -> str:
    lines = []
    for evaluated in evaluations:
        cases, k = evaluated.shown, evaluated.results["k"]
        truths = [case.truth for case in cases]
        orders = {"retriever": [c.candidates for c in cases], "ranker": [c.tuned for c in cases]}
        for label, order in orders.items():
            shares = [100 * share for share in recall_within(order, truths, k)]
            lines.append((_prefixed(evaluations, evaluated, label), list(range(1, k + 1)), shares))
    return line_plot("Share of images whose class is among the first", lines, "names looked at, best first", "found %")


def _by_share(evaluations: list[Evaluated]) -> str:
    lines = []
    for evaluated in evaluations:
        shares, accuracies = accuracy_by_share_ranked(evaluated.shown)
        label = _prefixed(evaluations, evaluated, "retriever and ranker")
        lines.append((label, [100 * s for s in shares], [100 * a for a in accuracies]))
        for kind, gate in evaluated.results.get("gate", {}).items():
            points = [(100 * point["share"], 100 * point["top1"]) for point in gate["curve"]]
            lines.append((_prefixed(evaluations, evaluated, f"fused, {kind}"), *zip(*points, strict=True)))
    title = "Top-1 where only images that the retriever is unsure of are ranked"
    return line_plot(title, lines, "images ranked %", "top-1 %")


def _reliability(evaluations: list[Evaluated]) -> str | None:
    lines = []
    for evaluated in evaluations:
        sure = [case for case in evaluated.shown if case.confidence is not None]
        if sure:
            points, error = calibration([c.confidence for c in sure], [c.tuned[0] == c.truth for c in sure])
            label = _prefixed(evaluations, evaluated, f"ranker, calibration error {100 * error:.1f} %")
            lines.append((label, [100 * c for c, _, _ in points], [100 * a for _, a, _ in points]))
    if not lines:
        return None
    return line_plot("Reliability", lines, "probability of the first %", "top-1 %", diagonal=True)


def _by_place(evaluations: list[Evaluated]) -> str | None:
    lines = []
    for evaluated in evaluations:
        places = evaluated.results.get("by_place", {}).get("rar", {})
        for label, rows in places.items():
            known = [row for row in rows if row["top1"] is not None]
            xs, ys = [row["place"] for row in known], [100 * row["top1"] for row in known]
            lines.append((_prefixed(evaluations, evaluated, f"place {label}"), xs, ys))
    if not lines:
        return None
    return line_plot("Top-1 by the place of the truth", lines, "place of the truth", "top-1 %")


def draw_curves(evaluations: list[Evaluated]) -> list[tuple[str, str]]:
    """Captions and SVG of every curve that the evaluations have something to show for."""
    drawn = {
        "Accuracy against shots": _by_shots(evaluations),
        "Recall: how soon the truth comes": _found(evaluations),
        "Accuracy against share of images ranked": _by_share(evaluations),
        "Position bias": _by_place(evaluations),
        "Reliability": _reliability(evaluations),
    }
    return [(title, svg) for title, svg in drawn.items() if svg]
