"""``eval.run`` end to end: how it finds the adapter, what it runs and the files that it writes."""

from __future__ import annotations

import csv
import math
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.core.files import file_lock, read_json
from data_prep.core.results_file import write_results
from data_prep.datasets import read_dataset
from data_prep.leakage.contamination import read_mined, write_mined
from data_prep.settings.loading import load_saved_recipe
from eval.recognition import evaluate
from eval.report import rescore
from eval.report.predictions import read_predictions
from eval.run import main
from rar_train.engine.run_folder import find_adapter, record_checksum
from tests.manifests import rewrite_manifest

SHIELDS = draw_classes("test", 8, 4, 0)
ROW = {"task", "dataset", "shots", "seed", "method", "mode", "k", "n", "top1", "top5", "recall_at_k"}
STAGED = {"top1_given_hit", "corrected", "broken", "outcomes", "tied"}
PREDICTION = {
    "key",
    "path",
    "task",
    "shots",
    "seed",
    "method",
    "truth",
    "candidates",
    "ranking",
    "probabilities",
    "outcome",
    "reply",
}


@pytest.fixture(scope="module", params=["likelihood", "letters", "yes_no"])
def evaluated(request: pytest.FixtureRequest, finished: Path, tmp_path_factory) -> Path:
    """The folder of an evaluation's results."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("evaluated") / "run")
    main(["--ckpt", str(run), "--mode", request.param])
    return run / "eval" / f"test-{request.param}"


def read_ranker_predictions(folder: Path) -> list[dict]:
    """Reads the rankers' predictions, without the retriever's."""
    return [line for line in read_predictions(folder) if line["method"].startswith("rar") and line["task"] != "unknown"]


def test_results_have_a_row_for_every_memory_and_method(evaluated):
    results = read_json(evaluated / "results.json")
    metadata = {"dataset", "split", "mode", "k", "skipped", "bootstrap", "adapter", "encoder", "settings", "leaks"} | {
        "choice", "evaluation", "shots_held", "notes"
    }  # fmt: skip
    assert set(results) == metadata | {"rows", "summary", "by_place", "published", "files", "sha256"}
    assert results["leaks"]["clean"] and results["leaks"]["queries"] == results["leaks"]["near_queries"] == 16
    assert {part: counts["images"] for part, counts in results["leaks"]["parts"].items()} == {
        "test_memory": 32,
        "training": 24,
    }
    assert results["published"] == []
    mode = evaluated.name.removeprefix("test-")
    assert (results["dataset"], results["split"], results["mode"], results["k"]) == ("armory", "test", mode, 4)
    rows = results["rows"]
    assert all(set(row) == ROW | (STAGED if row["method"].startswith("rar") else set()) for row in rows)
    assert all(0 <= row["top1"] <= row["recall_at_k"] <= row["top5"] <= 1 for row in rows if row["k"] < 5)
    keys = [(row["task"], row["shots"], row["seed"], row["method"]) for row in rows]
    ranked = ["rar_untuned", "rar"]
    expected = [("zero_shot", 0, 0, method) for method in ["clip_zero_shot", *ranked]]
    for shots in (1, 2):
        for seed in (1, 2):
            methods = ["clip_zero_shot", "clip_knn", "clip_fused", *ranked]
            expected += [("few_shot", shots, seed, method) for method in methods]
    assert keys == [*expected, ("zero_shot", 0, 0, "ranker_alone")]
    assert {row["n"] for row in rows if row["method"] != "ranker_alone"} == {16}
    assert rows[-1]["n"] == 3
    assert {row["mode"] for row in rows if row["method"].startswith("clip")} == {""}
    assert {row["mode"] for row in rows if row["method"].startswith("rar")} == {mode}


def test_the_rankers_accuracy_is_at_most_the_retrievers_recall(evaluated):
    rows = read_json(evaluated / "results.json")["rows"]
    for row in rows:
        if row["method"].startswith("rar"):
            source = "clip_knn" if row["task"] == "few_shot" else "clip_zero_shot"
            same = ("task", "shots", "seed")
            retriever = next(o for o in rows if o["method"] == source and all(o[key] == row[key] for key in same))
            assert row["recall_at_k"] == retriever["recall_at_k"] >= row["top1"]


def test_staged_metrics_agree_with_the_predictions(evaluated):
    lines = read_ranker_predictions(evaluated)
    for row in read_json(evaluated / "results.json")["rows"]:
        if not row["method"].startswith("rar"):
            continue
        row_lines = [x for x in lines if all(x[key] == row[key] for key in ("task", "shots", "seed", "method"))]
        first = [line["candidates"][0]["name"] == line["truth"] for line in row_lines]
        right = [line["ranking"][0] == line["truth"] for line in row_lines]
        retrieved = [line["truth"] in line["ranking"] for line in row_lines]
        assert row["corrected"] == sum(r and not f for r, f in zip(right, first, strict=True))
        assert row["broken"] == sum(f and not r for r, f in zip(right, first, strict=True))
        assert row["top1_given_hit"] == pytest.approx(sum(right) / sum(retrieved))
        assert row["outcomes"] == {"ok": 16}


def test_accuracy_by_rank_counts_every_hit_once(evaluated):
    results = read_json(evaluated / "results.json")
    lines = read_ranker_predictions(evaluated)
    for method, by_order in results["by_place"].items():
        hits = sum(line["truth"] in line["ranking"] for line in lines if line["method"] == method)
        assert set(by_order) == ({"retrieved", "shown"} if results["mode"] == "letters" else {"retrieved"})
        for rows in by_order.values():
            assert [row["place"] for row in rows] == [1, 2, 3, 4]
            assert sum(row["n"] for row in rows) == hits
            assert sum(row["chosen"] for row in rows) == pytest.approx(1)


def test_summaries_agree_with_the_rows(evaluated):
    results = read_json(evaluated / "results.json")
    assert [(part["task"], part["shots"], part["seeds"]) for part in results["summary"]] == [
        ("zero_shot", 0, 1),
        ("few_shot", 1, 2),
        ("few_shot", 2, 2),
    ]
    for part in results["summary"]:
        key = (part["task"], part["shots"], "rar")
        top1s = [r["top1"] for r in results["rows"] if (r["task"], r["shots"], r["method"]) == key]
        assert part["methods"]["rar"]["mean"] == pytest.approx(sum(top1s) / len(top1s))
        gain = part["rar_minus_untuned"]
        methods = part["methods"]
        assert gain["mean"] == pytest.approx(methods["rar"]["mean"] - methods["rar_untuned"]["mean"])
        assert gain["low"] - 1e-9 <= gain["mean"] <= gain["high"] + 1e-9


def test_predictions_have_a_valid_ranking_for_every_image_memory_and_method(evaluated):
    lines = read_ranker_predictions(evaluated)
    assert len(lines) == 2 * 5 * 16
    assert len({(line["key"], line["task"], line["shots"], line["seed"], line["method"]) for line in lines}) == 160
    for line in lines:
        assert set(line) - {"asked"} == PREDICTION | ({"similarities"} if line["method"] == "rar" else set())
        assert ("asked" in line) == (evaluated.name == "test-letters")
        names = [candidate["name"] for candidate in line["candidates"]]
        assert len(names) == 4 and sorted(line["ranking"]) == sorted(names)
        assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-5)
        best = line["probabilities"].index(max(line["probabilities"]))
        assert math.isclose(line["probabilities"][names.index(line["ranking"][0])], line["probabilities"][best])
        assert (line["outcome"], line["reply"]) == ("ok", "")


def test_predictions_agree_with_the_rows(evaluated):
    lines = read_ranker_predictions(evaluated)
    for row in read_json(evaluated / "results.json")["rows"]:
        if row["method"].startswith("rar"):
            same = ("task", "shots", "seed", "method")
            row_lines = [line for line in lines if all(line[key] == row[key] for key in same)]
            assert row["top1"] == pytest.approx(sum(line["ranking"][0] == line["truth"] for line in row_lines) / 16)


def test_the_tuned_ranker_gives_other_probabilities_than_the_untuned_one(evaluated):
    by_method = {name: [] for name in ("rar", "rar_untuned")}
    for line in read_ranker_predictions(evaluated):
        by_method[line["method"]].append(line["probabilities"])
    assert by_method["rar"] != by_method["rar_untuned"]


def test_an_evaluation_killed_and_started_again_writes_the_same_bytes(evaluated):
    files = sorted(path for path in evaluated.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    (answers,) = evaluated.glob("answers-*/answers-rar.jsonl")
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:7]) + '{"id": "f')
    (evaluated / "results.json").unlink()
    (evaluated / "predictions.jsonl.gz").unlink()
    main(["--ckpt", str(evaluated.parent.parent), "--mode", evaluated.name.removeprefix("test-")])
    assert {path: path.read_bytes() for path in files} == before


def test_mode_generate_on_the_validation_split_from_a_checkpoint(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    checkpoint = run / "checkpoints" / "step-00000001.ckpt"
    few = ["eval.shots=[1]", "eval.seeds=[1]", "eval.zero_shot=false", "eval.ranker_only_images=0", "eval.k=2"]
    main(["--ckpt", str(checkpoint), "--split", "val", "--mode", "generate", *few, "--name", "early"])
    folder = run / "eval" / "early"
    lines = read_ranker_predictions(folder)
    assert len(lines) == 2 * 16
    for line in lines:
        assert sorted(line["ranking"]) == sorted(candidate["name"] for candidate in line["candidates"])
        assert line["probabilities"] == []
        assert line["outcome"] in ("ok", "repaired", "unreadable")
    assert all(row["method"] != "ranker_alone" for row in read_json(folder / "results.json")["rows"])
    assert "ranking by generate, k = 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        ("eval.batch_size=1", "eval.batch_size=16"),
        # Starting processes is slow; tests/eval/ranking/test_inference.py compares their bytes.
        pytest.param(("eval.batch_size=16", "trainer.devices=2"), marks=pytest.mark.slow),
    ],
)
def test_rankings_depend_neither_on_the_batch_size_nor_on_the_processes(settings, finished, tmp_path):
    few = [
        "eval.shots=[1]",
        "eval.seeds=[1]",
        "eval.zero_shot=false",
        "eval.ranker_only_images=0",
        "ranker.mode=letters",
    ]
    rankings = []
    for index, setting in enumerate(settings):
        run = shutil.copytree(finished, tmp_path / f"run-{index}")
        main(["--ckpt", str(run), *few, setting, "--name", "few"])
        lines = read_ranker_predictions(run / "eval" / "few")
        rankings.append([(line["key"], line["method"], line["ranking"]) for line in lines])
    assert rankings[0] == rankings[1]


def test_fusion_gate_and_open_set_threshold_are_fitted_on_val_and_evaluated_on_test(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    few = ["eval.shots=[2]", "eval.seeds=[1]", "eval.zero_shot=false", "eval.ranker_only_images=0"]
    main(["--ckpt", str(run), *few, "eval.fusion=true", "eval.open_set_fraction=0.25", "--name", "open"])
    folder = run / "eval" / "open"
    results = read_json(folder / "results.json")
    methods = ["clip_zero_shot", "clip_knn", "clip_fused", "rar_untuned", "rar", "rar_fused", "rar_gated"]
    assert [row["method"] for row in results["rows"]] == methods
    assert set(results["choice"]) == set(results["gate"]) == set(results["calibration"]) == {"few_shot-2"}
    assert results["choice"]["few_shot-2"]["fusion"]["ranker"] > 0
    for stages in results["calibration"]["few_shot-2"].values():
        assert {sum(row["count"] for row in stage["bins"]) for stage in stages.values()} == {16}
    curve = results["gate"]["few_shot-2"]["curve"]
    by_method = {row["method"]: row["top1"] for row in results["rows"]}
    assert curve[-1]["top1"] == pytest.approx(by_method["rar_fused"])
    unknown = results["unknown"]
    assert (unknown["known"], unknown["unknown"]) == (12, 4)
    assert set(unknown["auroc"]) == {"retriever", "probability", "score"}
    assert len(read_ranker_predictions(folder)) == 4 * 16
    assert sum(line["task"] == "unknown" for line in read_predictions(folder)) == 16
    before = (folder / "results.json").read_bytes()
    main(["--rescore", str(folder)])  # the gate's curve and the unknown classes too
    assert (folder / "results.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert "% of the images to the ranker" in printed and "AUROC" in printed
    # Nothing of the test split is used: an evaluation of the validation split gives the same choices.
    chosen = (run / "eval" / "choices-likelihood.json").read_bytes()
    (run / "eval" / "choices-likelihood.json").unlink()
    main(
        [
            "--ckpt",
            str(run),
            "--split",
            "val",
            *few,
            "eval.fusion=true",
            "eval.open_set_fraction=0.25",
        ]
    )
    assert (run / "eval" / "choices-likelihood.json").read_bytes() == chosen


def test_choices_use_eval_fit_images_of_val_and_run_the_tuned_ranker_alone(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    few = [
        "eval.shots=[2]",
        "eval.seeds=[1]",
        "eval.zero_shot=false",
        "eval.ranker_only_images=0",
        "eval.fusion=true",
    ]
    main(["--ckpt", str(run), *few, "eval.fit_images=5", "--name", "few"])
    (answers,) = (run / "eval" / "validation-likelihood").glob("answers-*")
    assert [path.name for path in answers.glob("*.jsonl")] == ["answers-rar.jsonl"]
    assert len((answers / "answers-rar.jsonl").read_text().splitlines()) == 5
    assert {row["n"] for row in read_json(run / "eval" / "few" / "results.json")["rows"]} == {16}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of eight classes with splits."""
    for label, blazon in enumerate(SHIELDS):
        for split, count in (("train", 2), ("val", 2), ("test", 1)):
            for index in range(count):
                file = tmp_path / "data" / split / blazon.name / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                render(blazon, 96, np.random.default_rng([label, index, len(split)])).save(file)
    return tmp_path / "data"


def test_images_replaced_under_their_names_are_ranked_again(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    few = ["data.name=folder", f"data.root={data}", "eval.shots=[1]", "eval.seeds=[1]", "eval.ranker_only_images=2"]
    arguments = [
        "--ckpt",
        str(run),
        "--mode",
        "letters",
        *few,
        "eval.k=2",
        "eval.show_exemplars=true",
        "--name",
        "folder",
    ]
    main(arguments)
    out = run / "eval" / "folder"
    before = (out / "predictions.jsonl.gz").read_bytes()
    # A query image, and the images that are shown as examples.
    for split in ("test", "train"):
        for index, file in enumerate((data / split / SHIELDS[1].name).glob("*.png")):
            render(SHIELDS[5], 96, np.random.default_rng([7, index, len(split)])).save(file)
    main(arguments)
    after = (out / "predictions.jsonl.gz").read_bytes()
    assert after != before
    shutil.rmtree(out)
    main(arguments)
    assert (out / "predictions.jsonl.gz").read_bytes() == after


def test_two_commands_do_not_write_the_same_evaluation_at_the_same_time(finished, tmp_path, monkeypatch):
    run, written = shutil.copytree(finished, tmp_path / "run"), []

    def write(folder: Path, *rest) -> None:
        with pytest.raises(UserError, match="another command has been changing it"), file_lock(folder, seconds=0):
            pass
        written.append(folder)
        write_results(folder, *rest)

    for module in (evaluate, rescore):
        monkeypatch.setattr(module, "write_results", write)
    main(["--ckpt", str(run), "eval.shots=[]", "eval.ranker_only_images=0", "--name", "few"])
    main(["--rescore", str(run / "eval" / "few")])
    assert written == [run / "eval" / "few"] * 2


def test_choices_on_another_data_set_do_not_overwrite_the_runs_own(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    few = [
        "eval.shots=[1]",
        "eval.seeds=[1]",
        "eval.zero_shot=false",
        "eval.ranker_only_images=0",
        "eval.fusion=true",
    ]
    run_choices = run / "eval" / "choices-likelihood.json"
    main(["--ckpt", str(run), "--task", "fewshot", "--datasets", "armory", *few, "eval.fit_images=5"])
    before = run_choices.read_bytes()  # --task with the run's own data set writes them too
    other = ["--ckpt", str(run), *few, "data.name=folder", f"data.root={data}", "eval.fit_images=5"]
    for options, out in ((["--name", "one"], "one"), (["--task", "fewshot", "--name", "several"], "several/folder")):
        main([*other, *options])
        assert run_choices.read_bytes() == before
        assert (run / "eval" / out / "choices.json").is_file()


def test_several_orders_with_examples_are_ranked_and_aggregated(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    few = ["eval.shots=[1]", "eval.seeds=[1]", "eval.ranker_only_images=0", "eval.show_exemplars=true"]
    main(
        ["--ckpt", str(run), "--mode", "letters", *few, "eval.permutations=3", "eval.aggregate=borda", "--name", "few"]
    )
    folder = run / "eval" / "few"
    (answers,) = folder.glob("answers-*/answers-rar.jsonl")
    assert len(answers.read_text().splitlines()) == 2 * 16 * 3
    results = read_json(folder / "results.json")
    # Every order counts in the metrics by rank.
    shown = results["by_place"]["rar"]["shown"]
    assert sum(row["n"] for row in shown) == 3 * sum(row["n"] for row in results["by_place"]["rar"]["retrieved"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ranker.mode=letters", "eval.k=27"], "eval.k=27: mode letters has 26 letters"),
        (["ranker.mode=generate", "eval.permutations=2"], "aggregate by borda or kemeny"),
        (
            ["ranker.mode=constrained", "eval.fusion=true"],
            "eval.fusion=true: ranker.mode=constrained gives no probab",
        ),
        (["eval.show_exemplars=true"], "mode likelihood lists no candidates"),
        (["eval.k=13", "eval.aggregate=kemeny"], "at most 12"),
        (["eval.k=0"], "eval.k=0: must be at least 1"),
    ],
)
def test_incompatible_settings_say_what_to_change(finished, settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_saved_recipe(finished / "recipe.yaml", settings)


def test_k_may_exceed_the_number_of_letters_or_be_one(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    few = ["eval.shots=[]", "eval.ranker_only_images=0"]
    for k, names in ((30, 8), (1, 1)):  # there are eight classes
        main(["--ckpt", str(run), *few, f"eval.k={k}", "--name", f"k{k}"])
        lines = read_ranker_predictions(run / "eval" / f"k{k}")
        assert {len(line["ranking"]) for line in lines} == {names}


def test_evaluations_with_other_settings_have_names_of_their_own_and_are_all_listed(finished, tmp_path, capsys, caplog):
    run = shutil.copytree(finished, tmp_path / "run")
    few = ["eval.shots=[1]", "eval.seeds=[1]", "eval.zero_shot=false", "eval.ranker_only_images=0"]
    expected = "test-likelihood-shots=1-seeds=1-zero_shot=false-ranker_only_images=0"
    main(["--ckpt", str(run), *few])
    before = {path: path.read_bytes() for path in (run / "eval" / expected).iterdir() if path.is_file()}
    main(["--ckpt", str(run), *few, "ranker.dtype=bfloat16", "--name", "bf16"])  # has other answers
    assert len({path.name for path in (run / "eval").glob("*/answers-*") if path.is_dir()}) == 2
    with caplog.at_level("INFO"):  # intervals and metrics alone are others, so no image is ranked again
        others = ["eval.bootstrap=60", "eval.metrics=[mean_class_top1]"]
        main(["--ckpt", str(run), *few, *others, "trainer.accelerator=cpu", "eval.batch_size=32"])
    assert "using the answers in" in caplog.text
    (third,) = (path for path in (run / "eval").iterdir() if path.is_dir() and path.name not in (expected, "bf16"))
    assert third.name.startswith("test-likelihood-shots=1-seeds=1-zero_shot=false") and len(third.name) <= 80
    assert {path: path.read_bytes() for path in before} == before
    printed = capsys.readouterr().out
    assert f"evaluations of {run}" in printed and "ranker.dtype=bfloat16" in printed
    next_lines = printed[printed.rindex("next:") :]
    assert all(command in next_lines for command in ("eval.predict --ckpt", "eval.report", "rar_train.export"))
    index = (run / "eval" / "index.html").read_text()
    assert all(f'href="{quote(name)}/report.html"' in index for name in (expected, "bf16", third.name))
    # A name that holds another evaluation is refused before a model ranks, and what it holds stays.
    with pytest.raises(
        UserError, match=r"bf16: holds another evaluation \(its settings: ranker.dtype=bfloat16 shots=1"
    ):
        main(["--ckpt", str(run), *few, "--name", "bf16"])
    with pytest.raises(UserError, match="--name a/b: give up to 100 letters"):
        main(["--ckpt", str(run), "--name", "a/b"])
    # The same settings with another adapter are another evaluation.
    early = run / "checkpoints" / "step-00000001.ckpt"
    main(["--ckpt", str(early), *few])
    (folder,) = (run / "eval").glob("test-likelihood-step-00000001-shots=1-*")
    assert folder.is_dir()


def test_predictions_name_their_pictures_and_have_a_table_for_spreadsheets(evaluated):
    root = Path(read_json(evaluated / "pictures.json")["root"])
    lines = list(read_predictions(evaluated))
    assert all((root / line["path"]).is_file() for line in lines)
    with open(evaluated / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tuned = {(x["key"], x["task"], str(x["shots"]), str(x["seed"])): x for x in lines if x["method"] == "rar"}
    assert len(rows) == len(tuned) == 5 * 16
    for row in rows:
        line = tuned[row["key"], row["task"], row["shots"], row["seed"]]
        assert (row["path"], row["truth"], row["tuned"]) == (line["path"], line["truth"], line["ranking"][0])
        assert float(row["probability"]) == max(line["probabilities"])


def test_the_adapter_is_found_from_a_run_a_checkpoint_or_its_adapter(finished):
    folder = finished / "checkpoints"
    assert find_adapter(finished) == (finished / "adapter", finished)
    for name in ("step-00000001.ckpt", "step-00000001.adapter"):
        assert find_adapter(folder / name) == (folder / "step-00000001.adapter", finished)


def test_a_folder_without_a_run_and_a_run_without_an_adapter_say_what_to_give(finished, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no run there \(no recipe.yaml\); give a folder that rar_train.fit"):
        find_adapter(tmp_path / "nowhere")
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    with pytest.raises(UserError, match=r"no adapter at .*run/adapter; let the training end, or give one of .*\.ckpt"):
        find_adapter(tmp_path / "run")
    with pytest.raises(UserError, match=r"no adapter at .*step-00000009\.adapter"):
        find_adapter(tmp_path / "run" / "checkpoints" / "step-00000009.ckpt")


def test_a_misspelt_setting_and_a_wrong_mode_are_refused(finished):
    with pytest.raises(UserError, match=r"unknown key eval.shot; did you mean eval.shots"):
        main(["--ckpt", str(finished), "eval.shot=[1]"])
    with pytest.raises(UserError, match="did you mean letters"):
        main(["--ckpt", str(finished), "--mode", "letter"])


def test_another_base_model_than_the_adapters_is_refused_before_anything_is_written(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    rewrite_manifest(run / "adapter", base_model="llava-1.5-7b-hf")
    few = ["eval.shots=[1]", "eval.seeds=[1]", "eval.zero_shot=false", "eval.ranker_only_images=0"]
    with pytest.raises(UserError, match=r"trained on nano-mllm \(llava-1\.5-7b-hf\), but llava-"):
        main(["--ckpt", str(run), *few])
    assert not list((run / "eval").rglob("results.json"))


def test_images_that_the_run_was_tuned_on_are_refused_or_counted(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    recipe = load_saved_recipe(tmp_path / "run" / "recipe.yaml", [])
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("test",))
    write_mined(tmp_path / "run", read_mined(tmp_path / "run") | {dataset.parts["test"][3].digest})
    record_checksum(tmp_path / "run", "mined.txt")
    with pytest.raises(UserError, match="1 of 16 images of test were mined for its training"):
        main(["--ckpt", str(tmp_path / "run")])
    few = ["eval.shots=[]", "eval.ranker_only_images=0", "eval.leaks=allow"]
    main(["--ckpt", str(tmp_path / "run"), *few, "--name", "leaks"])
    results = read_json(tmp_path / "run" / "eval" / "leaks" / "results.json")
    assert not results["leaks"]["clean"] and results["leaks"]["parts"]["training"]["exact"] == 1
    assert re.search(r"1 of 16 evaluated images \w+ in training byte for byte", capsys.readouterr().out)
