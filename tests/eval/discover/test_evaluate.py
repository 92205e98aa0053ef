"""Names discovered by the embedded models on a small armory: what is asked, kept, predicted, scored and written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.core.errors import UserError
from data_prep.core.files import read_json, read_sealed_line, sealed_line
from data_prep.core.results_file import read_results, write_results
from data_prep.embedding.encoder import load_encoder
from data_prep.leakage.contamination import write_mined
from data_prep.prompting.prompts import NAMING
from eval.clustering.scores import score_names
from eval.discover.evaluate import FILES, Naming
from eval.discover.table import print_names

FEW = [
    "eval.seeds=[1,2]",
    "discover.names_per_image=1",
    "discover.images=2",
    "discover.sentences=none",
    "eval.bootstrap=20",
]


def lines_of(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("naming") / "run")


@pytest.fixture(scope="module")
def named(run: Path) -> Path:
    """The folder that a discovery wrote."""
    naming = Naming.of_run(run, FEW)
    naming.evaluate()
    return naming.out


def test_each_image_chooses_among_guesses_and_test_images_get_chosen_names(named):
    guesses, names, lines = (lines_of(named, f"{what}.jsonl") for what in ("guesses", "names", "predictions"))
    results = read_json(named / "results.json")
    assert results["prompt"] == NAMING and sum(results["replies"].values()) == len(guesses)
    guessed = {name for guess in guesses for name in guess["guesses"]}
    for own in results["vocabularies"]:
        kept = {record["name"]: record["votes"] for record in names if record["seed"] == own["seed"]}
        assert own["names"] == len(kept) <= own["guesses"] and set(kept) <= guessed
        assert sum(kept.values()) == own["images"] == 16
        assert list(kept.values()) == sorted(kept.values(), reverse=True)
        for line in (line for line in lines if line["seed"] == own["seed"]):
            candidates = [candidate["name"] for candidate in line["candidates"]]
            assert set(candidates) <= set(kept) and len(candidates) == 4
            assert line["predicted"] == line.get("ranking", candidates)[0]
    told = [line for line in lines if line["method"] == "clip_true_names"]
    assert {line["predicted"] for line in told} <= {line["true"] for line in told}
    alone = [line for line in lines if line["method"] == "mllm_alone"]
    assert all(line["predicted"] == line["reply"].strip() and line["outcome"] == "ok" for line in alone)
    assert len(lines) == 16 * (2 + 2 * 3)


def test_figures_are_those_of_the_predictions_and_far_above_chance(named):
    lines, results = lines_of(named, "predictions.jsonl"), read_json(named / "results.json")
    assert list(results["summary"]) == ["clip_true_names", "mllm_alone", "clip_zero_shot", "rar_untuned", "rar"]
    for row in results["rows"]:
        own = [line for line in lines if (line["method"], line["seed"]) == (row["method"], row["seed"])]
        plain = score_names([line["predicted"] for line in own], [line["true"] for line in own])
        assert row["cacc"] == pytest.approx(plain["cacc"]) and row["ari"] == pytest.approx(plain["ari"])
    # One name for all would have 1/8.
    assert results["summary"]["rar_untuned"]["cacc"]["mean"] > 0.4


def test_killed_and_started_again_it_writes_the_same_bytes(run, named):
    files = sorted(path for path in named.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    for path in named.glob("answers-*/answers-*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]) + '{"id": "f')
    (named / "results.json").unlink()
    Naming.of_run(run, FEW).evaluate()
    assert {path: path.read_bytes() for path in files} == before


def test_rescoring_needs_the_predictions_alone(run, named, tmp_path):
    before = (named / "results.json").read_bytes()
    (tmp_path / "answers").mkdir()
    assert Naming.of_run(run, FEW).rescore() == read_results(named)
    assert (named / "results.json").read_bytes() == before
    with pytest.raises(UserError, match=r"results\.json: no such file"):
        Naming.of_run(run, [*FEW, "eval.split=val"]).rescore()


def test_a_reply_with_any_sign_that_ends_a_line_is_rescored(run, named, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    out = copy / "discover" / named.name
    lines = lines_of(out, "predictions.jsonl")
    for line in lines:
        line["reply"] = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven\r\neight"
    (out / "predictions.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    before = read_results(out)
    write_results(out, before, FILES)
    assert Naming.of_run(copy, FEW).rescore() == before


def test_a_damaged_file_is_named_before_it_is_used_and_the_command_makes_it_again(run, named, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    out = copy / "discover" / named.name
    whole = {name: (out / name).read_bytes() for name in (*FILES, "results.json")}
    for name in FILES:
        (out / name).write_bytes(whole[name].replace(b"a", b"e", 1))
        with pytest.raises(UserError, match=rf"{name}: damaged or changed .*; run the command that wrote it again"):
            Naming.of_run(copy, FEW).rescore()
        (out / name).write_bytes(whole[name])
    (out / "names.jsonl").write_bytes(whole["names.jsonl"][: len(whole["names.jsonl"]) // 2])
    with pytest.raises(UserError, match=r"names\.jsonl: damaged or changed .*into another folder"):
        Naming.of_run(copy, FEW, out / "names.jsonl")
    for path in out.glob("answers-*/answers-choose.jsonl"):
        path.write_text(path.read_text().replace("1", "2", 1))
        with pytest.raises(UserError, match=r"answers-choose\.jsonl, line 1: damaged .*; delete it to have it made"):
            Naming.of_run(copy, FEW).evaluate()
        path.unlink()
    Naming.of_run(copy, FEW).evaluate()
    assert {name: (out / name).read_bytes() for name in whole} == whole


def test_after_the_draw_no_label_decides_anything(run):
    found = []
    for shift in (0, 3):
        naming = Naming.of_run(run, [*FEW, "discover.draw=uniform"])
        parts = naming.dataset.parts
        pool = [replace(sample, label=(sample.label + shift) % 8) for sample in parts["test_memory"]]
        turned = replace(naming.dataset, parts=parts | {"test_memory": pool})
        naming.__dict__["dataset"] = turned
        vocabularies, _ = naming.vocabularies(load_encoder(naming.recipe.retriever))
        found.append([(own.votes, own.guessed, own.images) for own in vocabularies])
    assert found[0] == found[1]


def test_the_retriever_may_choose_and_images_may_stand_for_their_names(run):
    found = {}
    for settings in (
        ["discover.vote_by=retriever", "discover.memory=fused"],
        ["discover.vote_by=none", "ranker.mode=letters"],
        ["discover.min_votes=2", "discover.memory=image", "discover.draw=zipf", "discover.alone=false"],
    ):
        naming = Naming.of_run(run, [*FEW, "eval.seeds=[2]", "eval.split=val", *settings])
        found[settings[0]] = naming.evaluate(), lines_of(naming.out, "names.jsonl")
    results, names = found["discover.vote_by=retriever"]
    assert list(results["summary"]) == ["clip_true_names", "mllm_alone", "clip_fused", "rar_untuned", "rar"]
    results, names = found["discover.vote_by=none"]
    assert all(own["names"] == own["guesses"] for own in results["vocabularies"])
    assert {record["votes"] for record in names} == {0} and "outcomes" in results["rows"][-1]
    results, names = found["discover.min_votes=2"]
    assert list(results["summary"])[1] == "clip_knn"  # mllm_alone is left out
    assert min(record["votes"] for record in names) >= 2


def test_others_names_are_scored_as_they_are_or_chosen_from(run, named, tmp_path):
    true = sorted({line["true"] for line in lines_of(named, "predictions.jsonl")})
    path = tmp_path / "theirs.txt"
    path.write_text("\n".join([*true, "azure, a bend or, three billets argent"]))
    alone = Naming.of_run(run, FEW, path)
    results = alone.evaluate()
    assert alone.out.name == "armory-test-likelihood-theirs"
    assert results["vocabularies"] == [{"seed": 0, "names": 9}] and results["prompt"] is None
    assert (alone.out / "guesses.jsonl").read_text() == ""
    # All but one of the names are the true ones, so the retriever is hardly worse than with those alone.
    told, own = (results["summary"][method]["cacc"]["mean"] for method in ("clip_true_names", "clip_zero_shot"))
    assert abs(told - own) <= 2 / 16
    chosen = Naming.of_run(run, FEW, path, choose=True).evaluate()
    assert [part["seed"] for part in chosen["vocabularies"]] == [1, 2]
    assert all(part["guesses"] == 9 >= part["names"] for part in chosen["vocabularies"])


def test_replies_without_names_and_names_without_votes_say_what_to_change(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(UserError, match=r"discover\.least_votes=99: no name has as many with seed 1; the most is \d"):
        Naming.of_run(copy, [*FEW, "discover.min_votes=99"]).evaluate()
    for path in copy.rglob("answers-names.jsonl"):
        answers = [
            read_sealed_line(line, "", "") | {"reply": "I cannot say."} for line in path.read_text().splitlines()
        ]
        path.write_text("".join(map(sealed_line, answers)))
    with pytest.raises(
        UserError, match=r"no name in any of \d+ replies, such as 'I cannot say\.'; change discover\.pr"
    ):
        Naming.of_run(copy, FEW).evaluate()


@pytest.mark.parametrize(
    ("settings", "names", "choose", "said"),
    [
        (["discover.memory=fused"], True, False, "discover.memory=fused: --names alone has no images"),
        ([], False, True, "--choose: it is for names from a file; add --names FILE"),
        (
            ["eval.show_exemplars=true", "ranker.mode=letters"],
            False,
            False,
            "eval.show_exemplars=true: names from no labelled",
        ),
        (["discover.vote_by=none", "discover.memory=image"], False, False, "set discover.vote_by=ranker or retriever"),
        (["discover.draw=random"], False, False, "discover.draw=random: must be one of balanced, zipf, uniform"),
        (["discover.image=3"], False, False, "unknown key discover.image; did you mean discover.images?"),
        (["discover.exponent=1"], False, False, "discover.exponent=1.0: must be above 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_once(run, tmp_path, settings, names, choose, said):
    (tmp_path / "names.txt").write_text("owl\n")
    with pytest.raises(UserError, match=re.escape(said)):
        Naming.of_run(run, settings, tmp_path / "names.txt" if names else None, choose)


def test_a_ranker_that_was_tuned_on_the_unlabelled_images_is_warned_of(run, named, caplog):
    naming = Naming.of_run(run, FEW)
    digests = [sample.digest for sample in naming.dataset.parts["test_memory"]]
    mined = (run / "mined.txt").read_text()
    try:
        write_mined(run, digests)
        naming.evaluate()
    finally:
        (run / "mined.txt").write_text(mined)
    assert re.search(r"tuned with the labels of (\d+) of the \1 unlabelled images: what follows is not", caplog.text)


@pytest.mark.slow
def test_two_processes_find_the_same(run, named):
    before = {path.name: path.read_bytes() for path in named.glob("*.jsonl")}
    for path in named.glob("answers-*"):
        shutil.rmtree(path)
    Naming.of_run(run, [*FEW, "trainer.devices=2"]).evaluate()
    assert {path.name: path.read_bytes() for path in named.glob("*.jsonl")} == before


def cub(folder: Path) -> Path:
    """CUB's layout with two classes of eight shields each."""
    base, lists = folder / "CUB_200_2011", {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for label, blazon in enumerate(draw_classes("test", 2, 1, 5)):
        for number in range(8):
            place, path = 8 * label + number + 1, f"{label + 1:03d}.Bird_{label}/{number}.png"
            (base / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            render(blazon, 96, np.random.default_rng([label, number])).save(base / "images" / path)
            for name, value in zip(lists, (path, label + 1, int(number < 5)), strict=True):
                lists[name].append(f"{place} {value}\n")
    for name, lines in lists.items():
        (base / f"{name}.txt").write_text("".join(lines))
    (base / "classes.txt").write_text("1 001.Bird_0\n2 002.Bird_1\n")
    return folder


def test_a_benchmark_is_asked_for_by_its_subject_and_stands_beside_the_published_figures(run, tmp_path, capsys):
    settings = ["data.name=cub200", f"data.root={cub(tmp_path)}", "eval.seeds=[1]", "discover.sentences=none"]
    naming = Naming.of_run(run, [*settings, "eval.bootstrap=20"])
    results = naming.evaluate()
    assert naming.out.name == "cub200-test-likelihood"
    assert results["prompt"].startswith("What bird species does the picture show? List three possible names")
    assert [row["n"] for row in results["rows"]] == [6] * 5
    (beside,) = results["published"]
    assert (beside["method"], beside["figure"], beside["published"]) == ("RAR", "cacc", 51.6)
    print_names(results)
    printed = capsys.readouterr().out
    assert "FineR, as published" in printed and "RAR as published 51.6: " in printed
