"""``python -m eval.run --ckpt RUN [--split development] [--mode letters] [key.sub=value …]``

Evaluates a tuned ranker, the untuned one and the retriever alone. RUN is a run's folder or one of
its checkpoints. Settings come from the recipe saved beside the adapter; key=value changes them,
such as eval.shots=[1,2,4]. Writes results.json and predictions.jsonl into RUN/eval/SPLIT-MODE. Of a run
that tuned the retriever it compares recall@k before and after.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from data_prep.command import run_command
from data_prep.datasets import Dataset, read_dataset
from data_prep.encoder import load_encoder
from data_prep.files import fingerprint, read_json, write_json, write_text
from data_prep.held_out import check_not_mined
from data_prep.recipe import load_saved_recipe
from data_prep.records import Candidate, Ranking
from data_prep.settings import MODES, Recipe
from eval.answers import answer_all, question_id
from eval.metrics import hits_at
from eval.ranking import Answer, Question, to_ranking
from eval.report import print_table, summarise
from eval.retriever import evaluate_retriever, print_retriever
from eval.tasks import Setting, ranked_labels, row_of, settings_of, spread
from rar_train.adapter import find_adapter, load_adapter
from rar_train.backend import Mllm, load_mllm
from rar_train.strategies import accelerator_of

log = logging.getLogger(__name__)


class Evaluation:
    """One evaluation: where it writes and what it asks.

    Args:
        recipe: Settings.
        dataset: With the split's queries and memory pool.
        settings: Candidates by memory.
        folder: For answers and results.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, settings: list[Setting], folder: Path):
        self.recipe, self.dataset, self.settings, self.folder = recipe, dataset, settings, folder
        self.samples = dataset.parts[recipe.eval.split]
        self.truths = [sample.label for sample in self.samples]
        self.mode = recipe.ranker.mode

    def _questions(self) -> tuple[list[Question], list[list[Question]]]:
        """The distinct questions to ask, and the question of each setting and image."""
        asked: dict[str, Question] = {}
        places: list[list[Question]] = []
        for setting in self.settings:
            places.append([])
            for number, sample in enumerate(self.samples):
                # A likelihood does not depend on the company, so all settings share a question.
                sources = self.settings if self.mode == "likelihood" else [setting]
                names = {c.name for source in sources for c in source.candidates[number]}
                question = Question(sample.key, sample.path, tuple(sorted(names)))
                asked[question_id(question)] = question
                places[-1].append(question)
        return list(asked.values()), places

    def rank(self, mllm: Mllm, name: str) -> list[list[Ranking]]:
        """Rankings by setting and image."""
        questions, places = self._questions()
        log.info("%s: ranking by %s, %d questions", name, self.mode, len(questions))
        path = self.folder / f"answers-{name}.jsonl"
        answers = answer_all(mllm, self.mode, questions, self.recipe.eval.batch_size, path)
        return [
            [
                self._ranking(candidates, question, answers[question_id(question)])
                for candidates, question in zip(setting.candidates, own, strict=True)
            ]
            for setting, own in zip(self.settings, places, strict=True)
        ]

    def _ranking(self, candidates: tuple[Candidate, ...], question: Question, answer: Answer) -> Ranking:
        names = [candidate.name for candidate in candidates]
        if self.mode != "generate":
            scores = dict(zip(question.names, answer.scores, strict=True))
            answer = Answer(tuple(scores[name] for name in names))
        return to_ranking(self.mode, names, answer)

    def alone(self, mllm: Mllm) -> dict | None:
        """The row of the ranker without retriever: every class's name scored, on a spread of images."""
        args = self.recipe.eval
        labels = self.dataset.labels(f"{args.split}_memory")
        chosen = spread(len(self.samples), args.alone_images)
        if not chosen or len(labels) > args.alone_classes:
            log.info("ranker_alone: left out (%d classes, eval.alone_images=%d)", len(labels), args.alone_images)
            return None
        names = tuple(self.dataset.names[label] for label in labels)
        questions = [Question(self.samples[i].key, self.samples[i].path, names) for i in chosen]
        log.info("ranker_alone: %d images by %d names", len(questions), len(names))
        answers = answer_all(mllm, "likelihood", questions, 4, self.folder / "answers-alone.jsonl")
        ranked = []
        for question in questions:
            order = to_ranking("likelihood", names, answers[question_id(question)]).order
            ranked.append([labels[place] for place in order])
        bare = Setting("zero_shot", 0, 0, [], {})
        truths = [self.truths[i] for i in chosen]
        return row_of(bare, self.dataset.name, "ranker_alone", ranked, truths, args.k, "likelihood")

    def results(self, ranked: dict[str, list[list[Ranking]]], alone: dict | None) -> dict:
        """Rows, hits and summary."""
        rows, hits, k = [], {}, self.recipe.eval.k
        for number, setting in enumerate(self.settings):
            by_method = [(method, labels, "") for method, labels in setting.retrieved.items()]
            for method, rankings in ranked.items():
                pairs = zip(setting.candidates, rankings[number], strict=True)
                by_method.append((method, [ranked_labels(c, r) for c, r in pairs], self.mode))
            for method, labels, mode in by_method:
                rows.append(row_of(setting, self.dataset.name, method, labels, self.truths, k, mode))
                hits[setting.task, setting.shots, setting.seed, method] = hits_at(labels, self.truths, 1).astype(float)
        rows += [alone] if alone else []
        summary = summarise(rows, hits, np.array(self.truths), self.recipe.eval.bootstrap)
        head = {"dataset": self.dataset.name, "split": self.recipe.eval.split, "mode": self.mode, "k": k}
        return head | {"skipped": dict(self.dataset.skipped), "rows": rows, "summary": summary}

    def predictions(self, ranked: dict[str, list[list[Ranking]]]) -> str:
        """JSON lines, one per image, memory and method."""
        lines = []
        for method, by_setting in ranked.items():
            for setting, rankings in zip(self.settings, by_setting, strict=True):
                for sample, candidates, ranking in zip(self.samples, setting.candidates, rankings, strict=True):
                    line = {
                        "key": sample.key,
                        "task": setting.task,
                        "shots": setting.shots,
                        "seed": setting.seed,
                        "method": method,
                        "truth": self.dataset.names[sample.label],
                        "candidates": [{"name": c.name, "score": round(c.score, 6)} for c in candidates],
                        "ranking": [candidates[place].name for place in ranking.order],
                        "probabilities": [round(p, 6) for p in ranking.probabilities],
                        "outcome": ranking.outcome,
                        "reply": ranking.reply,
                    }
                    lines.append(json.dumps(line, ensure_ascii=False))
        return "".join(f"{line}\n" for line in lines)


def evaluate(recipe: Recipe, adapter: Path, run: Path) -> dict:
    """Runs the whole evaluation and writes its files.

    Returns:
        dict: What ``results.json`` holds.
    """
    split = recipe.eval.split
    dataset = read_dataset(recipe.data, Path(recipe.cache), (f"{split}_memory", split))
    encoder = load_encoder(recipe.retriever, replace(recipe.trainer, num_nodes=1))
    check_not_mined(run, dataset.parts[split], split)
    settings = settings_of(recipe, encoder, dataset)
    manifest = read_json(adapter / "manifest.json")
    mllm = load_mllm(recipe.ranker)
    models = [manifest["adapter"], mllm.id, recipe.ranker.dtype, encoder.id]
    depends = [*models, asdict(recipe.data), asdict(recipe.retriever), asdict(recipe.eval)]
    out = run / "eval" / f"{split}-{recipe.ranker.mode}"
    work = out / f"answers-{fingerprint(depends)}"
    evaluation = Evaluation(recipe, dataset, settings, work)

    mllm.model.to(accelerator_of(recipe.trainer))
    ranked = {"rar_untuned": evaluation.rank(mllm, "rar_untuned")}
    tuned = load_adapter(mllm, adapter)
    tuned.model.to(accelerator_of(recipe.trainer))
    ranked["rar"] = evaluation.rank(tuned, "rar")
    results = evaluation.results(ranked, evaluation.alone(tuned))
    write_text(out / "predictions.jsonl", evaluation.predictions(ranked))
    write_json(out / "results.json", results | {"adapter": manifest["adapter"], "encoder": encoder.id})
    log.info("wrote %s and predictions.jsonl", out / "results.json")
    return results


def main(arguments: list[str]) -> None:
    """Reads the command line, evaluates and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.run")
    parser.add_argument("--ckpt", required=True)
    parser.add_argument("--split", choices=("test", "development"))
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args(arguments)
    settings = list(args.settings)
    settings += [f"eval.split={args.split}"] if args.split else []
    settings += [f"ranker.mode={args.mode}"] if args.mode else []
    if (Path(args.ckpt) / "recipe.yaml").is_file():
        recipe = load_saved_recipe(Path(args.ckpt) / "recipe.yaml", settings)
        if recipe.task == "retriever":
            print_retriever(evaluate_retriever(recipe, Path(args.ckpt)))
            return
    adapter, run = find_adapter(Path(args.ckpt))
    recipe = load_saved_recipe(run / "recipe.yaml", settings)
    print_table(evaluate(recipe, adapter, run))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
