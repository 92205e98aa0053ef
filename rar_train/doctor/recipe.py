"""Checks that a recipe can run here: data, models, prompt lengths, memory, time."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample
from data_prep.prompting.prompts import LETTERS
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from rar_train.doctor.data import DataSummary, data_findings
from rar_train.doctor.findings import Finding, run_check
from rar_train.doctor.memory import check_fit
from rar_train.doctor.models import FETCH_ADVICE, check_family, check_ranker, check_retriever
from rar_train.doctor.plan import count_examples, count_steps, plan_findings
from rar_train.models.meta import local_folder
from rar_train.models.mllm import Mllm
from rar_train.ranker.collate import CONVERSATIONS
from rar_train.ranker.token_budget import ConversationTokens, longest_conversations, token_limit

log = logging.getLogger(__name__)

_IMAGE_SIZE = (1024, 1024)  # for prompt lengths, where a family takes images of any size
_READ_ADVICE = "fix the data's findings, or add --read-data, which reads it"


def resolve_recipe(settings: list[str]) -> tuple[Recipe | None, list[Finding]]:
    """Resolves the recipe of a command line; None where none is given or it is invalid."""
    if not settings:
        return None, []
    try:
        recipe = load_recipe(settings)
    except UserError as error:
        return None, [Finding("recipe", "failure", str(error))]
    return recipe, [Finding("recipe", "ok", f"task {recipe.task}, out={recipe.out}")]


def recipe_findings(recipe: Recipe, read: bool) -> list[Finding]:
    """Checks a recipe.

    Args:
        recipe: A resolved recipe.
        read: Whether to decode every image.
    """
    if recipe.task.startswith("nano"):
        return [Finding("data", "ok", "the embedded models' corpus is generated when needed")]
    findings, summary = data_findings(recipe, read)
    findings += plan_findings(recipe, summary)
    findings += run_check("retriever", check_retriever, recipe.retriever)
    if recipe.task != "ranker":
        return findings
    findings += run_check("ranker", check_ranker, recipe)
    folder = local_folder(recipe.ranker.model)
    mllm: list[Mllm] = []
    findings += run_check("ranker family", check_family, recipe, folder, mllm)
    checks = {"letters": check_letters, "yes and no": check_yes_no, "prompt": check_prompt, "memory": check_memory}
    for about, check in checks.items():
        if mllm:
            findings += run_check(about, check, recipe, mllm[0], summary)
        else:
            findings.append(Finding(about, "not checked", "the ranker's files are not on this machine", FETCH_ADVICE))
    return findings + run_check("time", check_time, recipe, summary)


def check_letters(recipe: Recipe, mllm: Mllm, summary: DataSummary) -> list[Finding]:
    """Checks that each candidate's letter is a single, distinct token.

    Raises:
        UserError: Two letters share a token.
    """
    mining = recipe.mining
    count = max((mining.k_max or mining.k) + mining.none_of_these, min(recipe.eval.fixed_k, len(LETTERS)))
    try:
        ids = mllm.letter_ids(count)
    except UserError:
        trained = {CONVERSATIONS[name] for name in recipe.ranker.objectives.weights}
        if "letters" in {recipe.ranker.mode, *trained}:
            raise
        return [Finding("letters", "ok", "letters share tokens in this tokenizer; the recipe does not use them")]
    return [Finding("letters", "ok", f"{LETTERS[0]} to {LETTERS[count - 1]} are single tokens, {ids[0]} to {ids[-1]}")]


def check_yes_no(recipe: Recipe, mllm: Mllm, summary: DataSummary) -> list[Finding]:
    """Checks the two tokens of mode ``yes_no``, where the recipe uses them, and that something trains or trained them.

    Raises:
        UserError: They are the same.
    """
    trained = "yes_no" in {CONVERSATIONS[name] for name in recipe.ranker.objectives.weights}
    if recipe.ranker.mode != "yes_no" and not trained:
        return []
    ids, reranker = mllm.yes_no_ids(), mllm.reranker is not None
    answers = f"tokens {' and '.join(map(str, ids))}" if ids else "a head of its own"
    text = f"{answers} for {'a reranker template' if reranker else 'a question'}"
    if not trained and not reranker:
        advice = "set ranker.objectives.yes_no=1, or take a model that was trained as a reranker"
        return [Finding("yes and no", "warning", f"{text}, which nothing trains", advice)]
    return [Finding("yes and no", "ok", text)]


def _make_example(recipe: Recipe, summary: DataSummary, longest: bool = True) -> RankingExample:
    """Makes an example whose candidates have the longest names, or the shortest."""
    mining = recipe.mining
    count = (mining.k_max or mining.k) + mining.none_of_these
    names = sorted(set(summary.names), key=lambda name: len(name.encode()), reverse=longest)[:count]
    names = [names[index % len(names)] for index in range(count)]
    return RankingExample("example", 0, tuple(Candidate(n, name, 0.0) for n, name in enumerate(names)))


def check_prompt(recipe: Recipe, mllm: Mllm, summary: DataSummary) -> list[Finding]:
    """Checks that the prompt with the longest names fits the model and the recipe's token limit."""
    if not summary.names:
        return [Finding("prompt", "not checked", "the class names are not known", _READ_ADVICE)]
    example, tokens, limit = _make_example(recipe, summary), ConversationTokens(mllm), token_limit(mllm, recipe)
    objectives = recipe.ranker.objectives.weights
    longest = max(tokens.of(*turns, _IMAGE_SIZE) for turns in longest_conversations(example, objectives))
    image = tokens.of_image(_IMAGE_SIZE)
    text = (
        f"{longest} of {limit} tokens with the {len(example.candidates)} longest names, {image} of them an image of "
        f"{_IMAGE_SIZE[0]} x {_IMAGE_SIZE[1]}"
    )
    if longest > limit:
        shortest = longest_conversations(_make_example(recipe, summary, longest=False), objectives)
        some_fit = max(tokens.of(*turns, _IMAGE_SIZE) for turns in shortest) <= limit
        advice = "lower mining.k or ranker.max_pixels, or raise ranker.max_tokens; longer examples are left out"
        return [Finding("prompt", "warning" if some_fit else "failure", text, advice)]
    return [Finding("prompt", "ok", text)]


def check_memory(recipe: Recipe, mllm: Mllm, summary: DataSummary) -> list[Finding]:
    """Checks that a step on the longest names is likely to fit in memory; an adapter is added to ``mllm``."""
    if not summary.names:
        return [Finding("memory", "not checked", "prompt lengths are not known", _READ_ADVICE)]
    return check_fit(recipe, mllm, _make_example(recipe, summary), _IMAGE_SIZE)


def check_time(recipe: Recipe, summary: DataSummary) -> list[Finding]:
    """Estimates the training time from the speed that an earlier part of the run has logged."""
    examples = count_examples(recipe, summary)
    if examples is None:
        return [Finding("time", "not checked", "the number of images is not known", _READ_ADVICE)]
    steps = count_steps(recipe, examples)
    text = f"at most {steps} steps on {examples} examples"
    speeds = _read_speeds(Path(recipe.out))
    if not speeds:
        advice = f"start it: after {recipe.trainer.log_every} steps it logs perf/images_per_s, and this check reads it"
        return [Finding("time", "not checked", f"{text}; no speed was measured in {recipe.out} yet", advice)]
    optim, trainer = recipe.optim, recipe.trainer
    full = steps * optim.batch_size * optim.grad_accum_steps * trainer.devices * trainer.num_nodes
    processed = min(full, examples * optim.epochs)
    hours = processed / speeds[-1] / 3600
    return [Finding("time", "ok", f"{text}: {hours:.1f} h at {speeds[-1]:.1f} images/s, as measured in {recipe.out}")]


def _read_speeds(run: Path) -> list[float]:
    speeds: list[float] = []
    for path in sorted(run.glob("log/*/metrics.csv")):
        try:
            with open(path, newline="", encoding="utf-8") as file:
                logged = [row.get("perf/images_per_s") for row in csv.DictReader(file)]
            speeds += [float(speed) for speed in logged if speed]
        except (ValueError, csv.Error) as error:
            log.warning("%s: damaged (%s), so its speeds are left out", path, error)
    return speeds
