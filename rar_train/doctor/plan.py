"""Checks of what a recipe plans: whether its figures can mean anything, candidates, shots, and steps."""

from __future__ import annotations

from data_prep.prompting.prompts import LETTERS
from data_prep.settings import EvalArgs, Recipe
from data_prep.settings.notes import embedded_model_note
from rar_train.doctor.data import DataSummary
from rar_train.doctor.findings import Finding, run_check
from rar_train.engine.sampler import EpochPlan
from rar_train.engine.trainer import MIN_VALIDATIONS
from rar_train.ranker.datamodule import optimizer_steps

_READ_ADVICE = "fix the data's findings, or add --read-data, which reads it"
_MIN_VAL_IMAGES = 50  # with fewer, one image is more than two points


def plan_findings(recipe: Recipe, summary: DataSummary) -> list[Finding]:
    """Checks a recipe's plan against what is known of its data.

    Args:
        recipe: A recipe of task ``ranker``, ``retriever`` or ``projector``.
        summary: From ``data_findings``.
    """
    findings = run_check("figures", check_figures, recipe)
    if recipe.task != "projector":
        findings += run_check("candidates", check_candidates, recipe, summary)
        findings += run_check("shots", check_shots, recipe, summary)
    return findings + run_check("steps", check_steps, recipe, summary)


def check_figures(recipe: Recipe) -> list[Finding]:
    """Warns where embedded models meet data that are not theirs."""
    note = embedded_model_note(recipe)
    if note is None:
        return []
    advice = "for figures of your data: recipe=ranker_lora_qwen2_5_vl_7b, or other retriever.model and ranker.model"
    return [Finding("figures", "warning", note, advice)]


def check_candidates(recipe: Recipe, summary: DataSummary) -> list[Finding]:
    """Warns where more candidates are set than letters or classes can give; a fixed ``eval.k`` past Z is an error."""
    args, findings = recipe.eval, []
    if recipe.ranker.mode == "letters" and args.k == "auto" and len(LETTERS) < args.k_max != EvalArgs.k_max:
        text = f"eval.k_max={args.k_max}: mode letters shows {len(LETTERS)} candidates at most, so no more are tried"
        findings.append(Finding("candidates", "warning", text, f"set eval.k_max={len(LETTERS)}, or rank by likelihood"))
    to_train_on, evaluated = len(set(summary.names)), len(summary.class_sizes)
    for key, k, count in (("mining.k", recipe.mining.k, to_train_on), ("eval.k", args.k, evaluated)):
        if isinstance(k, int) and 0 < count < k:
            text = f"{key}={k}, but there are {count} classes: each is a candidate of every image"
            findings.append(
                Finding("candidates", "warning", text, f"set {key} below {count}, so that retrieval selects")
            )
    return findings


def check_shots(recipe: Recipe, summary: DataSummary) -> list[Finding]:
    """Warns of ``eval.shots`` that classes cannot give; a class with fewer images gives all it has."""
    sizes, findings = summary.class_sizes, []
    if not sizes:
        return [Finding("shots", "not checked", "the number of images per class is not known", _READ_ADVICE)]
    for shots in recipe.eval.shots:
        lacking = sum(size < shots for size in sizes)
        if not lacking:
            continue
        text = f"eval.shots={shots}: {lacking} of {len(sizes)} classes have fewer images, the least {min(sizes)}"
        if shots > max(sizes):
            text = f"eval.shots={shots}: no class has more than about {max(sizes)} images for the memory, so this row "
            text += "has all images, and is called so"
        advice = f"set eval.shots to numbers up to {min(sizes)}" + ", or leave it as it is" * (shots > max(sizes))
        findings.append(Finding("shots", "warning", text, advice))
    return findings or [Finding("shots", "ok", f"every class has {max(recipe.eval.shots, default=0)} images or more")]


def count_examples(recipe: Recipe, summary: DataSummary) -> int | None:
    """Returns the largest number of examples that an epoch can have, or None where it is not known."""
    if summary.images is None:
        return None
    mining = recipe.mining
    if recipe.task != "ranker" or mining.shards:
        return summary.images
    windows = mining.retrieved - mining.k + 1 if mining.construction == "windows" else 1
    return summary.images * len(mining.sources) * windows


def count_steps(recipe: Recipe, examples: int) -> int:
    """Returns the number of optimizer steps of a complete run."""
    if recipe.task == "ranker":
        return optimizer_steps(recipe, examples)
    optim, world = recipe.optim, recipe.trainer.devices * recipe.trainer.num_nodes
    steps = len(EpochPlan(examples, optim.batch_size, world, optim.epochs, 0, full=True)) // optim.grad_accum_steps
    return min(steps, optim.max_steps) if optim.max_steps > 0 else steps


def check_steps(recipe: Recipe, summary: DataSummary) -> list[Finding]:
    """Checks that examples and steps suffice to train on all examples, and to compare validations."""
    examples, optim = count_examples(recipe, summary), recipe.optim
    if recipe.task == "retriever" and recipe.retriever.tuning.loss == "cross_entropy":
        return [_count_draw_steps(recipe)]
    if examples is None:
        return [Finding("steps", "not checked", "the number of images is not known", _READ_ADVICE)]
    needed = optim.batch_size * optim.grad_accum_steps * recipe.trainer.devices * recipe.trainer.num_nodes
    if examples < needed:
        text = f"at most {examples} examples, which do not fill one step of {needed}"
        return [Finding("steps", "failure", text, "lower optim.batch_size or optim.grad_accum_steps, or add images")]
    steps, findings = count_steps(recipe, examples), []
    text = f"at most {steps} steps on {examples} examples"
    if steps * needed < examples * (recipe.task == "ranker"):
        seen = f"{text}: {steps * needed} are trained on, less than one pass over them"
        findings.append(Finding("steps", "warning", seen, "raise optim.max_steps, or leave it at -1 for whole epochs"))
    if steps < MIN_VALIDATIONS:
        few = f"{text}: too few for {MIN_VALIDATIONS} validations, so that no trend shows"
        findings.append(Finding("steps", "warning", few, "raise optim.epochs, lower optim.batch_size, or add images"))
    if summary.val_images is not None and summary.val_images < _MIN_VAL_IMAGES:
        points = 100 / max(1, summary.val_images)
        coarse = f"about {summary.val_images} validation images, of which one is {points:.0f} points"
        advice = "add images, or raise the second of data.split_ratios"
        findings.append(Finding("validation", "warning", coarse, advice))
    return findings or [Finding("steps", "ok", text)]


def _count_draw_steps(recipe: Recipe) -> Finding:
    """Counts the steps of encoders that are tuned on few-shot draws."""
    shots, seeds, per_shot = recipe.eval.shots, len(recipe.eval.seeds), recipe.retriever.tuning.iterations_per_shot
    steps = [min(per_shot * n, recipe.optim.max_steps) if recipe.optim.max_steps > 0 else per_shot * n for n in shots]
    if not shots:
        advice = "set eval.shots, such as eval.shots=4"
        return Finding("steps", "failure", "eval.shots=[]: there are no few-shot images to tune on", advice)
    by_shots = ", ".join(f"{count} at {n} shots" for n, count in zip(shots, steps, strict=True))
    text = f"{len(shots) * seeds} draws, {seeds * sum(steps)} steps in all: {by_shots}"
    return Finding("steps", "ok", text)
