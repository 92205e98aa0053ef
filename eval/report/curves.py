"""Curves of the report page."""

from __future__ import annotations

from eval.metrics.diagnostics import accuracy_by_share_ranked, recall_within
from eval.metrics.reliability import reliability
from eval.metrics.summary import CHOICE, RETRIEVERS
from eval.report.plots import Line, k_plot, line_plot, reliability_plot
from eval.report.reading import Evaluated
from eval.report.wording import SOURCES, by_kind

_METHODS = (*RETRIEVERS, "rar_untuned", "rar", "rar_fused")


def _line_label(evaluations: list[Evaluated], evaluated: Evaluated, label: str) -> str:
    """Prefixes a label with the evaluation's name where there are several."""
    return label if len(evaluations) == 1 else f"{evaluated.name}: {label}"


def _by_shots(evaluations: list[Evaluated]) -> str | None:
    """Plots accuracy against shots; None where only one number of shots was evaluated."""
    lines, errors, ticks = [], [], set()
    for evaluated in evaluations:
        with_shots = [part for part in evaluated.results["summary"] if part["task"] not in ("whole_set", CHOICE)]
        parts = sorted(with_shots, key=lambda part: part["shots"])
        ticks |= {part["shots"] for part in parts}
        for method in _METHODS if len(evaluations) == 1 else ("rar",):
            of_method = [part for part in parts if method in part["methods"]]
            if not of_method:
                continue
            xs = [part["shots"] for part in of_method]
            means = [100 * part["methods"][method]["mean"] for part in of_method]
            lines.append((_line_label(evaluations, evaluated, method), xs, means))
            errors.append([100 * part["methods"][method]["sd"] for part in of_method])
    if len(ticks) < 2:
        return None
    title = "Top-1 against images per class in the memory"
    return line_plot(title, lines, "images per class (0: names only)", "top-1 %", errors, sorted(ticks))


def _recall(evaluations: list[Evaluated]) -> str:
    """Plots recall@1 to recall@k of the retriever and the ranker."""
    lines = []
    for evaluated in evaluations:
        cases = evaluated.all_cases
        k = max(len(case.candidates) for case in cases)
        truths = [case.truth for case in cases]
        orders = {"retriever": [c.candidates for c in cases], "ranker": [c.tuned for c in cases]}
        for label, order in orders.items():
            shares = [100 * share for share in recall_within(order, truths, k)]
            lines.append((_line_label(evaluations, evaluated, label), list(range(1, k + 1)), shares))
    return line_plot("Share of images whose class is among the first k names", lines, "k", "recall@k %")


def _by_share(evaluations: list[Evaluated]) -> str:
    """Plots top-1 against the share of images that are ranked."""
    lines = []
    for evaluated in evaluations:
        shares, accuracies = accuracy_by_share_ranked(evaluated.all_cases)
        label = _line_label(evaluations, evaluated, "retriever and ranker")
        lines.append((label, [100 * s for s in shares], [100 * a for a in accuracies]))
        for memory, gate in by_kind(evaluated.results, "gate"):
            points = [(100 * point["share"], 100 * point["top1"]) for point in gate["curve"]]
            lines.append((_line_label(evaluations, evaluated, f"fused, {memory}"), *zip(*points, strict=True)))
    title = "Top-1 where only the images that the retriever is least certain of are ranked"
    return line_plot(title, lines, "images ranked %", "top-1 %")


def _reliability(evaluations: list[Evaluated]) -> str | None:
    """Plots a reliability diagram from predictions; None where no ranker gave probabilities."""
    methods, labels = [], []
    for evaluated in evaluations:
        with_confidence = [case for case in evaluated.all_cases if case.confidence is not None]
        if with_confidence:
            confidences = [case.confidence for case in with_confidence]
            metrics = reliability(confidences, [case.tuned[0] == case.truth for case in with_confidence])
            methods.append(("rar" if len(evaluations) == 1 else evaluated.name, metrics["bins"]))
            label = f"ranker, expected calibration error {100 * metrics['ece']:.1f} %"
            labels.append(_line_label(evaluations, evaluated, label))
    return reliability_plot("Reliability", {"": methods}, labels) if methods else None


def _calibrated(memory: str, methods: dict[str, dict]) -> str:
    """Plots the reliability of one kind of memory before and after calibration."""
    methods = {method: stages for method, stages in methods.items() if "before" in stages}
    panels = {
        stage: [(method, stages[stage]["bins"]) for method, stages in methods.items()] for stage in ("before", "after")
    }
    labels = [
        f"{method}: expected calibration error {100 * stages['before']['ece']:.1f} % before, "
        f"{100 * stages['after']['ece']:.1f} % after"
        for method, stages in methods.items()
    ]
    return reliability_plot(f"Reliability, {memory}", panels, labels)


def _by_k(memory: str, choice: dict) -> str:
    """Plots recall, top-1 and speed on validation images against the number of candidates."""
    lines: list[Line] = []
    for method in ("recall", "rar", "rar_fused"):
        points = [(point["k"], 100 * point[method]) for point in choice["curve"] if point[method] is not None]
        lines += [(method, *zip(*points, strict=True))] if points else []
    speeds = [(point["k"], point["images_per_s"]) for point in choice["curve"] if point["images_per_s"] is not None]
    return k_plot(f"Recall and top-1 against k, {memory}", lines, choice["k"], speeds)


def draw_choices(results: dict) -> list[tuple[str, str]]:
    """Draws the curves over k on which a number of candidates was chosen; returns captions and SVG."""
    return [
        (f"{memory}, candidates from {SOURCES[choice['source']]}", _by_k(memory, choice))
        for memory, choice in by_kind(results, "choice")
        if len(choice["curve"]) > 1
    ]


def draw_calibration(results: dict) -> list[tuple[str, str]]:
    """Draws reliability before and after calibration by kind of memory; returns captions and SVG."""
    return [
        (memory, _calibrated(memory, methods))
        for memory, methods in by_kind(results, "calibration")
        if all(stage["ece"] is not None for stages in methods.values() for stage in stages.values())
    ]


def _by_position(evaluations: list[Evaluated]) -> str | None:
    """Plots top-1 against the position of the true class; None without such results."""
    lines = []
    for evaluated in evaluations:
        by_order = evaluated.results.get("by_place", {}).get("rar", {})
        for label, rows in by_order.items():
            measured = [row for row in rows if row["top1"] is not None]
            xs, ys = [row["place"] for row in measured], [100 * row["top1"] for row in measured]
            lines.append((_line_label(evaluations, evaluated, f"position {label}"), xs, ys))
    if not lines:
        return None
    return line_plot("Top-1 by the position of the true class", lines, "position of the true class", "top-1 %")


def draw_curves(evaluations: list[Evaluated]) -> list[tuple[str, str]]:
    """Draws every curve for which the evaluations have data; returns captions and SVG."""
    calibrated = len(evaluations) == 1 and "calibration" in evaluations[0].results
    plots = {
        "Accuracy against shots": _by_shots(evaluations),
        "Recall@k of retriever and ranker": _recall(evaluations),
        "Accuracy against share of images ranked": _by_share(evaluations),
        "Position bias": _by_position(evaluations),
        "Reliability": None if calibrated else _reliability(evaluations),
    }
    return [(title, svg) for title, svg in plots.items() if svg]
