"""CLIP-LoRA in an evaluation: each few-shot memory's own encoder, which ``recipe=retriever_clip_lora`` has tuned."""

from __future__ import annotations

import functools
import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.adapters.draws import DRAWS, Draw, load_draw
from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, read_manifest
from data_prep.core.manifests import MANIFEST
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_images
from data_prep.embedding.known import open_encoder
from data_prep.embedding.pair import Queries, split_settings
from data_prep.memory.columns import Results
from data_prep.memory.memories import Memories, name_memory
from data_prep.memory.memory import Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.search import class_scores, nearest_classes
from data_prep.settings import EvalArgs, Recipe, RetrieverArgs
from data_prep.settings.loading import load_recipe
from data_prep.settings.modes import CLIP_LORA
from data_prep.settings.values import flatten

log = logging.getLogger(__name__)

RECIPE = "retriever_clip_lora"
"""The recipe that tunes encoders on draws."""
_FETCH = 64  # entries fetched at first from an approximate index
_RETRIEVER = ("model", "pretrained", "tag", "templates")
"""Settings of the retriever that a draw depends on."""


@dataclass(frozen=True)
class TunedNames:
    """A source of candidates: queries and class names, embedded by the encoder of a draw.

    Attributes:
        names: Memory of the classes' names, with the prompt that the encoder was tuned with.
        own: The queries by that encoder, unit vectors of shape ``[nq, d]``.
    """

    names: Memory
    own: np.ndarray

    def search(self, memories: Memories, xq: Queries, k: int, exclude: Sequence[str] | None = None) -> Results:
        """Finds each query's k best classes by name; ``xq`` has the same queries by the evaluation's encoder."""
        return nearest_classes(self.names, self._queries(xq), k, SearchOptions(_FETCH))

    def scores(
        self, memories: Memories, xq: Queries, labels: np.ndarray, exclude: Sequence[str] | None = None
    ) -> np.ndarray:
        """Scores given classes, of shape ``[nq, k]``, by name."""
        return class_scores(self.names, self._queries(xq), labels, SearchOptions(_FETCH))

    def prepare(self, memories: Memories, exclude: Sequence[str] | None = None) -> None:
        """Does nothing: the embeddings are there."""

    def _queries(self, xq: Queries) -> np.ndarray:
        assert len(xq) == len(self.own), "a source of the evaluated images alone"
        return self.own


def add_clip_lora(
    memories: Memories, recipe: Recipe, encoder: Encoder, dataset: Dataset, shots: int, seed: int
) -> Memories:
    """Returns a few-shot task's memories with CLIP-LoRA as a source, where ``eval.clip_lora`` names a run.

    On the validation split, where ``eval.candidates`` is ``auto`` and the run lacks draws, they stay as they are.

    Args:
        memories: Of a draw of the evaluated split.
        recipe: The evaluation's settings.
        encoder: Its encoder.
        dataset: With the evaluated split and its memory pool.
        shots: Images per class.
        seed: Seed of the draw.

    Raises:
        UserError: The run lacks the draw, or it is damaged or was tuned from another encoder.
    """
    args = recipe.eval
    if args.clip_lora is None:
        return memories
    missing = find_missing(recipe, dataset, [shots])
    if missing and args.split == "val" and args.candidates == "auto":
        _log_left_out(fit_command(recipe, missing))
        return memories
    _refuse_missing(recipe, missing)
    (draw,) = _list_draws(recipe, dataset, [shots], [seed])
    check_base(recipe, encoder, [draw])
    model = f"local-dir:{draw.folder(Path(args.clip_lora)) / 'model'}"
    own = {"model": model, "pretrained": None, "tag": None, "templates": [draw.template], "descriptions": False}
    retriever = replace(_base(recipe.retriever), **own)
    tuned, cache = _open(recipe, retriever), Path(recipe.cache)
    names = name_memory(tuned, draw.labels, dataset.names, retriever, cache, texts=dataset.texts)
    queries = embed_images(tuned, dataset.parts[args.split], retriever, cache)
    return replace(memories, sources={**memories.sources, CLIP_LORA: TunedNames(names, queries)})


def check_draws(recipe: Recipe, encoder: Encoder, dataset: Dataset) -> None:
    """Checks, before anything is computed, that a run has all draws of an evaluation, tuned from its encoder.

    Raises:
        UserError: It has not; names the command that makes what is missing.
    """
    if recipe.eval.clip_lora is not None:
        _refuse_missing(recipe, find_missing(recipe, dataset, recipe.eval.shots))
        check_base(recipe, encoder, _list_draws(recipe, dataset, recipe.eval.shots, recipe.eval.seeds))


def identify_draws(args: EvalArgs) -> list[str]:
    """Returns the checksums of the draws' manifests that an evaluation may use, for what identifies it."""
    names = [f"shots-{shots}-seed-{seed}-*" for shots in args.shots for seed in args.seeds]
    folders = [path for name in names for path in sorted(Path(args.clip_lora or "", DRAWS).glob(name))]
    manifests = [path / "model" / MANIFEST for path in folders]
    return [file_hash(path) for path in manifests if args.clip_lora and path.is_file()]


def _list_draws(recipe: Recipe, dataset: Dataset, shots: Sequence[int], seeds: Sequence[int]) -> list[Draw]:
    part = f"{recipe.eval.split}_memory"
    return [load_draw(recipe, dataset, part, n, seed) for n in shots for seed in seeds]


def find_missing(recipe: Recipe, dataset: Dataset, shots: Sequence[int]) -> list[Draw]:
    """Returns the draws of the evaluated split that the run lacks."""
    run, draws = Path(recipe.eval.clip_lora or ""), _list_draws(recipe, dataset, shots, recipe.eval.seeds)
    return [draw for draw in draws if not (draw.folder(run) / "model" / MANIFEST).is_file()]


def check_base(recipe: Recipe, encoder: Encoder, draws: Sequence[Draw]) -> None:
    """Checks that draws were tuned from the evaluation's encoder.

    Raises:
        UserError: One was not, or its manifest is damaged.
    """
    run, args = Path(recipe.eval.clip_lora or ""), _base(recipe.retriever)
    # It is tuned in float32.
    is_same = args.dtype == "float32"
    base = encoder.name_encoder.id if is_same else _open(recipe, replace(args, dtype="float32")).id
    for draw in draws:
        path = draw.folder(run) / "model" / MANIFEST
        tuned_from = read_manifest(path, f"remove {path.parent}, and {fit_command(recipe, [draw])}")["base"]
        if tuned_from != base:
            raise UserError(
                f"eval.clip_lora={run}: {path.parent} was tuned from {tuned_from}, and the evaluation's encoder is "
                f"{base}. Tune this one: {fit_command(recipe, draws, 'OTHER_FOLDER')}"
            )


@functools.cache
def _log_left_out(command: str) -> None:
    """Logs once that validation draws are missing."""
    log.warning("clip_lora is not compared as a source of candidates, without draws of val; make them: %s", command)


def _base(args: RetrieverArgs) -> RetrieverArgs:
    """Returns the settings of the encoder that is tuned: in a pair, that of names."""
    return args if args.name_model is None else split_settings(args)[1]


def _open(recipe: Recipe, args: RetrieverArgs) -> Encoder:
    return open_encoder(args, replace(recipe.trainer, num_nodes=1), Path(recipe.cache))


def _refuse_missing(recipe: Recipe, missing: Sequence[Draw]) -> None:
    """Raises a ``UserError`` where draws are missing; says whether others are in their place."""
    if not missing:
        return
    run, first = Path(recipe.eval.clip_lora or ""), missing[0]
    text = f"no encoder for {first.shots} shots, seed {first.seed} of {recipe.eval.split}_memory"
    text += f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    others = sorted((run / DRAWS).glob(f"shots-{first.shots}-seed-{first.seed}-*"))
    text += f"; {others[0].name} is of other images, classes or prompts" if others else ""
    raise UserError(f"eval.clip_lora={run}: {text}. Make it: {fit_command(recipe, missing)}")


def fit_command(recipe: Recipe, draws: Sequence[Draw], out: str | None = None) -> str:
    """Returns the command that tunes encoders on draws of the evaluated split, with its data and encoder.

    It tunes as the run's other draws were, where there are any.
    """
    others = sorted(Path(recipe.eval.clip_lora or "", DRAWS).glob("*/recipe.yaml"))
    name = str(others[0]) if others else RECIPE
    before, after = (_tuned_on(values) for values in (load_recipe([f"recipe={name}"]), recipe))
    changes = [f"{key}={_format(value)}" for key, value in after.items() if before.get(key) != value]
    shots = ",".join(map(str, dict.fromkeys(draw.shots for draw in draws)))
    seeds = ",".join(map(str, dict.fromkeys(draw.seed for draw in draws)))
    settings = [f"out={out or recipe.eval.clip_lora}", f"eval.split={recipe.eval.split}"]
    settings += [f"eval.shots={shots}", f"eval.seeds={seeds}", *changes]
    return f"python -m rar_train.fit {shlex.join([f'recipe={name}', *settings])}"


def _tuned_on(recipe: Recipe) -> dict[str, Any]:
    """Returns the settings that a draw depends on, by key."""
    retriever = {key: value for key, value in asdict(_base(recipe.retriever)).items() if key in _RETRIEVER}
    return flatten({"cache": recipe.cache, "data": asdict(recipe.data), "retriever": retriever})


def _format(value: Any) -> str:
    if isinstance(value, list | tuple):
        return json.dumps(list(value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
