"""The run that is evaluated, and what of its recipe an evaluation shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from data_prep.core.files import read_json
from data_prep.settings import DataArgs, Recipe, RetrieverArgs
from data_prep.settings.loading import load_saved_recipe
from rar_train.engine.result_folder import checkpoint_suffix

_CHOOSING = (
    "k_max", "fit_images", "seeds", "gate", "gate_loss", "aggregate", "format_hint", "show_exemplars", "adapters",
)  # fmt: skip
"""Settings of ``eval`` on which a choice depends, beside those that leave it open."""


@dataclass(frozen=True)
class Run:
    """The run to evaluate.

    Attributes:
        folder: The run's folder.
        adapter: The tuned model's adapter.
    """

    folder: Path
    adapter: Path

    @property
    def weights(self) -> str:
        """SHA-256 of the adapter."""
        return read_json(self.adapter / "manifest.json")["adapter"]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the run was made with."""
        return load_saved_recipe(self.folder / "recipe.yaml", [])

    def has_data(self, recipe: Recipe) -> bool:
        """Returns whether a recipe evaluates the data set that the run was made with."""
        return _normalize_data(recipe.data) == _normalize_data(self.recipe.data)

    def matches(self, recipe: Recipe) -> bool:
        """Returns whether a recipe evaluates the data set that the run was made with, by the same retriever."""
        own = self.recipe.retriever
        return self.has_data(recipe) and _normalize_retriever(recipe.retriever) == _normalize_retriever(own)

    def leaves_more_open(self, recipe: Recipe) -> bool:
        """Returns whether the run's recipe has something chosen on validation images that a recipe fixes or narrows."""
        own = self.recipe
        keys = ("k", "candidates", "permutations")
        fixes = any(getattr(own.eval, key) == "auto" != getattr(recipe.eval, key) for key in keys)
        narrows = any(getattr(own.eval, key) != getattr(recipe.eval, key) for key in _CHOOSING)
        return fixes or narrows or (own.fuses and not recipe.fuses)

    @property
    def suffix(self) -> str:
        """Suffix of the names of results: empty, or a checkpoint's step."""
        return checkpoint_suffix(self.folder, self.adapter)


def _normalize_data(data: DataArgs) -> DataArgs:
    """Normalizes the settings that identify a data set: an absolute root, and not how errors are handled."""
    root = data.root and str(Path(data.root).resolve())
    return replace(data, root=root, on_error="skip")


def _normalize_retriever(retriever: RetrieverArgs) -> RetrieverArgs:
    """Normalizes a retriever's settings, leaving out those that only affect its speed."""
    return replace(retriever, batch_size=1, num_workers=0, mmap=False)
