"""Few-shot adapters in an evaluation: rows, hyperparameters from validation images, candidates, and inference."""

import logging
import shutil
from pathlib import Path

import pytest

from data_prep.core.files import read_json
from data_prep.datasets import read_dataset
from eval.recognition import choosing
from eval.recognizer.recognizer import Recognizer
from eval.report.predictions import read_predictions
from eval.run import main

ADAPTERS = ["tip", "tip_f", "linear_probe"]
FEW = ("eval.shots=[2]", "eval.seeds=[1,2]", "eval.ranker_only_images=0")


@pytest.fixture(scope="module")
def evaluated(finished: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run that is evaluated with candidates of the linear probe, its settings chosen on its 16 validation images."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("adapters") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "MIN_IMAGES", 10)
        settings = (f"eval.adapters=[{','.join(ADAPTERS)}]", "eval.candidates=linear_probe", "eval.fusion=true", *FEW)
        main(["--ckpt", str(run), *settings, "--name", "adapters"])
    return run, settings, run / "eval" / "adapters"


def test_every_few_shot_memory_has_a_row_for_each_adapter(evaluated):
    _, _, folder = evaluated
    results = read_json(folder / "results.json")
    rows = {(row["task"], row["seed"], row["method"]): row for row in results["rows"]}
    for seed in (1, 2):
        assert {method for task, of_seed, method in rows if (task, of_seed) == ("few_shot", seed)} >= {*ADAPTERS, "rar"}
        for adapter in ADAPTERS:
            assert rows["few_shot", seed, adapter]["n"] == 16 and rows["few_shot", seed, adapter]["mode"] == ""
    assert not {method for task, _, method in rows if task == "zero_shot"} & {*ADAPTERS}
    assert [part["methods"].keys() >= {*ADAPTERS} for part in results["summary"]] == [False, True]
    page = (folder / "report.html").read_text()
    assert all(adapter in page for adapter in ADAPTERS) and "the linear probe" in page


def test_the_ranker_sees_the_linear_probes_candidates_and_fusion_its_scores(evaluated):
    _, _, folder = evaluated
    lines = [line for line in read_predictions(folder) if line["task"] == "few_shot"]
    probes = {(line["seed"], line["key"]): line["ranking"] for line in lines if line["method"] == "linear_probe"}
    ranked = [line for line in lines if line["method"] == "rar"]
    assert len(ranked) == len(probes) == 32
    for line in ranked:
        names = [candidate["name"] for candidate in line["candidates"]]
        assert names == probes[line["seed"], line["key"]][: len(names)]
        own = [similarities[2] for similarities in line["similarities"]]
        assert own == pytest.approx([candidate["score"] for candidate in line["candidates"]], abs=1e-4)
    choice = read_json(folder / "results.json")["choice"]
    assert choice["few_shot-2"]["source"] == "linear_probe" and choice["zero_shot-0"]["source"] == "name"
    assert choice["few_shot-2"]["fusion"]["adapter"] >= 0 and choice["few_shot-2"]["fusion"]["retriever_adapter"] > 0


def test_hyperparameters_are_those_chosen_on_validation_images(evaluated):
    _, _, folder = evaluated
    choice = read_json(folder / "results.json")["choice"]
    assert choice["zero_shot-0"]["adapters"] == {}
    chosen = choice["few_shot-2"]["adapters"]
    assert {name: set(values) for name, values in chosen.items()} == {
        "tip": {"alpha", "beta"}, "tip_f": {"alpha", "beta", "epochs"}, "linear_probe": {"strength"},
    }  # fmt: skip


def test_a_second_evaluation_fits_nothing_and_has_the_same_rows(evaluated, caplog):
    run, settings, folder = evaluated
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.DEBUG):
        patch.setattr(choosing, "MIN_IMAGES", 10)
        main(["--ckpt", str(run), *settings, "--name", "again"])
    assert "adapters: fitting" not in caplog.text
    assert read_json(run / "eval" / "again" / "results.json")["rows"] == read_json(folder / "results.json")["rows"]


def test_rescoring_gives_the_same_results(evaluated):
    _, _, folder = evaluated
    before = read_json(folder / "results.json")
    main(["--rescore", str(folder)])
    assert read_json(folder / "results.json") == before


def test_auto_compares_the_adapters_too(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "MIN_IMAGES", 10)
    run = shutil.copytree(finished, tmp_path / "run")
    main(["--ckpt", str(run), "eval.adapters=[tip,linear_probe]", "eval.candidates=auto", *FEW, "--name", "auto"])
    rows = read_json(run / "eval" / "auto" / "results.json")["choice"]["few_shot-2"]["sources"]
    assert [row["source"] for row in rows] == ["fused", "image", "name", "tip", "linear_probe"]


def test_with_few_validation_images_the_papers_values_are_used(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    main(["--ckpt", str(run), "eval.adapters=[tip,linear_probe]", *FEW, "--name", "few"])
    choice = read_json(run / "eval" / "few" / "results.json")["choice"]["few_shot-2"]
    assert choice["adapters"] == {"tip": {"alpha": 1.0, "beta": 5.5}, "linear_probe": {"strength": 1.0}}


def test_a_recognizer_uses_the_chosen_adapter_and_fits_it_to_classes_that_are_added(evaluated):
    run, *_ = evaluated
    recognizer = Recognizer.from_pretrained(run, None, "eval.candidates=linear_probe")
    assert recognizer.choice.source == "linear_probe"
    dataset = read_dataset(recognizer.recipe.data, Path(recognizer.recipe.cache), ("test_memory", "test"))
    name = dataset.names[dataset.parts["test"][0].label]
    files = [sample.path for sample in dataset.parts["test"][:4]]
    (before, *_) = recognizer.predict(files)
    logits = [candidate.score for candidate in before.candidates]
    assert logits == sorted(logits, reverse=True) and max(logits) > 1  # logits, not cosine similarities
    removed = recognizer.memory.remove(name)
    assert removed > 0
    assert name not in {candidate.name for candidate in recognizer.predict(files)[0].candidates}
    own = [s.path for s in dataset.parts["test_memory"] if dataset.names[s.label] == name]
    recognizer.memory.add(name, own)
    (again, *_) = recognizer.predict(files)
    assert name in {candidate.name for candidate in again.candidates}
