"""Vocabulary discovery by the embedded models on a small armory: prompts, names, predictions, scores and files."""

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
from eval.discover.evaluate import FILES, Discovery
from eval.discover.table import print_results

FEW = [
    "eval.seeds=[1,2]",
    "discover.names_per_image=1",
    "discover.images=2",
    "discover.sentences=none",
    "eval.bootstrap=20",
]


def read_lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("discovery") / "run")


@pytest.fixture(scope="module")
def evaluated(run: Path) -> Path:
    """The folder that an evaluation wrote."""
    discovery = Discovery.from_run(run, FEW)
    discovery.evaluate()
    return discovery.out


def test_images_vote_among_guesses_and_test_images_get_the_names_voted_for(evaluated):
    guesses, names, lines = (read_lines(evaluated, f"{name}.jsonl") for name in ("guesses", "names", "predictions"))
    results = read_json(evaluated / "results.json")
    assert results["prompt"] == NAMING and sum(results["replies"].values()) == len(guesses)
    guessed = {name for guess in guesses for name in guess["guesses"]}
    for vocabulary in results["vocabularies"]:
        seed = vocabulary["seed"]
        votes = {record["name"]: record["votes"] for record in names if record["seed"] == seed}
        assert vocabulary["names"] == len(votes) <= vocabulary["guesses"] and set(votes) <= guessed
        assert sum(votes.values()) == vocabulary["images"] == 16
        assert list(votes.values()) == sorted(votes.values(), reverse=True)
        for line in (line for line in lines if line["seed"] == seed):
            candidates = [candidate["name"] for candidate in line["candidates"]]
            assert set(candidates) <= set(votes) and len(candidates) == 4
            assert line["predicted"] == line.get("ranking", candidates)[0]
    true_names = [line for line in lines if line["method"] == "clip_true_names"]
    assert {line["predicted"] for line in true_names} <= {line["true"] for line in true_names}
    mllm_alone = [line for line in lines if line["method"] == "mllm_alone"]
    assert all(line["predicted"] == line["reply"].strip() and line["outcome"] == "ok" for line in mllm_alone)
    assert len(lines) == 16 * (2 + 2 * 3)


def test_metrics_are_those_of_the_predictions_and_far_above_chance(evaluated):
    lines, results = read_lines(evaluated, "predictions.jsonl"), read_json(evaluated / "results.json")
    assert list(results["summary"]) == ["clip_true_names", "mllm_alone", "clip_zero_shot", "rar_untuned", "rar"]
    for row in results["rows"]:
        selected = [line for line in lines if (line["method"], line["seed"]) == (row["method"], row["seed"])]
        reference = score_names([line["predicted"] for line in selected], [line["true"] for line in selected])
        assert row["cacc"] == pytest.approx(reference["cacc"]) and row["ari"] == pytest.approx(reference["ari"])
    # One name for all images would have 1/8.
    assert results["summary"]["rar_untuned"]["cacc"]["mean"] > 0.4


def test_an_evaluation_that_was_killed_writes_the_same_bytes_when_run_again(run, evaluated):
    files = sorted(path for path in evaluated.parent.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in files}
    for path in evaluated.parent.glob("answers-*/answers-*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]) + '{"id": "f')
    (evaluated / "results.json").unlink()
    Discovery.from_run(run, FEW).evaluate()
    assert {path: path.read_bytes() for path in files} == before


def test_rescoring_needs_the_predictions_only(run, evaluated, tmp_path):
    before = (evaluated / "results.json").read_bytes()
    (tmp_path / "answers").mkdir()
    assert Discovery.from_run(run, FEW).rescore() == read_results(evaluated)
    assert (evaluated / "results.json").read_bytes() == before
    with pytest.raises(UserError, match=r"results\.json: no such file"):
        Discovery.from_run(run, [*FEW, "eval.split=val"]).rescore()


def test_replies_with_any_line_separator_are_rescored(run, evaluated, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    out = copy / "discover" / evaluated.name
    lines = read_lines(out, "predictions.jsonl")
    for line in lines:
        line["reply"] = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven\r\neight"
    (out / "predictions.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    before = read_results(out)
    write_results(out, before, FILES)
    assert Discovery.from_run(copy, FEW).rescore() == before


def test_a_damaged_file_is_refused_by_name_and_the_command_writes_it_again(run, evaluated, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    out = copy / "discover" / evaluated.name
    intact = {name: (out / name).read_bytes() for name in (*FILES, "results.json")}
    for name in FILES:
        (out / name).write_bytes(intact[name].replace(b"a", b"e", 1))
        with pytest.raises(UserError, match=rf"{name}: damaged or changed .*; run the command that wrote it again"):
            Discovery.from_run(copy, FEW).rescore()
        (out / name).write_bytes(intact[name])
    (out / "names.jsonl").write_bytes(intact["names.jsonl"][: len(intact["names.jsonl"]) // 2])
    with pytest.raises(UserError, match=r"names\.jsonl: damaged or changed .*into another folder"):
        Discovery.from_run(copy, FEW, out / "names.jsonl")
    for path in out.parent.glob("answers-*/answers-choose.jsonl"):
        path.write_text(path.read_text().replace("1", "2", 1))
        with pytest.raises(UserError, match=r"answers-choose\.jsonl, line 1: damaged .*; delete it to have it made"):
            Discovery.from_run(copy, FEW).evaluate()
        path.unlink()
    Discovery.from_run(copy, FEW).evaluate()
    assert {name: (out / name).read_bytes() for name in intact} == intact


def test_labels_do_not_affect_anything_after_sampling(run):
    vocabularies_by_shift = []
    for shift in (0, 3):
        discovery = Discovery.from_run(run, [*FEW, "discover.draw=uniform"])
        parts = discovery.dataset.parts
        pool = [replace(sample, label=(sample.label + shift) % 8) for sample in parts["test_memory"]]
        relabelled = replace(discovery.dataset, parts=parts | {"test_memory": pool})
        discovery.__dict__["dataset"] = relabelled
        vocabularies, _ = discovery.vocabularies(load_encoder(discovery.recipe.retriever))
        vocabularies_by_shift.append([(v.votes, v.guessed, v.images) for v in vocabularies])
    assert vocabularies_by_shift[0] == vocabularies_by_shift[1]


def test_the_retriever_may_vote_and_images_may_be_the_memory(run):
    evaluations = {}
    for settings in (
        ["discover.vote_by=retriever", "discover.memory=fused"],
        ["discover.vote_by=none", "ranker.mode=letters"],
        ["discover.min_votes=2", "discover.memory=image", "discover.draw=zipf", "discover.alone=false"],
    ):
        discovery = Discovery.from_run(run, [*FEW, "eval.seeds=[2]", "eval.split=val", *settings])
        evaluations[settings[0]] = discovery.evaluate(), read_lines(discovery.out, "names.jsonl")
    results, names = evaluations["discover.vote_by=retriever"]
    assert list(results["summary"]) == ["clip_true_names", "mllm_alone", "clip_fused", "rar_untuned", "rar"]
    results, names = evaluations["discover.vote_by=none"]
    assert all(vocabulary["names"] == vocabulary["guesses"] for vocabulary in results["vocabularies"])
    assert {record["votes"] for record in names} == {0} and "outcomes" in results["rows"][-1]
    results, names = evaluations["discover.min_votes=2"]
    assert list(results["summary"])[1] == "clip_knn"  # mllm_alone is left out
    assert min(record["votes"] for record in names) >= 2


def test_names_from_a_file_are_used_unchanged_or_voted_on(run, evaluated, tmp_path):
    true = sorted({line["true"] for line in read_lines(evaluated, "predictions.jsonl")})
    path = tmp_path / "listed.txt"
    path.write_text("\n".join([*true, "azure, a bend or, three billets argent"]))
    unchanged = Discovery.from_run(run, FEW, path)
    results = unchanged.evaluate()
    assert unchanged.out.name.startswith("armory-test-likelihood-listed-")
    assert results["vocabularies"] == [{"seed": 0, "names": 9}] and results["prompt"] is None
    assert (unchanged.out / "guesses.jsonl").read_text() == ""
    # All but one of the names are the true ones, so the retriever is hardly worse than with those only.
    with_true, with_listed = (
        results["summary"][method]["cacc"]["mean"] for method in ("clip_true_names", "clip_zero_shot")
    )
    assert abs(with_true - with_listed) <= 2 / 16
    chosen = Discovery.from_run(run, FEW, path, choose=True).evaluate()
    assert [part["seed"] for part in chosen["vocabularies"]] == [1, 2]
    assert all(part["guesses"] == 9 >= part["names"] for part in chosen["vocabularies"])


def test_errors_about_missing_names_or_votes_say_what_to_change(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(UserError, match=r"discover\.min_votes=99: with seed 1 no name has more than \d+; lower it"):
        Discovery.from_run(copy, [*FEW, "discover.min_votes=99"]).evaluate()
    for path in copy.rglob("answers-names.jsonl"):
        answers = [
            read_sealed_line(line, "", "") | {"reply": "I cannot say."} for line in path.read_text().splitlines()
        ]
        path.write_text("".join(map(sealed_line, answers)))
    with pytest.raises(
        UserError, match=r"no name in any of \d+ replies, such as 'I cannot say\.'; change discover\.pr"
    ):
        Discovery.from_run(copy, FEW).evaluate()


@pytest.mark.parametrize(
    ("settings", "names", "choose", "message"),
    [
        (
            ["discover.memory=fused"],
            True,
            False,
            "discover.memory=fused: without --choose, names from --names have no images",
        ),
        ([], False, True, "--choose: needs names from a file; add --names FILE"),
        (
            ["eval.show_exemplars=true", "ranker.mode=letters"],
            False,
            False,
            "eval.show_exemplars=true: eval.discover has no labelled images",
        ),
        (["discover.vote_by=none", "discover.memory=image"], False, False, "set discover.vote_by=ranker or retriever"),
        (["discover.draw=random"], False, False, "discover.draw=random: must be one of balanced, zipf, uniform"),
        (["discover.image=3"], False, False, "unknown key discover.image; did you mean discover.images?"),
        (["discover.exponent=1"], False, False, "discover.exponent=1.0: must be above 1"),
    ],
)
def test_incompatible_settings_are_refused_at_once(run, tmp_path, settings, names, choose, message):
    (tmp_path / "names.txt").write_text("owl\n")
    with pytest.raises(UserError, match=re.escape(message)):
        Discovery.from_run(run, settings, tmp_path / "names.txt" if names else None, choose)


def test_a_ranker_that_was_tuned_on_the_unlabelled_images_gives_a_warning(run, evaluated, caplog):
    discovery = Discovery.from_run(run, FEW)
    digests = [sample.digest for sample in discovery.dataset.parts["test_memory"]]
    mined = (run / "mined.txt").read_text()
    try:
        write_mined(run, digests)
        discovery.evaluate()
    finally:
        (run / "mined.txt").write_text(mined)
    assert re.search(r"tuned with the labels of (\d+) of the \1 unlabelled images: this evaluation is not", caplog.text)


def test_results_of_other_settings_are_kept(run, evaluated):
    before = {path: path.read_bytes() for path in evaluated.iterdir()}
    other = Discovery.from_run(run, [*FEW, "discover.min_votes=2"], name="votes")
    other.evaluate()
    assert other.out == run / "discover" / "votes" != evaluated
    assert {path: path.read_bytes() for path in evaluated.iterdir()} == before
    with pytest.raises(UserError, match=r"votes: holds another evaluation .*give another --name"):
        _ = Discovery.from_run(run, FEW, name="votes").out


@pytest.mark.slow
def test_two_processes_give_the_same_results(run, evaluated):
    before = {path.name: path.read_bytes() for path in evaluated.glob("*.jsonl")}
    for path in evaluated.parent.glob("answers-*"):
        shutil.rmtree(path)
    Discovery.from_run(run, [*FEW, "trainer.devices=2"]).evaluate()
    assert {path.name: path.read_bytes() for path in evaluated.glob("*.jsonl")} == before


def write_cub(folder: Path) -> Path:
    """Writes CUB's layout with two classes of eight shields each."""
    base, lists = folder / "CUB_200_2011", {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for label, blazon in enumerate(draw_classes("test", 2, 1, 5)):
        for index in range(8):
            image_id, path = 8 * label + index + 1, f"{label + 1:03d}.Bird_{label}/{index}.png"
            (base / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            render(blazon, 96, np.random.default_rng([label, index])).save(base / "images" / path)
            for name, value in zip(lists, (path, label + 1, int(index < 5)), strict=True):
                lists[name].append(f"{image_id} {value}\n")
    for name, lines in lists.items():
        (base / f"{name}.txt").write_text("".join(lines))
    (base / "classes.txt").write_text("1 001.Bird_0\n2 002.Bird_1\n")
    return folder


def test_a_benchmark_has_its_subject_in_the_prompt_and_the_published_results_in_the_table(run, tmp_path, capsys):
    settings = ["data.name=cub200", f"data.root={write_cub(tmp_path)}", "eval.seeds=[1]", "discover.sentences=none"]
    discovery = Discovery.from_run(run, [*settings, "eval.bootstrap=20"])
    results = discovery.evaluate()
    assert discovery.out.name.startswith("cub200-test-likelihood-data.root=")
    assert results["prompt"].startswith("What bird species does the picture show? List three possible names")
    assert [row["n"] for row in results["rows"]] == [6] * 5
    (comparison,) = results["published"]
    assert (comparison["method"], comparison["figure"], comparison["published"]) == ("RAR", "cacc", 51.6)
    print_results(results)
    printed = capsys.readouterr().out
    assert "FineR, as published" in printed and "RAR as published 51.6 (arXiv 2403.13805): " in printed
