"""The detection command on armory's scenes and on files, from boxes to metrics, with one small finished run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_json, write_json
from data_prep.leakage.contamination import write_mined
from eval.detection.__main__ import main
from eval.detection.average_precision import average_precision
from eval.ranking import inference
from rar_train.engine.run_folder import record_checksum
from tests.commands import environment
from tests.data_prep.detection_files import write_v3det

SIZES = ("detection.scenes.size=160", "detection.scenes.sides=[32,64]", "eval.bootstrap=50")
METHODS = ["clip_zero_shot", "rar_untuned", "rar"]
OUT = "detection/small"
NAMED = ("--name", "small", *SIZES)


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Path:
    """The finished run, with detection evaluated on armory's scenes."""
    folder = tmp_path_factory.mktemp("detection") / "run"
    shutil.copytree(finished, folder)
    main(["--ckpt", str(folder), *NAMED])
    return folder


@pytest.fixture(scope="module")
def results(run) -> dict:
    return read_json(run / OUT / "results.json")


@pytest.fixture(scope="module")
def truth(results) -> dict:
    return read_json(Path(results["annotations"]))


@pytest.fixture
def no_models(monkeypatch):
    """Fails the test if a ranker is loaded."""

    def refuse(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(inference, "load_mllm", refuse)


def test_results_have_a_row_for_the_retriever_the_untuned_and_the_tuned_ranker(results, truth):
    assert [row["method"] for row in results["rows"]] == METHODS
    assert results["boxes_named"] == len(truth["annotations"]) and results["classes"] == 8
    assert results["rules"] == "lvis" and results["settings"]["policy"] == "ranker_probability"
    for row in results["rows"]:
        assert 0 <= row["top1"] <= row["recall_at_k"] <= 1
        assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"} < row.keys()
    untuned = results["rows"][1]
    assert untuned["top1"] > 0.3 and untuned["AP"] > 0.2  # of eight classes
    assert [gain["reference"] for gain in results["gains"]] == METHODS[:2]


@pytest.mark.parametrize("method", METHODS)
def test_result_files_are_in_the_data_sets_format_and_give_the_metrics_of_their_row(method, run, results, truth):
    detections = read_json(run / OUT / f"detections-{method}.json")
    assert all(set(record) == {"image_id", "category_id", "bbox", "score"} for record in detections)
    boxes = {(a["image_id"], *a["bbox"]) for a in truth["annotations"]}
    assert {(d["image_id"], *d["bbox"]) for d in detections} <= boxes
    (row,) = (row for row in results["rows"] if row["method"] == method)
    metrics = average_precision(truth, detections, "lvis")
    assert {key: row[key] for key in metrics} == metrics


def test_another_policy_loads_no_model_and_top_1_is_the_share_of_correct_boxes(run, results, truth, no_models):
    main(["detection.nms_iou=1", "--ckpt", str(run), "--policy", "detector_score", *SIZES])
    (out,) = run.glob("detection/armory-scenes-test-likelihood-detector_score-*nms_iou=1*")
    first = {(d["image_id"], *d["bbox"]): d["category_id"] for d in read_json(out / "detections-rar.json")}
    right = np.mean([first[a["image_id"], *a["bbox"]] == a["category_id"] for a in truth["annotations"]])
    rows = {row["method"]: row for row in read_json(out / "results.json")["rows"]}
    assert rows["rar"]["top1"] == pytest.approx(right)
    assert rows["rar"]["top1"] == next(row["top1"] for row in results["rows"] if row["method"] == "rar")


def test_a_killed_evaluation_continues_to_the_same_results(run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (folder,) = again.glob("detection/answers-*")
    intact = (folder / "answers-rar.jsonl").read_text()
    (folder / "answers-rar.jsonl").write_text(intact[: len(intact) // 2])
    shutil.rmtree(again / OUT)
    main(["--ckpt", str(again), *NAMED])
    assert (folder / "answers-rar.jsonl").read_text() == intact
    for name in ("results.json", "detections-rar.json"):
        assert (again / OUT / name).read_bytes() == (run / OUT / name).read_bytes()


def test_the_table_shows_every_row_in_per_cent(run, results, no_models, capsys):
    main(["--ckpt", str(run), *NAMED])
    printed = capsys.readouterr().out
    for row in results["rows"]:
        line = next(line for line in printed.splitlines() if line.startswith(f"{row['method']} "))
        assert f" {100 * row['AP']:.1f} " in line and f" {100 * row['top1']:.1f} " in line
    assert "top-1 of boxes: rar - rar_untuned" in printed
    tuned, retriever = ({r["method"]: r for r in results["rows"]}[name] for name in ("rar", "clip_zero_shot"))
    is_below = tuned["AP"] < retriever["AP"] or tuned["top1"] < retriever["top1"]
    assert ("rar is below the retriever, %:" in printed) == is_below
    assert results["notes"] == []  # the scenes are armory's


@pytest.fixture(scope="module")
def detector(run, truth, results, tmp_path_factory) -> list[str]:
    """The scenes as a COCO file, and a detector's results: every box, slightly shifted, with a wrong class."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    categories = [c["id"] for c in truth["categories"]]
    detections = [
        {
            "image_id": a["image_id"],
            "category_id": int(rng.choice([c for c in categories if c != a["category_id"]])),
            "bbox": (np.array(a["bbox"]) + rng.uniform(-1, 1, 4)).tolist(),
            "score": float(rng.uniform(0.5, 1)),
        }
        for a in truth["annotations"]
    ]
    write_json(folder / "detector.json", detections)
    write_json(folder / "scenes.json", truth)
    options = {"annotations": folder / "scenes.json", "detections": folder / "detector.json"}
    images = ["--images", str(Path(results["annotations"]).parent)]
    return [word for key, path in options.items() for word in (f"--{key}", str(path))] + images


def test_a_detectors_boxes_are_reclassified(run, detector):
    main(["--ckpt", str(run), *detector, "--format", "coco", "--name", "coco", *SIZES, "retriever.templates=['{}']"])
    results = read_json(run / "detection/coco/results.json")
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == ["detector", *METHODS]
    assert rows["detector"]["AP"] == 0 and rows["rar"]["AP"] > 0.1
    assert rows["rar"]["AP75"] <= rows["rar"]["AP50"]
    assert not any("top1" in row or "APr" in row for row in results["rows"]) and not results["gains"]


def test_v3det_is_evaluated_from_its_own_layout(run, tmp_path):
    options = ["--annotations", str(write_v3det(tmp_path)), "--images", str(tmp_path), "--format", "v3det"]
    main(["--ckpt", str(run), *options, "--policy", "detector_score"])
    results = read_json(run / "detection/v3det_2023_v1_val-likelihood-detector_score/results.json")
    assert results["rules"] == "v3det" and results["classes"] == 2
    for row in results["rows"][1:]:  # one box: right or wrong
        assert row["AP"] == pytest.approx(row["top1"]) and row["recall_at_k"] == 1


def test_images_that_were_mined_are_refused(run, results, truth, tmp_path):
    contaminated = tmp_path / "run"
    shutil.copytree(run, contaminated)
    image = Path(results["annotations"]).parent / truth["images"][3]["file_name"]
    write_mined(contaminated, [file_hash(image)])
    record_checksum(contaminated, "mined.txt")
    with pytest.raises(UserError, match=rf"of armory-scenes-test are in images that were mined .*{image.name}"):
        main(["--ckpt", str(contaminated), *SIZES])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--annotations", "a.json"], r"detection\.annotations needs detection\.images"),
        (["--images", "folder"], r"need detection\.annotations"),
        (["--annotations", "a.json", "--images", "x"], r"a\.json: no such annotation file; Download COCO"),
        (["--mode", "generate"], r"detection\.policy=ranker_probability: ranker\.mode=generate gives no probabilities"),
        (["data.name=folder", "data.root=x"], r"data\.name=folder has no scenes; give --annotations"),
        (["detection.scenes.sides=[50,20]"], r"detection\.scenes\.sides=\[50, 20\]: give the least"),
        (["detection.scenes.rare=3"], r"rare=3, common=3, frequent=9 must rise"),
        (["detection.temperature=0"], r"detection\.temperature=0.0: must be above 0"),
    ],
)
def test_invalid_settings_are_refused_before_any_work(settings, message, run, no_models):
    with pytest.raises(UserError, match=message):
        main(["--ckpt", str(run), *settings])


def test_a_missing_scorer_is_reported_before_any_work(run, no_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"pip install 'rar-train\[detection\]'"):
        main(["--ckpt", str(run), *SIZES])


def test_help_needs_no_torch():
    check = "print('torch' in sys.modules, '--annotations' in command.__doc__)"
    script = f"import sys; from eval.detection import __main__ as command; {check}"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_results_of_other_settings_are_kept(run, results, no_models):
    before = {path: path.read_bytes() for path in (run / OUT).iterdir()}
    with pytest.raises(UserError, match=r"small: holds another evaluation .*give another --name"):
        main(["--ckpt", str(run), *NAMED, "detection.nms_iou=1"])
    assert {path: path.read_bytes() for path in (run / OUT).iterdir()} == before


@pytest.mark.slow
def test_two_processes_give_the_same_results(run, tmp_path, run_command):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for replies in again.glob("detection/answers-*"):
        shutil.rmtree(replies)
    run_command("eval.detection", "--ckpt", str(again), "trainer.devices=2", *NAMED)
    for name in ("results.json", "detections-rar.json", "detections-rar_untuned.json"):
        assert (again / OUT / name).read_bytes() == (run / OUT / name).read_bytes()
