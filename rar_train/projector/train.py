"""Trains an MLLM's projector on class names (LLaVA's first stage); tower and language model stay frozen.

LLaVA's projector learns through the language model. A ridge regression in closed form initializes it: it maps each
image token onto the mean word embedding of the image's class name. A ``NameProjector`` learns without the language
model.
"""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from data_prep.core.files import read_json, write_folder
from data_prep.core.manifests import seal_folder
from data_prep.datasets import Dataset, read_dataset
from data_prep.distributed.devices import resolve_accelerator
from data_prep.prompting.prompts import NAMING
from data_prep.settings import Recipe, check
from rar_train.engine.checkpoint import Checkpoints
from rar_train.engine.progress import format_metrics
from rar_train.engine.run import Run, train_run
from rar_train.engine.strategies import seed_all
from rar_train.models.feature_cache import cache_features
from rar_train.models.forest import Conversation, Forest
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.models.name_llava import NameProjector
from rar_train.models.planting import plant
from rar_train.models.scoring import score, split_by_row
from rar_train.projector.datamodule import NamingData, projector_inputs
from rar_train.projector.module import ProjectorTraining
from rar_train.projector.name_projector import MapData, NameModule, calibrate, init_names

log = logging.getLogger(__name__)

_RIDGE = 1e-3  # relative to the mean squared activation


class ProjectorModule(ProjectorTraining):
    """Trains the projector by the language model's loss on names.

    Args:
        recipe: The run's recipe.
        mllm: The model.
        steps: Optimiser steps in the complete run, for the schedule.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, steps: int):
        super().__init__(recipe, mllm, steps)
        self.mllm, self.model = mllm, mllm.model

    def training_step(self, batch: Forest, _) -> Tensor:
        """Computes the language model's loss on the tokens of the names and turn ends, averaged over images."""
        scores = score(self.mllm, batch)
        loss = -(scores.answers / scores.lengths).mean()
        self.log("train/loss", loss, batch_size=len(scores.answers))
        return loss

    def validation_step(self, pairs: list[tuple[Image.Image, list[str]]], _) -> None:
        """Logs the share of images whose name scores highest among five, and the loss on that name."""
        images, names = zip(*pairs, strict=True)
        asked = [[Conversation(NAMING, name) for name in row] for row in names]
        scores = score(self.mllm, plant(self.mllm, images, asked))
        counts = [len(row) for row in names]
        table, lengths = split_by_row(scores.answers, counts), split_by_row(scores.lengths.float(), counts)[:, 0]
        metrics = {"val/named": (table.argmax(1) == 0).float().mean(), "val/loss": -(table[:, 0] / lengths).mean()}
        self.log_dict(metrics, batch_size=len(images), sync_dist=True)


@torch.no_grad()
def init_projector(mllm: Mllm, dataset: Dataset, batch_size: int) -> None:
    """Sets the projector's last layer by ridge regression from image tokens onto their names' mean word embedding.

    Args:
        mllm: Model with LLaVA's projector; its first layer stays random and is only rescaled.
        dataset: Data set with the part ``train``.
        batch_size: Images per forward pass.
    """
    projector, words = mllm.base.get_submodule(mllm.family.connector), mllm.base.get_input_embeddings()
    samples, width = dataset.parts["train"], projector.linear_2.in_features + 1
    gram, cross = torch.zeros(width, width).double(), torch.zeros(width, projector.linear_2.out_features).double()
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        tokens = projector_inputs(mllm, batch)
        if not start:
            scale = projector.linear_1(tokens).std()
            projector.linear_1.weight /= scale
            projector.linear_1.bias /= scale
        hidden = F.pad(projector.act(projector.linear_1(tokens)), (0, 1), value=1.0).cpu().double()
        ids = [mllm.answer_ids(NAMING, dataset.texts[sample.label])[:-1] for sample in batch]
        names = torch.stack([words.weight[list(name_ids)].mean(0) for name_ids in ids]).cpu().double()
        gram += torch.einsum("ntd,nte->de", hidden, hidden)
        cross += torch.einsum("ntd,ne->de", hidden, names)
    solution = torch.linalg.solve(gram + _RIDGE * gram.diagonal().mean() * torch.eye(width), cross).float()
    projector.linear_2.weight.copy_(solution[:-1].T)
    projector.linear_2.bias.copy_(solution[-1])


def train_projector(recipe: Recipe) -> Path:
    """Runs or resumes the training of a recipe's projector.

    Returns:
        Path: A folder that ``ranker.model=FOLDER`` and transformers' Auto classes load.

    Raises:
        UserError: The projector is neither LLaVA's nor a ``NameProjector``, or the strategy shards weights.
    """
    strategy = recipe.trainer.strategy
    check(strategy in ("auto", "ddp"), f"trainer.strategy={strategy}: a projector is trained under auto or ddp")
    return train_run(recipe, "model", _train)


def _train(run: Run) -> L.Trainer:
    recipe = run.recipe
    mllm = load_mllm(recipe.ranker)
    projector = mllm.base.get_submodule(mllm.family.connector)
    by_names = isinstance(projector, NameProjector)
    check(
        by_names or isinstance(projector, LlavaMultiModalProjector),
        f"ranker.model={recipe.ranker.model}: task projector is for the projectors of LLaVA and lite-mllm, not "
        f"{type(projector).__name__}",
    )
    if recipe.trainer.feature_cache:
        cache_features(mllm, Path(recipe.cache), recipe.ranker.lora)
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("train", "val"))
    start = run.start
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    if by_names:
        data = MapData(recipe, mllm, dataset, start)
        init_names(mllm, data)
        module = NameModule(recipe, mllm, dataset, data.steps)
    else:
        data = NamingData(recipe, mllm, dataset, start)
        module = ProjectorModule(recipe, mllm, data.steps)
        if not run.checkpoint:
            log.info("projector: initializing it by ridge regression on %d images", len(dataset.parts["train"]))
            init_projector(mllm, dataset, recipe.optim.batch_size)
    log.info("training: %d steps%s", data.steps, f", from {start}" if start else "")
    checkpoints = Checkpoints(recipe)
    # Of feature maps the first part of a batch; of images, with one conversation each, a forest.
    trainer = run.fit(module, data, data.steps, [checkpoints], lambda batch: len(batch[0] if by_names else batch.paths))
    if by_names and projector.classifier is not None:
        calibrate(projector, data)
    metrics = checkpoints.validation
    metadata = {"base": mllm.id, "steps": trainer.global_step, "validation": metrics}
    if by_names:
        names = [dataset.names[label] for label in dataset.labels("train")]
        metadata["names"] = [*known_classes(projector, Path(recipe.ranker.model)), *names]
    run.save(trainer, module, lambda folder: _save(mllm, folder, metadata))
    if trainer.is_global_zero:
        log.info("training: done, last validation: %s; model in %s", format_metrics(metrics), run.result)
    return trainer


def known_classes(projector: NameProjector, folder: Path) -> list[str]:
    """Returns the names of the classes that the tower's own classifier knows, which are first in the dictionary."""
    if projector.classifier is None:
        return []
    return read_json(folder / "manifest.json")["names"][: projector.classifier.classes.out_features]


def _save(mllm: Mllm, folder: Path, metadata: dict) -> None:
    tokenizer = mllm.processor.tokenizer
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()  # or it would save the padding of its last batch
    with write_folder(folder) as part:
        mllm.base.save_pretrained(part)
        mllm.processor.save_pretrained(part)
        seal_folder(part, metadata)
