"""``python -m eval.run --ckpt RUN [--split val] [--mode letters] [--name NAME] [key.sub=value …]``

Evaluates a tuned ranker, the untuned one and the retriever alone. RUN is a run's folder or one of its checkpoints.
Settings come from the recipe saved with the run; key=value changes them, such as eval.shots=[1,2,4], or
trainer.devices=2 to rank on two processes. Started by torchrun or srun, all processes rank, on all machines. If it is
killed, the same command resumes from the answers so far. For a run that tuned the retriever it compares recall@k before
and after tuning.

Writes results.json, predictions.jsonl.gz, predictions.csv, classes.csv and report.html into RUN/eval/SPLIT-MODE, with
settings that differ from the run's in the name, such as test-likelihood-k=10, or into RUN/eval/NAME. The same command
again reuses its own results, or writes them again where images, models, settings, code or a file have changed; results
of another evaluation are never overwritten. RUN/eval/index.html lists all.

    python -m eval.run --ckpt RUN --task fewshot --datasets caltech101 dtd \\
        --shots 1 2 4 8 16 --seeds 1 2 3 data.root=DATA
    python -m eval.run --ckpt RUN --task zeroshot --datasets caltech101 dtd data.root=DATA

evaluates data sets in data.root one after the other, each with its own prompts, into RUN/eval/TASK-SPLIT-MODE/DATASET;
results.json and report.html in RUN/eval/TASK-SPLIT-MODE have all of them with their average, and the paper's results.
Complete data sets are reused. --shots may be all: the full training set is the memory. Without --datasets it is the
run's own data set.

    python -m eval.run --ckpt RUN --base-to-new [--task fewshot --datasets …]

evaluates the base classes, on which RUN was tuned with data.tune_classes=base, and then the new ones, each among
themselves, into RUN/eval/base_to_new-SPLIT-MODE/DATASET-base and -new, and writes one table with both and their
harmonic mean.

    python -m eval.run --rescore RUN/eval/test-likelihood
    python -m eval.run --ckpt RUN --rescore

recomputes all metrics from predictions.jsonl.gz, without a model: for one evaluation, or for all of a run; with
eval.metrics=[…] also further ones (docs/extending.md).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, as_called, run_command
from data_prep.core.errors import UserError
from data_prep.distributed.launch import run_on_first
from data_prep.settings import MODES, Recipe, check
from data_prep.settings.loading import given_values, load_saved_recipe
from rar_train.engine.result_folder import check_result_name
from rar_train.engine.run_folder import check_run, find_adapter
from rar_train.engine.wandb_mode import check_tracking

# The settings of each task.
TASKS = {"fewshot": ["eval.zero_shot=false"], "zeroshot": ["eval.shots=[]", "eval.zero_shot=true"]}


def _parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line; key=value may come anywhere, even after an option that takes a list."""
    parser = CommandParser("eval.run")
    parser.add_argument("--ckpt", type=Path)
    parser.add_argument("--rescore", nargs="?", type=Path, const=Path())
    parser.add_argument("--split", choices=("test", "val"))
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--name")
    parser.add_argument("--task", choices=tuple(TASKS))
    parser.add_argument("--base-to-new", action="store_true")
    for option in ("--datasets", "--shots", "--seeds"):
        parser.add_argument(option, nargs="+", default=[])
    parser.add_settings(checked=False)
    args = parser.parse_args(arguments)
    for values in (args.datasets, args.shots, args.seeds):
        args.settings += [value for value in values if "=" in value]
        values[:] = [value for value in values if "=" not in value]
    if args.ckpt is None and args.rescore in (None, Path()):
        parser.error("give --ckpt RUN, or --rescore FOLDER")
    if (args.datasets or args.shots or args.seeds) and not args.task:
        parser.error("--datasets, --shots and --seeds belong to --task; without it, give eval.shots=[…]")
    if args.base_to_new and any(setting.startswith("eval.classes=") for setting in args.settings):
        parser.error("--base-to-new evaluates both halves of the classes; leave out eval.classes")
    if args.name is not None:
        check_result_name(args.name)
    return args


def _option_settings(args: argparse.Namespace) -> list[str]:
    """Translates the options to settings; key=value arguments come last and take precedence.

    Raises:
        UserError: Shots are given to a task that samples none, or are not numbers.
    """
    settings = list(TASKS.get(args.task, ()))
    settings += [f"data.name={name}" for name in args.datasets if name != "armory"][:1]  # data.root is theirs
    settings += ["data.tune_classes=base"] if args.base_to_new else []
    settings += [f"eval.split={args.split}"] if args.split else []
    settings += [f"ranker.mode={args.mode}"] if args.mode else []
    for option, values in (("shots", [shots for shots in args.shots if shots != "all"]), ("seeds", args.seeds)):
        invalid = [value for value in values if not value.isdigit()]
        if invalid:
            raise UserError(f"--{option} {invalid[0]}: give whole numbers" + (", or all" if option == "shots" else ""))
        settings += [f"eval.{option}=[{','.join(values)}]"] if getattr(args, option) else []
    if args.task == "zeroshot" and args.shots:
        raise UserError("--task zeroshot samples no shots; give --task fewshot for a memory of images")
    settings += ["eval.full_train_memory=true"] if "all" in args.shots else []
    return settings + args.settings


def _rescore(folder: Path, settings: list[str]) -> None:
    others = [setting for setting in settings if not setting.startswith("eval.metrics=")]
    if others:
        raise UserError(f"--rescore {others[0]}: predictions are kept as they are; only eval.metrics can be given")
    # Checks and remembers them as given.
    metrics = given_values(settings, Path.cwd())["eval"]["metrics"] if settings else None
    from eval.report.index import find_run, write_index
    from eval.report.rescore import find_evaluations, rescore
    from eval.report.table import print_results

    for evaluation in find_evaluations(folder):
        print_results(rescore(evaluation, metrics))
        run = find_run(evaluation)
        if run is not None and (run / "recipe.yaml").is_file():
            write_index(run)


def _evaluate_retriever(recipe: Recipe, run: Path, name: str | None) -> None:
    from eval.recognition.retriever import evaluate_retriever, print_retriever

    print_retriever(evaluate_retriever(recipe, run, name))


def _evaluate(args: argparse.Namespace) -> None:
    settings = _option_settings(args)
    announce(f"eval: {args.ckpt}")
    if (args.ckpt / "recipe.yaml").is_file():
        check_run(args.ckpt)
        recipe = load_saved_recipe(args.ckpt / "recipe.yaml", settings)
        if recipe.task == "retriever":
            check(
                not args.base_to_new, "--base-to-new is for rankers; a tuned retriever has eval.classes=base and =new"
            )
            run_on_first(lambda: _evaluate_retriever(recipe, args.ckpt, args.name))
            return
    adapter, folder = find_adapter(args.ckpt)
    recipe = load_saved_recipe(folder / "recipe.yaml", settings)
    check_tracking(recipe.tracking)
    run_on_first(lambda: _evaluate_ranker(args, recipe, folder, adapter), Path(recipe.cache))


def _evaluate_ranker(args: argparse.Namespace, recipe: Recipe, folder: Path, adapter: Path) -> None:
    from eval.metrics.further import load_metrics
    from eval.recognition.benchmarks import evaluate_several, halve_classes, recipe_by_dataset
    from eval.recognition.evaluate import evaluate, load_recipe_encoder, read_checked, results_folder
    from eval.recognition.run import Run
    from eval.report.index import INDEX, print_newest
    from eval.report.table import print_results

    load_metrics(recipe.eval.metrics)  # a mistake is found before any work is done
    run = Run(folder, adapter)
    if args.task or args.base_to_new:
        has_templates = any(setting.startswith("retriever.templates=") for setting in args.settings)
        default_templates = bool(args.datasets) and not has_templates
        recipes = recipe_by_dataset(recipe, args.datasets or [recipe.data.name], default_templates)
        own = load_saved_recipe(folder / "recipe.yaml", TASKS.get(args.task, []))
        page = folder / "eval" / INDEX
        task = "-".join([*(["base_to_new"] if args.base_to_new else []), *([args.task] if args.task else [])])
        recipes = halve_classes(recipes) if args.base_to_new else recipes
        print_results(evaluate_several(recipes, run, task, own, args.name, args.base_to_new))
    else:
        dataset, encoder = read_checked(recipe, folder), load_recipe_encoder(recipe)
        out = results_folder(recipe, run, encoder, args.name)
        print_results(evaluate(recipe, run, dataset, encoder, out))
        page = out / "report.html"
    print()
    print_newest(folder)
    _print_next(args.ckpt, page)


def _print_next(ckpt: Path, page: Path) -> None:
    """Names the page to open, and the commands that go on from an evaluation."""
    run = shlex.quote(str(ckpt))
    lines = (
        "next:",
        f"  open the report   {page}",
        f"  label images      python -m eval.predict --ckpt {run} PHOTOGRAPHS",
        f"  all evaluations   python -m eval.report {run}",
        f"  export the model  python -m rar_train.export --ckpt {run} --merge",
    )
    print(as_called("\n".join(lines)))


def main(arguments: list[str]) -> None:
    """Parses the command line, evaluates or rescores, and prints the table."""
    args = _parse_arguments(arguments)
    if args.rescore is None:
        _evaluate(args)
    else:
        announce(f"eval: recomputing the metrics of {args.ckpt or args.rescore}")
        run_on_first(lambda: _rescore(args.ckpt if args.rescore == Path() else args.rescore, args.settings))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
