"""Several data sets by one command: their table, reuse of complete ones, refused leaks, and rescoring."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.core.results_file import read_results, write_results
from data_prep.datasets.coop import GUIDE
from data_prep.embedding.encoder import load_encoder
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_recipe, load_saved_recipe
from eval.recognition.benchmarks import _keep_datasets, recipe_by_dataset
from eval.recognition.evaluate import evaluation_fingerprint, read_checked
from eval.recognition.run import Run
from eval.report.predictions import read_predictions, write_predictions
from eval.report.reading import FILES
from eval.report.results import read_metrics
from eval.run import main
from tests.commands import environment

SETS = {
    "dtd": ("dtd/images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat/2750", "split_zhou_EuroSAT.json"),
}
CLASSES = ("banded", "dotted", "woven")
FEW = ("--task", "fewshot", "--name", "both", "--shots", "4", "all", "--seeds", "1", "2")
QUICK = ("eval.k=2", "eval.ranker_only_images=2", "eval.bootstrap=50", "eval.near_duplicate_threshold=1.1")


def write_dataset(root: Path, name: str, seed: int) -> None:
    """Writes random noise in a benchmark's layout, with five train, one val and two test images per class."""
    folder, split_file = SETS[name]
    rng, split = np.random.default_rng(seed), {"train": [], "val": [], "test": []}
    for part, count in (("train", 5), ("val", 1), ("test", 2)):
        for label, word in enumerate(CLASSES):
            for number in range(count):
                path = root / folder / word / f"{part}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
                split[part].append([f"{word}/{path.name}", label, word])
    (root / folder.split("/")[0] / split_file).write_text(json.dumps(split))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "DATA"
    for seed, name in enumerate(SETS):
        write_dataset(folder, name, seed)
    return folder


@pytest.fixture(scope="module")
def run(finished: Path, root: Path, tmp_path_factory) -> Path:
    """A run with which both data sets were evaluated."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("several") / "run")
    main(["--ckpt", str(run), *FEW, "--datasets", *SETS, f"data.root={root}", *QUICK])
    return run


@pytest.fixture
def folder(run: Path) -> Path:
    return run / "eval" / "both"


def evaluate_again(run: Path, root: Path, *more: str) -> None:
    main(["--ckpt", str(run), *FEW, "--datasets", *SETS, f"data.root={root}", *QUICK, *more])


def test_there_are_rows_for_every_data_set_and_for_their_average(folder):
    results = read_json(folder / "results.json")
    assert results["datasets"] == list(SETS)
    kinds = [("few_shot", 4, 1), ("few_shot", 4, 2), ("whole_set", 0, 0)]
    methods = ["clip_zero_shot", "clip_knn", "clip_fused", "rar_untuned", "rar"]
    expected = [(*kind, method) for kind in kinds for method in methods] + [("zero_shot", 0, 0, "ranker_alone")]
    by_set = {
        name: {(r["task"], r["shots"], r["seed"], r["method"]): r for r in results["rows"] if r["dataset"] == name}
        for name in (*SETS, "average")
    }
    for rows in by_set.values():
        assert list(rows) == expected
    for key, row in by_set["average"].items():
        assert row["top1"] == pytest.approx(np.mean([by_set[name][key]["top1"] for name in SETS]))
        assert row["n"] == sum(by_set[name][key]["n"] for name in SETS)
    averages = [part for part in results["summary"] if part["dataset"] == "average"]
    assert [(part["task"], part["shots"], part["seeds"]) for part in averages] == [
        ("few_shot", 4, 2),
        ("whole_set", 0, 1),
    ]


def test_the_papers_results_with_the_same_shots_are_listed_next_to_measured_ones(folder):
    rows = {(row["dataset"], row["method"]): row for row in read_json(folder / "results.json")["published"]}
    assert set(rows) == {(name, method) for name in (*SETS, "average") for method in ("clip_knn", "rar")}
    assert {row["shots"] for row in rows.values()} == {4}
    assert rows["dtd", "rar"]["published"] == 53.9 and rows["eurosat", "clip_knn"]["published"] == 67.6
    assert rows["average", "rar"]["published"] == pytest.approx((53.9 + 74.8) / 2)
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["measured"] - row["published"])


def test_the_page_has_a_line_for_each_data_set_and_the_average(folder):
    page = (folder / "report.html").read_text()
    assert page.count('<table class="by-dataset">') == 2
    assert all(f'<td class="text stays">{name}</td>' in page for name in (*SETS, "average"))
    assert "Next to the paper" in page and (folder / "dtd" / "report.html").is_file()


def test_complete_data_sets_are_reused_and_others_evaluated(run, root, folder, caplog, monkeypatch):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with caplog.at_level("INFO"):
        evaluate_again(run, root)
    assert "dtd: reusing" in caplog.text and "eurosat: reusing" in caplog.text
    assert "ranking by" not in caplog.text and "embeddings:" not in caplog.text
    caplog.clear()
    (folder / "eurosat" / "results.json").unlink()
    (folder / "dtd" / "pictures.json").write_text("{}")
    monkeypatch.setattr("eval.ranking.inference.load_mllm", None)  # all answers are on disk
    with caplog.at_level("INFO"):
        evaluate_again(run, root)
    assert "dtd/pictures.json: damaged or changed" in caplog.text and "dtd: evaluating" in caplog.text
    assert "eurosat: evaluating" in caplog.text
    assert {path: path.read_bytes() for path in before} == before


def test_a_metric_that_was_edited_is_computed_again_for_data_sets_that_are_reused(
    finished, root, tmp_path, monkeypatch, caplog
):
    run, module = shutil.copytree(finished, tmp_path / "run"), ModuleType("edited_metrics")
    monkeypatch.setitem(sys.modules, "edited_metrics", module)
    few = ["--task", "zeroshot", "--datasets", "dtd", f"data.root={root}", *QUICK, "eval.metrics=[edited_metrics:mine]"]
    for value in (0.25, 0.75):
        module.mine = lambda predictions, value=value: value
        with caplog.at_level("INFO"):
            main(["--ckpt", str(run), *few, "--name", "mine"])
        assert {row["mine"] for row in read_json(run / "eval" / "mine" / "results.json")["rows"]} == {value}
    assert "dtd: reusing" in caplog.text


def test_an_evaluation_is_reused_only_if_all_of_its_inputs_are_the_same(run, root, tmp_path):
    copy, data = shutil.copytree(run, tmp_path / "run"), shutil.copytree(root, tmp_path / "DATA")
    encoder = load_encoder(RetrieverArgs())

    def stamp_of(*settings: str, encoder=encoder) -> str:
        settings = ["data.name=dtd", f"data.root={data}", *QUICK, *settings]
        recipe = load_saved_recipe(copy / "recipe.yaml", settings)
        return evaluation_fingerprint(recipe, Run(copy, copy / "adapter"), read_checked(recipe, copy), encoder)

    variants = [
        (),
        ("eval.fusion=true",),
        ("ranker.max_pixels=9000",),
        ("ranker.dtype=bfloat16",),
        ("seed=3",),
    ]
    before = [stamp_of(*settings) for settings in variants]
    before.append(stamp_of(encoder=replace(encoder, id="another")))
    assert len(set(before)) == len(variants) + 1
    # An image of the validation split only affects what is fitted there.
    Image.new("RGB", (32, 32), (9, 9, 9)).save(data / "dtd/images/dotted/val_0.png")
    assert stamp_of() == before[0] and stamp_of("eval.fusion=true") != before[1]
    Image.new("RGB", (32, 32), (8, 8, 8)).save(data / "dtd/images/dotted/train_0.png")
    assert stamp_of() != before[0]


def test_a_longer_list_of_data_sets_extends_a_folder_and_another_list_gets_its_own(tmp_path):
    folder = tmp_path / "fewshot-test-likelihood"
    assert _keep_datasets(folder, ["dtd"], None) == folder
    folder.mkdir()
    write_results(folder, {"datasets": ["dtd", "eurosat"]})
    assert _keep_datasets(folder, ["eurosat", "dtd", "food101"], None) == folder
    assert _keep_datasets(folder, ["dtd"], None).name == "fewshot-test-likelihood-dtd"
    with pytest.raises(UserError, match="holds a table of dtd, eurosat, which is not overwritten; give another --name"):
        _keep_datasets(folder, ["dtd"], "mine")


def test_a_missing_data_set_is_named_with_where_to_get_it_before_a_model_loads(run, root, caplog):
    with caplog.at_level("INFO"), pytest.raises(UserError) as caught:
        main(["--ckpt", str(run), *FEW, "--datasets", "dtd", "caltech101", f"data.root={root}", *QUICK[1:]])
    assert str(root / "caltech-101") in str(caught.value) and GUIDE in str(caught.value)
    assert "embeddings:" not in caplog.text
    with pytest.raises(UserError, match=r"data\.name=dtd needs data.root=FOLDER, which holds dtd"):
        main(["--ckpt", str(run), *FEW, "--datasets", "dtd"])


def test_a_test_image_in_the_memory_is_refused_left_out_or_counted(run, root, tmp_path, capsys):
    leaky = shutil.copytree(root, tmp_path / "DATA")
    images = leaky / "dtd" / "images"
    shutil.copy(images / "dotted" / "test_1.png", images / "woven" / "train_2.png")
    arguments = ["--ckpt", str(run), "--task", "zeroshot", "--datasets", "dtd", f"data.root={leaky}", *QUICK[:3]]
    message = rf"dtd: 1 of \d+ images of test_memory are evaluated too.*{re.escape(str(images))}/dotted/test_1.png"
    with pytest.raises(UserError, match=message + r"\. Set eval\.leaks=skip"):
        main(arguments)
    main([*arguments, "eval.leaks=skip", "--name", "skipped"])
    results = read_json(run / "eval" / "skipped" / "dtd" / "results.json")
    assert results["leaks"]["clean"] and results["skipped"]["test_memory image that is evaluated too"] == 1
    # Saved again, the copy is another file that looks the same.
    Image.open(images / "banded" / "test_0.png").save(images / "banded" / "train_0.png", compress_level=1)
    allowed = ("eval.leaks=allow", "eval.full_train_memory=true", "eval.near_duplicate_threshold=0.999")
    main([*arguments, *allowed, "--name", "leaky"])
    leaks = read_json(run / "eval" / "leaky" / "dtd" / "results.json")["leaks"]
    part = leaks["parts"]["test_memory"]
    assert (leaks["clean"], part["images"], part["exact"], part["other_class"]) == (False, 15, 1, 1)
    assert part["near"] == 1
    printed = " ".join(capsys.readouterr().out.split())
    exact = r"leaks, dtd: 1 of 6 evaluated images \w+ in test_memory byte for byte"
    assert re.search(rf"{exact}, 1 of 6 have a near-dup", printed)


def test_rescoring_gives_the_same_bytes_without_torch_and_other_metrics_for_other_predictions(
    run, folder, tmp_path, capsys
):
    index = run / "eval" / "index.html"
    before = {path: path.read_bytes() for path in (*folder.rglob("*.json"), index)}
    index.unlink()
    code = "import sys; from eval.run import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    arguments = ("--ckpt", str(run), "--rescore")
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in before} == before
    copy = shutil.copytree(folder, tmp_path / "copy")
    lines = list(read_predictions(copy / "dtd"))
    for method in ("clip_knn", "rar"):
        of_method = [line for line in lines if (line["method"], line["task"]) == (method, "whole_set")]
        line = next(line for line in of_method if line["truth"] in line["ranking"])
        others = [name for name in line["ranking"] if name != line["truth"]]
        line["ranking"] = [*others, line["truth"]] if line["ranking"][0] == line["truth"] else [line["truth"], *others]
    write_predictions(copy / "dtd", CLASSES, lines)
    with pytest.raises(UserError, match=r"dtd/predictions\.jsonl\.gz: damaged or changed .*run the command .* again"):
        main(["--rescore", str(copy)])
    write_results(copy / "dtd", read_results(copy / "dtd"), FILES)
    main(["--rescore", str(copy)])

    def top1(folder: Path, dataset: str, method: str) -> float:
        rows = read_json(folder / "results.json")["rows"]
        return next(r["top1"] for r in rows if (r["dataset"], r["task"], r["method"]) == (dataset, "whole_set", method))

    for method in ("clip_knn", "rar"):
        change = abs(top1(copy, "dtd", method) - top1(folder, "dtd", method))
        assert change == pytest.approx(1 / 6)
        assert abs(top1(copy, "average", method) - top1(folder, "average", method)) == pytest.approx(1 / 12)
    assert top1(copy, "eurosat", "rar") == top1(folder, "eurosat", "rar")


def test_damaged_predictions_are_named(folder, tmp_path):
    copy = shutil.copytree(folder / "dtd", tmp_path / "copy")
    path, records = copy / "predictions.jsonl.gz", list(read_predictions(copy))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"predictions\.jsonl\.gz: damaged or changed"):
        main(["--rescore", str(copy)])
    metadata = read_results(copy)
    with pytest.raises(UserError, match=r"predictions.jsonl.gz, line \d+: no prediction of eval.run"):
        read_metrics(copy, metadata)
    write_predictions(copy, CLASSES, records[1:])
    with pytest.raises(UserError, match="are not of the same images"):
        read_metrics(copy, metadata).results()
    path.unlink()
    with pytest.raises(UserError, match=r"predictions\.jsonl\.gz: no such file"):
        main(["--rescore", str(copy)])
    with pytest.raises(UserError, match="no evaluation there with predictions"):
        main(["--rescore", str(tmp_path)])


def test_the_data_sets_recipes_differ_in_root_and_prompts_alone(tmp_path):
    recipe = load_recipe(["recipe=ranker_lora", "data.root=DATA", "retriever.templates=['a photo of a {}.']"])
    recipes = recipe_by_dataset(recipe, ["dtd", "armory"], default_templates=True)
    assert [(r.data.name, r.data.root, r.retriever.templates) for r in recipes.values()] == [
        ("dtd", "DATA", []),
        ("armory", None, []),
    ]
    (unchanged,) = recipe_by_dataset(recipe, ["dtd"], default_templates=False).values()
    assert unchanged.retriever.templates == ["a photo of a {}."]
    for names, message in ((["dtdd"], "there are armory"), (["dtd"] * 2, "named once"), (["dtd", "folder"], "alone")):
        with pytest.raises(UserError, match=message):
            recipe_by_dataset(recipe, names, default_templates=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "zeroshot", "--shots", "4"), "--task zeroshot samples no shots"),
        (("--task", "fewshot", "--shots", "four"), "--shots four: give whole numbers, or all"),
        (("--task", "fewshot", "--seeds", "all"), "--seeds all: give whole numbers"),
    ],
)
def test_invalid_options_are_refused_with_what_to_give(run, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main(["--ckpt", str(run), *arguments])


@pytest.mark.parametrize("arguments", [(), ("--rescore",), ("--ckpt", "RUN", "--datasets", "dtd")])
def test_a_command_line_without_a_required_option_is_refused(arguments):
    with pytest.raises(UserError, match=r"give --ckpt RUN, or --rescore|--datasets, --shots and --seeds belong to"):
        main(list(arguments))
