"""The first hour with one's own photographs, as a new user has it: ``rar`` alone, 80 columns, a folder as it is.

The folder has nested classes, HEIC files, copies, one picture in two classes, a damaged file, a text file, a hidden
file and a class name of 40 characters; and the user's own folder has an ``eval/`` of its own, which hides ours from
``python -m``.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from tests.commands import environment

pillow_heif = pytest.importorskip("pillow_heif")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LONG = "Felis/lybica of the dry grassland and so"
CLASSES = ("Felis/catus", LONG, "Felis/chaus", "Lynx/lynx", "Lynx/rufus", "Panthera/leo", "Panthera/uncia")
PER_CLASS = 8
SUFFIXES = (".jpg", ".png", ".HEIC", ".jpg")
SETTINGS = (
    "optim.batch_size=4",
    "optim.max_steps=4",
    "trainer.accelerator=cpu",
    "trainer.val_examples=8",
    "trainer.val_generate_examples=1",
    "eval.shots=[4,1,16]",
    "eval.seeds=[1,2]",
    "eval.bootstrap=100",
    "tracking.wandb=disabled",
)
NOTE = (
    "retriever.model=nano-clip and ranker.model=nano-mllm: trained on armory's shields alone; "
    "figures and labels show that the pipeline runs, and say nothing about your data"
)


def save(image: Image.Image, path: Path) -> None:
    """Writes an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".HEIC":
        pillow_heif.from_pillow(image).save(path, quality=90)
    else:
        image.save(path)


def write_photos(folder: Path) -> None:
    """Writes ``photos`` and the unlabelled ``more-photos``; every photograph is a shield in another light."""
    blazons = draw_classes("test", len(CLASSES) + 1, 4, 0)
    for number, (name, blazon) in enumerate(zip(CLASSES, blazons, strict=False)):
        rng = np.random.default_rng(number)
        for index in range(PER_CLASS):
            save(render(blazon, 96, rng), folder / "photos" / name / f"IMG_{number}{index}{SUFFIXES[index % 4]}")
        save(render(blazon, 96, rng), folder / "more-photos" / f"DSC_{number}{('.jpg', '.HEIC')[number % 2]}")
    photos, more = folder / "photos", folder / "more-photos"
    intact = (photos / "Felis/catus/IMG_00.jpg").read_bytes()
    (photos / "Felis/catus/IMG_00 (1).jpg").write_bytes(intact)  # a copy, byte for byte
    with Image.open(photos / "Lynx/lynx/IMG_31.png") as image:
        image.resize((64, 64)).save(photos / "Lynx/lynx/small.jpg")
    shared = (photos / "Panthera/leo/IMG_50.jpg").read_bytes()
    (photos / "Panthera/uncia/IMG_50.jpg").write_bytes(shared)  # a label that can't be trusted
    for damaged in (photos / "Felis/catus/damaged.jpg", more / "damaged.jpg"):
        damaged.write_bytes(intact[: len(intact) // 2])
    (photos / "Felis/notes.txt").write_text("seen in May")
    (more / "notes.txt").write_text("seen in June")
    (photos / ".DS_Store").write_bytes(bytes(8))
    (folder / "eval").mkdir()
    (folder / "eval" / "__init__.py").write_text("raise SystemExit('the package of the user')")


class Hour:
    """Commands in the user's folder, and what they print.

    Attributes:
        out: Standard output of the last command.
        log: Its standard error: log lines without their times.
    """

    def __init__(self, base: Path):
        self.folder = base / "project"
        self.folder.mkdir()
        self.script = base / "rar"
        self.script.write_text(
            f"#!{sys.executable}\nimport sys\nfrom rar_train.cli import console\n"
            "if __name__ == '__main__':\n    sys.exit(console())\n"
        )
        self.script.chmod(0o755)
        self.out = self.log = ""

    def rar(self, *arguments: str, folder: Path | None = None) -> None:
        """Runs the console script; it must succeed, print no foreign line, and say nothing twice."""
        around = environment() | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        done = subprocess.run(
            [self.script, *arguments],
            cwd=folder or self.folder,
            env=around,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"rar {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        self.out = done.stdout
        lines = done.stderr.splitlines()
        foreign = [line for line in lines if not re.match(r"\d\d:\d\d:\d\d ", line)]
        assert not foreign, f"not our log lines: {foreign}"
        lines = [line[9:] for line in lines]
        repeated = {line for line in lines if lines.count(line) > 1} - {NOTE}  # fit has it first and last
        assert not repeated, f"said twice: {repeated}"
        self.log = "\n".join(lines)
        tables = self.out.partition("\nnext:")[0]  # what follows are commands and paths to copy
        width = max((display_width(line) for line in tables.splitlines()), default=0)
        assert width <= 80, f"rar {arguments[0]} prints a line of {width} columns"
        assert "python -m" not in self.out + self.log, "the next commands are in the form that was called"

    def logs(self, *texts: str) -> None:
        """Asserts that the last command has logged each of these."""
        for text in texts:
            assert text in self.log, f"{text!r} is not in the log:\n{self.log}"

    def prints(self, *texts: str) -> None:
        """Asserts that the last command has printed each of these, wherever its lines end."""
        printed = " ".join(self.out.split())
        for text in texts:
            assert text in printed, f"{text!r} is not printed:\n{self.out}"


def display_width(line: str) -> int:
    """Columns of a terminal that a line takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Reads a CSV file."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Hour:
    """A user's folder of photographs; the tests of this module are its hour, in their order."""
    hour = Hour(tmp_path_factory.mktemp("first-hour"))
    write_photos(hour.folder)
    return hour


READ = ("data: read 57 images (29 .jpg, 14 .png, 14 .heic) of 7 classes in ", "Felis/catus (9)", f"{LONG} (8)")
NESTED = "the 7 folders that hold images are the classes, such as Felis/catus"
LEFT_OUT = (
    "passed over 2 files and folders (1 hidden or a system file; 1 not an image: 1 .txt), listed in ",
    "skipped 1 image that cannot be shown (1 truncated: 1 .jpg), such as ",
    "photos/Felis/catus/damaged.jpg; listed in ",
    "data: 1 image is in several classes, byte for byte, such as ",
    "photos/Panthera/uncia/IMG_50.jpg (Panthera/uncia); left out all 2 files, listed in ",
)
COPIES = "data: 4 images are copies, in 2 groups (1 of equal bytes, 1 resized, recompressed or cropped), listed in "


def play_doctor(hour: Hour) -> None:
    """Checks the plan before anything is written."""
    before = sorted(hour.folder.rglob("*"))
    hour.rar("doctor", "recipe=ranker_lora", "data.root=photos", "out=runs/mine", *SETTINGS)
    hour.logs("data.root is given without data.name: data.name=folder (your own images)")
    hour.prints(
        "60 images of 7 classes, listed and not opened",
        "32 .jpg, 14 .png, 14 .heic; passed over: 1 hidden or a system file; 1 not an image: 1 .txt",
        NESTED,
        "with data.class_folders=top they are the 3 at the top",
        NOTE,
        "eval.shots=16: no class has more than about 6 images for the memory, so this row has all images",
        "validation images, of which one is 8 points",
        "at most 4 steps on ",
        "next: rar fit recipe=ranker_lora data.root=photos out=runs/mine optim.batch_size=4",
    )
    assert " failure " not in hour.out and sorted(hour.folder.rglob("*")) == before


def play_fit(hour: Hour) -> None:
    """Trains, with every count and warning in the log."""
    hour.rar("fit", "recipe=ranker_lora", "data.root=photos", "out=runs/mine", *SETTINGS)
    hour.logs(*READ, *LEFT_OUT, COPIES, f"data: photos: {NESTED}")
    hour.logs(
        "each group stays in one part",
        "data: the images of photos are ",
        "each class divided by data.split_ratios with data.seed",
        "mining: train: an image's copies are not among its neighbours",
        "training: validation and checkpoint every step (trainer.checkpoint_every=50 is for longer runs)",
        "training: done, with the last step's weights; adapter in runs/mine/adapter",
        "below the retriever's order of the same candidates",
        "until then use the retriever's results",
        "next: rar eval --ckpt runs/mine",
        "next: rar predict --ckpt runs/mine IMAGES",
    )
    validations = re.findall(
        r"training: step (\d) of 4, validation: loss \d+\.\d{4}, .*likelihood \d+\.\d %, retriever \d+\.\d %", hour.log
    )
    assert validations == list("1234")
    assert hour.log.count(NOTE) == 2 and hour.log.splitlines()[-3] == NOTE
    # Copies are in one part, so that the evaluation below finds no leak of our own making.
    assert (hour.folder / "runs/mine/adapter/adapter_model.safetensors").is_file()


def play_eval(hour: Hour) -> None:
    """Evaluates, twice with other settings, from two folders."""
    hour.rar("eval", "--ckpt", "runs/mine")
    hour.logs(*READ, *LEFT_OUT, COPIES, "validation images, fewer than 50")
    hour.prints(
        "photos, test, ranking by likelihood, k = 5",
        NOTE,
        "16 images per class: no class holds as many",
        "4 shots: rar is below the retriever, top-1 %: ",
        "1 shot, 4 shots, all images (16 shots): uses rar, candidates from images and names",
        "nothing was chosen",
        "open the report runs/mine/eval/test-likelihood/report.html",
        "label images rar predict --ckpt runs/mine PHOTOGRAPHS",
        "all evaluations rar report runs/mine",
        "export the model rar export --ckpt runs/mine --merge",
    )
    titles = [line.strip() for line in hour.out.splitlines()]
    memories = ["zero shot", "1 shot", "4 shots", "all images (16 shots)"]
    assert [title for title in titles if title in memories] == memories, "in the order of their sizes"
    evaluation = hour.folder / "runs/mine/eval/test-likelihood"
    files = {"results.json", "predictions.jsonl.gz", "predictions.csv", "classes.csv", "report.html"}
    assert files <= {path.name for path in evaluation.iterdir()}
    paths = {row["path"] for row in rows_of(evaluation / "predictions.csv")}
    assert {Path(path).suffix for path in paths} >= {".jpg", ".HEIC"}
    assert all((hour.folder / "photos" / path).is_file() for path in paths)
    assert {row["class"] for row in rows_of(evaluation / "classes.csv")} == set(CLASSES)
    page = (evaluation / "report.html").read_text(encoding="utf-8")
    assert all(text in page for text in (LONG, "say nothing about your data", "All evaluations of this run"))

    elsewhere = hour.folder.parent / "elsewhere"
    elsewhere.mkdir()
    hour.rar("eval", "--ckpt", "../project/runs/mine", "eval.shots=2", "eval.seeds=1", folder=elsewhere)
    hour.logs(f"its relative paths start from {hour.folder}, where it was made", *READ)
    hour.prints("evaluations of ../project/runs/mine, top-1 % (*: below the retriever)", "settings shots=2 seeds=1")
    assert not list(elsewhere.iterdir()), "nothing is written into the working folder"


def play_predict(hour: Hour) -> None:
    """Labels photographs without labels; the damaged one costs nothing else."""
    hour.rar("predict", "--ckpt", "runs/mine", "more-photos", "--to", "labels.csv")
    hour.logs("images: passed over 1 file or folder (1 not an image)", "images: 8 to label", "labelled 8 images in ")
    hour.prints("8 images", "of a class 7", "error: truncated 1", NOTE, "wrote labels.csv")
    hour.prints("below the retriever's order of the same candidates", "until then use the retriever's results")
    rows = {row["path"]: row for row in rows_of(hour.folder / "labels.csv")}
    assert set(rows) == {f"more-photos/{path.name}" for path in (hour.folder / "more-photos").glob("D*")} | {
        "more-photos/damaged.jpg"
    }
    damaged = rows.pop("more-photos/damaged.jpg")
    assert damaged["error"] == "truncated" and not damaged["name"]
    assert all(row["name"] in CLASSES and 0 < float(row["probability"]) <= 1 for row in rows.values())
    hour.rar(
        "predict", "--ckpt", str(hour.folder / "runs/mine"), ".", "--to", "here.csv", folder=hour.folder / "more-photos"
    )
    assert len(rows_of(hour.folder / "more-photos/here.csv")) == 8


def play_report(hour: Hour) -> None:
    """Lists both evaluations, and writes their pages again."""
    hour.rar("report", "runs/mine")
    hour.prints(
        "evaluations of runs/mine, top-1 % (*: below the retriever)",
        "test-likelihood-shots=2-seeds=1",
        "memory 2 shots",
        "memory all images (16 shots)",
    )
    hour.logs("wrote runs/mine/eval/index.html")
    index = (hour.folder / "runs/mine/eval/index.html").read_text(encoding="utf-8")
    assert 'href="test-likelihood/report.html"' in index and "test-likelihood-shots%3D2-seeds%3D1/report.html" in index


def play_export(hour: Hour) -> None:
    """Exports a model that transformers loads, and the adapter, each with a card."""
    hour.rar("export", "--ckpt", "runs/mine", "--merge")
    hour.logs("export: merged model in runs/mine/merged (float32, log-probabilities within ")
    card = (hour.folder / "runs/mine/merged/README.md").read_text(encoding="utf-8")
    assert NOTE in card and "| 4 images per class, clip_knn | " in card
    hour.rar("export", "--ckpt", "runs/mine", "--to", "adapter")
    hour.logs("export: It adapts the projector", "adapter in adapter; adapter/README.md says how to")


def test_the_first_hour_has_no_error_and_says_what_a_user_needs(hour: Hour):
    for play in (play_doctor, play_fit, play_eval, play_predict, play_report, play_export):
        play(hour)
    hour.rar("fit", "recipe=ranker_lora", "data.root=photos", "out=runs/mine", *SETTINGS)
    hour.logs("runs/mine is complete; reusing its adapter", "next: rar eval --ckpt runs/mine")
    own = {path.name for path in hour.folder.iterdir()}
    assert own == {"photos", "more-photos", "eval", "cache", "runs", "labels.csv", "adapter"}
