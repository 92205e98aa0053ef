"""The table of a vocabulary-free evaluation on the console, with the paper's rows below."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from eval.discover.metrics import FIGURES
from eval.metrics.published import FINE_GRAINED


def _cell(figure: dict[str, float] | None, seeds: int) -> str:
    if figure is None:
        return ""
    return f"{100 * figure['mean']:.1f}" + (f" ± {100 * figure['sd']:.1f}" if seeds > 1 else "")


def print_names(results: dict) -> None:
    """Prints a line per method, the paper's below, and then intervals, gains and what became of the guesses."""
    dataset, rows = results["dataset"], results["rows"]
    title = f"{dataset}, {results['split']}, names discovered, ranking by {results['mode']}, k = {results['k']}"
    table = Table(title=title)
    for column in ("method", "cACC %", "sACC %", "NMI %", "ARI %", "names used", "images", "seeds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, metrics in results["summary"].items():
        own = [row for row in rows if row["method"] == method]
        used = f"{sum(row['guessed_names'] for row in own) / len(own):.0f}"
        cells = [_cell(metrics.get(key), len(own)) for key in FIGURES]
        table.add_row(method, *cells, used, str(own[0]["n"]), str(len(own)))
    known = [(name, own[dataset]) for name, own in FINE_GRAINED.items() if dataset in own]
    if known:
        table.add_section()
    for name, (cacc, sacc) in known:
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
                said = f"{key} of {name.replace('_minus_', ' - ')} = {mean:+.1f} points"
                lines.append(f"{said} (95 % interval over images {low:+.1f} to {high:+.1f})")
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
    for own in results["vocabularies"]:
        metadata = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in own.items() if name != "seed")
        lines.append(f"seed {own['seed']}: {metadata}")
    return lines
