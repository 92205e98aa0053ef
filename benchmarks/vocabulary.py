"""Accuracy, speed and memory of retrieve-and-rank against the number of classes, on armory's unseen test classes.

``python benchmarks/vocabulary.py [--ckpt runs/ranker_lora] [--sizes 200 2000 20000] [--images 400]`` evaluates a run of
``recipe=ranker_lora`` with vocabularies of different sizes by ``eval.run``'s code: 4 memory images per class; source,
number of candidates (at most 200) and fusion chosen on images of 2,000 validation classes, the same for every size;
and the same number of query images for every size, evenly spaced over the classes. The rows are the retriever's, the
ranker's alone, which scores every name (up to ``--alone-classes`` classes; on ``--alone-images`` of the queries), and
RAR untuned, tuned and fused. It shows what the paper claims: the MLLM alone declines and slows down as categories grow,
and RAR less so.

Each size is evaluated in a process of its own, into ``RUN/eval/vocabulary-SIZE``; complete ones are reused, and those
that were killed go on. The largest size renders 120,000 images into the run's cache (2.6 GB), once.

Speed is measured afterwards, for all sizes in turn, in three rounds: ``images_per_s`` from image file to ranking, of
the retriever (``retrieve``), of both stages (``rar``), and on four images of the ranker alone.

Writes ``docs/images/vocabulary.svg`` (``--plot FILE``) and prints a table, and as its last line one JSON object: by
size ``top1`` of each method, ``recall`` (the share of images whose class is among the k candidates), ``images_per_s``,
``peak_gb`` (memory of the evaluation), ``index_bytes`` (both memories on disk) and the numbers of images; and
``slowdown``: images/s of ``rar`` with the smallest over those with the largest vocabulary, the median of the rounds.
``--small`` tries the script on 24 and 48 classes, without the plot.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_prep.core.command import quiet_libraries
from data_prep.core.files import read_json, write_json, write_text
from data_prep.core.records import Sample
from data_prep.core.results_file import RESULTS, read_results
from data_prep.core.rng import evenly_spaced
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder
from data_prep.memory.memories import Memories, load_memories
from data_prep.settings import Recipe
from data_prep.settings.loading import load_saved_recipe
from eval.metrics.summary import ALONE
from eval.ranking.ranker import Ranker
from eval.recognition.evaluate import evaluate, evaluation_fingerprint, load_recipe_encoder, read_checked
from eval.recognition.run import Run
from eval.recognizer.new_images import query_uncached
from eval.report.plots import line_plot
from eval.report.reading import FILES
from rar_train.engine.run_folder import find_adapter

SETTINGS = (
    "eval.k=auto", "eval.k_max=200", "eval.candidates=auto", "eval.shots=[4]", "eval.seeds=[1]", "eval.zero_shot=false",
    "data.armory.val_classes=2000", "data.armory.memory_images=4", "data.armory.query_images=2",
    "tracking.wandb=disabled",
)  # fmt: skip
FIGURES = "vocabulary.json"
PLOTTED = ("rar_fused", "rar", ALONE, "clip_fused", "clip_knn", "clip_zero_shot")
ROUNDS, ALONE_TIMED = 3, 4
THEME = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"


@dataclass(frozen=True)
class Options:
    """What is evaluated.

    Attributes:
        ckpt: The run.
        images: Query images of each size.
        alone_images: Query images for the ranker alone.
        alone_classes: Largest vocabulary for the ranker alone.
        settings: More settings of the recipe.
    """

    ckpt: Path
    images: int
    alone_images: int
    alone_classes: int
    settings: tuple[str, ...]

    def recipe(self, classes: int) -> Recipe:
        """Loads the run's recipe for a vocabulary."""
        own = [f"data.armory.test_classes={classes}", f"eval.ranker_only_images={self.alone_images}"]
        own += [f"eval.ranker_only_classes={self.alone_classes}"]
        return load_saved_recipe(find_adapter(self.ckpt)[1] / "recipe.yaml", [*SETTINGS, *own, *self.settings])

    def read(self, recipe: Recipe) -> Dataset:
        """Reads the test split with evenly spaced query images."""
        dataset = read_checked(recipe, find_adapter(self.ckpt)[1])
        samples = dataset.parts["test"]
        chosen = [samples[index] for index in evenly_spaced(len(samples), self.images)]
        return replace(dataset, parts=dataset.parts | {"test": chosen})


def read_memories(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> Memories:
    """Loads the memories of the evaluation from the cache."""
    return load_memories(recipe, encoder, dataset, "test_memory", recipe.eval.shots[0], recipe.eval.seeds[0])


def count_bytes(memories: Memories) -> int:
    """Returns the size of both memories on disk."""
    with tempfile.TemporaryDirectory() as folder:
        for name, memory in (("images", memories.images), ("names", memories.names)):
            path = Path(folder) / name
            path.mkdir()
            memory.save(path)
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def evaluate_size(options: Options, classes: int) -> dict:
    """Evaluates one vocabulary, or reads its complete evaluation."""
    adapter, folder = find_adapter(options.ckpt)
    recipe, run, out = options.recipe(classes), Run(folder, adapter), folder / "eval" / f"vocabulary-{classes}"
    dataset, encoder = options.read(recipe), load_recipe_encoder(recipe)
    stamp = evaluation_fingerprint(recipe, run, dataset, encoder)
    if (out / FIGURES).exists() and (out / RESULTS).exists() and read_results(out, FILES)["settings"] == stamp:
        return read_json(out / FIGURES)
    results = evaluate(recipe, run, dataset, encoder, out)
    rows = {row["method"]: row for row in results["rows"]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {
        "top1": {method: row["top1"] for method, row in rows.items()},
        "recall": rows["rar"]["recall_at_k"],
        "k": results["k"],
        "peak_gb": round(peak / 1e9, 3),
        "index_bytes": count_bytes(read_memories(recipe, encoder, dataset)),
        "images": rows["rar"]["n"],
        "alone_images": rows[ALONE]["n"] if ALONE in rows else 0,
    }
    write_json(out / FIGURES, figures)
    return figures


def evaluate_apart(classes: int) -> dict:
    """Evaluates one vocabulary in a process of its own, with the command's options."""
    command = [sys.executable, __file__, *sys.argv[1:], "--evaluate", str(classes)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


class Clock:
    """Measures the speed of both stages with one vocabulary.

    Args:
        options: Run and images.
        classes: Size of the vocabulary.
        encoder: The retriever's encoder.
        ranker: The tuned ranker.
    """

    def __init__(self, options: Options, classes: int, encoder: Encoder, ranker: Ranker):
        self.recipe = options.recipe(classes)
        dataset = options.read(self.recipe)
        self.encoder, self.ranker, self.names = encoder, ranker, dataset.names
        self.memories = read_memories(self.recipe, encoder, dataset)
        self.samples: Sequence[Sample] = dataset.parts["test"]
        self.all_names = [dataset.names[label] for label in dataset.labels("test_memory")]
        results = read_results(find_adapter(options.ckpt)[1] / "eval" / f"vocabulary-{classes}", FILES)
        (self.choice,) = results["choice"].values()

    def measure(self, images: int) -> dict[str, float]:
        """Recognises images once; returns images per second of the retriever and of both stages."""
        files = [self.samples[index].path for index in evenly_spaced(len(self.samples), images)]
        source, k = self.choice["source"], self.choice["k"]
        start = time.perf_counter()
        xq = query_uncached(self.encoder, files, self.recipe)
        rows = self.memories.candidates(source, xq, k, self.recipe.retriever, self.names)
        retrieved = time.perf_counter()
        self.ranker.rank(files, [[candidate.name for candidate in row] for row in rows])
        ranked = time.perf_counter()
        return {"retrieve": len(files) / (retrieved - start), "rar": len(files) / (ranked - start)}

    def measure_alone(self) -> float:
        """Returns images per second of the ranker that scores every name."""
        files = [self.samples[index].path for index in evenly_spaced(len(self.samples), ALONE_TIMED)]
        start = time.perf_counter()
        self.ranker.rank(files, [self.all_names] * len(files))
        return len(files) / (time.perf_counter() - start)


def measure_speeds(options: Options, sizes: Sequence[int], images: int) -> tuple[dict[int, dict[str, float]], float]:
    """Measures the speed with each vocabulary, in turn.

    Returns:
        tuple: Median images per second by size and stage; and how many times slower the largest vocabulary is.
    """
    encoder = load_recipe_encoder(options.recipe(sizes[0]))
    ranker = Ranker.from_pretrained(options.ckpt, *SETTINGS, *options.settings)
    clocks = {size: Clock(options, size, encoder, ranker) for size in sizes}
    for clock in clocks.values():
        clock.measure(2)  # warm up
    rounds = [{size: clock.measure(images) for size, clock in clocks.items()} for _ in range(ROUNDS)]
    speeds = {
        size: {stage: statistics.median(turn[size][stage] for turn in rounds) for stage in ("retrieve", "rar")}
        for size in sizes
    }
    for size in sizes:
        if size <= options.alone_classes and options.alone_images:
            speeds[size][ALONE] = clocks[size].measure_alone()
    return speeds, statistics.median(turn[sizes[0]]["rar"] / turn[sizes[-1]]["rar"] for turn in rounds)


def draw(figures: dict[int, dict]) -> str:
    """Draws top-1 and recall against the number of classes, as an SVG file for light and dark pages."""
    sizes, k = sorted(figures), max(metrics["k"] for metrics in figures.values())
    lines = [(f"recall@{k}", sizes, [100 * figures[size]["recall"] for size in sizes])]
    for method in PLOTTED:
        measured = [size for size in sizes if method in figures[size]["top1"]]
        lines.append((method, measured, [100 * figures[size]["top1"][method] for size in measured]))
    title = "Top-1 against the number of classes"
    plot = line_plot(title, [line for line in lines if line[1]], "classes", "top-1 %", ticks=sizes)
    plot = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', plot, count=2)  # in units of the file's view box
    width, height = (float(value) for value in re.findall(r'(?:width|height)="([\d.]+)"', plot)[:2])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -24 {width} {height + 24}" role="img">'
    style = 'text-anchor="middle" font-family="sans-serif" font-size="13" fill="currentColor"'
    return f'{head}{THEME}<text x="{width / 2}" y="-8" {style}>{title}</text>{plot}</svg>\n'


def print_table(figures: dict[int, dict]) -> None:
    """Prints a line for each size."""
    methods = list(dict.fromkeys(method for metrics in figures.values() for method in metrics["top1"]))
    print(" ".join(f"{head:>14}" for head in ("classes", *methods, "recall", "images/s", "peak GB", "index MB")))
    for size, metrics in figures.items():
        shares = [metrics["top1"].get(method) for method in methods] + [metrics["recall"]]
        cells = [str(size), *("" if share is None else f"{100 * share:.1f}" for share in shares)]
        cells += [f"{metrics['images_per_s']['rar']:.1f}", f"{metrics['peak_gb']:.2f}"]
        print(" ".join(f"{cell:>14}" for cell in [*cells, f"{metrics['index_bytes'] / 1e6:.1f}"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt", type=Path, default=Path("runs/ranker_lora"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 2000, 20000])
    parser.add_argument("--images", type=int, default=400, help="query images of each size")
    parser.add_argument("--alone-images", type=int, help="query images for the ranker alone; by default all")
    parser.add_argument("--alone-classes", type=int, default=2000, help="largest vocabulary for the ranker alone")
    parser.add_argument("--timed-images", type=int, default=128, help="images of each measurement of speed")
    parser.add_argument("--plot", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "vocabulary.svg")
    parser.add_argument("--small", action="store_true", help="24 and 48 classes, 16 images, and no plot")
    parser.add_argument("--evaluate", type=int, help="evaluate this size alone, in this process")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    quiet_libraries()
    if not args.ckpt.exists():
        print(json.dumps({"skipped": f"no run at {args.ckpt}; make demo makes it, or give --ckpt RUN"}))
        return
    images = 16 if args.small else args.images
    alone = images if args.alone_images is None else args.alone_images
    options = Options(args.ckpt, images, alone, args.alone_classes, tuple(args.settings))
    if args.evaluate:
        print(json.dumps(evaluate_size(options, args.evaluate)))
        return
    sizes = [24, 48] if args.small else sorted(args.sizes)
    figures = {size: evaluate_apart(size) for size in sizes}
    speeds, slowdown = measure_speeds(options, sizes, args.timed_images)
    for size in sizes:
        figures[size]["images_per_s"] = {stage: round(value, 2) for stage, value in speeds[size].items()}
    print_table(figures)
    if not args.small:
        write_text(args.plot, draw(figures))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    by_size = {str(size): metrics for size, metrics in figures.items()}
    print(json.dumps(by_size | {"slowdown": round(slowdown, 3), "hardware": f"{platform.machine()}, {device}"}))


if __name__ == "__main__":
    main()
