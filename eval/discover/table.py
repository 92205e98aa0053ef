"""Console table of a vocabulary-free evaluation, with the paper's rows below."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from eval.clustering.scores import METRICS
from eval.metrics.published import FINE_GRAINED


def _cell(metric: dict[str, float] | None, seeds: int) -> str:
    if metric is None:
        return ""
    return f"{100 * metric['mean']:.1f}" + (f" ± {100 * metric['sd']:.1f}" if seeds > 1 else "")


def print_results(results: dict) -> None:
    """Prints a line per method, the paper's below, then intervals, gains, and outcomes of the guesses."""
    dataset, rows = results["dataset"], results["rows"]
    title = f"{dataset}, {results['split']}, names discovered, ranking by {results['mode']}, k = {results['k']}"
    table = Table(title=title)
    for column in ("method", "cACC %", "sACC %", "NMI %", "ARI %", "names used", "images", "seeds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, metrics in results["summary"].items():
        by_seed = [row for row in rows if row["method"] == method]
        used = f"{sum(row['guessed_names'] for row in by_seed) / len(by_seed):.0f}"
        cells = [_cell(metrics.get(key), len(by_seed)) for key in METRICS]
        table.add_row(method, *cells, used, str(by_seed[0]["n"]), str(len(by_seed)))
    published = [(name, by_dataset[dataset]) for name, by_dataset in FINE_GRAINED.items() if dataset in by_dataset]
    if published:
        table.add_section()
    for name, (cacc, sacc) in published:
        table.add_row(f"{name}, as published", f"{cacc:.1f}", f"{sacc:.1f}")
    console = Console(width=120)
    console.print(table)
    for line in [*_gain_lines(results), *_vocabulary_lines(results)]:
        console.print(line, highlight=False)


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
            f"{row['figure']} of rar = {row['measured']:.1f}, RAR as published {row['published']:.1f}: "
            f"{row['difference']:+.1f}"
        )
    return lines


def _vocabulary_lines(results: dict) -> list[str]:
    lines = []
    if results["replies"]:
        lines.append("replies: " + ", ".join(f"{name} {count}" for name, count in results["replies"].items()))
    for vocabulary in results["vocabularies"]:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in vocabulary.items() if name != "seed")
        lines.append(f"seed {vocabulary['seed']}: {counts}")
    return lines
