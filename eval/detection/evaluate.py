"""One evaluation of detection: finds the boxes, classifies and scores them, writes the files, prints the table."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_json, write_text
from data_prep.core.records import Sample
from data_prep.core.results_file import check_result, write_results
from data_prep.datasets.armory_scenes import render_scenes
from data_prep.detection.annotations import Annotations, read_annotations, read_detections
from data_prep.detection.proposals import read_annotated_boxes, select_detected_boxes
from data_prep.embedding.encoder import Encoder, check_reads_texts, load_encoder
from data_prep.leakage.contamination import find_mined
from data_prep.settings import Recipe
from data_prep.settings.loading import load_saved_recipe
from data_prep.settings.notes import embedded_model_note
from eval.calibration.choice import Choice, apply_settings
from eval.calibration.store import choices_path, load_choices
from eval.detection.average_precision import average_precision, scorer
from eval.detection.named_boxes import FUSED, RETRIEVER, ClassifiedBoxes
from eval.detection.score_policies import check_policy
from eval.ranking.answer_key import models_key
from eval.report.console import Group, print_lines, print_table
from rar_train.engine.result_folder import checkpoint_suffix, choose_folder, find_changes, identify

log = logging.getLogger(__name__)

SECTION = "detection"
"""The command's section of the recipe, and its folder in a run."""

_IN_NAME = ("detection.format", "detection.policy")
_FILES = ("detection.annotations", "detection.images", "detection.detections")

TEMPLATE = "a photo of a {}."
"""Prompt around the class names of COCO, LVIS and V3Det where the recipe has no templates."""


@dataclass(frozen=True)
class Source:
    """Source of the boxes.

    Attributes:
        name: Of the data, for folders and tables.
        annotations: The annotation file.
        images: Folder of the images.
        templates: Prompts around a class name.
        detections: A detector's results; None where the annotated boxes are classified.
    """

    name: str
    annotations: Annotations
    images: Path
    templates: list[str]
    detections: list[dict] | None = None


def find_source(recipe: Recipe) -> Source:
    """Reads the files of the recipe, or armory's scenes of its split, which are generated if missing.

    Raises:
        UserError: A file is missing or of another layout, or the recipe's data set has no scenes.
    """
    args, split, templates = recipe.detection, recipe.eval.split, list(recipe.retriever.templates)
    if args.annotations is None:
        if recipe.data.name != "armory":
            raise UserError(
                f"data.name={recipe.data.name} has no scenes; give --annotations FILE --images FOLDER, or "
                "data.name=armory"
            )
        folder = render_scenes(recipe.data, args.scenes, split, Path(recipe.cache))
        annotations = read_annotations(folder / "annotations.json", "lvis")
        return Source(f"armory-scenes-{split}", annotations, folder, templates or ["{}"])
    annotations = read_annotations(Path(args.annotations), args.format)
    name, detections = Path(args.annotations).stem, None
    if args.detections:
        check_result(Path(args.detections))
        detections = read_detections(Path(args.detections), annotations)
        name += f"-{Path(args.detections).stem}"
    return Source(name, annotations, Path(args.images), templates or [TEMPLATE], detections)


def _refuse_mined(run: Path, regions: Sequence[Sample], name: str) -> None:
    """Raises an error for images that the run was trained on: boxes left out would count as missed."""
    leaked = find_mined(run, regions, name)
    if leaked:
        raise UserError(
            f"{run}: {len(leaked)} of {len(regions)} boxes of {name} are in images that were mined for its training; "
            f"the first is in {leaked[0].path}. Evaluate other images, or set eval.leaks=allow"
        )


def _describe_evaluation(recipe: Recipe, source: Source, adapter: Path, run: Path, encoder: Encoder) -> dict:
    """Describes what distinguishes an evaluation from others of its run, as ``eval.run`` does."""
    args = recipe.detection
    changes = find_changes(load_saved_recipe(run / "recipe.yaml", []), recipe, (*_FILES, *_IN_NAME), SECTION)
    files = [str(Path(path).resolve()) for path in (source.annotations.path, args.detections) if path]
    models = [models_key(recipe.ranker, adapter), encoder.id]
    return {"changes": changes, "identity": identify(recipe, changes, [*models, *files], _FILES, SECTION)}


def evaluate_detection(recipe: Recipe, adapter: Path, run: Path, name: str | None = None) -> dict:
    """Classifies boxes by the retriever, the untuned and the tuned ranker; scores them and writes the files.

    If killed and started again, it continues from the stored replies; with another policy no model is run again.

    Args:
        recipe: All settings.
        adapter: The tuned model's.
        run: The run's folder.
        name: Name of the folder of the results; None for one made from data, mode, policy and differing settings.

    Returns:
        dict: The content of ``results.json``; it and ``detections-METHOD.json`` are in
        ``RUN/detection/DATA-MODE-POLICY``, to whose name settings that differ from the run's own are added.

    Raises:
        UserError: A file or an image cannot be read, images were mined for the run's training, the policy is
            incompatible with the ranking mode, or the scorer is not installed.
    """
    args, cache, on_error = recipe.detection, Path(recipe.cache), recipe.data.on_error
    check_policy(args.policy, recipe.ranker.mode)
    version = scorer().__version__
    source = find_source(recipe)
    annotations = source.annotations
    if source.detections is None:
        proposals = read_annotated_boxes(annotations, source.images, cache, on_error)
    else:
        proposals = select_detected_boxes(
            annotations, source.detections, args.max_proposals, source.images, cache, on_error
        )
    if recipe.eval.leaks != "allow":
        _refuse_mined(run, [proposal.region for proposal in proposals.found], source.name)
    encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
    check_reads_texts(encoder)
    evaluation = _describe_evaluation(recipe, source, adapter, run, encoder)
    base = f"{source.name}-{recipe.ranker.mode_label}-{args.policy}{checkpoint_suffix(run, adapter)}"
    out = choose_folder(run / SECTION, base, evaluation["changes"], evaluation["identity"], name)
    choice = _load_choice(recipe, adapter, run, encoder)
    recipe = replace(recipe, eval=replace(recipe.eval, permutations=choice.permutations))
    boxes = ClassifiedBoxes(recipe, annotations, proposals, choice)
    boxes.retrieve(encoder, source.templates)
    boxes.rank(adapter, run / SECTION)
    rows, by_method = [], boxes.detections()
    for method, detections in by_method.items():
        log.info("%s: scoring %d detections", method, len(detections))
        row = {"method": method, "detections": len(detections)}
        row |= average_precision(annotations.truth, detections, annotations.format)
        rows.append(row | (boxes.accuracy(method) if source.detections is None else {}))
    if source.detections is not None and _all_classes_known(source):
        metrics = average_precision(annotations.truth, source.detections, annotations.format)
        rows.insert(0, {"method": "detector", "detections": len(source.detections)} | metrics)
    results = {
        "task": SECTION,
        "dataset": source.name,
        "annotations": str(annotations.path),
        "rules": annotations.format,
        "ancestors_ignored": any("ancestors" in category for category in annotations.truth["categories"]),
        "boxes": "annotated" if source.detections is None else args.detections,
        "mode": recipe.ranker.mode,
        "k": choice.k,
        "choice": asdict(choice),
        "settings": asdict(args),
        "images": len(annotations.truth["images"]),
        "classes": len(annotations.names),
        "boxes_named": len(proposals.found),
        "skipped": dict(proposals.skipped),
        "scorer": f"faster-coco-eval {version}",
        "adapter": read_json(adapter / "manifest.json")["adapter"],
        "encoder": encoder.id,
        "notes": [note for note in [_embedded_note(recipe)] if note],
        "evaluation": evaluation,
        "rows": rows,
        "gains": boxes.gains() if source.detections is None else [],
    }
    files = {f"detections-{method}.json": detections for method, detections in by_method.items()}
    with file_lock(out):  # so that two evaluations that end at the same time do not mix their files
        for name, detections in files.items():
            write_text(out / name, json.dumps(detections) + "\n")
        write_results(out, results, list(files))
    log.info("wrote %s", out / "results.json")
    return results


def _embedded_note(recipe: Recipe) -> str | None:
    """Returns the note on embedded models; armory's scenes are its data, annotation files are others."""
    if recipe.detection.annotations is None:
        return embedded_model_note(recipe)
    name = Path(recipe.detection.annotations).name
    return embedded_model_note(replace(recipe, data=replace(recipe.data, name=name)))


def _load_choice(recipe: Recipe, adapter: Path, run: Path, encoder: Encoder) -> Choice:
    """Returns how boxes are ranked: as chosen by ``eval.run`` with a memory of names, unless the settings say."""
    path = choices_path(run, recipe.ranker.mode_label, adapter)
    choices, _ = load_choices(path, read_json(adapter / "manifest.json")["adapter"], encoder.id)
    choice = apply_settings(recipe, choices.get("zero_shot-0"), "name")
    log.info("%d candidates a box: %s", choice.k, choice.reason if choices else "nothing was chosen by eval.run yet")
    return choice


def _all_classes_known(source: Source) -> bool:
    """Whether every box of the detector has a class of the annotations; not so for a class-agnostic detector."""
    known = set(source.annotations.categories)
    return bool(source.detections) and all(record.get("category_id") in known for record in source.detections)


_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "top1", "recall_at_k", "top1_given_hit")
_TITLES = {"top1": "top-1", "recall_at_k": "recall@k", "top1_given_hit": "given hit"}
_OPTIONAL = ("APs", "APm", "APl", "AP75", "AP50", "given hit")


def print_detection(results: dict) -> None:
    """Prints a line per method, in per cent, and the gains of the tuned ranker."""
    counts = f"{results['boxes_named']} boxes in {results['images']} images, {results['classes']} classes"
    ranking = f"ranking by {results['mode']}, k = {results['k']}, scores by {results['settings']['policy']}"
    shown = [key for key in _COLUMNS if any(key in row for row in results["rows"])]
    rows = []
    for row in results["rows"]:
        values = [row.get(key) for key in shown]
        rows.append([row["method"], *("" if value is None else f"{100 * value:.1f}" for value in values)])
    columns = ["method", *(_TITLES.get(key, key) for key in shown)]
    optional = [name for name in _OPTIONAL if name in columns]
    print_table(f"{results['dataset']}, %: {counts}; {ranking}", columns, [Group(rows=rows)], optional)
    print_lines(results["notes"])
    print_lines(_shortfall_lines(results["rows"]))
    print_lines(
        f"top-1 of boxes: rar - {gain['reference']} = {100 * gain['mean']:+.1f} points (95 % interval "
        f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        for gain in results["gains"]
    )


def _shortfall_lines(rows: list[dict]) -> list[str]:
    """Says where a tuned ranking is below the retriever, by AP and by top-1, with both figures in per cent."""
    by_method = {row["method"]: row for row in rows}
    lines = []
    for method in (name for name in ("rar", FUSED) if name in by_method and RETRIEVER in by_method):
        row, retriever = by_method[method], by_method[RETRIEVER]
        pairs = {key: (row.get(key), retriever.get(key)) for key in ("AP", "top1")}
        figures = [
            f"{_TITLES.get(key, key)} {100 * own:.1f} against {100 * other:.1f}"
            for key, (own, other) in pairs.items()
            if own is not None and other is not None and own < other
        ]
        lines += [f"{method} is below the retriever, %: {', '.join(figures)}"] if figures else []
    return lines
