"""Recipes with a few training steps on an armory of a few classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe

_SETTINGS = [
    "recipe=ranker_lora",
    "data.armory.train_classes=8",
    "data.armory.val_classes=8",
    "data.armory.test_classes=8",
    "data.armory.train_images=3",
    "data.armory.memory_images=4",
    "data.armory.query_images=2",
    "optim.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.val_generate_examples=2",
    "tracking.wandb=disabled",
]


def tiny_recipes(cache: Path, settings: str) -> Callable[..., Recipe]:
    """Returns a function that makes a recipe from a run's folder and settings; its recipes share a cache.

    Args:
        cache: The cache.
        settings: Settings of all its recipes, in addition to the sizes.
    """

    def make(out: Path, *changes: str) -> Recipe:
        return load_recipe([*_SETTINGS, *settings.split(), f"cache={cache}", f"out={out}", *changes])

    return make
