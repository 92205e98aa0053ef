"""Base to new: fit, choose and evaluate on halves of a folder's classes, by one command, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.settings.loading import load_recipe, load_saved_recipe
from eval.metrics.base_to_new import harmonic_mean
from eval.report.predictions import read_predictions
from eval.run import main
from rar_train.ranker.train import train_ranker

CLASSES = 6
SETS = {
    "dtd": ("dtd/images", "split_zhou_DescribableTextures.json"),
    "eurosat": ("eurosat/2750", "split_zhou_EuroSAT.json"),
}
QUICK = ("eval.k=2", "eval.ranker_only_images=0", "eval.near_duplicate_threshold=1.1", "eval.shots=[1]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six classes of shields, with four train, two val and two test images each."""
    root = tmp_path_factory.mktemp("halves") / "shields"
    for label, blazon in enumerate(draw_classes("test", CLASSES, 3, 0)):
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            for number in range(count):
                path = root / split / f"{label} {blazon.name}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                render(blazon, 64, np.random.default_rng([label, number, count])).save(path)
    return root


@pytest.fixture(scope="module")
def fit(folder, tmp_path_factory):
    """Fits a ranker for one step on the folder, with settings."""

    def train(*settings: str) -> Path:
        out = tmp_path_factory.mktemp("runs") / "run"
        fixed = "ranker.lora.scope=language+projector optim.max_steps=1 optim.batch_size=4 trainer.checkpoint_every=1 "
        fixed += "trainer.val_examples=4 trainer.val_generate_examples=2 trainer.accelerator=cpu mining.k=3 "
        fixed += "tracking.wandb=disabled eval.bootstrap=50 eval.fusion=false eval.permutations=1 eval.seeds=[1,2]"
        paths = [f"data.root={folder}", f"cache={folder.parent / 'cache'}", f"out={out}"]
        return train_ranker(load_recipe(["recipe=ranker_lora", *fixed.split(), *paths, *settings]))

    return train


@pytest.fixture(scope="module")
def run(fit) -> Path:
    """A run that was tuned on the base classes, and evaluated on both halves."""
    run = fit("data.tune_classes=base")
    main(["--ckpt", str(run), "--base-to-new", *QUICK])
    return run


@pytest.fixture
def results(run) -> dict:
    return read_json(run / "eval" / results_name(run) / "results.json")


def results_name(run: Path) -> str:
    (name,) = [path.name for path in (run / "eval").glob("base_to_new-test-likelihood*")]
    return name


def test_each_half_is_evaluated_among_its_own_classes(run, folder):
    names = sorted(path.name for path in (folder / "test").iterdir())
    parent = run / "eval" / results_name(run)
    for half, classes in (("base", names[:3]), ("new", names[3:])):
        lines = list(read_predictions(parent / f"folder-{half}"))
        assert {line["truth"] for line in lines} == set(classes)
        assert {name for line in lines for name in line["ranking"]} <= set(classes)
        assert {c["name"] for line in lines for c in line.get("candidates", ())} <= set(classes)
        of_half = read_json(parent / f"folder-{half}" / "results.json")
        assert of_half["dataset"] == f"shields {half}" and of_half["leaks"]["clean"]
        assert of_half["evaluation"]["changes"]["eval.classes"] == half


def test_the_table_has_both_halves_and_their_harmonic_mean(run, results, capsys):
    tops = {(row["dataset"], row["task"], row["seed"], row["method"]): row["top1"] for row in results["rows"]}
    part = next(p for p in results["base_to_new"] if (p["dataset"], p["task"]) == ("folder", "few_shot"))
    for method, halves in part["halves"].items():
        means = [np.mean([tops[f"shields {half}", "few_shot", s, method] for s in (1, 2)]) for half in ("base", "new")]
        assert [halves[half]["mean"] for half in ("base", "new")] == pytest.approx(means)
        assert halves["H"]["mean"] == pytest.approx(harmonic_mean(*means))
    page = (run / "eval" / results_name(run) / "report.html").read_text()
    assert '<table class="halves">' in page and "95 % interval of H" in page
    before = (run / "eval" / results_name(run) / "results.json").read_bytes()
    main(["--rescore", str(run / "eval" / results_name(run))])
    assert (run / "eval" / results_name(run) / "results.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert "base to new, 1 shot, test, top-1 %" in printed and "95 % interval of H" in printed
    assert re.search(r"rar - \w+ in H = ", printed)
    assert "H of base and new" in (run / "eval" / "index.html").read_text()


def test_the_recipe_of_the_run_and_the_name_of_a_half_say_what_was_limited(run):
    assert load_saved_recipe(run / "recipe.yaml", []).data.tune_classes == "base"
    main(["--ckpt", str(run), "eval.classes=new", *QUICK])
    assert any("classes=new" in path.name for path in (run / "eval").iterdir())


def test_complete_halves_are_reused(run, caplog):
    with caplog.at_level("INFO"):
        main(["--ckpt", str(run), "--base-to-new", *QUICK])
    assert "folder-base: reusing" in caplog.text and "folder-new: reusing" in caplog.text


def test_several_data_sets_are_in_one_table_with_h_of_their_averages(run, tmp_path, capsys):
    for name, (images, split_file) in SETS.items():
        split = {"train": [], "val": [], "test": []}
        for part, label, number in [(p, label, n) for p in split for label in range(4) for n in range(2)]:
            path = tmp_path / images / f"{part}{label}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([len(name), len(part), label, number]).integers(
                0, 256, (32, 32, 3), np.uint8
            )
            Image.fromarray(pixels).save(path)
            split[part].append([path.name, label, f"thing {label}"])
        (tmp_path / images.split("/")[0] / split_file).write_text(json.dumps(split))
    several = ["--task", "zeroshot", "--datasets", *SETS, f"data.root={tmp_path}"]
    main(["--ckpt", str(run), "--base-to-new", *several, *QUICK[:-1]])
    (folder,) = (run / "eval").glob("base_to_new-zeroshot-test-likelihood*")
    results = read_json(folder / "results.json")
    assert results["datasets"] == [f"{name}-{half}" for name in SETS for half in ("base", "new")]
    by_set = {part["dataset"]: part["halves"] for part in results["base_to_new"]}
    assert list(by_set) == [*SETS, "average"]
    for method, halves in by_set["average"].items():
        means = [np.mean([by_set[name][method][half]["mean"] for name in SETS]) for half in ("base", "new")]
        assert halves["H"]["mean"] == pytest.approx(harmonic_mean(*means))
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*SETS, "average"))


def test_a_run_that_was_tuned_on_all_classes_has_no_new_ones(fit, tmp_path):
    run = fit()
    message = (
        r"was tuned on \d+ images of the new classes of shields.*data\.tune_classes=base, or set eval\.leaks=allow"
    )
    with pytest.raises(UserError, match=message):
        main(["--ckpt", str(run), "--base-to-new", *QUICK])
    main(["--ckpt", str(run), "eval.classes=base", *QUICK])  # nothing is new there
    shutil.rmtree(run / "eval")
    main(["--ckpt", str(run), "--base-to-new", "eval.leaks=allow", *QUICK])
    assert list((run / "eval").glob("base_to_new-*/results.json"))


def test_nothing_is_chosen_on_validation_images_of_new_classes(run):
    with pytest.raises(UserError, match=r"6 of the 12 validation images.*are of new classes\. Set data\.tune_classes"):
        main(["--ckpt", str(run), "eval.classes=new", "data.tune_classes=all", "eval.k=auto", *QUICK[1:]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("eval.classes=new", "data.name=armory"), r"eval\.classes=new: does not apply to armory"),
        (
            ("eval.classes=new", "eval.split=val", "data.tune_classes=base", "data.root=x"),
            "no validation image is of a new class",
        ),
        (("eval.classes=old",), r"eval\.classes=old"),
    ],
)
def test_settings_without_new_classes_are_errors(settings, message):
    with pytest.raises(UserError, match=message):
        load_recipe(["recipe=ranker_lora", *settings])


def test_the_option_goes_without_the_setting(run):
    with pytest.raises(UserError, match=r"leave out eval\.classes"):
        main(["--ckpt", str(run), "--base-to-new", "eval.classes=new"])
