"""What was chosen on validation images, and how well probabilities are calibrated, in words and in rows of tables."""

from __future__ import annotations

from eval.report.wording import SOURCES, by_kind

_SHOWN_KS = (1, 2, 5, 10, 20, 50, 100, 200)
RETRIEVER = "retriever"
"""The choice of method where the ranker does not help."""


def describe_choice(choice: dict) -> str:
    """Describes in a sentence what is used and why."""
    if choice["method"] == RETRIEVER:
        return f"the retriever alone is better on validation images: it is used ({choice['reason']})"
    orders = f", {choice['permutations']} orders" if choice["permutations"] > 1 else ""
    source = SOURCES[choice["source"]]
    return f"uses {choice['method']}, candidates from {source}, k = {choice['k']}{orders}: {choice['reason']}"


def _describe_curve(choice: dict) -> str:
    """Describes recall, top-1 of the ranker and of fusion, and speed against k in a line, the chosen k in brackets."""
    curve, chosen = choice["curve"], choice["k"]
    names = ["recall", "rar", *(["rar_fused"] if curve[0]["rar_fused"] is not None else [])]
    points = []
    for point in curve:
        if point["k"] in (*_SHOWN_KS, chosen, curve[-1]["k"]):
            speed = "" if point["images_per_s"] is None else f" ({point['images_per_s']:.0f}/s)"
            text = f"{point['k']}: {'/'.join(f'{100 * point[name]:.1f}' for name in names)}{speed}"
            points.append(f"[{text}]" if point["k"] == chosen else text)
    speeds = "" if all(point["images_per_s"] is None for point in curve) else " (images/s)"
    return f"{'/'.join(names)} %{speeds} by k: {', '.join(points)}"


def choice_lines(results: dict) -> list[str]:
    """Describes for each kind of memory what was chosen and why, and top-1 against k."""
    lines = []
    for kind, choice in by_kind(results, "choice"):
        lines.append(f"{kind}: {describe_choice(choice)}")
        if len(choice["curve"]) > 1:
            lines.append(f"{kind}, {_describe_curve(choice)}")
    return lines


def calibration_lines(results: dict) -> list[str]:
    """Describes for each kind of memory the expected calibration error before and after calibration."""
    by_kind: dict[str, list[str]] = {}
    for row in calibration_rows(results):
        by_kind.setdefault(row["kind"], []).append(f"{row['method']} {row['before']} and {row['after']}")
    return [
        f"{kind}: expected calibration error %, before and after calibration: {', '.join(methods)}"
        for kind, methods in by_kind.items()
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def calibration_rows(results: dict) -> list[dict[str, str]]:
    """Makes a row per kind of memory and method: calibration errors in per cent, overall and given a hit."""
    rows = []
    for kind, methods in by_kind(results, "calibration"):
        for method, stages in methods.items():
            errors = {stage: _percent(values["ece"]) for stage, values in stages.items()}
            given_hit = {f"{stage}_given_hit": _percent(values["ece_given_hit"]) for stage, values in stages.items()}
            rows.append({"kind": kind, "method": method} | errors | given_hit)
    return rows


def source_rows(results: dict) -> list[dict]:
    """Makes a row per kind of memory and source of candidates, with recall at the largest k; shares in per cent."""
    rows = []
    for kind, choice in by_kind(results, "choice"):
        for source in choice["sources"]:
            shares = {name: _percent(source[name]) for name in ("recall", RETRIEVER)}
            head = {"kind": kind, "source": SOURCES[source["source"]], "k": source["k"]}
            rows.append(head | shares | {"chosen": source["source"] == choice["source"]})
    return rows


def shortfalls(part: dict) -> list[str]:
    """Says where the tuned ranker, or the fused ranking, is below the best retriever row of a part of the summary."""
    gains = {method: part.get(f"{method}_minus_retriever") for method in ("rar", "rar_fused")}
    return [
        f"{method} is {-100 * gain['mean']:.1f} points below the retriever row {gain['reference']}"
        for method, gain in gains.items()
        if gain and gain["mean"] < 0
    ]
