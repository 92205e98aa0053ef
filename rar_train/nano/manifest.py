"""The manifest of an embedded model: its provenance and its measured accuracies."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from data_prep.core.manifests import seal_folder
from data_prep.settings import Recipe


def write_nano_manifest(folder: Path, recipe: Recipe, data_hash: str, measured: dict) -> None:
    """Writes ``manifest.json`` into a model's folder.

    Args:
        folder: The model's folder, complete except for the manifest.
        recipe: The recipe that trained the model.
        data_hash: Fingerprint of the corpus.
        measured: Accuracies, 0 to 1, on held-out base images.
    """
    manifest = {
        "recipe": recipe.task,
        "command": f"python -m rar_train.fit recipe={recipe.task}",
        "seed": recipe.nano.seed,
        "settings": asdict(recipe.nano),
        "data_hash": data_hash,
        "measured": measured,
    }
    seal_folder(folder, manifest)
