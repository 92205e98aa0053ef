"""The report of a folder of ranking examples: figures as JSON, and the same as a page to look at."""

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
from data_prep.core.rng import shuffle_candidates
from data_prep.mining.shards import ShardedExamples
from data_prep.prompting.prompt_lengths import TokenCounter
from data_prep.prompting.prompts import letters_prompt, list_answer, list_prompt
from data_prep.prompting.targets import target_names
from data_prep.settings import Recipe

log = logging.getLogger(__name__)

_VERSION = 1
_TEMPLATE = Path(__file__).resolve().parent / "templates" / "report.html.j2"
_CARDS = 12
_LISTED = 50
_THUMBNAIL = 160


def report_on(folder: Path, recipe: Recipe) -> Path:
    """Reports on a folder of shards, or finds the report in the cache.

    Args:
        folder: What mining made or an importer wrote.
        recipe: Its ranker's tokenizer counts, its seed shuffles, its target is measured.

    Returns:
        Path: The page; ``report.json`` lies beside it.
    """
    depends = [_VERSION, file_hash(folder / "manifest.json"), recipe.ranker.model, recipe.seed, recipe.mining.target]
    place = Path(recipe.cache) / f"report-{folder.name}-{fingerprint(depends)}"
    if not place.exists():
        opened = ShardedExamples(folder)
        report = report_metrics(opened, recipe)
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        with write_folder(place) as part:
            write_json(part / "report.json", report)
            write_text(part / "report.html", template.render(r=report, cards=_cards(opened)))
    return place / "report.html"


def report_metrics(opened: ShardedExamples, recipe: Recipe) -> dict:
    """What ``report.json`` holds.

    Returns:
        dict: Counts by reason, recall as shares of 1, histograms from a value to its number of examples, lengths in
        tokens.
    """
    manifest = opened.manifest
    examples = list(progress_bar("reading examples", opened.examples(), len(opened)))
    names = {c.label: c.name for example in examples for c in example.candidates}
    copies = opened.folder / "copies.jsonl"
    lines = copies.read_text(encoding="utf-8").split("\n")[:-1][:_LISTED] if copies.exists() else []
    tokens, missing = _tokens(examples, recipe)
    return {
        "folder": str(opened.folder),
        "part": manifest["part"],
        "dataset": manifest["dataset"],
        "examples": len(examples),
        "counts": manifest["counts"],
        "skipped": manifest.get("skipped", {}),
        "recall": manifest.get("recall", {}),
        "position": {
            "retrieved": _positions(examples),
            "shown": _positions(shuffle_candidates(example, recipe.seed, 0) for example in examples),
        },
        "candidates": _sorted(Counter(len(example.candidates) for example in examples)),
        "classes": _balance(Counter(example.label for example in examples), names, manifest["classes"]),
        "copies": manifest.get("copies", {}),
        "copies_above": manifest.get("copies_above"),
        "copies_listed": [json.loads(line) for line in lines],
        "tokenizer": recipe.ranker.model,
        "tokens": tokens,
        "tokens_missing": missing,
    }


def _sorted(counts: Counter) -> dict[str, int]:
    return {str(value): counts[value] for value in sorted(counts)}


def _positions(examples: Iterable[RankingExample]) -> dict[str, int]:
    """How often the right answer stands at each place, from 1; ``none`` where there is none."""
    places = Counter(example.truth for example in examples)
    without = places.pop(None, 0)
    return {str(place + 1): places[place] for place in sorted(places)} | ({"none": without} if without else {})


def _balance(counts: Counter, names: dict[int, str], classes: int) -> dict:
    ordered = sorted(counts, key=lambda label: (-counts[label], label))
    values = sorted(counts.values())

    def shown(labels: Sequence[int]) -> dict[str, int]:
        return {f"{names.get(label, 'class')} [{label}]": counts[label] for label in labels}

    return {
        "with_examples": len(counts),
        "without_examples": classes - len(counts),
        "least": values[0],
        "median": float(np.median(values)),
        "most": values[-1],
        "largest": shown(ordered[:10]),
        "smallest": shown(ordered[-10:]),
    }


def _tokens(examples: Sequence[RankingExample], recipe: Recipe) -> tuple[dict, str]:
    """Lengths by kind of text, or none and the reason."""
    try:
        count = TokenCounter(recipe.ranker.model)
    except UserError as error:
        log.warning("report: lengths in tokens are left out: %s", error)
        return {}, str(error)
    names = [[candidate.name for candidate in example.candidates] for example in examples]
    texts = {
        "letters prompt": map(letters_prompt, names),
        "list prompt": map(list_prompt, names),
        "list answer": (list_answer(target_names(example, recipe.mining.target)) for example in examples),
        "longest name": (max(row, key=len) for row in names),
    }
    return {kind: _spread(count(list(rows))) for kind, rows in texts.items()}, ""


def _spread(lengths: Sequence[int]) -> dict[str, int]:
    """Least, median, 95th percentile and most."""
    low, median, high, most = np.quantile(lengths, (0, 0.5, 0.95, 1), method="higher").tolist()
    return {"least": int(low), "median": int(median), "p95": int(high), "most": int(most)}


def _cards(opened: ShardedExamples) -> list[dict]:
    """A fixed spread of examples with their pictures, as the page shows them."""
    chosen = sorted(set(np.linspace(0, len(opened) - 1, min(_CARDS, len(opened))).astype(int).tolist()))
    cards = []
    for number in chosen:
        example, image = opened[number]
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        rows = [
            {"name": c.name, "score": c.score, "truth": place == example.truth}
            for place, c in enumerate(example.candidates)
        ]
        data = base64.b64encode(buffer.getvalue()).decode()
        cards.append({"key": example.key, "image": f"data:image/jpeg;base64,{data}", "candidates": rows})
    return cards
