"""Benchmarks ``eval.predict`` against the recognizer alone on images that are decoded already.

``python benchmarks/predict.py [--images 100000] [--ckpt RUN]`` writes JPEG files of 128 by 128 pixels, 1,000 in each
folder, and labels them by the command, with class names as memory and two candidates for the ranker. The files repeat
500 renderings, since rendering 10^5 would take longer than labelling them. It measures

- ``rss_mb``: the largest resident memory of the command with its data-loading workers, for a tenth of the images and
  for all of them; ``rss_ratio`` is the second divided by the first;
- ``images_per_s`` of the command, from files to lines, without loading the models; ``model_images_per_s`` of
  ``Recognizer.predict`` on decoded images, with the same threads and batches; ``ratio_to_model``;
- ``lost``, ``doubled`` and ``changed``: lines of a job of a tenth of the images that was killed three times at random
  moments, against one that was not.

Both have one thread fewer than there are cores, for the worker that decodes. The last line is one JSON object.

2026-11-28, two x86_64 cores: with 100,000 images, while tests ran beside it, 1,788 MB for the tenth and 1,829 for all
(``rss_ratio`` 1.02); none of the lines of a job killed three times was lost, doubled or changed. With 20,000 images
and nothing beside it 171 images/s of the command and 181 of the recognizer: ``ratio_to_model`` 0.94.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from PIL import Image
from rendered import render_files

from data_prep.armory.blazon import draw_classes
from data_prep.core.pools import available_cores
from data_prep.settings.loading import load_recipe, load_saved_recipe
from rar_train.ranker.train import train_ranker

THREADS = max(1, available_cores() - 1)
CLASSES, RENDERINGS, PER_FOLDER, MODEL_IMAGES, KILLS = 64, 500, 1000, 2048, 3
TUNING = (
    "recipe=ranker_lora data.armory.train_classes=80 data.armory.val_classes=8 data.armory.test_classes=8 "
    "data.armory.train_images=4 data.armory.memory_images=4 data.armory.query_images=1 optim.max_steps=20 "
    "trainer.checkpoint_every=20 trainer.val_examples=8 tracking.wandb=disabled trainer.accelerator=cpu"
)
SETTINGS = ("eval.k=2", "trainer.accelerator=cpu", "retriever.num_workers=1")


def write_images(folder: Path, files: list[bytes], first: int, count: int) -> None:
    """Writes images into folders of ``PER_FOLDER``."""
    for number in range(first, count):
        path = folder / f"{number // PER_FOLDER:05d}" / f"{number:08d}.jpg"
        if number % PER_FOLDER == 0 or number == first:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[number % len(files)])


def start(run: Path, work: Path, folder: str, output: str) -> subprocess.Popen:
    """Starts the command."""
    words = [sys.executable, "-m", "eval.predict", "--ckpt", str(run), folder, "--classes", "names.txt", "--to", output]
    path = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": path}
    log = open(work / f"{output}.log", "a")  # noqa: SIM115 (the command writes to it)
    return subprocess.Popen([*words, *SETTINGS], cwd=work, env=env, stdout=log, stderr=log, start_new_session=True)


def resident_mb(process: subprocess.Popen) -> float:
    """Returns the resident memory of a process and its workers, in MB; pages that they share count for each."""
    total = 0
    try:
        parent = psutil.Process(process.pid)
        for member in (parent, *parent.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total / 1e6


def label(run: Path, work: Path, folder: str, output: str) -> dict:
    """Labels a folder; returns the largest resident memory and the speed."""
    began, peak = time.perf_counter(), 0.0
    process = start(run, work, folder, output)
    while process.poll() is None:
        peak = max(peak, resident_mb(process))
        time.sleep(0.2)
    log = (work / f"{output}.log").read_text()
    assert process.returncode == 0, log
    count, seconds = re.search(r"labelled (\d+) images in ([\d.]+) s", log).groups()
    speed = int(count) / float(seconds)
    return {"rss_mb": peak, "images_per_s": speed, "seconds": time.perf_counter() - began}


def label_with_kills(run: Path, work: Path, folder: str, output: str, total_parts: int) -> int:
    """Labels a folder, killed at a random moment of each third of the work; returns the number of kills."""
    rng = random.Random(0)
    for kill in range(KILLS):
        process = start(run, work, folder, output)
        moment = rng.uniform(kill, kill + 1) / KILLS * (total_parts - 1)
        while (written := len(list(work.glob(f"{output}.parts/lines/*.jsonl")))) < moment:
            assert process.poll() is None, (work / f"{output}.log").read_text()
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"killed with {written} of {total_parts} parts written", flush=True)
    process = start(run, work, folder, output)
    assert process.wait() == 0, (work / f"{output}.log").read_text()
    return KILLS


def compare(expected: Path, got: Path) -> dict[str, int]:
    """Counts lines that are lost, doubled or changed."""
    by_path = {}
    with open(expected, encoding="utf-8") as lines:
        for line in lines:
            by_path[json.loads(line)["path"]] = line
    counts: Counter = Counter()
    changed = 0
    with open(got, encoding="utf-8") as lines:
        for line in lines:
            path = json.loads(line)["path"]
            counts[path] += 1
            changed += line != by_path.get(path)
    lost = len(by_path.keys() - counts.keys())
    return {"lost": lost, "doubled": counts.total() - len(counts), "changed": changed}


def model_speed(run: Path, work: Path) -> float:
    """Measures ``Recognizer.predict`` on decoded images, in images per second, in a process with the same threads."""
    words = [sys.executable, __file__, "--model", str(run), str(work)]
    path = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": path}
    return float(subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure_model(run: Path, work: Path) -> None:
    """Prints the images per second of the recognizer alone."""
    from eval.recognizer.recognizer import Recognizer

    os.chdir(work)
    recognizer = Recognizer.from_pretrained(run, Path("names.txt").read_text().split("\n"), *SETTINGS)
    images = []
    for path in sorted(Path("images").rglob("*.jpg"))[:MODEL_IMAGES]:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    size = recognizer.recipe.retriever.batch_size
    recognizer.predict(images[:size])  # warm up
    began = time.perf_counter()
    for start_index in range(0, len(images), size):
        recognizer.predict(images[start_index : start_index + size])
    print(len(images) / (time.perf_counter() - began))


def main(images: int, ckpt: str | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        tuning = [*TUNING.split(), f"out={work / 'run'}", f"cache={work / 'cache'}"]
        run = Path(ckpt).resolve() if ckpt else train_ranker(load_recipe(tuning))
        names = [blazon.name for blazon in draw_classes("test", CLASSES, 4, 0)]
        (work / "names.txt").write_text("\n".join(names))
        files, tenth = render_files(RENDERINGS, CLASSES, 128), images // 10
        write_images(work / "images", files, 0, tenth)
        model_before = model_speed(run, work)
        few = label(run, work, "images", "few.jsonl")
        print(f"{tenth} images: {few}", flush=True)
        parts = -(-tenth // load_saved_recipe(run / "recipe.yaml", []).retriever.batch_size)
        kills = label_with_kills(run, work, "images", "killed.jsonl", parts)
        damage = compare(work / "few.jsonl", work / "killed.jsonl")
        print(f"{kills} kills: {damage}", flush=True)
        write_images(work / "images", files, tenth, images)
        many = label(run, work, "images", "many.jsonl")
        print(f"{images} images: {many}", flush=True)
        model = max(model_before, model_speed(run, work))
    metrics = {
        "images": images,
        "rss_mb": [round(few["rss_mb"]), round(many["rss_mb"])],
        "rss_ratio": round(many["rss_mb"] / few["rss_mb"], 3),
        "images_per_s": round(many["images_per_s"], 1),
        "model_images_per_s": round(model, 1),
        "ratio_to_model": round(many["images_per_s"] / model, 3),
        "seconds": round(many["seconds"], 1),
        "kills": kills,
        **damage,
        "device": platform.machine(),
        "threads": THREADS,
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--ckpt", help="the run that labels; by default one that is tuned for a few steps")
    parser.add_argument("--model", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.model:
        measure_model(*args.model)
    else:
        main(args.images, args.ckpt)
