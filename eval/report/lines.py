"""Results in words: the lines below the console's tables, which the page shows too."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain

from eval.metrics.elsewhere import elsewhere, is_cocoop_average
from eval.metrics.published import FEW_SHOT_ORDER, SOURCE
from eval.metrics.summary import ALONE, AVERAGE, CHOICE, GAINS
from eval.report.choice import calibration_lines, choice_lines, choices_by_memory, shortfalls
from eval.report.wording import by_dataset, by_kind, describe_memory, order_of_memory

_PUBLISHED_CHOICES = 4
"""Number of answers in the published results of multiple choice."""


def result_lines(results: dict) -> list[str]:
    """Describes in lines what the tables do not show: choices, gains, and the other metrics that there are."""
    return [
        *note_lines(results),
        *shortfall_lines(results),
        *gain_lines(results),
        *alone_lines(results),
        *choice_lines(results),
        *calibration_lines(results),
        *_outcomes(results["rows"]),
        *_positions(results),
        *_gates(results),
        *_unknown(results),
        *published_lines(results),
        *elsewhere_lines(results),
        *leak_lines(results),
    ]


def _memories(results: dict) -> list[dict]:
    """Lists the parts of the summary by memory, in the tables' order; of several data sets, their average."""
    parts = [part for part in results["summary"] if part.get("dataset", AVERAGE) == AVERAGE]
    return sorted(parts, key=lambda part: order_of_memory(part["task"], part["shots"]))


def gain_lines(results: dict) -> list[str]:
    """Describes the gains of the tuned ranker in points; of several data sets, on average; of halves, in H."""
    lines, measure = [], " in H" * ("base_to_new" in results)
    for part in _memories(results):
        for name in (name for name in GAINS if name in part):
            gain, method = part[name], name.partition("_minus_")[0]
            memory = describe_memory(part["task"], part["shots"], results)
            lines.append(
                f"{memory}: {method} - {gain['reference']}{measure} = {100 * gain['mean']:+.1f} points "
                f"(95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
            )
    return lines


def note_lines(results: dict) -> list[str]:
    """Says what to know before believing the figures: embedded models, and classes with fewer images than shots."""
    lines = list(dict.fromkeys(chain.from_iterable(by_dataset(results, "notes").values())))
    for name, held in by_dataset(results, "shots_held").items():
        of_set = f"{name}, " * ("datasets" in results)
        for shots, counts in held.items():
            fewer, classes, most = counts["fewer"], counts["classes"], counts["most"]
            lacking = (
                f"no class holds as many ({most} at most)" if fewer == classes else f"{fewer} of {classes} hold fewer"
            )
            lines.append(f"{of_set}{shots} images per class: {lacking}; all images of those classes are used")
    return lines


def shortfall_lines(results: dict) -> list[str]:
    """Says where a ranking is below the retriever; of several data sets, on average."""
    choices = choices_by_memory(results)
    return [
        f"{describe_memory(part['task'], part['shots'], results)}: {shortfall}"
        for part in _memories(results)
        for shortfall in shortfalls(part, choices[part["task"], part["shots"]])
    ]


def alone_lines(results: dict) -> list[str]:
    """Says where the ranker without a retriever is above every ranking of retrieved candidates."""
    dataset = AVERAGE if "datasets" in results else results["dataset"]
    alone = [row for row in results["rows"] if row["method"] == ALONE and row["dataset"] == dataset]
    memories = [
        describe_memory(part["task"], part["shots"], results)
        for part in _memories(results)
        if alone
        if alone[0]["top1"] > max(part["methods"][m]["mean"] for m in ("rar", "rar_fused") if m in part["methods"])
    ]
    if not memories:
        return []
    return [
        f"{ALONE}, which scores every class name, has {100 * alone[0]['top1']:.1f} on {alone[0]['n']} images, more "
        f"than retrieval and ranking with these memories: {', '.join(memories)}"
    ]


def published_lines(results: dict) -> list[str]:
    """Describes the comparison with the paper's results; encoder and ranker may differ."""
    return [
        f"{row['dataset']}, {describe_memory(row['task'], row['shots'], results)}: "
        f"{row['method']} {row['figure']} {row['measured']:.1f}, "
        f"paper{' with ' + row['ranker'] if 'ranker' in row else ''} {row['published']:.1f} ({SOURCE}), "
        f"difference {row['difference']:+.1f}"
        for row in results.get("published", [])
    ]


def elsewhere_lines(results: dict) -> list[str]:
    """Lists what others publish for the same protocols on the test split, with sources; models and classes may differ.

    Of several data sets, where they are all those that the published averages are over.
    """
    if results.get("split") != "test":
        return []
    lines = []
    if "base_to_new" in results:
        names = {name.rpartition("-")[0] for name in results["datasets"]}
        rows = elsewhere("base_to_new", AVERAGE) if is_cocoop_average(names) else []
        return [f"base to new, average of 11 data sets, elsewhere: {row.text}" for row in rows]
    dataset = AVERAGE if set(results.get("datasets", ())) == set(FEW_SHOT_ORDER) - {AVERAGE} else results["dataset"]
    for part in _memories(results):
        task, shots = part["task"], part["shots"]
        if task != CHOICE or results["choices"] == _PUBLISHED_CHOICES:
            memory = describe_memory(task, shots, results)
            lines += [f"{dataset}, {memory}, elsewhere: {row.text}" for row in elsewhere(task, dataset, shots)]
    return lines


def leak_lines(results: dict) -> list[str]:
    """Describes copies and near-duplicates of evaluated images, where there are any."""
    lines = []
    for name, leaks in by_dataset(results, "leaks").items():
        for part, matches in leaks.get("parts", {}).items():
            counts = []
            if matches["exact"]:
                counts.append(f"{matches['exact']} of {leaks['queries']} evaluated images are in {part} byte for byte")
            if matches["near"]:
                counts.append(
                    f"{matches['near']} of {leaks['near_queries']} have a near-duplicate in {part} "
                    f"(cosine {leaks['near_from']} or more)"
                )
            lines += [f"leaks, {name}: {', '.join(counts)}; results.json lists pairs"] if counts else []
    return lines


def _outcomes(rows: list[dict]) -> list[str]:
    """Describes the parse outcomes of replies by method, where not all were ok."""
    totals: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        if row["dataset"] != AVERAGE:
            totals[row["method"]].update(row.get("outcomes", {}))
    return [
        f"{method}: replies {', '.join(f'{name} {count}' for name, count in sorted(total.items()))}"
        for method, total in totals.items()
        if set(total) - {"ok"}
    ]


def _positions(results: dict) -> list[str]:
    """Describes top-1 by the position at which the true class is shown, where an order was shown."""
    lines = []
    for method, by_order in results.get("by_place", {}).items():
        shares = [row["top1"] for row in by_order.get("shown", [])]
        if shares:
            metrics = ", ".join("-" if share is None else f"{100 * share:.1f}" for share in shares)
            lines.append(f"{method}: top-1 % by the position at which the true class is shown: {metrics}")
    return lines


def _gates(results: dict) -> list[str]:
    """Describes the gates' curves."""
    return [
        f"{kind}: the gate sends {100 * gate['share_asked']:.0f} % of the images to the ranker; "
        "top-1 % with 0, 10, … 100 % ranked: " + ", ".join(f"{100 * point['top1']:.1f}" for point in gate["curve"])
        for kind, gate in by_kind(results, "gate")
    ]


def _unknown(results: dict) -> list[str]:
    """Describes open-set recognition."""
    metrics = results.get("unknown")
    if not metrics:
        return []
    by_signal = ", ".join(f"{name} {value:.3f}" for name, value in metrics["auroc"].items())
    return [
        f"unknown classes: AUROC {by_signal}; by {metrics['signal']}, {100 * metrics['known_accepted']:.1f} % of "
        f"known images are accepted and {100 * metrics['unknown_refused']:.1f} % of unknown ones refused"
    ]
