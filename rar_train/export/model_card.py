"""Model card of an exported model: base, training and measured metrics, from the run's files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from data_prep.core.results_file import read_results
from data_prep.settings import Recipe
from rar_train.engine.result_folder import format_changes

_USE = """```python
{registers}from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")
```"""
_USE_ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

base = AutoModelForImageTextToText.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "FOLDER")
```"""


def _table(metrics: dict) -> list[str]:
    return ["| metric | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in metrics.items())]


def _list_metrics(manifest: dict, run: Path) -> list[str]:
    """Lists validation metrics from the manifest, and every evaluation of this adapter in the run's folder."""
    lines = []
    if manifest.get("validation"):
        lines += [f"On the validation examples at step {manifest['step']}:", "", *_table(manifest["validation"])]
    for path in sorted((run / "eval").glob("*/results.json")):
        results = read_results(path.parent)
        if results.get("adapter") != manifest["adapter"]:
            continue
        lines += ["", f"Evaluation `{path.parent.name}` (top-1, 0 to 1, mean over seeds):", ""]
        settings = " ".join(format_changes(results.get("evaluation", {}).get("changes", {})))
        lines += [f"Settings that differ from the run's: `{settings}`", ""] if settings else []
        notes = results.get("notes", [])
        for note in notes if isinstance(notes, list) else dict.fromkeys(chain.from_iterable(notes.values())):
            lines += [f"Note: {note}", ""]
        by_memory: dict[str, list[float]] = {}
        for row in results["rows"]:
            few = f"{row['shots']} image{'s' * (row['shots'] > 1)} per class"
            memory = few if row["task"] == "few_shot" else row["task"].replace("_", " ")
            of_set = f"{row['dataset']}, " if "datasets" in results else ""
            by_memory.setdefault(f"{of_set}{memory}, {row['method']}", []).append(row["top1"])
        lines += _table({name: round(sum(top1) / len(top1), 4) for name, top1 in by_memory.items()})
    return lines or ["Nothing was measured."]


def model_card(
    recipe: Recipe,
    manifest: dict,
    run: Path,
    dtype: str | None = None,
    difference: float | None = None,
    needs_import: bool = False,
    limits: Sequence[str] = (),
) -> str:
    """Writes the card.

    Args:
        recipe: The run's recipe.
        manifest: The adapter's manifest.
        run: The run's folder; its evaluations of this adapter are included.
        dtype: Dtype of a merged model's weights; None for an adapter.
        difference: Largest difference of a merged model's log-probabilities to base and adapter.
        needs_import: Whether the model or its tower is defined by this project, so that it must be imported first.
        limits: Sentences about what inference servers do not take of an adapter.

    Returns:
        str: Markdown with the hub's front matter.
    """
    registers = "import rar_train.models.loading  # registers this project's model types\n" if needs_import else ""
    kind = "merged model" if dtype else "LoRA adapter"
    prompts = [f"- {mode}: `{prompt!r}`" for mode, prompt in manifest["prompts"].items()]
    lines = [
        "---",
        f"base_model: {manifest['ranker']}",
        "pipeline_tag: image-text-to-text",
        f"library_name: {'transformers' if dtype else 'peft'}",
        "tags: [retrieve-and-rank, visual-recognition]",
        "---",
        "",
        f"# Retrieve-and-rank {kind}",
        "",
        "Ranks the class names that a retriever proposes for an image (RAR, arXiv 2403.13805). Made with rar-train.",
        "",
        _USE.format(registers=registers) if dtype else _USE_ADAPTER.format(base=manifest["ranker"]),
        "",
        *(["## Serving it", "", *(f"- {limit}" for limit in limits), ""] if limits else []),
        "## How it was made",
        "",
        f"- base: {manifest['ranker']} (`{manifest['base_model']}`)",
        f"- adapter: SHA-256 `{manifest['adapter']}`, step {manifest['step']}",
        f"- scope {recipe.ranker.lora.scope}, rank {recipe.ranker.lora.rank}, alpha {recipe.ranker.lora.alpha}",
        f"- objectives: {recipe.ranker.objectives.weights}",
        f"- retriever: {manifest.get('encoder', recipe.retriever.model)}; data: {recipe.data.name}",
        f"- versions: {manifest['versions']}",
        *(
            [f"- merged, weights in {dtype}; log-probabilities within {difference:.2g} of base and adapter"]
            if dtype
            else []
        ),
        "",
        "## Prompts it was trained on",
        "",
        *prompts,
        "",
        "## Measured",
        "",
        *_list_metrics(manifest, run),
    ]
    return "\n".join(lines) + "\n"
