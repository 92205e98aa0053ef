"""The ranker beside the retriever on validation examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.core.files import read_json, read_sealed
from data_prep.core.rng import evenly_spaced
from data_prep.mining.shards import ShardedExamples
from rar_train.models.adapter_manifest import shortfall
from rar_train.ranker.train import train_ranker


def test_the_retrievers_accuracy_is_that_of_the_first_candidates(finished):
    manifest = read_json(finished / "adapter" / "manifest.json")
    examples = ShardedExamples(Path(read_sealed(finished / "data.json")["val"]))
    chosen = [examples.example(row) for row in evenly_spaced(len(examples), manifest["val_examples"])]
    hits = [example.candidates[0].label == example.label for example in chosen]
    assert len(chosen) == 4
    assert manifest["validation"]["retriever"] == pytest.approx(sum(hits) / len(hits))


def test_a_ranker_below_the_retriever_is_said_in_one_line_after_training_and_when_reused(
    tiny, llava_folder, tmp_path, caplog
):
    # Random weights, at a rate that leaves them so.
    recipe = tiny(
        tmp_path / "run", f"ranker.model={llava_folder}", "optim.lr=0", "optim.max_steps=1", "trainer.val_examples=24"
    )
    for _ in range(2):
        caplog.clear()
        out = train_ranker(recipe)
        metrics = read_json(out / "adapter" / "manifest.json")["validation"]
        assert metrics["likelihood"] < metrics["retriever"]
        (line,) = [record.getMessage() for record in caplog.records if "below the retriever" in record.getMessage()]
        assert f"(likelihood) has {100 * metrics['likelihood']:.1f} % of 24 validation examples right" in line
        assert f"{100 * metrics['retriever']:.1f} %" in line and "optim.epochs" in line


@pytest.mark.parametrize(
    ("mode", "compared"),
    [("likelihood", "likelihood"), ("letters", "letters"), ("generate", "letters"), ("yes_no", "letters")],
)
def test_the_mode_of_the_recipe_is_compared_or_the_best_table_where_it_has_none(tiny, tmp_path, mode, compared):
    recipe = tiny(tmp_path, f"ranker.mode={mode}")
    metrics = {"letters": 0.5, "likelihood": 0.25, "generate": 0.9, "retriever": 0.75}
    assert f"({compared})" in shortfall(recipe, {"validation": metrics, "val_examples": 8})
    equal = {"validation": metrics | {"retriever": metrics[compared]}, "val_examples": 8}
    assert shortfall(recipe, equal) is None
    assert shortfall(recipe, {"validation": {}}) is None
