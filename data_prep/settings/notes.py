"""What a user should know about a recipe's figures before believing them, without loading anything."""

from __future__ import annotations

from data_prep.settings.recipe import Recipe


def embedded_model_note(recipe: Recipe) -> str | None:
    """Returns a line that says that figures of an embedded model on other data mean nothing, or None.

    The nano models have seen armory's shields alone. On other data they show whether a pipeline runs. A model that the
    task does not use is not named.
    """
    retrievers = [(f"retriever.{key}", getattr(recipe.retriever, key), "nano-clip") for key in ("model", "name_model")]
    models = retrievers if recipe.task != "projector" else []
    models += [("ranker.model", recipe.ranker.model, "nano-mllm")] * (recipe.task != "retriever")
    embedded = [f"{key}={model}" for key, model, nano in models if model == nano]
    if not embedded or recipe.data.name == "armory":
        return None
    return (
        f"{' and '.join(embedded)}: trained on armory's shields alone; figures and labels show that the pipeline "
        "runs, and say nothing about your data"
    )
