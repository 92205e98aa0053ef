"""``python -m eval.predict``: labels of every kind of input, in one process and in several, killed and continued."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from data_prep.core.files import file_hash, read_json
from data_prep.core.records import Sample
from data_prep.embedding.encoder import load_encoder
from data_prep.memory.memories import image_memory, name_memory
from data_prep.memory.stored import StoredMemory
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_saved_recipe
from eval.calibration.choice import Choice
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal
from eval.calibration.store import choices_path, save_choices
from eval.recognizer.recognizer import Recognizer
from tests.commands import command_line, environment
from tests.eval.predict.pictures import CLASSES, NAMES, encoded, write_shields
from tests.eval.predict.test_inputs import annotate

SMALL_BATCHES = ("retriever.batch_size=4", "eval.batch_size=4")
SERVED = (
    "ranker.backend=openai",
    "ranker.mode=letters",
    "ranker.server.base_url=http://127.0.0.1:1/v1",
    "ranker.server.max_requests=3",
)


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A file of the classes' names."""
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    return path


def lines(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def predicted(run_here, finished: Path, *arguments: object, **options) -> str:
    done = run_here("eval.predict", "--ckpt", str(finished), *map(str, arguments), **options)
    return done.stderr if options.get("fails") else done.stdout


def test_images_get_the_labels_of_the_recognizer_and_broken_ones_the_reason(run_here, finished, tmp_path, names):
    write_shields(tmp_path / "in", 30)
    (tmp_path / "in" / "000" / "a.png").write_bytes(encoded(0)[:99])
    (tmp_path / "in" / "001" / "b.jpg").write_text("<html>")
    output = predicted(run_here, finished, "in", "--classes", names, "--page", *SMALL_BATCHES)
    records = lines(tmp_path / "predictions.jsonl")
    errors = {Path(record["path"]).name: record["error"] for record in records if record["error"]}
    assert errors == {"a.png": "truncated", "b.jpg": "no known image format"}
    assert "error: truncated" in output and "32 images" in output and "wrote predictions.jsonl" in output
    files = [record["path"] for record in records if not record["error"]]
    assert [Path(file).stem for file in files] == [f"{n:06d}" for n in range(30)]

    recognizer = Recognizer.from_pretrained(finished, NAMES)
    expected = recognizer.predict([tmp_path / file for file in files])
    for record, result in zip((r for r in records if not r["error"]), expected, strict=True):
        assert record["name"] == result.name and record["ranked"] is True and record["known"] is None
        assert tuple(candidate["name"] for candidate in record["candidates"]) == result.names
        got = [candidate["probability"] for candidate in record["candidates"]]
        assert got == pytest.approx(result.probabilities, abs=1e-5) and record["probability"] == got[0]
        scores = {candidate.name: candidate.score for candidate in result.candidates}
        for candidate in record["candidates"]:
            assert candidate["score"] == pytest.approx(scores[candidate["name"]], abs=1e-5)

    page = (tmp_path / "predictions.html").read_text()
    assert page.count("data:image/webp") == 30 and "http" not in page.replace("http://www.w3.org", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in",
        "names.txt",
        "predictions.html",
        "predictions.jsonl",
    ]
    # What is there is not written over.
    assert "predictions.jsonl: exists" in predicted(run_here, finished, "in", "--classes", names, fails=True)


def test_letters_are_in_the_order_of_the_recognizer_that_is_given_the_file(run_here, finished, tmp_path, names):
    write_shields(tmp_path / "in", 6)
    predicted(run_here, finished, "in", "--classes", names, "ranker.mode=letters", *SMALL_BATCHES)
    records = lines(tmp_path / "predictions.jsonl")
    recognizer = Recognizer.from_pretrained(finished, NAMES, "ranker.mode=letters")
    for record, result in zip(records, recognizer.predict([tmp_path / r["path"] for r in records]), strict=True):
        assert tuple(candidate["name"] for candidate in record["candidates"]) == result.names
        got = [candidate["probability"] for candidate in record["candidates"]]
        assert got == pytest.approx(result.probabilities, abs=1e-5)


def test_the_page_shows_the_closest_races_first_however_few_candidates_are_written(run_here, finished, tmp_path, names):
    write_shields(tmp_path / "in", 12)
    for name, top in (("one", 1), ("all", 4)):
        predicted(run_here, finished, "in", "--classes", names, "--page", "--to", f"{name}.jsonl", "--top", top)
    one, every = (re.findall(r"\d{6}\.png", (tmp_path / f"{name}.html").read_text()) for name in ("one", "all"))
    assert one == every != sorted(every) and len(one) == 12
    assert [len(record["candidates"]) for record in lines(tmp_path / "one.jsonl")] == [1] * 12


def test_csv_and_parquet_have_known_and_gate_of_a_fitted_run(run_here, fitted_run, tmp_path, names):
    write_shields(tmp_path / "in", 6)
    for name in ("a.csv", "a.parquet"):
        output = predicted(
            run_here, fitted_run, "in", "--classes", names, "--to", name, "--top", 2, "eval.fusion=true", "eval.k=4"
        )
        assert "by the retriever alone" in output and "of none of the classes" in output
        table = (pandas.read_csv if name == "a.csv" else pandas.read_parquet)(tmp_path / name)
        assert len(table) == 6 and set(table["name"]) <= set(NAMES)
        assert list(table["ranked"]) == [False] * 6 and list(table["known"]) == [False] * 6
    csv = pandas.read_csv(tmp_path / "a.csv")
    assert csv["candidate_1"].equals(csv["name"]) and "candidate_2" in csv and "candidate_3" not in csv


@pytest.fixture(scope="module")
def fitted_run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with a gate that passes no image, and a threshold that knows none."""
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("fitted") / "run")
    adapter = read_json(copy / "adapter" / "manifest.json")["adapter"]
    fusion = Fusion(0.5, 20.0, 20.0, 0.5, 1.0, 20.0, 20.0, "margin", 2.0)
    choices = {"zero_shot-0": Choice("rar_fused", "name", 4, 1, "the highest top-1", fusion=fusion)}
    path = choices_path(copy, "likelihood", copy / "adapter")
    save_choices(path, adapter, load_encoder(RetrieverArgs()).id, choices, Refusal("retriever", 99.0))
    return copy


def keep_memory(finished: Path, folder: Path, work: Path) -> None:
    """Writes a memory of two images of each class, as ``python -m data_prep.memory build`` does."""
    recipe = load_saved_recipe(finished / "recipe.yaml", [f"cache={work / 'cache'}"])
    samples = []
    for number in range(8, 8 + 2 * len(CLASSES)):
        path = work / f"{number}.png"
        path.write_bytes(encoded(number))
        samples.append(Sample(path.stem, str(path), number % len(CLASSES), file_hash(path)))
    encoder, args, cache = load_encoder(recipe.retriever), recipe.retriever, Path(recipe.cache)
    names = name_memory(encoder, range(len(NAMES)), NAMES, replace(args, templates=["{}"]), cache)
    StoredMemory.create(folder, recipe, image_memory(encoder, samples, args, cache), names)


def test_classes_come_from_a_folder_splits_a_table_a_kept_memory_or_the_run(run_here, finished, tmp_path):
    images = write_shields(tmp_path / "in", 8)
    for number, blazon in enumerate(CLASSES):
        (tmp_path / "classes" / blazon.name).mkdir(parents=True)
        (tmp_path / "classes" / blazon.name / "x.png").write_bytes(encoded(number + 8))
    predicted(run_here, finished, images, "--classes", "classes", "--to", "folder.jsonl")
    keep_memory(finished, tmp_path / "kept", tmp_path)
    predicted(run_here, finished, images, "--classes", "kept", "--to", "kept.jsonl")
    predicted(run_here, finished, images, "--to", "own.jsonl")
    folder, kept, own = (lines(tmp_path / f"{name}.jsonl") for name in ("folder", "kept", "own"))
    (tmp_path / "splits" / "test").mkdir(parents=True)
    (tmp_path / "classes").rename(tmp_path / "splits" / "train")
    rows = [f'"splits/train/{name}/x.png","{name}"' for name in NAMES]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    for what in ("splits", "table.csv"):
        predicted(run_here, finished, images, "--classes", what, "--to", f"{what}.jsonl")
        assert [r["candidates"] for r in lines(tmp_path / f"{what}.jsonl")] == [r["candidates"] for r in folder]
    for records in (folder, kept, own):
        assert sum(record["name"] == name for record, name in zip(records, NAMES, strict=True)) >= 3
    # The same classes, but more images of each.
    assert [r["candidates"] for r in folder] != [r["candidates"] for r in kept]
    error = predicted(run_here, finished, images, "--classes", "nowhere", "--to", "x.csv", fails=True)
    assert "--classes nowhere: no such folder or file in" in error
    other = ("retriever.dtype=bfloat16", "--to", "x.csv")
    assert "was made with encoder" in predicted(run_here, finished, images, "--classes", "kept", *other, fails=True)


def test_boxes_are_labelled_one_by_one(run_here, finished, tmp_path, names):
    write_shields(tmp_path / "in", 2)
    boxes = [(0, [0, 0, 96, 96], 0), (1, [8, 8, 80, 80], 0), (1, [500, 0, 9, 9], 0)]
    annotate(tmp_path / "boxes.json", [(f"000/{n:06d}.png", 96, 96) for n in range(2)], boxes)
    predicted(run_here, finished, "boxes.json", "--images", "in", "--classes", names)
    records = lines(tmp_path / "predictions.jsonl")
    assert [(r["id"], r["box"]) for r in records] == [(str(10 + n), box) for n, (_, box, _) in enumerate(boxes)]
    assert records[0]["name"] in NAMES and records[2]["error"] == "box without a pixel in its image"


def test_wrong_arguments_are_errors_and_leave_nothing(run_here, finished, tmp_path, names):
    images = write_shields(tmp_path / "in", 1)
    for arguments, message in (
        (["nowhere"], "nowhere: no such image, folder or file"),
        (["eval.k=2"], "nothing to label"),
        ([images, "--top", 9], r"--top 9: must be in 1..4"),
        ([images, "--top", 0], r"--top 0: must be in 1..4"),
        ([images, *SERVED, "trainer.devices=2"], "ranker.server.max_requests=3: limits one process, and 2 would share"),
        ([images, "--to", "x.xlsx"], "must end with .jsonl, .csv, .parquet"),
        ([names.parent / "names.txt", "--classes", names, "--to", "in"], "must end with"),
        ([images, "eval.kk=2"], "eval.kk"),
    ):
        assert message in predicted(run_here, finished, *arguments, fails=True)
    (tmp_path / "empty").mkdir()
    assert "no images in what was given" in predicted(run_here, finished, "empty", fails=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in", "names.txt"]


def start(finished: Path, folder: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    words = command_line("eval.predict", "--ckpt", str(finished), "in", "--classes", "names.txt", *arguments)
    return subprocess.Popen(
        words, cwd=folder, env=environment() | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for_parts(process: subprocess.Popen, folder: Path, count: int) -> None:
    end = time.monotonic() + 120
    while len(list(folder.glob("predictions.jsonl.parts/lines/*.jsonl"))) < count:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


def kill_after(finished: Path, folder: Path, parts: int, *arguments: str) -> list[str]:
    """Kills a job when some parts are written; returns the names of the parts that are there."""
    process = start(finished, folder, *arguments)
    wait_for_parts(process, folder, parts)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "predictions.jsonl").exists()
    return [path.name for path in (folder / "predictions.jsonl.parts" / "lines").glob("*.jsonl")]


def test_a_killed_job_goes_on_and_loses_and_doubles_nothing(run_here, finished, tmp_path, names):
    write_shields(tmp_path / "in", 200)
    before = kill_after(finished, tmp_path, 3, "retriever.num_workers=1", *SMALL_BATCHES)
    assert 3 <= len(before) < 50
    # Another list of images, or other settings, would mix two jobs.
    (tmp_path / "in" / "extra.png").write_bytes(encoded(3))
    error = predicted(run_here, finished, "in", "--classes", names, fails=True)
    assert "begun with other images (200 then, 201 now" in error
    (tmp_path / "in" / "extra.png").unlink()
    error = predicted(run_here, finished, "in", "--classes", names, "eval.k=2", fails=True)
    assert "begun with other settings (eval.k: 4 -> 2; top: 4 -> 2)" in error

    # Limits and addresses of a server may change.
    predicted(run_here, finished, "in", "--classes", names, "ranker.server.max_requests=9", "ranker.server.timeout_s=5")
    records = lines(tmp_path / "predictions.jsonl")
    assert [Path(record["path"]).stem for record in records] == [f"{n:06d}" for n in range(200)]
    assert not (tmp_path / "predictions.jsonl.parts").exists()
    predicted(run_here, finished, "in", "--classes", names, "--to", "whole.jsonl", "retriever.num_workers=2")
    whole = lines(tmp_path / "whole.jsonl")
    assert [record["name"] for record in whole] == [record["name"] for record in records]


@pytest.mark.slow
def test_spawned_processes_are_killed_and_go_on(finished, tmp_path, names):
    write_shields(tmp_path / "in", 300)
    two = ("trainer.devices=2", "trainer.accelerator=cpu", *SMALL_BATCHES)
    assert len(kill_after(finished, tmp_path, 4, *two)) < 75
    process = start(finished, tmp_path, *two)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "of which" in output and "images/s" in output
    records = lines(tmp_path / "predictions.jsonl")
    assert [Path(record["path"]).stem for record in records] == [f"{n:06d}" for n in range(300)]


LAUNCHED = {
    "torchrun": lambda rank: {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x",
    },
    "srun": lambda rank: {
        "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "1",
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHED)
def test_processes_of_a_launcher_share_the_images(finished, tmp_path, names, launcher):
    write_shields(tmp_path / "in", 40)
    variables = LAUNCHED[launcher]
    processes = [start(finished, tmp_path, *SMALL_BATCHES, **variables(str(rank))) for rank in (1, 0)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    records = lines(tmp_path / "predictions.jsonl")
    assert [Path(record["path"]).stem for record in records] == [f"{n:06d}" for n in range(40)]
    assert sum("wrote predictions.jsonl" in output for output in outputs) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "names.txt", "predictions.jsonl"]


@pytest.mark.slow
def test_sigterm_ends_the_processes_of_a_launcher_between_parts(finished, tmp_path, names):
    write_shields(tmp_path / "in", 600)
    processes = [start(finished, tmp_path, *SMALL_BATCHES, **LAUNCHED["torchrun"](str(rank))) for rank in range(2)]
    wait_for_parts(processes[0], tmp_path, 4)
    processes[0].terminate()
    first, second = (process.communicate(timeout=120)[0] for process in processes)
    assert processes[0].returncode == 130 and "the same command goes on from the images" in first
    assert processes[1].returncode == 2 and "it was interrupted" in second
    assert 4 <= len(list(tmp_path.glob("predictions.jsonl.parts/lines/*.jsonl"))) < 150
