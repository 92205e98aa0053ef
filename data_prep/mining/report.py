"""Reports on a folder of ranking examples: statistics as JSON and as an HTML page."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
import numpy as np

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint, write_folder, write_json, write_text
from data_prep.core.progress import progress_bar
from data_prep.core.records import RankingExample
from data_prep.core.rng import evenly_spaced, shuffle_candidates
from data_prep.mining.shards import ShardedExamples
from data_prep.prompting.prompt_lengths import TokenCounter
from data_prep.prompting.prompts import letters_prompt, list_answer, list_prompt
from data_prep.prompting.targets import target_names
from data_prep.settings import Recipe

log = logging.getLogger(__name__)

_VERSION = 2
_TEMPLATE = Path(__file__).resolve().parent / "templates" / "report.html.j2"
_NUM_CARDS = 12  # examples shown with their images
_MAX_COPIES = 50  # pairs of near-duplicates listed
_THUMBNAIL_SIZE = 160  # pixels


def write_report(folder: Path, recipe: Recipe) -> Path:
    """Writes the report on a folder of shards, or returns the one in the cache.

    Args:
        folder: Folder of shards, from mining or an importer.
        recipe: Its ranker's tokenizer counts tokens, its seed shuffles candidates, its target is measured.

    Returns:
        Path: The page; ``report.json`` is in the same folder.
    """
    cache_key = [_VERSION, file_hash(folder / "manifest.json"), recipe.ranker.model, recipe.seed, recipe.mining.target]
    report_folder = Path(recipe.cache) / f"report-{folder.name}-{fingerprint(cache_key)}"
    if not report_folder.exists():
        examples = ShardedExamples(folder)
        report = compute_report(examples, recipe)
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        with write_folder(report_folder) as unfinished:
            write_json(unfinished / "report.json", report)
            write_text(unfinished / "report.html", template.render(r=report, cards=_make_cards(examples)))
    return report_folder / "report.html"


def compute_report(sharded: ShardedExamples, recipe: Recipe) -> dict:
    """Computes the content of ``report.json``.

    Returns:
        dict: Counts by reason, recall as shares from 0 to 1, histograms from a value to its number of examples, lengths
        in tokens.
    """
    manifest = sharded.manifest
    examples = list(progress_bar("reading examples", sharded.examples(), len(sharded)))
    names = {c.label: c.name for example in examples for c in example.candidates}
    copies = sharded.folder / "copies.jsonl"
    lines = copies.read_text(encoding="utf-8").split("\n")[:-1][:_MAX_COPIES] if copies.exists() else []
    tokens, tokens_missing = _count_tokens(examples, recipe)
    return {
        "folder": str(sharded.folder),
        "part": manifest["part"],
        "dataset": manifest["dataset"],
        "examples": len(examples),
        "counts": manifest["counts"],
        "skipped": manifest.get("skipped", {}),
        "recall": manifest.get("recall", {}),
        "position": {
            "retrieved": _count_positions(examples),
            "shown": _count_positions(shuffle_candidates(example, recipe.seed, 0) for example in examples),
        },
        "candidates": _sort_by_value(Counter(len(example.candidates) for example in examples)),
        "classes": _describe_balance(Counter(example.label for example in examples), names, manifest["classes"]),
        "copies": manifest.get("copies", {}),
        "copies_above": manifest.get("copies_above"),
        "copies_listed": [json.loads(line) for line in lines],
        "tokenizer": recipe.ranker.model,
        "tokens": tokens,
        "tokens_missing": tokens_missing,
    }


def _sort_by_value(counts: Counter) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def _count_positions(examples: Iterable[RankingExample]) -> dict[str, int]:
    """Counts the examples by position of the right answer, from 1; ``none`` counts those without one."""
    counts = Counter(example.truth for example in examples)
    without = counts.pop(None, 0)
    by_position = {str(position + 1): counts[position] for position in sorted(counts)}
    return by_position | ({"none": without} if without else {})


def _describe_balance(counts: Counter, names: dict[int, str], classes: int) -> dict:
    """Describes how the examples are distributed over the classes."""
    ordered = sorted(counts, key=lambda label: (-counts[label], label))
    values = sorted(counts.values())

    def counts_by_name(labels: Sequence[int]) -> dict[str, int]:
        return {f"{names.get(label, 'class')} [{label}]": counts[label] for label in labels}

    return {
        "with_examples": len(counts),
        "without_examples": classes - len(counts),
        "least": values[0],
        "median": float(np.median(values)),
        "most": values[-1],
        "largest": counts_by_name(ordered[:10]),
        "smallest": counts_by_name(ordered[-10:]),
    }


def _count_tokens(examples: Sequence[RankingExample], recipe: Recipe) -> tuple[dict, str]:
    """Returns lengths in tokens by kind of text, or none and the reason."""
    try:
        count = TokenCounter(recipe.ranker.model)
    except UserError as error:
        log.warning("report: lengths in tokens are left out: %s", error)
        return {}, str(error)
    names = [[candidate.name for candidate in example.candidates] for example in examples]
    described = [(row, example.descriptions) for row, example in zip(names, examples, strict=True)]
    texts = {
        "letters prompt": (letters_prompt(row, descriptions) for row, descriptions in described),
        "list prompt": (list_prompt(row, descriptions=descriptions) for row, descriptions in described),
        "list answer": (list_answer(target_names(example, recipe.mining.target)) for example in examples),
        "longest name": (max(row, key=len) for row in names),
    }
    return {kind: _summarize(count(list(rows))) for kind, rows in texts.items()}, ""


def _summarize(lengths: Sequence[int]) -> dict[str, int]:
    """Returns the minimum, median, 95th percentile and maximum."""
    low, median, high, most = np.quantile(lengths, (0, 0.5, 0.95, 1), method="higher").tolist()
    return {"least": int(low), "median": int(median), "p95": int(high), "most": int(most)}


def _make_cards(examples: ShardedExamples) -> list[dict]:
    """Returns evenly spaced examples with their images, for the page."""
    cards = []
    for index in evenly_spaced(len(examples), _NUM_CARDS):
        example, image = examples[index]
        image.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        rows = [
            {"name": c.name, "score": c.score, "truth": position == example.truth}
            for position, c in enumerate(example.candidates)
        ]
        data = base64.b64encode(buffer.getvalue()).decode()
        cards.append({"key": example.key, "image": f"data:image/jpeg;base64,{data}", "candidates": rows})
    return cards
