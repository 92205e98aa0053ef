"""Console table of a vocabulary-free evaluation, with the paper's rows below."""

from __future__ import annotations

from eval.clustering.scores import METRICS
from eval.discover.predictions import RETRIEVERS
from eval.metrics.elsewhere import elsewhere
from eval.metrics.published import FINE_GRAINED, SOURCE
from eval.report.console import Group, print_lines, print_table


def _cell(metric: dict[str, float] | None, seeds: int) -> str:
    if metric is None:
        return ""
    return f"{100 * metric['mean']:.1f}" + (f" ± {100 * metric['sd']:.1f}" if seeds > 1 else "")


def print_results(results: dict) -> None:
    """Prints a line per method, the paper's below, then intervals, gains, and outcomes of the guesses."""
    dataset, rows = results["dataset"], results["rows"]
    columns = ("method", "cACC %", "sACC %", "NMI %", "ARI %", "names used", "images", "seeds")
    measured, published = Group(), Group()
    for method, metrics in results["summary"].items():
        by_seed = [row for row in rows if row["method"] == method]
        used = f"{sum(row['guessed_names'] for row in by_seed) / len(by_seed):.0f}"
        cells = [_cell(metrics.get(key), len(by_seed)) for key in METRICS]
        measured.rows.append((method, *cells, used, str(by_seed[0]["n"]), str(len(by_seed))))
    for name, by_dataset in FINE_GRAINED.items():
        if dataset in by_dataset:
            cacc, sacc = by_dataset[dataset]
            published.rows.append((f"{name}, as published", f"{cacc:.1f}", f"{sacc:.1f}", *[""] * 5))
    title = f"{dataset}, {results['split']}, names discovered, ranking by {results['mode']}, k = {results['k']}"
    print_table(title, columns, [measured, published], ("seeds", "images", "names used", "ARI %"))
    print_lines(
        [*results.get("notes", []), *_shortfall_lines(results), *_gain_lines(results), *_vocabulary_lines(results)]
    )


def _shortfall_lines(results: dict) -> list[str]:
    """Says where the tuned ranker is below the retriever with the discovered names, with both figures in per cent."""
    summary = results["summary"]
    retriever = next((method for method in RETRIEVERS.values() if method in summary), None)
    if retriever is None or "rar" not in summary:
        return []
    figures = []
    for key, title in (("cacc", "cACC"), ("sacc", "sACC")):
        if key in summary["rar"] and summary["rar"][key]["mean"] < summary[retriever][key]["mean"]:
            own, other = (100 * summary[method][key]["mean"] for method in ("rar", retriever))
            figures.append(f"{title} {own:.1f} against {other:.1f}")
    return [f"rar is below the retriever ({retriever}), %: {', '.join(figures)}"] if figures else []


def _gain_lines(results: dict) -> list[str]:
    lines = []
    for name, metrics in results["gains"].items():
        for key in ("cacc", "sacc"):
            if key in metrics:
                mean, low, high = (100 * metrics[key][end] for end in ("mean", "low", "high"))
                gain = f"{key} of {name.replace('_minus_', ' - ')} = {mean:+.1f} points"
                lines.append(f"{gain} (95 % interval over images {low:+.1f} to {high:+.1f})")
    for row in results["published"]:
        lines.append(
            f"{row['figure']} of rar = {row['measured']:.1f}, RAR as published {row['published']:.1f} "
            f"({SOURCE}): {row['difference']:+.1f}"
        )
    others = elsewhere("fine_grained", results["dataset"]) if results["split"] == "test" else []
    lines += [f"elsewhere: {row.text}" for row in others]
    return lines


def _vocabulary_lines(results: dict) -> list[str]:
    lines = []
    if results["replies"]:
        lines.append("replies: " + ", ".join(f"{name} {count}" for name, count in results["replies"].items()))
    for vocabulary in results["vocabularies"]:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in vocabulary.items() if name != "seed")
        lines.append(f"seed {vocabulary['seed']}: {counts}")
    return lines
