"""Checks of a recipe: whether its data, models, prompts and memory allow it to run here."""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from data_prep.core.errors import UserError
from data_prep.core.records import Candidate, RankingExample
from data_prep.distributed.devices import resolve_accelerator
from data_prep.prompting.prompts import LETTERS
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe
from rar_train.doctor.data import Listed, data_findings
from rar_train.doctor.findings import Finding, made
from rar_train.doctor.memory_estimate import advice_for, estimate
from rar_train.doctor.models import FETCH, check_family, check_ranker, check_retriever
from rar_train.models.lora import add_lora, parameter_table
from rar_train.models.meta import local_folder
from rar_train.models.mllm import Mllm
from rar_train.ranker.datamodule import optimizer_steps
from rar_train.ranker.token_budget import ConversationTokens, longest_conversations, token_limit

log = logging.getLogger(__name__)

_PICTURE = (1024, 1024)  # what prompts are measured with, where a family takes images of any size
_READ = "mend what is said of the data, or add --read-data, which reads it"


def resolved(settings: list[str]) -> tuple[Recipe | None, list[Finding]]:
    """The recipe of a command line, or None where none is named or it does not resolve."""
    if not settings:
        return None, []
    try:
        recipe = load_recipe(settings)
    except UserError as error:
        return None, [Finding("recipe", "failure", str(error))]
    said = f"task {recipe.task}, out={recipe.out}"
    return recipe, [Finding("recipe", "ok", said)]


def recipe_findings(recipe: Recipe, read: bool) -> list[Finding]:
    """Checks a recipe.

    Args:
        recipe: Resolved.
        read: Whether to decode every image.
    """
    if recipe.task.startswith("nano"):
        return [Finding("data", "ok", "the embedded models' corpus is drawn when needed")]
    findings, listed = data_findings(recipe, read)
    findings += made("retriever", check_retriever, recipe.retriever)
    if recipe.task != "ranker":
        return findings
    findings += made("ranker", check_ranker, recipe)
    folder = local_folder(recipe.ranker.model)
    mllm: list[Mllm] = []
    findings += made("ranker family", check_family, recipe, folder, mllm)
    for about, check in (("letters", check_letters), ("prompt", check_prompt), ("memory", check_memory)):
        if mllm:
            findings += made(about, check, recipe, mllm[0], listed)
        else:
            findings.append(Finding(about, "not checked", "the ranker's files are not on this machine", FETCH))
    return findings + made("time", check_time, recipe, listed)


def check_letters(recipe: Recipe, mllm: Mllm, listed: Listed) -> list[Finding]:
    """Whether each candidate's letter is a token of its own.

    Raises:
        UserError: Two letters share a token.
    """
    mining = recipe.mining
    count = max((mining.k_max or mining.k) + mining.none_of_these, min(recipe.eval.k, len(LETTERS)))
    try:
        ids = mllm.letter_ids(count)
    except UserError:
        if recipe.ranker.mode == "letters" or {"letters", "listwise"} & set(recipe.ranker.objectives.weights):
            raise
        said = "letters share tokens in this tokenizer; the recipe does not use them"
        return [Finding("letters", "ok", said)]
    return [Finding("letters", "ok", f"{LETTERS[0]} to {LETTERS[count - 1]} are single tokens, {ids[0]} to {ids[-1]}")]


def _example(recipe: Recipe, listed: Listed, longest: bool = True) -> RankingExample:
    """An example of the classes with the longest names, or the shortest, as many as candidates."""
    mining = recipe.mining
    count = (mining.k_max or mining.k) + mining.none_of_these
    names = sorted(set(listed.names), key=lambda name: len(name.encode()), reverse=longest)[:count]
    names = [names[number % len(names)] for number in range(count)]
    return RankingExample("example", 0, tuple(Candidate(n, name, 0.0) for n, name in enumerate(names)))


def check_prompt(recipe: Recipe, mllm: Mllm, listed: Listed) -> list[Finding]:
    """Whether the prompt with the longest names fits the model and the recipe's budget."""
    if not listed.names:
        return [Finding("prompt", "not checked", "the class names are not known", _READ)]
    example, tokens, limit = _example(recipe, listed), ConversationTokens(mllm), token_limit(mllm, recipe)
    objectives = recipe.ranker.objectives.weights
    most = max(tokens.of(*one, _PICTURE) for one in longest_conversations(example, objectives))
    image = tokens.of_image(_PICTURE)
    said = (
        f"{most} of {limit} tokens with the {len(example.candidates)} longest names, {image} of them a picture of "
        f"{_PICTURE[0]} x {_PICTURE[1]}"
    )
    if most > limit:
        shortest = longest_conversations(_example(recipe, listed, longest=False), objectives)
        some = max(tokens.of(*one, _PICTURE) for one in shortest) <= limit
        advice = "lower mining.k or ranker.max_pixels, or raise ranker.max_tokens; longer examples are left out"
        return [Finding("prompt", "warning" if some else "failure", said, advice)]
    return [Finding("prompt", "ok", said)]


def check_memory(recipe: Recipe, mllm: Mllm, listed: Listed) -> list[Finding]:
    """Whether a training step is likely to fit, and whether the strategy suits it; the outline is changed."""
    text = mllm.base.config.get_text_config()
    if not listed.names:
        return [Finding("memory", "not checked", "prompt lengths are not known", _READ)]
    tokens = ConversationTokens(mllm)
    made_of = longest_conversations(_example(recipe, listed), recipe.ranker.objectives.weights)
    length = sum(tokens.of(*one, _PICTURE) for one in made_of)
    trainable, total = parameter_table(add_lora(mllm, recipe.ranker.lora))[-1][1:]
    needed = estimate(recipe, trainable, total, text.hidden_size, text.num_hidden_layers, length)
    kind = resolve_accelerator(recipe.trainer)
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = torch.cuda.get_device_properties(0).total_memory if kind == "cuda" else ram / recipe.trainer.devices
    said = (
        f"{needed}, estimated from shapes: {trainable:,} of {total:,} parameters trained, {length} tokens an example; "
        f"of {available / 2**30:.1f} GiB ({kind})"
    )
    if needed.total > available:
        status = "failure" if needed.weights > available else "warning"
        return [Finding("memory", status, said, advice_for(recipe, needed, available))]
    if recipe.trainer.strategy == "deepspeed_stage_3":
        whole = replace(recipe, trainer=replace(recipe.trainer, strategy="deepspeed_stage_2", offload="none"))
        if estimate(whole, trainable, total, text.hidden_size, text.num_hidden_layers, length).total < available:
            advice = "it fits without stage 3: deepspeed_stage_2 or ddp send less between processes"
            return [Finding("memory", "ok", said, advice)]
    return [Finding("memory", "ok", said)]


def check_time(recipe: Recipe, listed: Listed) -> list[Finding]:
    """How long training takes, by the speed that an earlier stretch of the run has logged."""
    if listed.images is None:
        return [Finding("time", "not checked", "the number of images is not known", _READ)]
    sources = 1 if recipe.mining.shards else len(recipe.mining.sources)
    steps = optimizer_steps(recipe, listed.images * sources)
    said = f"at most {steps} steps on {listed.images * sources} examples"
    speeds = _speeds(Path(recipe.out))
    if not speeds:
        advice = f"start it: after {recipe.trainer.log_every} steps it logs perf/images_per_s, and this check reads it"
        return [Finding("time", "not checked", f"{said}; no speed was measured in {recipe.out} yet", advice)]
    optim, trainer = recipe.optim, recipe.trainer
    full = steps * optim.batch_size * optim.grad_accum_steps * trainer.devices * trainer.num_nodes
    shown = min(full, listed.images * sources * optim.epochs)
    hours = shown / speeds[-1] / 3600
    return [Finding("time", "ok", f"{said}: {hours:.1f} h at {speeds[-1]:.1f} images/s, as measured in {recipe.out}")]


def _speeds(run: Path) -> list[float]:
    found: list[float] = []
    for path in sorted(run.glob("log/*/metrics.csv")):
        try:
            with open(path, newline="", encoding="utf-8") as file:
                logged = [row.get("perf/images_per_s") for row in csv.DictReader(file)]
            found += [float(speed) for speed in logged if speed]
        except (ValueError, csv.Error) as error:
            log.warning("%s: damaged (%s), so the speeds that it logged are left out", path, error)
    return found
