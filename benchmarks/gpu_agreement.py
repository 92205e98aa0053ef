"""Fit and evaluation of the embedded models on a GPU, compared with the CPU's.

``python benchmarks/gpu_agreement.py [--out runs/gpu/agreement] [--small]`` runs the same short ``rar_train.fit`` and
``eval.run`` on both devices in float32, at the same time and with separate caches, so that every stage is computed on
its device: embedding, mining, training and ranking. They agree where

- top-1 of each retriever and of the untuned ranker differs by at most ``UNTUNED_POINTS``,
- top-1 of the tuned ranker by at most ``TUNED_POINTS``, and
- the losses of the logged steps by at most ``LOSS_SHARE`` of their mean.

The last line is one JSON object: per device the seconds of both commands, ``losses`` and ``top1``; and ``agree``, with
what differs. The exit status is 1 where they do not agree. Without a GPU only the CPU is run.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from data_prep.core.results_file import read_results

UNTUNED_POINTS, TUNED_POINTS, LOSS_SHARE = 1.0, 3.0, 0.05
"""Largest differences: in points of top-1, and as a share of the mean loss."""
SETTINGS = (
    "data.armory.train_classes=240", "data.armory.val_classes=40", "data.armory.test_classes=100",
    "data.armory.memory_images=4", "data.armory.query_images=4", "optim.max_steps=60", "trainer.log_every=5",
    "trainer.checkpoint_every=60", "trainer.val_examples=32", "trainer.val_generate_examples=0",
    "trainer.precision=32-true", "tracking.wandb=disabled", "eval.shots=[4]", "eval.seeds=[1]",
    "eval.ranker_only_images=0",
)  # fmt: skip
SMALL = (
    "data.armory.train_classes=12", "data.armory.val_classes=8", "data.armory.test_classes=12", "optim.batch_size=4",
    "optim.max_steps=6", "trainer.checkpoint_every=6", "trainer.log_every=1", "trainer.val_examples=8",
)  # fmt: skip


def run_command(module: str, *arguments: str) -> float:
    """Runs a command, and returns its seconds.

    Raises:
        subprocess.CalledProcessError: It failed; its messages are on the error output.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)
    return round(time.perf_counter() - start, 1)


def run_on(device: str, out: Path, settings: tuple[str, ...]) -> dict:
    """Fits and evaluates on one device."""
    run = out / device
    own = (f"out={run}", f"cache={out / f'cache-{device}'}", f"trainer.accelerator={device}", "trainer.resume=false")
    fit = run_command("rar_train.fit", "recipe=ranker_lora", *settings, *own)
    evaluation = run_command("eval.run", "--ckpt", str(run))
    with open(next((run / "log").rglob("metrics.csv")), newline="", encoding="utf-8") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    rows = read_results(run / "eval" / "test-likelihood")["rows"]
    top1 = {f"{row['task']} {row['method']}": row["top1"] for row in rows}
    return {"fit_s": fit, "evaluation_s": evaluation, "losses": losses, "top1": top1}


def find_differences(cpu: dict, gpu: dict) -> list[str]:
    """Lists where two devices' figures differ by more than they may."""
    differences = []
    for row, expected in cpu["top1"].items():
        points = 100 * abs(gpu["top1"][row] - expected)
        most = UNTUNED_POINTS if row.split()[1].startswith(("clip", "rar_untuned")) else TUNED_POINTS
        if points > most:
            differences.append(f"{row}: {points:.1f} points, at most {most:g}")
    pairs = list(zip(cpu["losses"], gpu["losses"], strict=True))
    share = sum(abs(a - b) for a, b in pairs) / sum(cpu["losses"])
    if not share <= LOSS_SHARE:  # also where it is not a number
        differences.append(f"losses: {100 * share:.1f} % of their mean, at most {100 * LOSS_SHARE:g} %")
    return differences


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/agreement"))
    parser.add_argument("--small", action="store_true", help="few classes and steps, for a quick test")
    args = parser.parse_args()
    devices = ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",)
    settings = SETTINGS + (SMALL if args.small else ())
    with ThreadPoolExecutor() as pool:
        jobs = {device: pool.submit(run_on, device, args.out, settings) for device in devices}
        figures: dict = {device: job.result() for device, job in jobs.items()}
    for device, metrics in figures.items():
        rows = ", ".join(f"{row} {100 * top1:.1f}" for row, top1 in metrics["top1"].items())
        print(f"{device}: fit {metrics['fit_s']} s, evaluation {metrics['evaluation_s']} s, top-1 % {rows}")
    if "gpu" in figures:
        figures["differences"] = find_differences(figures["cpu"], figures["gpu"])
        figures["agree"] = not figures["differences"]
    print(json.dumps(figures))
    sys.exit(0 if figures.get("agree", True) else 1)


if __name__ == "__main__":
    main()
