"""Trains an MLLM's projector on class names, LLaVA's first stage: tower and language model stay as they are.

LLaVA's own projector learns through the language model. It starts where a ridge regression leads it: each image token
is mapped onto the mean embedding of the words of its picture's name, in closed form. A ``NameProjector`` learns without
the language model.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from data_prep.core.files import write_folder
from data_prep.core.manifests import seal_folder
from data_prep.core.saving import write_errors
from data_prep.datasets import Dataset, read_dataset
from data_prep.distributed.devices import resolve_accelerator
from data_prep.distributed.processes import Processes, process_group
from data_prep.prompting.prompts import NAMING
from data_prep.settings import Recipe, check
from rar_train.engine.checkpoint import Checkpoints, fit_from
from rar_train.engine.checkpoint_files import newest_whole, steps_done
from rar_train.engine.run_folder import claim_run_folder, is_complete
from rar_train.engine.strategies import make_strategy, seed_all
from rar_train.engine.tracking import make_loggers
from rar_train.engine.trainer import make_trainer
from rar_train.models.feature_cache import cache_features
from rar_train.models.inputs import naming_inputs, to_device
from rar_train.models.mllm import Mllm, load_mllm
from rar_train.models.name_llava import NameProjector
from rar_train.models.scoring import answer_loss, by_owner, name_scores
from rar_train.projector.datamodule import NamingData, projector_inputs
from rar_train.projector.module import ProjectorTraining
from rar_train.projector.name_projector import MapData, NameModule, start_names

log = logging.getLogger(__name__)

_RIDGE = 1e-3  # of the mean squared activation


class ProjectorModule(ProjectorTraining):
    """The projector is trained by the language model's loss on names.

    Args:
        recipe: The run's recipe.
        mllm: The model.
        steps: Optimiser steps in the whole run, for the schedule.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, steps: int):
        super().__init__(recipe, mllm, steps)
        self.mllm, self.model = mllm, mllm.model

    def training_step(self, batch: BatchFeature, _) -> Tensor:
        """The language model's loss on the names' tokens and the turns' ends, a mean by picture."""
        loss = answer_loss(self.mllm, batch).mean()
        self.log("train/loss", loss, batch_size=len(batch["input_ids"]))
        return loss

    def validation_step(self, pairs: list[tuple[Image.Image, list[str]]], _) -> None:
        """Share of pictures whose own name is the likeliest of five, and the loss on it."""
        images, names = zip(*pairs, strict=True)
        inputs, answers, owners = naming_inputs(self.mllm, images, names)
        scores = name_scores(self.mllm, to_device(inputs, self.projector.linear_1.weight), answers, owners)
        table = by_owner(scores, [len(row) for row in names])
        lengths = torch.tensor([len(self.mllm.answer_ids(NAMING, row[0])) for row in names], device=table.device)
        metrics = {"val/named": (table.argmax(1) == 0).float().mean(), "val/loss": -(table[:, 0] / lengths).mean()}
        self.log_dict(metrics, batch_size=len(images), sync_dist=True)


@torch.no_grad()
def start_projector(mllm: Mllm, dataset: Dataset, batch_size: int) -> None:
    """Sets the projector's last layer by ridge regression from image tokens onto their names' mean word embedding.

    Args:
        mllm: With LLaVA's projector, whose first layer stays random but for its scale.
        dataset: With the part ``train``.
        batch_size: Pictures per pass.
    """
    projector, words = mllm.base.get_submodule(mllm.family.connector), mllm.base.get_input_embeddings()
    samples, width = dataset.parts["train"], projector.linear_2.in_features + 1
    gram, cross = torch.zeros(width, width).double(), torch.zeros(width, projector.linear_2.out_features).double()
    for start in range(0, len(samples), batch_size):
        chosen = samples[start : start + batch_size]
        tokens = projector_inputs(mllm, chosen)
        if not start:
            scale = projector.linear_1(tokens).std()
            projector.linear_1.weight /= scale
            projector.linear_1.bias /= scale
        hidden = F.pad(projector.act(projector.linear_1(tokens)), (0, 1), value=1.0).cpu().double()
        ids = [mllm.answer_ids(NAMING, dataset.texts[sample.label])[:-1] for sample in chosen]
        names = torch.stack([words.weight[list(own)].mean(0) for own in ids]).cpu().double()
        gram += torch.einsum("ntd,nte->de", hidden, hidden)
        cross += torch.einsum("ntd,ne->de", hidden, names)
    found = torch.linalg.solve(gram + _RIDGE * gram.diagonal().mean() * torch.eye(width), cross).float()
    projector.linear_2.weight.copy_(found[:-1].T)
    projector.linear_2.bias.copy_(found[-1])


def train_projector(recipe: Recipe) -> Path:
    """Runs or resumes the training of a recipe's projector.

    Returns:
        Path: A folder that ``ranker.model=FOLDER`` and transformers' Auto classes load.

    Raises:
        UserError: The model has another projector than LLaVA's, or the strategy splits weights.
    """
    strategy = recipe.trainer.strategy
    check(strategy in ("auto", "ddp"), f"trainer.strategy={strategy}: a projector is trained under auto or ddp")
    with process_group(recipe) as processes:
        return _train(recipe, processes)


def _train(recipe: Recipe, processes: Processes) -> Path:
    out = Path(recipe.out)
    processes.after_first("run's folder", lambda: claim_run_folder(recipe))
    if is_complete(out / "model"):
        log.info("training: %s is complete; reusing its model", out)
        return out / "model"
    mllm = load_mllm(recipe.ranker)
    projector = mllm.base.get_submodule(mllm.family.connector)
    said = (
        f"ranker.model={recipe.ranker.model}: task projector is for the projectors of LLaVA and lite-mllm, not "
        f"{type(projector).__name__}"
    )
    check(isinstance(projector, (LlavaMultiModalProjector, NameProjector)), said)
    if recipe.trainer.feature_cache:
        cache_features(mllm, Path(recipe.cache), recipe.ranker.lora)
    dataset = read_dataset(recipe.data, Path(recipe.cache), ("train", "val"))
    checkpoint = newest_whole(out / "checkpoints")
    start = steps_done(checkpoint)
    seed_all(recipe.seed, resolve_accelerator(recipe.trainer))
    if isinstance(projector, NameProjector):
        data = MapData(recipe, mllm, dataset, start)
        start_names(mllm, data)
        module = NameModule(recipe, mllm, dataset, data.steps)
    else:
        data = NamingData(recipe, mllm, dataset, start)
        module = ProjectorModule(recipe, mllm, data.steps)
        if not checkpoint:
            log.info("projector: starting it by regression on %d pictures", len(dataset.parts["train"]))
            start_projector(mllm, dataset, recipe.optim.batch_size)
    log.info("training: %d steps%s", data.steps, f", from {start}" * bool(start))
    checkpoints = Checkpoints(recipe)
    trainer = make_trainer(
        recipe, make_strategy(recipe.trainer), data.steps, make_loggers(recipe, start), [checkpoints]
    )
    fit_from(checkpoint, trainer, module, data)
    metrics = checkpoints.validation
    if trainer.is_global_zero:
        metadata = {"base": mllm.id, "steps": trainer.global_step, "validation": metrics}
        if isinstance(projector, NameProjector):
            metadata["names"] = [dataset.names[label] for label in dataset.labels("train")]
        with write_errors(out / "model"):
            _save(mllm, out / "model", metadata)
        log.info("training: done, last validation %s; use it with ranker.model=%s", metrics, out / "model")
    trainer.strategy.barrier()
    return out / "model"


def _save(mllm: Mllm, folder: Path, metadata: dict) -> None:
    tokenizer = mllm.processor.tokenizer
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()  # or it saves how its last batch was padded
    with write_folder(folder) as part:
        mllm.base.save_pretrained(part)
        mllm.processor.save_pretrained(part)
        seal_folder(part, metadata)
