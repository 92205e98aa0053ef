"""What was chosen on validation images, and how well probabilities are calibrated, in words and in rows of tables."""

from __future__ import annotations

from data_prep.settings.modes import ADAPTERS, CLIP_LORA
from eval.metrics.summary import RETRIEVERS
from eval.report.wording import SOURCES, by_kind

_SHOWN_KS = (1, 2, 5, 10, 20, 50, 100, 200)
RETRIEVER = "retriever"
"""The choice of method where the ranker does not help."""


_ROW_OF_SOURCE = {"name": "clip_zero_shot", "image": "clip_knn", "fused": "clip_fused"} | {
    a: a for a in (*ADAPTERS, CLIP_LORA)
}


def best_retriever(part: dict) -> str:
    """Returns the retriever's row with the highest top-1 in a part of the summary."""
    means = {method: part["methods"][method]["mean"] for method in RETRIEVERS if method in part["methods"]}
    return max(means, key=means.__getitem__)


def choices_by_memory(results: dict) -> dict[tuple[str, int], dict]:
    """Returns what was chosen for each memory; empty where nothing was, or for the average over data sets."""
    choices = {} if "datasets" in results else results.get("choice", {})
    memories = [(part["task"], part["shots"]) for part in results["summary"]]
    return {(task, shots): choices.get(f"{task}-{shots}", {}) for task, shots in memories}


def used_methods(results: dict) -> dict[tuple[str, int], str]:
    """Returns by task and shots the method that was chosen on validation images, or ``rar`` without a choice.

    Where that is the retriever alone, it is the retriever's row with the chosen source of candidates, whichever row
    is the best on the evaluated images.
    """
    choices, used = choices_by_memory(results), {}
    for part in results["summary"]:
        memory = part["task"], part["shots"]
        method = choices[memory].get("method", "rar")
        if method == RETRIEVER:
            method = _ROW_OF_SOURCE[choices[memory]["source"]]
            method = method if method in part["methods"] else best_retriever(part)
        used[memory] = method
    return used


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
    """Describes for each kind of memory what was chosen and why, and top-1 against k; the same text once."""
    kinds_by_text: dict[str, list[str]] = {}
    for kind, choice in by_kind(results, "choice"):
        text = describe_choice(choice)
        if len(choice["curve"]) > 1:
            text += f"\n{kind}, {_describe_curve(choice)}"
        kinds_by_text.setdefault(text, []).append(kind)
    return [line for text, kinds in kinds_by_text.items() for line in f"{', '.join(kinds)}: {text}".split("\n")]


def calibration_lines(results: dict) -> list[str]:
    """Describes for each kind of memory the expected calibration error before and after calibration."""
    by_kind: dict[str, list[str]] = {}
    for row in calibration_rows(results):
        stages = f"{row['before']} and {row['after']}" if row["before"] else f"after {row['after']}"
        by_kind.setdefault(row["kind"], []).append(f"{row['method']} {stages}")
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
            row = {"kind": kind, "method": method}
            for stage in ("before", "after"):  # the gated ranking has the second alone
                values = stages.get(stage, {})
                row |= {stage: _percent(values.get("ece")), f"{stage}_given_hit": _percent(values.get("ece_given_hit"))}
            rows.append(row)
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


def _validation_top1(choice: dict) -> dict[str, float]:
    """Returns top-1 of the retriever and of the rankings on validation images, with the chosen candidates."""
    points = [point for point in choice.get("curve", ()) if point["k"] == choice["k"]]
    top1 = {name: points[0].get(name) for name in (RETRIEVER, "rar", "rar_fused")} if points else {}
    if top1 and top1[RETRIEVER] is None:
        sources = [row for row in choice["sources"] if row["source"] == choice["source"]]
        top1[RETRIEVER] = sources[0][RETRIEVER] if sources else None
    return {name: value for name, value in top1.items() if value is not None}


def shortfalls(part: dict, choice: dict) -> list[str]:
    """Says where the tuned ranker, or the fused ranking, is below the retriever, with both figures in per cent.

    Args:
        part: Of the summary: the evaluated images. The retriever's row is the best one.
        choice: What was chosen for the same memory, with figures on validation images; empty without a choice.
    """
    validation, lines = _validation_top1(choice), []
    for method in ("rar", "rar_fused"):
        texts, gain = [], part.get(f"{method}_minus_retriever")
        if gain and gain["mean"] < 0:
            top1, reference = part["methods"][method]["mean"], gain["reference"]
            retriever = part["methods"][reference]["mean"]
            texts.append(f"{_percent(top1)} against {_percent(retriever)} ({reference}) on the evaluated images")
        if validation.get(method, 1) < validation.get(RETRIEVER, 0):
            figures = f"{_percent(validation[method])} against {_percent(validation[RETRIEVER])}"
            texts.append(f"{figures} on validation images")
        if texts:
            lines.append(f"{method} is below the retriever, top-1 %: {', '.join(texts)}")
    return lines
