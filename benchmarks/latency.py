"""Latency of the recognizer, in Python and as a service, for one image and for a batch.

``python benchmarks/latency.py [--ckpt RUN] [--classes 200] [--repeats 100]`` recognises JPEG files of 224 by 224 pixels
among class names, decoding included. It measures, each as median and 95th percentile in milliseconds:

- ``one`` and ``batch``: ``Recognizer.predict`` of one image, and of 32;
- ``service_one``: a request with one image, by one client at a time, to ``python -m eval.serve`` on this machine;
- ``service_eight``: the same by eight clients at once.

``images_per_s`` follows from the median (eight clients: from the time that all requests took), ``batch_speedup`` is the
batch's images/s over one image's, ``service_ratio`` the median of ``service_one`` over that of ``one``, and
``concurrent_speedup`` the images/s of eight clients over those of one. The last line is one JSON object.

2026-11-28, two x86_64 cores with other work at a lower priority, in milliseconds (median, 95th percentile): ``one`` 28
and 43, ``batch`` 237 and 290, ``service_one`` 34 and 55, ``service_eight`` 134 and 159; ``batch_speedup`` 3.8,
``service_ratio`` 1.2, ``concurrent_speedup`` 1.9.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from rendered import render_files

from data_prep.armory.blazon import draw_classes
from data_prep.core.pools import available_cores
from data_prep.settings.loading import load_recipe
from eval.recognizer.recognizer import Recognizer
from rar_train.ranker.train import train_ranker

BATCH, CLIENTS, WARM_UP = 32, 8, 5
TUNING = (
    "recipe=ranker_lora data.armory.train_classes=80 data.armory.val_classes=8 data.armory.test_classes=8 "
    "data.armory.train_images=4 data.armory.memory_images=4 data.armory.query_images=1 optim.max_steps=20 "
    "trainer.checkpoint_every=20 trainer.val_examples=8 tracking.wandb=disabled"
)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Returns median and 95th percentile, in milliseconds."""
    return {f"p{p}_ms": round(1000 * float(np.percentile(seconds, p)), 1) for p in (50, 95)}


def measure(run: Callable[[int], object], repeats: int) -> list[float]:
    """Times calls one after another, in seconds, after a few that are not counted."""
    times = []
    for number in range(WARM_UP + repeats):
        began = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - began)
    return times[WARM_UP:]


def measure_python(recognizer: Recognizer, files: list[bytes], repeats: int) -> tuple[list[float], list[float], int]:
    """Times ``Recognizer.predict`` of one image and of a batch; also returns the number of candidates."""

    def batch(number: int) -> list[bytes]:
        return files[number * BATCH % len(files) :][:BATCH]

    one = measure(lambda number: recognizer.predict([files[number % len(files)]]), repeats)
    return one, measure(lambda number: recognizer.predict(batch(number)), max(3, repeats // 10)), recognizer.choice.k


def start_service(run: Path, work: Path, settings: list[str]) -> tuple[subprocess.Popen, str]:
    """Starts the service; returns it and its address once it answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["--ckpt", str(run), "--classes", str(work / "names.txt"), "--port", str(port), *settings]
    path = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    log = open(work / "log", "w")  # noqa: SIM115 (the service writes to it)
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.serve", *words], env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            httpx.get(f"{address}/health")
            return process, address
        except httpx.TransportError:
            assert process.poll() is None, (work / "log").read_text()
            time.sleep(0.2)


def measure_service(address: str, files: list[bytes], repeats: int) -> tuple[list[float], list[float], float]:
    """Times requests by one client and by several; also the seconds that all requests of several took."""

    def ask(client: httpx.Client, number: int) -> float:
        began = time.perf_counter()
        response = client.post("/recognise", files={"images": files[number % len(files)]})
        assert response.status_code == 200, response.text
        return time.perf_counter() - began

    with httpx.Client(base_url=address, timeout=600) as client:
        one = [ask(client, number) for number in range(WARM_UP + repeats)][WARM_UP:]
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda number: ask(client, number), range(CLIENTS)))
            began = time.perf_counter()
            eight = list(pool.map(lambda number: ask(client, number), range(repeats)))
            return one, eight, time.perf_counter() - began


def main(ckpt: Path | None, classes: int, repeats: int, settings: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        tuning = [*TUNING.split(), f"out={work / 'run'}", f"cache={work / 'cache'}"]
        run = ckpt.resolve() if ckpt else train_ranker(load_recipe(tuning))
        names = [blazon.name for blazon in draw_classes("test", classes, 4, 0)]
        (work / "names.txt").write_text("\n".join(names))
        files = render_files(4 * BATCH, classes, 224)
        one, batch, k = measure_python(Recognizer.from_pretrained(run, names, *settings), files, repeats)
        process, address = start_service(run, work, settings)
        try:
            service_one, service_eight, seconds = measure_service(address, files, repeats)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    medians = {name: float(np.median(times)) for name, times in (("one", one), ("batch", batch), ("s", service_one))}
    metrics = {
        "one": percentiles(one),
        "batch": percentiles(batch),
        "service_one": percentiles(service_one),
        "service_eight": percentiles(service_eight),
        "images_per_s": {
            "one": round(1 / medians["one"], 1),
            "batch": round(BATCH / medians["batch"], 1),
            "service_one": round(1 / medians["s"], 1),
            "service_eight": round(repeats / seconds, 1),
        },
        "batch_speedup": round(BATCH * medians["one"] / medians["batch"], 2),
        "service_ratio": round(medians["s"] / medians["one"], 2),
        "concurrent_speedup": round(repeats / seconds * medians["s"], 2),
        "classes": classes,
        "k": k,
        "device": platform.machine(),
        "cores": available_cores(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt", type=Path, help="the run that recognises; by default one that is tuned a little")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("settings", nargs="*", help="such as eval.k=5")
    options = parser.parse_args()
    main(options.ckpt, options.classes, options.repeats, options.settings)
